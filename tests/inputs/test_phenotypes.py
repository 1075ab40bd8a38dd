"""Tables of phenotypes as people really write them, and messages that say what is wrong with which cell."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from bids_semantoks.errors import InputError
from bids_semantoks.inputs.people_tables import parse_number
from bids_semantoks.inputs.phenotypes import (
    build_phenotype,
    check_cells,
    find_codes,
    find_columns,
    is_category,
    names_place,
)

LABELS = [f"{i:02d}" for i in range(1, 24)]


KEYS = [(label, "") for label in LABELS]


def write_tsv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join("\t".join(map(str, row)) for row in (header, *rows)) + "\n", encoding="utf-8")
    return path


def write_column(root: Path, values: Sequence[object], *, name: str = "x", file: str = "participants.tsv") -> None:
    rows = [(f"sub-{label}", value) for label, value in zip(LABELS, values, strict=False)]
    write_tsv(root / file, ("participant_id", name), rows)


def read(root: Path, name: str = "x", **options: object) -> object:
    return build_phenotype(find_columns(root, [name])[name], KEYS, **options)  # type: ignore[arg-type]


def write_sidecar(root: Path, entry: object, *, name: str = "x") -> None:
    (root / "participants.json").write_text(json.dumps({name: entry}), encoding="utf-8")


def test_words_for_missing_are_counted_unless_the_sidecar_lists_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sites = ["NA", "01", "1", "nan", "n/a", "", "None", "NA"]
    write_column(tmp_path, sites)
    column = find_columns(tmp_path, ["x"], keys=KEYS)["x"]
    assert column.find(KEYS[:9]) == (None, "01", "1", None, None, None, None, None, None)
    assert "has cells read as missing: 'NA' (2), 'None' (1), 'nan' (1)" in caplog.text
    assert column.warnings == (caplog.records[-1].message,)
    write_sidecar(tmp_path, {"Levels": {"NA": "North America", "01": "Oslo"}})
    column = find_columns(tmp_path, ["x"], keys=KEYS)["x"]
    assert column.find(KEYS[:4]) == ("NA", "01", "1", None)
    assert parse_number("nan") is None
    assert parse_number("inf") is None
    assert parse_number("1_0") is None
    assert parse_number("-2.5e1") == -25


def test_codes_that_may_mean_missing_are_named_and_those_of_the_sidecar_are_missing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values = [*range(95, 114), -9999, -999.0, -9999, 999]
    write_column(tmp_path, values)
    column = find_columns(tmp_path, ["x"], keys=KEYS)["x"]
    (warning,) = column.warnings
    assert "'-9999' (2), '-999.0' (1), '999' (1)" in warning
    assert "MissingValues" in warning
    assert "participants.json" in warning
    assert warning in caplog.text
    assert column.find(KEYS)[19] == "-9999"
    for entry in (
        {"MissingValues": [-9999, "-999", 999]},
        {"Annotations": {"MissingValues": ["-9999", "-999", "999"]}},
        {"Levels": {"-9999": "missing", "-999": "Not available (lost)", "999": {"Description": "Refused"}}},
    ):
        write_sidecar(tmp_path, entry)
        column = find_columns(tmp_path, ["x"], keys=KEYS)["x"]
        assert column.warnings == ()
        assert column.find(KEYS)[18:] == ("113", None, None, None, None)
    # People who are not here are not counted.
    write_sidecar(tmp_path, {})
    assert find_columns(tmp_path, ["x"], keys=KEYS[:19])["x"].warnings == ()


def test_an_unreadable_sidecar_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_column(tmp_path, range(23))
    (tmp_path / "participants.json").write_text("{", encoding="utf-8")
    assert find_columns(tmp_path, ["x"])["x"].find(KEYS[:1]) == ("0",)
    assert "participants.json cannot be read" in caplog.text


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["F", "M"] * 11, "classification"),
        ([0, 1] * 11, "classification"),
        ([1, 2, 3] * 7, "classification"),
        (list(range(20, 42)), "regression"),
        ([0.5, 1.5] * 11, "regression"),
        ([1, 2, 3, 4, 5, 6] * 3, "regression"),
        (["1", "2", "other"] * 7, "classification"),
    ],
)
def test_kind_is_detected(tmp_path: Path, values: list[object], kind: str) -> None:
    write_column(tmp_path, values)
    found = read(tmp_path)
    assert found.kind == kind  # type: ignore[attr-defined]
    assert found.labels.count(None) == len(KEYS) - len(values)  # type: ignore[attr-defined]


def test_kind_can_be_told(tmp_path: Path) -> None:
    write_column(tmp_path, [1, 2] * 11)
    found = read(tmp_path, kind="regression")
    np.testing.assert_array_equal(found.numbers[:3], [1, 2, 1])  # type: ignore[attr-defined]
    assert np.isnan(found.numbers[22])  # type: ignore[attr-defined]
    assert read(tmp_path, n_bins=2).kind == "classification"  # type: ignore[attr-defined]
    write_column(tmp_path, ["a", "b"] * 11)
    with pytest.raises(InputError, match=r"participants\.tsv.*22.*sub-01 \(row 2\),"):
        read(tmp_path, kind="regression")


def test_pairs_with_commas_are_classes_when_that_is_told(tmp_path: Path) -> None:
    write_column(tmp_path, ["3,3", "3,4"] * 11)
    with pytest.raises(InputError, match=r"numbers with commas, such as '3,3'\. .* --probe-kind classification"):
        read(tmp_path)
    found = read(tmp_path, kind="classification")
    assert set(found.labels[:22]) == {"3,3", "3,4"}  # type: ignore[attr-defined]


def test_classes_that_differ_in_case_alone_are_taken_when_that_is_told(tmp_path: Path) -> None:
    write_column(tmp_path, ["AA", "Aa", "aa"] * 7)
    with pytest.raises(InputError, match=r"'AA' and 'Aa' and 'aa'\. .* --probe-kind classification"):
        read(tmp_path)
    found = read(tmp_path, kind="classification")
    assert set(found.labels[:21]) == {"AA", "Aa", "aa"}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["F"] * 19 + ["other"] * 4, r"1 of 2 classes with fewer than 5 members: 'other' \(4\)"),
        ([7] * 23, "is constant: all 23 values are '7'"),
        ([1.5, 2.5] * 4 + ["n/a"] * 15, "has values for 8 of 23 participants"),
        (["True", "TRUE", "false"] * 7, "'TRUE' and 'True'"),
        ([f"{number},5" for number in range(23)], "as '0,5'"),
        ([*range(20, 42), "<70"], r"1 cells.*'<70' of sub-23 \(row 24\)"),
        ([1] * 11 + [2] * 11 + ["x"], r"1 cells.*sub-23 \(row 24\)"),
    ],
)
def test_columns_that_cannot_be_predicted(tmp_path: Path, values: list[object], message: str) -> None:
    write_column(tmp_path, values)
    with pytest.raises(InputError, match=message):
        read(tmp_path)


def test_bins_are_cut_from_numbers_and_text_stays_classes(tmp_path: Path) -> None:
    write_column(tmp_path, [1, 2, 3, 4] * 5)
    assert read(tmp_path).kind == "classification"  # type: ignore[attr-defined]
    assert read(tmp_path, n_bins=3).kind == "regression"  # type: ignore[attr-defined]
    write_column(tmp_path, ["a", "b", "c", "d"] * 5)
    assert read(tmp_path, n_bins=3).kind == "classification"  # type: ignore[attr-defined]


def test_the_same_number_is_one_class_however_it_is_written(tmp_path: Path) -> None:
    write_column(tmp_path, [*["1.0", "1", "2", "2.00"] * 5, "n/a"])
    found = read(tmp_path)
    assert found.labels[:4] == ("1", "1", "2", "2")  # type: ignore[attr-defined]
    assert found.labels[20] is None  # type: ignore[attr-defined]
    write_column(tmp_path, ["01", "02"] * 10)
    assert set(read(tmp_path).labels[:20]) == {"01", "02"}  # type: ignore[attr-defined]
    write_column(tmp_path, ["1", "1.0"] * 10)
    with pytest.raises(InputError, match="is constant: all 20 values are '1'"):
        read(tmp_path)


def test_a_table_that_nobody_asks_for_may_be_unsound(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_column(tmp_path, range(23), name="age")
    twice = [("sub-01", "a"), ("sub-01", "b")]
    write_tsv(tmp_path / "phenotype" / "meds.tsv", ("participant_id", "drug"), twice)
    write_tsv(tmp_path / "sub-01" / "sub-01_sessions.tsv", ("session", "mood"), [("1", "2")])
    assert find_columns(tmp_path, ["age"])["age"].find([("03", "")]) == ("2",)
    assert all(part in caplog.text for part in ("sub-01", "meds.tsv", "1 participants"))
    assert "sub-01_sessions.tsv has no column session_id" in caplog.text
    for wanted, message in (("drug", "meds.tsv.*1 participants"), ("mood", "has no column session_id")):
        with pytest.raises(InputError, match=message):
            find_columns(tmp_path, ["age", wanted])
    # Elsewhere nothing has the column, so the unsound table may be where it should have been.
    with pytest.raises(InputError, match="has no column session_id"):
        find_columns(tmp_path, ["iq"])


def test_participants_that_match_nobody(tmp_path: Path) -> None:
    rows = [(f"sub-{i}", i % 2) for i in range(1, 10)]
    write_tsv(tmp_path / "participants.tsv", ("participant_id", "x"), rows)
    with pytest.raises(InputError, match=r"9 \(1, 2"):
        read(tmp_path)


def test_sessions_that_match_none(tmp_path: Path) -> None:
    rows = [(f"sub-{number}", f"ses-0{s}", number + s) for number in range(1, 18) for s in (1, 2)]
    write_tsv(tmp_path / "sessions.tsv", ("participant_id", "session_id", "x"), rows)
    column = find_columns(tmp_path, ["x"])["x"]
    keys = [(str(number), "1") for number in range(1, 18)]
    with pytest.raises(InputError, match=r"2 \(01, 02\),"):
        build_phenotype(column, keys)
    with pytest.raises(InputError, match="with features"):
        build_phenotype(column, [(number, "") for number, _ in keys])


def test_unknown_column_names_the_nearest(tmp_path: Path) -> None:
    write_column(tmp_path, range(23), name="age")
    with pytest.raises(InputError, match=r"Column agee not found in participants.tsv .*Did you mean age\?"):
        find_columns(tmp_path, ["agee"])
    with pytest.raises(InputError, match=r"nowhere: expected participants\.tsv"):
        find_columns(tmp_path / "nowhere", ["age"])


def test_tables_are_looked_for_above_derivatives_and_in_order(tmp_path: Path) -> None:
    derivative = tmp_path / "raw" / "derivatives" / "fmriprep"
    derivative.mkdir(parents=True)
    write_column(tmp_path / "raw", range(23), name="age")
    write_column(tmp_path / "raw", range(100, 123), name="age", file="phenotype/other.tsv")
    assert find_columns(derivative, ["age"])["age"].find(KEYS[:2]) == ("0", "1")
    given = find_columns(derivative, ["age"], phenotype=Path("other.tsv"))["age"]
    assert given.find(KEYS[:2]) == ("100", "101")
    with pytest.raises(InputError, match=r"--phenotype missing.tsv.*missing.tsv,"):
        find_columns(derivative, ["age"], phenotype=Path("missing.tsv"))
    write_column(tmp_path / "raw", range(23), name="iq", file="phenotype/a.tsv")
    write_column(tmp_path / "raw", range(23), name="iq", file="phenotype/b.tsv")
    with pytest.raises(InputError, match=r"Column iq is in both .*a\.tsv and .*b\.tsv"):
        find_columns(derivative, ["iq"])
    assert find_columns(derivative, ["iq"], phenotype=Path("b.tsv"))["iq"].table == "b.tsv"


def test_sessions_have_values_of_their_own(tmp_path: Path) -> None:
    for label in LABELS[:3]:
        path = tmp_path / f"sub-{label}" / f"sub-{label}_sessions.tsv"
        write_tsv(path, ("session_id", "mood"), [("ses-a", f"{label}1"), ("ses-b", "n/a")])
    write_column(tmp_path, range(23), name="age")
    columns = find_columns(tmp_path, ["mood", "age"])
    assert columns["mood"].has_sessions
    assert columns["mood"].find([("01", "a"), ("01", "b"), ("02", "a"), ("04", "a")]) == ("011", None, "021", None)
    assert columns["age"].find([("02", "a")]) == ("1",)


def test_one_bad_table_of_sessions_does_not_end_the_search(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for label, content in (("01", b"\x00\x01"), ("02", b"session_id\tx\n1\t2\n1\t3\n"), ("03", b"session_id\ny\tz\n")):
        (tmp_path / f"sub-{label}").mkdir()
        (tmp_path / f"sub-{label}" / f"sub-{label}_sessions.tsv").write_bytes(content)
    write_tsv(tmp_path / "phenotype" / "a.tsv", ("participant_id", "age"), [("sub-01", 30)])
    assert find_columns(tmp_path, ["age"])["age"].find(KEYS[:1]) == ("30",)
    assert sum(record.levelname == "WARNING" for record in caplog.records) == 3
    assert "has 2 values in row 1 (line 2), but 1 columns" in caplog.text


def test_text_in_a_column_of_numbers_is_refused_where_it_would_be_a_level(tmp_path: Path) -> None:
    write_column(tmp_path, [*range(100, 122), "?"])
    with pytest.raises(InputError, match=r"participants\.tsv.*1 .*sub-23 \(row 24\)"):
        check_cells(find_columns(tmp_path, ["x"])["x"], KEYS)
    # Nobody here has the cell; or text is as frequent as numbers; or the sidecar says that all are levels.
    check_cells(find_columns(tmp_path, ["x"])["x"], KEYS[:22])
    write_column(tmp_path, [*range(10), *"abcdefghijklm"])
    check_cells(find_columns(tmp_path, ["x"])["x"], KEYS)
    write_column(tmp_path, [*[1, 2] * 11, "x"])
    write_sidecar(tmp_path, {"Levels": {"1": "one", "2": "two", "x": "other"}})
    check_cells(find_columns(tmp_path, ["x"])["x"], KEYS)


@pytest.mark.parametrize(
    "name",
    [
        *("site", "SITE_ID", "siteID", "site_id_l", "scanner", "ScannerModel", "mri_info_deviceserialnumber"),
        *("acq_center", "assessment_centre", "StationName", "batch2"),
    ],
)
def test_columns_of_places_are_known_by_name(name: str) -> None:
    assert names_place(name)


@pytest.mark.parametrize(
    "name", ["composite", "age_centered", "opposite_score", "website", "age", "iq", "percent", "54"]
)
def test_other_columns_are_not_places(name: str) -> None:
    assert not names_place(name)


@pytest.mark.parametrize(
    ("name", "values", "levels", "category"),
    [
        ("site_id_l", [1, 2, 3, 4] * 5, [], True),
        ("distance_to_site", [1.5, 2, 3, 4] * 5, [], False),
        ("54-2.0", [11025, 11026, 11027] * 7, [], False),
        ("54-2.0", [11025, 11026, 11027] * 7, ["11025", "11026", "11027"], True),
        ("iq", range(90, 110), ["-9999"], False),
        ("hand", ["l", "r"] * 10, [], True),
    ],
)
def test_codes_are_categories_or_warned_of(
    tmp_path: Path, name: str, values: Sequence[object], levels: list[str], *, category: bool
) -> None:
    write_column(tmp_path, values, name=name)
    write_sidecar(tmp_path, {"Levels": dict.fromkeys(levels, "a place")}, name=name)
    column = find_columns(tmp_path, [name])[name]
    assert is_category(column, KEYS) is category
    warning = find_codes(column, KEYS)
    assert (f"Column {name} " in warning and "11025, 11026, 11027" in warning) == (not category and name == "54-2.0")


def test_codes_of_many_sites_are_classes(tmp_path: Path) -> None:
    labels = [f"{i:03d}" for i in range(72)]
    rows = [(f"sub-{label}", i % 12 + 1) for i, label in enumerate(labels)]
    write_tsv(tmp_path / "participants.tsv", ("participant_id", "SITE_ID"), rows)
    keys = [(label, "") for label in labels]
    assert build_phenotype(find_columns(tmp_path, ["SITE_ID"])["SITE_ID"], keys).kind == "classification"


def test_rows_are_matched_to_the_labels_of_the_data(tmp_path: Path) -> None:
    rows = [("1", 31), ("sub-002", 32), ("NDAR_INV3", 33), ("4.0", 34), ("9", 39)]
    write_tsv(tmp_path / "participants.tsv", ("participant_id", "age"), rows)
    keys = [("001", ""), ("02", ""), ("NDARINV3", ""), ("0004", ""), ("05", "")]
    found = find_columns(tmp_path, ["age"], keys=keys)["age"]
    assert found.find(keys) == ("31", "32", "33", "34", None)
    sessions = [("sub-1", f"ses-{ses}", ses) for ses in (1, 2)]
    write_tsv(tmp_path / "sessions.tsv", ("participant_id", "session_id", "mood"), sessions)
    keys = [("01", "01"), ("01", "02")]
    assert find_columns(tmp_path, ["mood"], keys=keys)["mood"].find(keys) == ("1", "2")


def test_labels_that_could_be_two_people_are_refused(tmp_path: Path) -> None:
    write_tsv(tmp_path / "participants.tsv", ("participant_id", "age"), [("1", 31), ("01", 32)])
    with pytest.raises(InputError, match=r"01, 1.*001"):
        find_columns(tmp_path, ["age"], keys=[("001", "")])
    # A label that is there as it is stays itself.
    assert find_columns(tmp_path, ["age"], keys=[("01", "")])["age"].find([("01", "")]) == ("32",)
    # Colours of the map are no reason to end a call.
    write_tsv(tmp_path / "phenotype" / "a.tsv", ("participant_id", "iq"), [("001", 100)])
    assert set(find_columns(tmp_path, ["iq"], optional=["age"], keys=[("001", "")])) == {"iq"}


def test_another_column_of_participants_is_named_and_used(tmp_path: Path) -> None:
    rows = [(i, f"{1000 + i}", f"NDAR_INV{i}", i * 2) for i in range(1, 4)]
    table = write_tsv(tmp_path / "redcap.tsv", ("event", "record_id", "key", "score"), rows)
    keys = [(str(1000 + i), "") for i in range(1, 4)]
    with pytest.raises(InputError, match=r"no column participant_id: .* --id-column record_id"):
        find_columns(tmp_path, ["score"], phenotype=table, keys=keys)
    with pytest.raises(InputError, match=r"--id-column key\."):
        find_columns(tmp_path, ["score"], phenotype=table, keys=[("NDARINV1", ""), ("NDARINV2", "")])
    found = find_columns(tmp_path, ["score"], phenotype=table, id_column="record_id", keys=keys)["score"]
    assert found.find(keys) == ("2", "4", "6")
    with pytest.raises(InputError, match=r"no column eid or participant_id"):
        find_columns(tmp_path, ["score"], phenotype=table, id_column="eid", keys=keys)
    write_column(tmp_path, range(23), name="age")
    with pytest.raises(InputError, match="--id-column"):
        find_columns(tmp_path, ["age"], id_column="eid")
