"""Tables of parcel series as pipelines write them: header, values, and the parcel of each column."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.atlases.label_tables import name_some
from bids_semantoks.errors import RunFailed
from bids_semantoks.images.volumes import check_content
from bids_semantoks.signals.parcellated_cifti import PTSERIES, load_parcel_series

Float64 = NDArray[np.float64]


_MISSING: Final = ("n/a", "", "NA")


def read_columns(path: Path) -> tuple[tuple[str, ...], Float64]:
    """Read a table of series (TSV or ptseries): column names (C,) and values (T, C), NaN for n/a.
    Drops an unnamed first column (row numbers). Raises RunFailed bad_image with row and column of a bad cell."""
    if path.name.endswith(PTSERIES):
        return load_parcel_series(path)[:2]
    header, _, body = _read_bytes(path).partition(b"\n")
    columns, has_index = _split_header(header, path)
    rows = [line.split(b"\t") for line in body.splitlines()]
    n_fields = len(columns) + has_index
    for number, row in enumerate(rows, start=1):
        if len(row) != n_fields:
            refuse_table(path, f"has {len(row)} fields in row {number}, but {n_fields} columns")
    try:
        cells = np.array(rows, dtype=np.bytes_).reshape(len(rows), n_fields)[:, int(has_index) :]
        cells = cells.astype(f"S{max(cells.itemsize, len('nan'))}")
        for missing in _MISSING:
            cells[cells == missing.encode()] = b"nan"
        values = cells.astype(np.float64)
    except ValueError:
        values = np.full((len(rows), len(columns)), np.inf)
    if np.isinf(values).any():
        _refuse_cell(path, columns, rows, skip=int(has_index))
    return columns, values


def read_header(path: Path) -> tuple[str, ...]:
    """Read the parcel names (C,) of a table of series (TSV or ptseries).
    Raises RunSkipped no_content; RunFailed bad_image without a readable header of unique names."""
    check_content(path)
    if path.name.endswith(PTSERIES):
        return load_parcel_series(path)[0]
    return _split_header(_read_bytes(path, first_line=True), path)[0]


def _read_bytes(path: Path, *, first_line: bool = False) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.readline() if first_line else file.read()
    except OSError as error:
        raise RunFailed("bad_image", f"{path} cannot be read ({error.strerror}).") from error
    return content.removeprefix(b"\xef\xbb\xbf")


def _split_header(line: bytes, path: Path) -> tuple[tuple[str, ...], bool]:
    try:
        columns = tuple(name.strip() for name in line.decode().rstrip("\r\n").split("\t"))
    except UnicodeDecodeError:
        refuse_table(path, "is no text in UTF-8")
    has_index = columns[0] == "" and len(columns) > 1
    columns = columns[1:] if has_index else columns
    if columns == ("",):
        refuse_table(path, "has no header of parcel names")
    if len(set(columns)) < len(columns):
        refuse_table(path, f"has columns twice: {name_some(sorted({c for c in columns if columns.count(c) > 1}))}")
    return columns, has_index


def refuse_table(path: Path, problem: str) -> NoReturn:
    """Raise RunFailed bad_image; `problem` continues the sentence after the path."""
    raise RunFailed("bad_image", f"The table of series {path} {problem}.")


def _refuse_cell(path: Path, columns: Sequence[str], rows: list[list[bytes]], *, skip: int) -> NoReturn:
    for number, row in enumerate(rows, start=1):
        for column, cell in zip(columns, row[skip:], strict=True):
            text = cell.decode(errors="replace").strip()
            try:
                is_good = text in _MISSING or not np.isinf(float(text))
            except ValueError:
                is_good = False
            if not is_good:
                refuse_table(path, f"has {text!r} in row {number} of column {column}, expected a number or n/a")
    raise AssertionError("a cell was refused before")
