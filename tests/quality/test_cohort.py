"""The table of all runs: what each is, how it compares with fixed limits and with the others."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bids_semantoks.config import SelectionConfig
from bids_semantoks.config.options import parse_rule
from bids_semantoks.errors import ConfigurationError, InputError
from bids_semantoks.files import read_json, write_json
from bids_semantoks.outputs.store import OutputPaths
from bids_semantoks.quality.cohort import (
    EXCLUDED,
    CallFacts,
    build_rows,
    describe_exclusion,
    describe_rows,
    describe_versions,
    find_excluded,
    find_outliers,
    read_excluded,
    write_rows,
)
from bids_semantoks.quality.run_qc import MEAN_EMBEDDING, encode_vector, judge_measures
from bids_semantoks.version import __version__


def write_run(out: Path, label: str, *, model: str = "M", status: str = "ok", reason: str = "", **qc: Any) -> str:
    """Write the records of a run, and the sidecar that says that its signals are there."""
    stem = f"sub-{label}_task-rest_space-S_atlas-A"
    paths = OutputPaths(out_dir=out, directory=out / f"sub-{label}" / "func", stem=stem, model=model)
    record = {"status": status, "reason": reason, "message": reason, "seconds": 2.0}
    write_json(paths.status, record)
    if status == "ok":
        write_json(paths.signals_sidecar, {})
        usual = {"mean_fd": 0.1, "kept_seconds": 400.0, "coverage": 1.0, "repetition_time": 2.0, "version": __version__}
        write_json(paths.qc, usual | qc)
    return stem


def build(out: Path, **facts: Any) -> dict[str, dict[str, Any]]:
    return {row["participant_id"]: row for row in build_rows(out, CallFacts(**facts))}


def test_runs_are_what_they_are(tmp_path: Path) -> None:
    out, raw = tmp_path / "out", tmp_path / "raw"
    stems = [write_run(out, label) for label in ("01", "02", "03", "10")]
    write_run(out, "04", status="failed", reason="no_mask")
    write_run(out, "05", status="skipped", reason="too_short")
    for label in ("01", "99"):
        (raw / f"sub-{label}").mkdir(parents=True)
    left_out = {stems[1]: (EXCLUDED, "mean_fd>0.05 (0.1)"), stems[2]: ("too_few_kept", "90 s")}
    rows = build(out, roots=[raw, None], left_out=left_out)
    assert list(rows) == ["sub-01", "sub-02", "sub-03", "sub-04", "sub-05", "sub-10", "sub-99"]
    found = {label: (row["status"], row["reason"], row["usable"], row["verdict"]) for label, row in rows.items()}
    assert found["sub-01"] == ("ok", "", True, "use")
    assert found["sub-02"] == ("ok", "", False, "use")
    assert rows["sub-02"]["excluded_by"] == "mean_fd>0.05 (0.1)"
    assert found["sub-03"] == ("skipped", "too_few_kept", False, "leave out")
    assert found["sub-04"] == ("failed", "no_mask", False, "leave out")
    assert found["sub-99"][:3] == ("no_derivatives", "no_derivatives", False)
    said = describe_rows(list(rows.values())).split(", ")
    assert [said[at] for at in (0, 1, 2, 4)] == ["2 usable", "1 excluded", "1 failed", "1 too short"]
    assert [one.split()[0] for one in said] == ["2", "1", "1", "1", "1", "1"]
    path = write_rows(out, list(rows.values()))
    lines = list(csv.DictReader(path.open(), delimiter="\t"))
    assert list(read_json(path.with_suffix(".json"))) == list(lines[0])
    assert [line["usable"] for line in lines] == ["true", "false", "false", "false", "false", "true", "false"]
    assert read_excluded(out) == {stems[1]: left_out[stems[1]]}


def test_records_of_earlier_versions_are_read(tmp_path: Path) -> None:
    stem = write_run(tmp_path, "01")
    (tmp_path / "logs" / "sub-01" / f"{stem}_desc-M_status.json").unlink()
    done = {"status": "skipped", "reason": "already_done", "message": "Complete.", "seconds": 0.0, "device": "cpu"}
    old = tmp_path / "logs" / "runs" / f"{stem}_desc-M_status.json"
    write_json(old, done)
    row = build(tmp_path)["sub-01"]
    assert (row["status"], row["reason"], row["seconds"], row["usable"]) == ("ok", "", None, True)
    # A newer record counts.
    write_run(tmp_path, "01", status="failed", reason="no_mask")
    assert build(tmp_path)["sub-01"]["reason"] == "no_mask"


def test_a_run_whose_signals_are_gone_is_not_usable(tmp_path: Path) -> None:
    stem = write_run(tmp_path, "01")
    next((tmp_path / "sub-01").rglob(f"{stem}_stat-mean_timeseries.json")).unlink()
    row = build(tmp_path)["sub-01"]
    assert (row["status"], row["usable"], "mean_fd" in row) == ("failed", False, False)


def test_one_row_a_run_whatever_the_encoders(tmp_path: Path) -> None:
    write_run(tmp_path, "01", model="", mean_fd=0.1)
    write_run(tmp_path, "01", model="A", status="failed", reason="out_of_memory")
    assert build(tmp_path, model="A")["sub-01"]["status"] == "failed"
    row = build(tmp_path, model="")["sub-01"]
    assert (row["status"], row["encoder"], row["mean_fd"]) == ("ok", None, 0.1)
    assert len(build_rows(tmp_path, CallFacts())) == 1


@pytest.mark.parametrize(
    ("column", "levels"),
    [
        ("mean_fd", [(0.2, None), (0.21, "amber"), (0.5, "amber"), (0.51, "red"), (None, None)]),
        ("kept_seconds", [(300.0, None), (299.0, "amber"), (100.0, "amber"), (99.0, "red")]),
        ("scrubbed_share", [(0.1 + 0.1, None), (0.3, "amber"), (0.5, "amber"), (0.51, "red")]),
        ("coverage", [(0.9, None), (0.89, "amber"), (0.8, "amber"), (0.79, "red")]),
        ("repetition_time", [(0.7, None), (0.69, "amber"), (3.0, None), (3.1, "amber"), (None, None)]),
        ("masked_networks", [([], None), (["Vis"], "red"), (None, None)]),
    ],
)
def test_limits(column: str, levels: list[tuple[Any, str | None]]) -> None:
    for value, level in levels:
        assert judge_measures({column: value}).get(column) == level, value


def test_outliers_need_a_cohort() -> None:
    generator = np.random.default_rng(0)
    values = np.concatenate([generator.normal(10, 1, 30), [16.0, np.nan, 4.0]])
    centre = np.median(values[~np.isnan(values)])
    spread = 1.4826 * np.median(np.abs(values[~np.isnan(values)] - centre))
    expected = np.abs(values - centre) > 3.5 * spread
    assert expected.sum() == 2
    np.testing.assert_array_equal(find_outliers(values), expected)
    assert not find_outliers(values[-20:]).any()  # 19 are known
    assert find_outliers(values[-21:]).any()
    assert not find_outliers(np.r_[np.zeros(30), 5.0]).any()


def test_motion_is_compared_by_its_logarithm(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    motion = np.exp(generator.normal(np.log(0.1), 0.1, 24)).tolist()
    # Far on the scale of millimetres only, and far on both.
    motion += [0.16, 0.19, 0.0]
    for i, value in enumerate(motion):
        write_run(tmp_path, f"{i:02d}", mean_fd=value)
    logs = np.log(np.maximum(motion, 1e-300))
    spread = 1.4826 * np.median(np.abs(logs - np.median(logs)))
    expected = [f"sub-{i:02d}" for i in range(27) if abs(logs[i] - np.median(logs)) > 3.5 * spread]
    rows = build(tmp_path)
    assert [label for label, row in rows.items() if row["outliers"] == ["mean_fd"]] == expected
    assert "sub-26" in expected
    assert rows["sub-26"]["verdict"] == "look"


def test_distance_to_the_cohort_is_in_units_of_the_usual_one(tmp_path: Path) -> None:
    vectors = np.random.default_rng(2).normal(size=(9, 6))
    vectors[4] += 8
    for i, vector in enumerate(vectors):
        write_run(tmp_path, f"{i}", **{MEAN_EMBEDDING: encode_vector(vector)})
    write_run(tmp_path, "9", **{MEAN_EMBEDDING: "damaged"})
    halves = vectors.astype(np.float16).astype(float)
    distances = np.linalg.norm(halves - np.median(halves, axis=0), axis=1)
    rows = build(tmp_path)
    found = [rows[f"sub-{i}"]["cohort_distance"] for i in range(9)]
    np.testing.assert_allclose(found, distances / np.median(distances), atol=1e-4)
    assert rows["sub-9"].get("cohort_distance") is None
    assert MEAN_EMBEDDING not in rows["sub-0"]


def test_other_versions_are_counted(tmp_path: Path) -> None:
    for label, version in (("1", "0.0.9"), ("2", "0.0.9"), ("3", "unknown"), ("4", __version__)):
        write_run(tmp_path, label, version=version)
    said = describe_versions(build(tmp_path).values())
    parts = ("3 runs", "2 by 0.0.9, 1 by unknown", f"this is {__version__}", f"--redo-older-than {__version__}")
    assert all(part in said for part in parts)
    assert describe_versions([row for row in build(tmp_path).values() if row["version"] == __version__]) == ""


def test_damaged_records_cost_their_run_alone(tmp_path: Path) -> None:
    for label in ("1", "2"):
        write_run(tmp_path, label)
    (status,) = (tmp_path / "logs" / "sub-1").glob("*_status.json")
    (qc,) = (tmp_path / "logs" / "sub-2").glob("*_qc.json")
    status.write_text("{")
    qc.write_text(json.dumps([1]))
    rows = build(tmp_path)
    assert (rows["sub-1"]["status"], rows["sub-2"]["status"]) == ("failed", "ok")
    assert rows["sub-2"].get("mean_fd") is None
    qc.write_text('{"kept_seconds": 200, "mean_fd": "much", "warnings": 7, "coverage": true, "tsnr": 1e999}')
    (tmp_path / "logs" / "sub-2" / "notes_status.json").write_text('{"status": "ok"}')
    row = build(tmp_path)["sub-2"]
    assert [row.get(key) for key in ("kept_seconds", "mean_fd", "warnings", "coverage", "tsnr")] == [200, *[None] * 4]
    assert row["amber"] == ["kept_seconds"]


ENDING = "space-S_atlas-A"


def write_small_run(out: Path, source: str, **qc: Any) -> str:
    stem = f"{source}_{ENDING}"
    folder = out / stem.partition("_")[0] / "func"
    paths = OutputPaths(out_dir=out, directory=folder, stem=stem, model="M")
    write_json(paths.status, {"status": "ok", "reason": "", "message": ""})
    write_json(paths.signals_sidecar, {})
    write_json(paths.qc, {"kept_seconds": 400.0, "warnings": [], **qc})
    return stem


@pytest.fixture
def stems(tmp_path: Path) -> list[str]:
    return [
        write_small_run(tmp_path, "sub-01_task-rest", mean_fd=0.1, masked_networks=["Vis", "Limbic"]),
        write_small_run(tmp_path, "sub-01_task-rest_run-02", mean_fd=0.3, masked_networks=[]),
        write_small_run(tmp_path, "sub-02_ses-1_task-rest", mean_fd=0.6, input_fit="red"),
        write_small_run(tmp_path, "sub-03_task-rest", mean_fd=None),
    ]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("mean_fd>0.3", [2]),
        ("mean_fd >= 0.3", [1, 2]),
        ("mean_fd<=.1", [0]),
        ("mean_fd!=0.3", [0, 2]),
        ("mean_fd==0.3", [1]),
        ("n_warnings=0", [0, 1, 2, 3]),
        ("verdict=leave out", [0, 2]),
        ("input_fit=red", [2]),
        ("masked_networks=Limbic", [0]),
        ("usable=true", [0, 1, 2, 3]),
        ("mean_fd>9", []),
    ],
)
def test_rules(tmp_path: Path, stems: list[str], rule: str, expected: list[int]) -> None:
    found = find_excluded(tmp_path, SelectionConfig(exclude_by=(rule,)), stems)
    assert sorted(found) == sorted(stems[i] for i in expected)
    assert all(reason == "excluded" and why.startswith(rule) for reason, why in found.values())


def test_unknown_values_stay_and_are_named(tmp_path: Path, stems: list[str], caplog: pytest.LogCaptureFixture) -> None:
    find_excluded(tmp_path, SelectionConfig(exclude_by=("mean_fd>0.2",)), stems)
    assert all(part in caplog.text for part in (f"{stems[3]}", "1 of 4 runs,", "--exclude-by 'mean_fd>0.2'"))
    assert "2 runs" in caplog.text


@pytest.mark.parametrize(
    ("rule", "error", "said"),
    [
        ("mean_df>0.3", InputError, "Did you mean mean_fd?"),
        ("participant_id>3", InputError, "participant_id, which"),
        ("mean_fd", ConfigurationError, "COLUMN OP VALUE"),
        (">3", ConfigurationError, "COLUMN OP VALUE"),
        ("mean_fd>", ConfigurationError, "COLUMN OP VALUE"),
        ("mean_fd>high", ConfigurationError, "not a number"),
        ("mean_fd>nan", ConfigurationError, "not a number"),
    ],
)
def test_rules_that_cannot_hold(tmp_path: Path, stems: list[str], rule: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said.replace("?", "[?]")):
        find_excluded(tmp_path, SelectionConfig(exclude_by=(rule,)), stems)


def test_equal_signs_belong_to_the_longest_operator() -> None:
    assert [parse_rule(f"a{op}1").operator for op in (">=", "<=", "!=", "==", "=", ">", "<")] == [
        *(">=", "<=", "!=", "=", "=", ">", "<")
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (f"sub-01_task-rest_{ENDING}", [0]),
        ("sub-01_task-rest_run-2", [1]),
        ("ds/sub-01/func/sub-01_task-rest_run-02_space-X_desc-preproc_bold.nii.gz", [1]),
        ("sub-01", [0, 1]),
        ("sub-02_ses-1_task-rest\t0.6\tblurred", [2]),
        ("sub-03_task-rest,blurred", [3]),
    ],
)
def test_lists(tmp_path: Path, stems: list[str], line: str, expected: list[int]) -> None:
    path = tmp_path / "list.txt"
    path.write_text(f"name\tnote\n# seen by two raters\n\n{line}\n")
    found = find_excluded(tmp_path, SelectionConfig(exclude_runs=(f"@{path}",)))
    assert sorted(found) == sorted(stems[i] for i in expected)
    assert set(found.values()) == {("excluded", "--exclude-runs @list.txt")}
    # Without the file, as names.
    if "\t" not in line and "," not in line:
        assert find_excluded(tmp_path, SelectionConfig(exclude_runs=(line,))).keys() == found.keys()


def test_names_that_no_run_has_are_refused(tmp_path: Path, stems: list[str]) -> None:
    with pytest.raises(InputError, match="sub-01_task-nback"):
        find_excluded(tmp_path, SelectionConfig(exclude_runs=("sub-01_task-nback",)))
    with pytest.raises(InputError, match="cannot be read"):
        find_excluded(tmp_path, SelectionConfig(exclude_runs=("@nowhere.txt",)))


def test_exclusions_are_a_sentence_of_the_methods() -> None:
    selection = SelectionConfig(exclude_by=("mean_fd>0.3", "coverage<0.8"), exclude_runs=("@x",))
    said = "Quality control excluded runs by mean_fd > 0.3; coverage < 0.8; a list of runs."
    assert describe_exclusion(selection) == said
    assert describe_exclusion(SelectionConfig()) == ""
