"""Tables of phenotypes as people really write them, and messages that say what is wrong with which cell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from bids_semantoks.errors import InputError
from bids_semantoks.inputs.phenotypes import build_phenotype, find_columns, parse_number, read_phenotype_table

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


def test_text_stays_text_and_only_na_is_missing(tmp_path: Path) -> None:
    sites = ["NA", "01", "1", "nan", "n/a", ""]
    write_column(tmp_path, sites)
    column = find_columns(tmp_path, ["x"])["x"]
    assert column.find(KEYS[:7]) == ("NA", "01", "1", "nan", None, None, None)
    assert parse_number("nan") is None
    assert parse_number("inf") is None
    assert parse_number("1_0") is None
    assert parse_number("-2.5e1") == -25


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
    with pytest.raises(
        InputError, match=r"Column x of participants\.tsv holds 22 cells that are no numbers, such as 'a'"
    ):
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
        (["True", "TRUE", "false"] * 7, "upper and lower case alone: 'TRUE' and 'True'"),
        ([f"{number},5" for number in range(23)], "holds numbers with commas, such as '0,5'"),
        ([*range(20, 42), "NA"], "holds numbers, but also 1 cells that are none, such as 'NA'"),
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
    assert "meds.tsv has 1 participants or sessions twice: sub-01" in caplog.text
    for wanted, message in (("drug", "meds.tsv has 1 participants"), ("mood", "has no column session_id")):
        with pytest.raises(InputError, match=message):
            find_columns(tmp_path, ["age", wanted])
    # Elsewhere nothing has the column, so the unsound table may be where it should have been.
    with pytest.raises(InputError, match="has no column session_id"):
        find_columns(tmp_path, ["iq"])


def test_participants_that_match_nobody(tmp_path: Path) -> None:
    rows = [(f"sub-{i}", i % 2) for i in range(1, 10)]
    write_tsv(tmp_path / "participants.tsv", ("participant_id", "x"), rows)
    with pytest.raises(InputError, match=r"describes none of the participants with features: it has 9 \(1, 2"):
        read(tmp_path)


def test_zeros_that_a_spreadsheet_took_away_are_missed(tmp_path: Path) -> None:
    rows = [(f"sub-{number}", number) for number in range(1, 24)]
    write_tsv(tmp_path / "participants.tsv", ("participant_id", "x"), rows)
    column = find_columns(tmp_path, ["x"])["x"]
    keys = [(f"{number:02d}", "") for number in range(1, 24)]
    with pytest.raises(InputError, match=r"other zeros in front of 9 participants than their folders: 1 for 01, 2 for"):
        build_phenotype(column, keys)
    # Labels that are not among the data matter only where they could be meant.
    assert None not in build_phenotype(column, keys[9:]).labels


def test_sessions_that_match_none(tmp_path: Path) -> None:
    rows = [(f"sub-{number}", f"ses-0{s}", number + s) for number in range(1, 18) for s in (1, 2)]
    write_tsv(tmp_path / "sessions.tsv", ("participant_id", "session_id", "x"), rows)
    column = find_columns(tmp_path, ["x"])["x"]
    keys = [(str(number), "1") for number in range(1, 18)]
    with pytest.raises(InputError, match=r"none of the sessions with features: it has 2 \(01, 02\), features"):
        build_phenotype(column, keys)
    with pytest.raises(InputError, match=r"none of the sessions with features: .*, features have none\."):
        build_phenotype(column, [(number, "") for number, _ in keys])


def test_duplicates(tmp_path: Path) -> None:
    path = write_tsv(tmp_path / "a.tsv", ("participant_id", "x"), [("sub-01", 1), ("01", 2)])
    with pytest.raises(InputError, match="1 participants or sessions twice: sub-01"):
        read_phenotype_table(path)
    path = write_tsv(tmp_path / "b.tsv", ("participant_id", "x", "x"), [("sub-01", 1, 2)])
    with pytest.raises(InputError, match="columns of the same name: x"):
        read_phenotype_table(path)
    path = write_tsv(tmp_path / "c.tsv", ("id", "x"), [("sub-01", 1)])
    with pytest.raises(InputError, match=r"no column participant_id: found 2 \(id, x\)"):
        read_phenotype_table(path)


def test_unknown_column_names_the_nearest(tmp_path: Path) -> None:
    write_column(tmp_path, range(23), name="age")
    with pytest.raises(InputError, match=r"Column agee not found in participants.tsv .*Did you mean age\?"):
        find_columns(tmp_path, ["agee"])
    with pytest.raises(InputError, match="No table of phenotypes in"):
        find_columns(tmp_path / "nowhere", ["age"])


def test_tables_are_looked_for_above_derivatives_and_in_order(tmp_path: Path) -> None:
    derivative = tmp_path / "raw" / "derivatives" / "fmriprep"
    derivative.mkdir(parents=True)
    write_column(tmp_path / "raw", range(23), name="age")
    write_column(tmp_path / "raw", range(100, 123), name="age", file="phenotype/other.tsv")
    assert find_columns(derivative, ["age"])["age"].find(KEYS[:2]) == ("0", "1")
    given = find_columns(derivative, ["age"], phenotype=Path("other.tsv"))["age"]
    assert given.find(KEYS[:2]) == ("100", "101")
    with pytest.raises(InputError, match=r"--phenotype missing.tsv is no file: looked for missing.tsv, .*raw"):
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


def test_csv_and_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b"\xef\xbb\xbfparticipant_id,score\r\nsub-01,3\r\n")
    table = read_phenotype_table(path)
    assert table.columns == {"score": ("3",)}
    assert table.keys == (("01", ""),)
