"""Tables of the group: what is written comes back, and those of an earlier call are not lost."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import bids_semantoks
from bids_semantoks.errors import InputError
from bids_semantoks.files import write_json, write_records
from bids_semantoks.outputs import group_tables
from bids_semantoks.outputs.group_tables import (
    COMPARED,
    ProbeTables,
    build_group_table,
    keep_earlier_tables,
    read_group_table,
    read_split_lines,
    write_group_table,
    write_probes,
)

COLUMNS = Path(bids_semantoks.__file__).parent / "data" / "columns"


def write_facts(out: Path, facts: dict[str, Any]) -> None:
    (out / "group_probe.json").write_text(json.dumps({"Facts": facts}))


def test_tables_are_copied_when_something_else_is_asked(tmp_path: Path) -> None:
    facts = {"Encoder": {"Name": "a"}, "Settings": {"probe": ["age"]}, "RandomSeed": 0}
    assert keep_earlier_tables(tmp_path, facts) is None
    write_facts(tmp_path, facts)
    for name in ("group_probe.tsv", "group_splits.tsv", "group.html"):
        (tmp_path / name).write_text(f"age in {name}")
    assert keep_earlier_tables(tmp_path, facts) is None
    assert not (tmp_path / "logs").exists()
    folder = keep_earlier_tables(tmp_path, {**facts, "Settings": {"probe": ["sex"]}})
    assert folder is not None
    assert folder.parent == tmp_path / "logs" / "probes"
    assert {path.name for path in folder.iterdir()} == {
        "group_probe.tsv", "group_probe.json", "group_splits.tsv", "group.html"
    }  # fmt: skip
    assert (folder / "group_splits.tsv").read_text() == "age in group_splits.tsv"


def test_a_broken_record_keeps_nobody_from_probing(tmp_path: Path) -> None:
    facts = {"Encoder": {}, "Settings": {}, "RandomSeed": 0}
    for text in ("{", "{}"):
        (tmp_path / "group_probe.json").write_text(text)
        assert keep_earlier_tables(tmp_path, facts) is None


ROW = {
    **{"phenotype": "age", "kind": "regression", "protocol": "nested", "model": "Tiny", "metric": "r"},
    **{"value": 1 / 3, "ci_low": -0.5, "ci_high": float("nan"), "p_value": 0.05, "chance": 0.0},
    **{
        "n_participants": 31,
        "n_rows": 37,
        "role": "encoder",
        "covariates": "",
        "compared_with": "",
        "n_repeats": 2,
        "n_folds": 5,
    },
    **dict.fromkeys(["difference", "difference_low", "difference_high", "difference_p", "difference_p_holm"]),
    **{"n_pretrained": None, "n_seeds": 1, "seed_sd": None, "p_statistic": "ridge_r_first_repetition"},
    **{"p_statistic_value": 0.25, "p_smallest": 0.05, "bound": -0.25, "verdict": "inconclusive"},
}

#: More columns than those described, as the table of points has.
POINT = {"participant_id": "sub-01", "session_id": "", "axis1": 0.1, "axis2": -1.0, "site": "01", "sex": None}


def build_tables(**changed: Any) -> ProbeTables:
    names = ("scores", "predictions", "strata", "retest", "points")
    files = ("group_probe", "group_predictions", "group_strata", "group_retest", "group_map")
    tables = {name: build_group_table(file, changed.pop(name, [])) for name, file in zip(names, files, strict=True)}
    return ProbeTables(facts={"Seed": 7}, shares=(0.5, 0.25), **tables)


def test_tables_and_their_dictionaries(tmp_path: Path) -> None:
    predictions = [("age", "Tiny", "sub-01", "", 50.0, 49.5, "", 49.5, 2)]
    splits = [("age", 0, 3, "sub-01", "test"), ("age", 0, 3, "sub-02", "train")]
    write_probes(tmp_path, build_tables(scores=[ROW]), predictions=predictions, splits=splits)
    header, line = (tmp_path / "group_probe.tsv").read_text().splitlines()
    contract = "phenotype,kind,protocol,model,metric,value,ci_low,ci_high,p_value,chance,n_participants"
    assert header.replace("\t", ",").startswith(f"{contract},")
    cells = dict(zip(header.split("\t"), line.split("\t"), strict=True))
    assert (cells["ci_high"], cells["covariates"], cells["n_pretrained"]) == ("n/a", "n/a", "n/a")
    assert (cells["value"], cells["n_seeds"]) == ("0.333333333", "1")
    dictionary = json.loads((tmp_path / "group_probe.json").read_text())
    assert list(dictionary) == [*header.split("\t"), "Facts"]
    assert dictionary["Facts"] == {"Seed": 7}
    for name in ("group_predictions", "group_splits"):
        header = (tmp_path / f"{name}.tsv").read_text().partition("\n")[0]
        assert list(json.loads((tmp_path / f"{name}.json").read_text())) == header.split("\t")
    assert read_split_lines(tmp_path / "group_splits.tsv") == [
        ("age", 0, 3, "01", "test"),
        ("age", 0, 3, "02", "train"),
    ]
    assert not (tmp_path / "group_strata.tsv").exists()


@pytest.mark.parametrize("path", sorted(COLUMNS.glob("*.json")), ids=lambda path: path.stem)
def test_sidecars_are_written_as_the_columns_are_described(tmp_path: Path, path: Path) -> None:
    write_json(tmp_path / "sidecar.json", json.loads(path.read_text()))
    assert (tmp_path / "sidecar.json").read_bytes() == path.read_bytes()


@pytest.mark.parametrize(("name", "row"), [("group_probe", ROW), ("group_map", POINT)])
def test_a_table_is_as_its_file_gives_it(tmp_path: Path, name: str, row: dict[str, Any]) -> None:
    rows = [
        row,
        {**row, "n_pretrained": 3, "model": '"quoted', "participant_id": "sub-02\tx", "site": "n/a", "sex": "F"},
    ]
    table = build_group_table(name, [{column: cells[column] for column in row} for cells in rows])
    path = write_group_table(tmp_path, name, table, {"Seed": 7})
    first = path.read_bytes()
    pd.testing.assert_frame_equal(read_group_table(path), table)
    write_group_table(tmp_path, name, read_group_table(path), {"Seed": 7})
    assert path.read_bytes() == first
    sidecar = json.loads(path.with_suffix(".json").read_text())
    assert list(sidecar) == [*table.columns, "Facts"]
    write_group_table(tmp_path, name, build_group_table(name, []))
    assert list(tmp_path.iterdir()) == []


def test_cells_have_the_types_of_their_columns(tmp_path: Path) -> None:
    scores = build_group_table("group_probe", [ROW, {**ROW, "n_pretrained": 3}])
    first, second = scores.itertuples()
    assert (first.value, first.covariates, first.n_seeds) == (0.333333333, "", 1)
    assert math.isnan(first.ci_high)
    assert math.isnan(first.difference)
    assert first.n_pretrained is pd.NA
    assert second.n_pretrained == 3
    points = build_group_table("group_map", [POINT])
    # What looks like a number is a name all the same.
    assert points.iloc[0].tolist() == ["sub-01", "", 0.1, -1.0, "01", ""]


def test_a_table_that_is_not_there_has_no_rows(tmp_path: Path) -> None:
    table = read_group_table(tmp_path / "group_retest.tsv")
    assert table.empty
    assert table.columns[0] == "between"


@pytest.mark.parametrize(
    ("old", "new", "said"), [("n_seeds", "seeds", "'n_seeds'"), ("31", "many", "'many'"), ("0.05", "low", "'low'")]
)
def test_a_table_of_another_version_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = write_group_table(tmp_path, "group_probe", build_group_table("group_probe", [ROW]))
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InputError, match=rf"group_probe\.tsv.*{said}"):
        read_group_table(path)


def test_splits_that_a_program_quoted(tmp_path: Path) -> None:
    columns, cells = ("phenotype", "repetition", "fold", "participant_id", "role"), ("age", "1", "2", "sub-01", "test")
    lines = ["\t".join(f'"{text}"' for text in line) for line in (columns, cells)]
    (tmp_path / "splits.tsv").write_text("\n".join(lines))
    assert read_split_lines(tmp_path / "splits.tsv") == [("age", 1, 2, "01", "test")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no rows"),
        ("repetition\tfold\trole\n0\t0\ttest\n", "participant_id"),
        ("repetition\tfold\tparticipant_id\trole\n0\tx\tsub-01\ttest\n", "Line 2 .* repetition '0' and fold 'x'"),
    ],
)
def test_splits_that_cannot_be_read(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "splits.tsv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_split_lines(tmp_path / "splits.tsv")
    with pytest.raises(InputError, match=r"splits .*nowhere\.tsv cannot be read"):
        read_split_lines(tmp_path / "nowhere.tsv")


def test_main_scores_are_found_by_role(tmp_path: Path) -> None:
    others = [{**ROW, "metric": "r2"}, {**ROW, "role": "baseline", "model": "pearson"}, {**ROW, "phenotype": "sex"}]
    tables = build_tables(scores=[ROW, *others, {**ROW, "role": "leakage"}])
    assert [row.model for row in tables.find_scores("age", *COMPARED)] == ["Tiny", "pearson"]
    assert [row.role for row in tables.find_scores("age", "leakage")] == ["leakage"]
    assert tables.find_scores("sex", "baseline") == []


@pytest.mark.parametrize("separator", ["\t", ",", ";"])
@pytest.mark.parametrize("quote", ["", '"'])
def test_splits_of_other_programs_are_read(tmp_path: Path, separator: str, quote: str) -> None:
    rows = [
        ("Role", "Fold", "participant_id", "repetition"),
        ("Test", "0.0", "sub-01", "1"),
        ("val", "2.", "02", "1.00"),
    ]
    rows += [("TRAINING", "3", " sub-03 ", "1"), ("held", "3", "04", "1")]
    text = "\r\n".join(separator.join(f"{quote}{cell}{quote}" for cell in row) for row in rows)
    (tmp_path / "splits.txt").write_text(text, encoding="utf-8-sig")
    assert read_split_lines(tmp_path / "splits.txt") == [
        ("", 1, 0, "01", "test"),
        ("", 1, 2, "02", "validation"),
        ("", 1, 3, "03", "train"),
        ("", 1, 3, "04", "held"),
    ]
    found = read_split_lines(tmp_path / "splits.txt", ["1", "01", "002", "00004", "4"])
    assert [line[3] for line in found] == ["01", "002", "03", "04"]
    (tmp_path / "splits.txt").write_text(text.replace("0.0", "0.5"))
    with pytest.raises(InputError, match=r"Line 2.*fold '0.5'"):
        read_split_lines(tmp_path / "splits.txt")


def test_long_tables_are_written_block_by_block_as_short_ones_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = [("age", 0, i % 3, f"sub-{i:02d}", "test") for i in range(7)]
    predictions = [("age", "Tiny", f"sub-{i:02d}", "", 50.0, float("nan"), "a\tb", 1 / 3, 2) for i in range(7)]
    monkeypatch.setattr(group_tables, "_BLOCK", 3)
    write_probes(tmp_path, build_tables(scores=[ROW]), predictions=iter(predictions), splits=iter(splits))
    for name, rows in (("group_splits", splits), ("group_predictions", predictions)):
        columns = tuple(json.loads((tmp_path / f"{name}.json").read_text()))
        write_records(tmp_path / "whole.tsv", columns, rows)
        assert (tmp_path / f"{name}.tsv").read_bytes() == (tmp_path / "whole.tsv").read_bytes()


def test_splits_by_participant_are_read_as_the_roles_they_stand_for(tmp_path: Path) -> None:
    splits = [("age", "sub-01", "0", "train"), ("age", "sub-02", "1", "0"), ("age", "sub-03", "", "validation")]
    splits += [("sex", "sub-01", "train", "")]
    write_probes(tmp_path, build_tables(scores=[ROW]), predictions=[], splits=splits, n_repetitions=2)
    path = tmp_path / "group_splits.tsv"
    header = path.read_text().partition("\n")[0].split("\t")
    assert header == ["phenotype", "participant_id", "repetition0", "repetition1"]
    assert list(json.loads(path.with_suffix(".json").read_text())) == header
    assert read_split_lines(path) == [
        ("age", 0, 0, "01", "test"),
        ("age", 0, 0, "02", "train"),
        ("age", 0, 1, "01", "train"),
        ("age", 0, 1, "02", "test"),
        ("age", 1, 0, "01", "train"),
        ("age", 1, 0, "02", "test"),
        ("age", 1, 0, "03", "validation"),
    ]
    path.write_text(path.read_text().replace("participant_id", "who"))
    with pytest.raises(InputError, match="no column participant_id"):
        read_split_lines(path)


def test_of_long_tables_only_the_rows_of_a_model_are_read(tmp_path: Path) -> None:
    path = tmp_path / "group_predictions.tsv"
    rows = [("age", model, "sub-01", "", 50.0, 49.5, "a", 1 / 3, 2) for model in ("Tiny", "pearson", "TinyUntrained")]
    write_probes(tmp_path, build_tables(scores=[ROW]), predictions=rows, splits=[])
    every, own = read_group_table(path), read_group_table(path, model="Tiny")
    pd.testing.assert_frame_equal(own, every[every["model"] == "Tiny"])
    assert len(every) == 3
    assert read_group_table(tmp_path / "group_map.tsv", model="Tiny").empty
    path.write_text(path.read_text().replace("model", "who"))
    with pytest.raises(InputError, match="this version"):
        read_group_table(path, model="Tiny")
