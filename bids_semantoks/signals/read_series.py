"""Series parcellated by another pipeline, used unchanged, from TSV, CSV, column text, AFNI's 1D, NPY and CIFTI."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from bids_semantoks.atlases.label_tables import PREFIX, is_numbered, locate_columns
from bids_semantoks.disk import check_content, check_size, read_array
from bids_semantoks.errors import InputError, RunFailed, RunSkipped, list_twice, name_some
from bids_semantoks.files import (
    decode_text,
    hash_file,
    is_missing,
    read_cells,
    read_json,
    read_object,
    read_rows,
    split_lines,
)
from bids_semantoks.images.volumes import DAMAGED, one_line
from bids_semantoks.inputs.repetition_time import decide_repetition_time
from bids_semantoks.records import Atlas, Bools, Floats, ParcelSignals, Run
from bids_semantoks.signals.cleaning import check_duration, describe_parcels, drop_constant, drop_empty, is_in_range
from bids_semantoks.signals.confounds import read_censored, read_displacement, read_filtered

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
        return _read_names(_split_table(_read_text(path, first_line=True)), path)[0]
    return read_columns(path, volumes=volumes)[0]


def _read_text(path: Path, *, first_line: bool = False) -> str:
    try:
        with path.open("rb") as file:
            content = file.readline() if first_line else b""
            # In UTF-16, a line break is two bytes.
            return decode_text(content if first_line and b"\0" not in content else content + file.read())
    except OSError as error:
        raise RunFailed("bad_image", f"{path} cannot be read ({error.strerror}).") from error
    except ValueError as error:
        refuse_table(path, str(error))


def _read_cells(path: Path) -> list[list[str]]:
    """Read the cells of a text table, all rows of the same length, the header first if there is one."""
    text = _read_text(path)
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
    for row, column in np.argwhere(np.isinf(values)):
        cell = rows[row][skip + column].strip()
        refuse_table(path, f"has {cell!r} in row {row + 1} of column {columns[column]}; expected a number or n/a")
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


def read_series(run: Run, atlas: Atlas, *, min_time: float) -> ParcelSignals:
    """Read the parcellated series of a run unchanged from the table `run.bold`; `values` and `raw` are both it (T, P).

    A volume in which more than half of the parcels are n/a counts as dropped; a parcel that is n/a in any kept volume
    is absent, so that one bad parcel does not remove volumes from the others. Without a coverage table (`run.mask`),
    coverage is 1 or 0. `run.confounds` lists censored volumes, the first of `run.tables` motion. `min_time` is in
    seconds. Raises RunSkipped no_content, too_short or too_few_kept; RunFailed no_repetition_time, bad_image (damaged
    table, columns that the atlas lacks), bad_confounds or low_coverage (no complete parcel).
    """
    check_content(run.bold)
    _check_sum(run.bold)
    return take_series(run, atlas, *read_columns(run.bold, volumes=run.volumes), min_time=min_time)


def take_series(run: Run, atlas: Atlas, columns: Sequence[str], table: Floats, *, min_time: float) -> ParcelSignals:
    """Build the result of `read_series` from arrays: names (C,) and values (T, C); `run` has the metadata."""
    repetition_time, time_notes = decide_repetition_time(run)
    try:
        positions = locate_columns(columns, atlas.parcels, f"the atlas {atlas.name}")
    except ValueError as error:
        turned = len(table) == len(atlas.parcels) != len(columns) and run.volumes != "columns"
        refuse_table(run.bold, f"{error}{TRANSPOSED if turned else ''}")
    name_notes: list[str] = []
    if is_numbered(columns) and not is_numbered(atlas.parcels):
        name_notes.append(f"The columns of {run.bold.name} are numbered; assuming the order of the atlas parcels.")
    hint = "Are both tables from the same run of the pipeline?"
    uncensored, stored, notes = read_censored(run, len(table), hint=hint)
    values = np.full((stored.size, len(atlas.parcels)), np.nan)
    values[np.ix_(stored, positions)] = table
    values[~uncensored] = np.nan
    everything = np.ones(len(values), dtype=np.bool_)
    _, n_padding, empty_notes = drop_empty(values, everything, ~everything)
    displacement, _, motion_notes = read_displacement(run.tables[:1], len(values))
    filtered, filter_notes = read_filtered(run.tables, len(values))
    present, kept = _judge(values)
    check_duration(kept, repetition_time=repetition_time, min_time=min_time)
    silent = np.isnan(values).all(axis=0)
    constant_notes = drop_constant(values, kept, atlas.parcels)
    constant = np.isnan(values).all(axis=0) & ~silent
    if np.isnan(values).all():
        refuse_table(run.bold, f"has no parcel that varies over its {kept.sum()} kept volumes")
    present, kept = _judge(values)
    if not is_in_range(values):
        refuse_table(run.bold, f"has implausibly large or small values (maximum {np.nanmax(np.abs(values)):.3g})")
    if not present.any():
        raise RunFailed("low_coverage", f"No parcel in {run.bold} has values in all of the {kept.sum()} kept volumes.")
    values[~kept] = np.nan
    partial = ~present & ~np.isnan(values).all(axis=0)
    values[:, ~present] = np.nan
    coverage, n_voxels, temporal_snr = _read_coverage(run.mask, atlas.parcels, present)
    signals = values.astype(np.float32)
    return ParcelSignals(
        values=signals,
        raw=signals,
        kept=kept,
        n_dummy=_count_dropped(run.bold, "Dummy", kept),
        n_padding=max(n_padding, _count_dropped(run.bold, "Padding", kept[::-1])),
        coverage=coverage,
        n_voxels=n_voxels,
        temporal_snr=temporal_snr,
        repetition_time=repetition_time,
        regressors=(),
        framewise_displacement=np.full(len(values), np.nan) if displacement is None else displacement,
        filtered_motion=filtered,
        warnings=(
            *(*time_notes, *name_notes, *notes, *empty_notes, *(motion_notes or filter_notes), *constant_notes),
            *describe_parcels(
                atlas.parcels, ~(present | constant | partial), "have no series and are treated as absent"
            ),
            *describe_parcels(atlas.parcels, partial, "are n/a in some of the kept volumes and treated as absent"),
        ),
    )


def _check_sum(path: Path) -> None:
    """Compare a table of our own with the checksum in its sidecar."""
    recorded = read_object(path.with_suffix(".json")).get("TableSHA256")
    if isinstance(recorded, str) and (found := hash_file(path)) != recorded:
        problem = (
            f"is damaged or was modified: its SHA-256 is {found[:12]}, expected {recorded[:12]} (from its sidecar)"
        )
        refuse_table(path, problem)


def _judge(values: Floats) -> tuple[Bools, Bools]:
    """Decide which parcels are present (P,) and which volumes are kept (T,)."""
    missing = np.isnan(values)
    somewhere = ~missing.all(axis=0)
    kept: Bools = np.asarray(missing[:, somewhere].sum(axis=1) * 2 <= somewhere.sum()) & bool(somewhere.any())
    present: Bools = np.asarray(somewhere & ~missing[kept].any(axis=0))
    return present, kept


def _read_coverage(
    path: Path | None, parcels: Sequence[str], present: Bools
) -> tuple[Floats, NDArray[np.int64], Floats]:
    """Read coverage, voxel counts and temporal SNR (P,) from the dataset's table; default to presence, -1 and NaN."""
    coverage = present.astype(np.float64)
    n_voxels = np.full(len(parcels), -1, dtype=np.int64)
    temporal_snr = np.full(len(parcels), np.nan)
    if path is None or not path.exists():
        return coverage, n_voxels, temporal_snr
    position = {name.removeprefix(PREFIX): i for i, name in enumerate(parcels)}
    try:
        rows = read_rows(path)
    except (OSError, ValueError) as error:
        raise RunFailed("bad_image", f"The coverage table {path} {error}.") from error
    for row in rows:
        parcel = position.get(next(iter(row.values()), "").removeprefix(PREFIX))
        if parcel is not None and "coverage" in row:
            coverage[parcel] = _to_number(row["coverage"], coverage[parcel])
            count = _to_number(row.get("n_voxels", ""), -1)
            n_voxels[parcel] = int(count) if abs(count) < 2**53 else -1
            temporal_snr[parcel] = _to_number(row.get("tsnr", ""), np.nan)
    return coverage, n_voxels, temporal_snr


def _to_number(text: str, otherwise: float) -> float:
    number = _to_float(text)
    return otherwise if number is None or not np.isfinite(number) else number


def _count_dropped(path: Path, kind: str, kept: Bools) -> int:
    """Count the first volumes (T,) that our own sidecar, unlike others, says to be of a kind, dummies or padding; 0 if
    some of them are kept."""
    try:
        count = read_json(path.with_suffix(".json"))["VolumesDropped"][kind]["Count"]
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    return count if isinstance(count, int) and 0 < count <= kept.size and not kept[:count].any() else 0
