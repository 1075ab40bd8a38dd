"""Tables of series as programs write them: every spelling gives the same values, or one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bids_semantoks.errors import RunFailed
from bids_semantoks.signals.series_tables import read_columns, read_header

T, P = 7, 4
NAMES = ("LH_Vis_1", "LH_Cont_1", "RH_Vis_1", "RH_Default_1")
NUMBERS = ("1", "2", "3", "4")
VALUES = np.random.default_rng(3).normal(size=(T, P)).round(6)
VALUES[0, 0] = np.nan


def join(separator: str, *, header: str = "", missing: str = "NaN", index: bool = False) -> str:
    rows = [[missing if np.isnan(x) else repr(float(x)) for x in row] for row in VALUES]
    if index:
        rows = [[str(number), *row] for number, row in enumerate(rows)]
    return "\n".join([*([header] if header else []), *map(separator.join, rows)]) + "\n"


TABLES = {
    "header.tsv": (join("\t", header="\t".join(NAMES), missing="n/a"), NAMES),
    "bare.tsv": (join("\t", missing=""), NUMBERS),
    "counted.tsv": (join("\t", header="0\t1\t2\t3"), ("0", "1", "2", "3")),
    "labels.tsv": (join("\t", header="11\t12\t1011\t1012"), ("11", "12", "1011", "1012")),
    "pandas.csv": (join(",", header="," + ",".join(NAMES), missing="", index=True), NAMES),
    "quoted.csv": (join(",", header=",".join(f'"{name}"' for name in NAMES)), NAMES),
    "semicolons.csv": (join("; ", header=";".join(NAMES)), NAMES),
    "bare.csv": (join(","), NUMBERS),
    "savetxt.txt": (join(" "), NUMBERS),
    "commented.txt": (join(" ", header="# " + " ".join(NAMES)), NAMES),
    "other_comment.txt": (join("  ", header="# made by hand\n#\n"), NUMBERS),
    "r.txt": (join(" ", header=" ".join(f'"{name}"' for name in NAMES), index=True), NAMES),
    "afni.1D": (join("\t ", header="# 3dROIstats -mask a.nii b.nii c\n#Mean_1\t#Mean_2\t#Mean_3\t#Mean_4"), ()),
    "abide.1D": (join("\t", header="#1\t#2\t#3\t#4"), NUMBERS),
    "cpac.1D": (join(",", header="#Mean_1,Mean_2,Mean_3,Mean_4"), ()),
    "times.csv": (join(",", header="time," + ",".join(NAMES), index=True), NAMES),
    "windows.csv": ("\ufeff" + join(",", header=",".join(NAMES)).replace("\n", "\r\n"), NAMES),
}


@pytest.mark.parametrize("name", TABLES)
def test_every_spelling(tmp_path: Path, name: str) -> None:
    text, names = TABLES[name]
    path = tmp_path / name
    path.write_bytes(text.encode())
    columns, values = read_columns(path)
    assert columns == (names or tuple(f"Mean_{number}" for number in NUMBERS))
    np.testing.assert_array_equal(values, VALUES)
    assert read_header(path) == columns


@pytest.mark.parametrize("table", [VALUES, VALUES.astype(np.float32), np.asfortranarray(VALUES)])
def test_arrays(tmp_path: Path, table: np.ndarray[Any, Any]) -> None:
    np.save(tmp_path / "a.npy", table)
    np.save(tmp_path / "b.npy", table.T)
    for name, volumes in (("a.npy", "rows"), ("a.npy", ""), ("b.npy", "columns")):
        columns, values = read_columns(tmp_path / name, volumes=volumes)
        assert columns == NUMBERS
        np.testing.assert_array_equal(values, table)


@pytest.mark.parametrize("has_names", [False, True])
@pytest.mark.parametrize("has_times", [False, True])
def test_volumes_in_columns(tmp_path: Path, has_names: bool, has_times: bool) -> None:
    rows = [[*([name] if has_names else []), *map(str, row)] for name, row in zip(NAMES, VALUES.T, strict=True)]
    if has_times:
        rows.insert(0, [*([""] if has_names else []), *(str(number) for number in range(T))])
    path = tmp_path / "a.csv"
    path.write_text("\n".join(map(",".join, rows)))
    if has_times and not has_names:
        # The times would be a parcel: nothing tells them from one.
        assert read_columns(path, volumes="columns")[0] == (*NUMBERS, "5")
        return
    columns, values = read_columns(path, volumes="columns")
    assert columns == (NAMES if has_names else NUMBERS)
    np.testing.assert_array_equal(values, VALUES)


def test_a_square_table_needs_to_say_where_its_volumes_are(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    np.savetxt(path, VALUES[1 : P + 1])
    with pytest.raises(RunFailed, match=r"a\.txt has 4 rows"):
        read_columns(path, volumes="")
    np.testing.assert_allclose(read_columns(path, volumes="columns")[1], VALUES[1 : P + 1].T)
    path.write_text("# " + " ".join(NAMES) + "\n" + path.read_text())
    assert read_columns(path, volumes="")[0] == NAMES


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "a,b\n1,2,\n3,4,\n", r"has 3 fields in row 1, but 2 columns"),
        ("a.csv", "a;b\n0,5;1\n", "'0,5' in row 1 of"),
        ("a.txt", "a b\n1 2\n3 x\n", r"has 'x' in row 2 of column b"),
        ("a.1D", "1.5 2\n3 inf\n", r"has 'inf' in row 2 of column 2"),
        ("a.txt", "", r"has no header"),
        ("a.txt", "# nothing\n", r"has no header"),
        ("a.csv", "a,a\n1,2\n", "columns"),
        ("a.npy", "no array", r"a\.npy cannot be read as an array of numbers"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(RunFailed, match=message) as caught:
        read_columns(tmp_path / name)
    assert caught.value.reason == "bad_image"


@pytest.mark.parametrize("table", [np.zeros(5), np.zeros((2, 3, 4)), np.array([[1j]]), np.array([[np.inf]])])
def test_arrays_that_are_no_series(tmp_path: Path, table: np.ndarray[Any, Any]) -> None:
    np.save(tmp_path / "a.npy", table)
    with pytest.raises(RunFailed, match=r"parcels|infinite"):
        read_columns(tmp_path / "a.npy")
