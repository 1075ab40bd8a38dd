"""Read tables of parcel series: TSV, CSV, column text, AFNI's 1D, NPY and CIFTI."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from bids_semantoks.atlases.label_tables import is_numbered
from bids_semantoks.disk import check_content, check_size, read_array
from bids_semantoks.errors import InputError, RunFailed, RunSkipped, list_twice, name_some
from bids_semantoks.files import decode_text, is_missing, read_cells, split_lines
from bids_semantoks.images.volumes import DAMAGED, one_line
from bids_semantoks.records import Floats, Run

LOGGER = logging.getLogger("bids_semantoks")
PTSERIES: Final = ".ptseries.nii"
_NPY: Final = ".npy"
#: Hint for a table whose number of rows matches the parcels; continues the sentence on its columns.
TRANSPOSED: Final = '; its number of rows matches: set "volumes": "columns" in the layout if each row is a parcel'
# Leading columns with row names or time, as written by pandas, R and AFNI.
_ROW_NAMES: Final = frozenset({"", "file", "sub-brick", "volume", "time", "timepoint", "frame", "index"})


def read_columns(path: Path, *, volumes: str = "rows") -> tuple[tuple[str, ...], Floats]:
    """Read a table of series: column names (C,) and values (T, C), NaN for n/a.

    Volumes are its `rows` or `columns`; empty if unknown. Columns without names are numbered
    from 1. Leading columns of row names or times are dropped. Raises RunFailed bad_image with row and column of a bad
    cell, or for a square table without names whose orientation is unknown.
    """
    if path.name.endswith(PTSERIES):
        return load_parcel_series(path)
    if path.name.endswith(_NPY):
        table = _load_array(path)
        table = table.T if volumes == "columns" else table
        columns, has_names, values = _number(table.shape[1]), False, table
    else:
        rows = _read_cells(path)
        rows = [list(column) for column in zip(*rows, strict=True)] if volumes == "columns" else rows
        columns, skip, has_names = _read_names(rows, path)
        values = _read_numbers(columns, rows[has_names:], skip, path)
    if not volumes and not has_names and len(values) == len(columns):
        refuse_table(
            path, f'has {len(values)} rows and as many columns; set "volumes": "rows" or "columns" in the layout'
        )
    return columns, values


def read_header(path: Path, *, volumes: str = "rows") -> tuple[str, ...]:
    """Read the parcel names (C,) of a table of series. Raises RunSkipped no_content; RunFailed bad_image without a
    readable header of unique names."""
    check_content(path)
    if path.name.endswith(".tsv") and volumes == "rows":
        return _read_names(_split_table(_decode(_read_bytes(path, first_line=True), path)), path)[0]
    return read_columns(path, volumes=volumes)[0]


def _read_bytes(path: Path, *, first_line: bool = False) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.readline() if first_line else b""
            # In UTF-16, a line break is two bytes.
            return content if first_line and b"\0" not in content else content + file.read()
    except OSError as error:
        raise RunFailed("bad_image", f"{path} cannot be read ({error.strerror}).") from error


def _decode(content: bytes, path: Path) -> str:
    try:
        return decode_text(content)
    except ValueError as error:
        refuse_table(path, str(error))


def _read_cells(path: Path) -> list[list[str]]:
    """Read the cells of a text table, all rows of the same length, the header first if there is one."""
    text = _decode(_read_bytes(path), path)
    rows = _split_table(text) if path.suffix == ".tsv" else _split_text(text)
    if not rows or rows == [[""]]:
        refuse_table(path, "has no header with parcel names")
    if len(rows) > 1 and len(rows[0]) == len(rows[1]) - 1:
        names = [row[0] for row in rows[1:]]
        # R writes no header for its row names; a trailing separator on each line looks the same.
        if is_numbered(names) or not any(map(_is_number, names)):
            rows[0] = ["", *rows[0]]
    for number, row in enumerate(rows[1:], start=1):
        if len(row) != len(rows[0]):
            refuse_table(path, f"has {len(row)} fields in row {number}, but {len(rows[0])} columns")
    return rows


def _split_table(text: str) -> list[list[str]]:
    """Split a table at its tabs, without empty lines at the ends and without tabs at the ends of all lines."""
    rows = [cells for _, cells in split_lines(text.strip("\r\n"))]
    while rows and len(rows[0]) > 1 and not any(row[-1].strip() for row in rows):
        rows = [row[:-1] for row in rows]
    return rows


def _split_text(text: str) -> list[list[str]]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    comments = [line.lstrip("# ") for line in lines if line.startswith("#")]
    rows = read_cells([line for line in lines if not line.startswith("#")])
    if not rows or not _holds_values(rows[0]):
        return rows
    # AFNI and NumPy comment out the header; other comments do not have one word per column.
    titles = [[cell.lstrip("# ") for cell in row] for line in comments for row in read_cells([line])]
    fitting = [row for row in titles if len(row) == len(rows[0])]
    return [*fitting[-1:], *rows]


def _read_names(rows: Sequence[Sequence[str]], path: Path) -> tuple[tuple[str, ...], int, bool]:
    """Find the names of the columns of series (C,), how many columns precede them, and whether they are named."""
    cells = [cell.strip() for cell in rows[0]] if rows else [""]
    skip = next((n for n, cell in enumerate(cells) if cell.lower() not in _ROW_NAMES), len(cells) - 1)
    columns = tuple(cells[skip:])
    if columns == ("",):
        refuse_table(path, "has no header with parcel names")
    if _holds_values(columns):
        # Columns are unnamed, so an empty first cell is a missing value.
        return _number(len(cells)), 0, False
    if twice := list_twice(columns):
        refuse_table(path, f"has duplicate columns: {name_some(twice)}")
    return columns, skip, True


def _holds_values(cells: Sequence[str]) -> bool:
    """Return whether a row contains values rather than a header, which may also consist of increasing numbers."""
    if not all(map(_is_number, cells)):
        return False
    are_labels = all(re.fullmatch(r"\d+", cell) for cell in cells) and [*map(int, cells)] == sorted({*map(int, cells)})
    return not (are_labels or is_numbered(cells))


def _to_float(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _to_value(cell: str) -> float:
    number = _to_float(cell)
    return (np.nan if is_missing(cell) else np.inf) if number is None else number


def _is_number(cell: str) -> bool:
    return is_missing(cell) or _to_float(cell) is not None


def _number(n_columns: int) -> tuple[str, ...]:
    return tuple(str(number) for number in range(1, n_columns + 1))


def _read_numbers(columns: Sequence[str], rows: Sequence[Sequence[str]], skip: int, path: Path) -> Floats:
    try:
        # Bytes need a quarter of the memory and two thirds of the time of text.
        cells = np.array([row[skip:] for row in rows], dtype=np.bytes_).reshape(len(rows), len(columns))
        cells = cells.astype(f"S{max(cells.itemsize, len('nan'))}")
        for missing in (b"n/a", b"", b"NA"):
            cells[cells == missing] = b"nan"
        values = cells.astype(np.float64)
    except ValueError:
        # Slower, with all words for missing; non-numeric cells become infinite and are refused.
        values = np.array([[_to_value(cell) for cell in row[skip:]] for row in rows])
    if np.isinf(values).any():
        _refuse_cell(path, columns, rows, skip=skip)
    return values


def _load_array(path: Path) -> Floats:
    try:
        values = read_array(path)
        table = np.asarray(values if np.isrealobj(values) else [], dtype=np.float64)
    except (OSError, ValueError, EOFError, TypeError) as error:
        raise RunFailed("bad_image", f"{path} cannot be read as an array of numbers ({error}).") from error
    if table.ndim != 2 or not table.size:
        refuse_table(path, f"has shape {values.shape} and type {values.dtype}; expected numbers (volumes x parcels)")
    if np.isinf(table).any():
        refuse_table(path, "contains infinite values")
    return table


def read_first_header(runs: tuple[Run, ...]) -> tuple[str, ...]:
    """Read the first readable header; the other tables are reported with their runs. InputError if there is none."""
    for run in runs:
        try:
            return read_header(run.bold, volumes=run.volumes)
        except (RunFailed, RunSkipped) as error:
            LOGGER.warning("%s", error)
    raise InputError(f"None of the {len(runs)} series tables can be read; the first is {runs[0].bold}.")


def refuse_table(path: Path, problem: str) -> NoReturn:
    """Raise RunFailed bad_image; `problem` continues the sentence after the path."""
    raise RunFailed("bad_image", f"The series table {path} {problem}.")


def _refuse_cell(path: Path, columns: Sequence[str], rows: Sequence[Sequence[str]], *, skip: int) -> NoReturn:
    for number, row in enumerate(rows, start=1):
        for column, cell in zip(columns, row[skip:], strict=True):
            if np.isinf(_to_value(text := cell.strip())):
                refuse_table(path, f"has {text!r} in row {number} of column {column}; expected a number or n/a")
    raise AssertionError("a cell was refused before")


def load_parcel_series(path: Path) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """Load a ``*.ptseries.nii``: parcel names (C,) and values (T, C) with NaN where missing. Raises RunSkipped
    no_content, RunFailed bad_image."""
    check_content(path)
    try:
        image: Any = nib.load(path)
        axes = [image.header.get_axis(number) for number in range(image.ndim)]
        check_size(path, image.shape, image.get_data_dtype())
        values = np.asarray(image.get_fdata(dtype=np.float64))
    except DAMAGED as error:
        raise RunFailed("bad_image", f"{path} cannot be read as CIFTI: {one_line(error)}") from error
    kinds = [type(axis).__name__ for axis in axes]
    if kinds != ["SeriesAxis", "ParcelsAxis"]:
        raise RunFailed("bad_image", f"{path} has axes {', '.join(kinds)}; expected a parcel series.")
    # XML text can contain characters that would end a cell or line in our tables.
    columns = tuple(re.sub(r"[\t\n\v\f\r]+", " ", str(name)) for name in axes[1].name)
    if twice := list_twice(columns):
        raise RunFailed("bad_image", f"{path} has duplicate parcels: {name_some(twice)}.")
    values[np.isinf(values)] = np.nan
    # Parcels without data are zeros here, but n/a in the tables of the same pipeline.
    values[:, (values == 0).all(axis=0)] = np.nan
    return columns, values
