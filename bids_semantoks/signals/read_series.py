"""Series already parcellated and denoised by another pipeline (TSV or CIFTI), used unchanged."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from bids_semantoks.atlases.label_tables import PREFIX, locate_columns
from bids_semantoks.errors import RunFailed, RunSkipped, name_some
from bids_semantoks.files import TextTable, decode_text, is_missing, parse_table, read_json, read_rows
from bids_semantoks.images.volumes import DAMAGED, check_content, one_line
from bids_semantoks.inputs.repetition_time import decide_repetition_time
from bids_semantoks.records import Atlas, Bools, Floats, ParcelSignals, Run
from bids_semantoks.signals.cleaning import check_duration, drop_constant, drop_empty
from bids_semantoks.signals.confounds import ConfoundsTable, read_censored

PTSERIES: Final = ".ptseries.nii"


def read_series(run: Run, atlas: Atlas, *, min_time: float) -> ParcelSignals:
    """Read the parcellated series of a run unchanged from the table `run.bold`; `values` and `raw` are both it (T, P).

    A volume in which more than half of the parcels are n/a counts as dropped; a parcel that is n/a in any kept volume
    is absent, so that one bad parcel does not cost the others volumes. Without a coverage table (`run.mask`), coverage
    is 1 or 0. `run.confounds` lists censored volumes, the first of `run.tables` motion. `min_time` is in seconds.
    Raises RunSkipped no_content, too_short or too_few_kept; RunFailed no_repetition_time, bad_image (damaged table,
    columns that the atlas lacks), bad_confounds or low_coverage (no complete parcel).
    """
    check_content(run.bold)
    repetition_time, time_notes = decide_repetition_time(run)
    columns, table = read_columns(run.bold)
    positions, name_notes = _locate_columns(run.bold, columns, atlas)
    table, notes = _insert_censored(run, table)
    values = np.full((len(table), len(atlas.parcels)), np.nan)
    values[:, positions] = table
    everything = np.ones(len(values), dtype=np.bool_)
    _, n_padding, empty_notes = drop_empty(values, everything, ~everything)
    displacement, motion_notes = _read_motion(run, len(values))
    present, kept = _judge(values)
    check_duration(kept, repetition_time=repetition_time, min_time=min_time)
    silent = np.isnan(values).all(axis=0)
    constant_notes = drop_constant(values, kept, atlas.parcels)
    constant = np.isnan(values).all(axis=0) & ~silent
    if np.isnan(values).all():
        refuse_table(run.bold, f"holds no parcel that varies over its {kept.sum()} kept volumes")
    present, kept = _judge(values)
    if not present.any():
        raise RunFailed(
            "low_coverage", f"No parcel in {run.bold} has a value in each of the {kept.sum()} kept volumes."
        )
    values[~kept] = np.nan
    partial = ~present & ~np.isnan(values).all(axis=0)
    values[:, ~present] = np.nan
    coverage, n_voxels = _read_coverage(run.mask, atlas.parcels, present)
    signals = values.astype(np.float32)
    return ParcelSignals(
        values=signals,
        raw=signals,
        kept=kept,
        n_dummy=_find_n_dummy(run.bold, kept),
        n_padding=max(n_padding, _find_n_padding(run.bold, kept)),
        coverage=coverage,
        n_voxels=n_voxels,
        repetition_time=repetition_time,
        regressors=(),
        framewise_displacement=displacement,
        warnings=(
            *(*time_notes, *name_notes, *notes, *empty_notes, *motion_notes, *constant_notes),
            *_describe_absent(atlas, present | constant, partial),
        ),
    )


def _locate_columns(path: Path, columns: tuple[str, ...], atlas: Atlas) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Find the position of each column among the parcels; without names, columns are in the order of the atlas."""
    nameless = not path.name.endswith(PTSERIES) and not _has_names(decode_text(_read_bytes(path, first_line=True)))
    if nameless and len(columns) != len(atlas.parcels):
        refuse_table(
            path,
            f"has no header: its first line holds numbers only, {len(columns)} of them, and the atlas {atlas.name} has "
            f"{len(atlas.parcels)} parcels",
        )
    try:
        positions = locate_columns(columns, atlas.parcels)
    except ValueError as error:
        refuse_table(path, f"{error}, which the atlas {atlas.name} lacks")
    note = f"{path.name} has no header: its columns are in the order of the parcels of the atlas {atlas.name}."
    return positions, (note,) if nameless else ()


def _insert_censored(run: Run, table: Floats) -> tuple[Floats, tuple[str, ...]]:
    """Set censored volumes to n/a, in place where the pipeline interpolated them; those that it left out are put back,
    since the time axis would be too short without them."""
    if run.confounds is None:
        return table, ()
    confounds, kept = read_censored(run.confounds)
    n_censored = int((~kept).sum())
    if kept.size == len(table):
        table[~kept] = np.nan
        note = f"{n_censored} volumes that {run.pipeline} censored and interpolated are n/a."
        return table, (note,) if n_censored else ()
    n_kept = kept.size - n_censored
    if n_kept != len(table):
        confounds.refuse(
            f"keeps {n_kept} of {kept.size} volumes, but {run.bold.name} has {len(table)}: neither fits",
            hint="Are both tables from one call of the pipeline?",
        )
    whole = np.full((kept.size, table.shape[1]), np.nan)
    whole[kept] = table
    return whole, (f"{n_censored} censored volumes were left out by {run.pipeline} and are n/a.",)


def _read_motion(run: Run, n_volumes: int) -> tuple[Floats, tuple[str, ...]]:
    """Read framewise displacement (T,) where a table has it, else NaN with a note; it is not needed for the series."""
    unknown = np.full(n_volumes, np.nan)
    for path in run.tables:
        try:
            table = ConfoundsTable(path)
            values = table.read_column("framewise_displacement") if "framewise_displacement" in table.names else unknown
        except (RunFailed, RunSkipped) as error:
            return unknown, (f"Motion is unknown: {error.message}",)
        if values.size != n_volumes:
            return unknown, (f"Motion is unknown: {path.name} has {values.size} rows for {n_volumes} volumes.",)
        return values, ()
    return unknown, ()


def _judge(values: Floats) -> tuple[Bools, Bools]:
    """Decide which parcels are present (P,) and which volumes are kept (T,)."""
    missing = np.isnan(values)
    somewhere = ~missing.all(axis=0)
    kept: Bools = np.asarray(missing[:, somewhere].sum(axis=1) * 2 <= somewhere.sum()) & bool(somewhere.any())
    present: Bools = np.asarray(somewhere & ~missing[kept].any(axis=0))
    return present, kept


def _read_coverage(path: Path | None, parcels: Sequence[str], present: Bools) -> tuple[Floats, NDArray[np.int64]]:
    """Read coverage and voxel counts (P,) from the dataset's table; default to presence and -1."""
    coverage = present.astype(np.float64)
    n_voxels = np.full(len(parcels), -1, dtype=np.int64)
    if path is None or not path.exists():
        return coverage, n_voxels
    position = {name.removeprefix(PREFIX): i for i, name in enumerate(parcels)}
    try:
        rows = read_rows(path)
    except (OSError, ValueError) as error:
        raise RunFailed("bad_image", f"The table of coverage {path} {error}.") from error
    for row in rows:
        parcel = position.get(next(iter(row.values()), "").removeprefix(PREFIX))
        if parcel is not None and "coverage" in row:
            coverage[parcel] = _to_number(row["coverage"], coverage[parcel])
            n_voxels[parcel] = int(_to_number(row.get("n_voxels", ""), -1))
    return coverage, n_voxels


def _to_number(text: str, otherwise: float) -> float:
    try:
        number = float(text)
    except ValueError:
        return otherwise
    return number if np.isfinite(number) else otherwise


def _find_n_dummy(path: Path, kept: Bools) -> int:
    """Count leading dummy volumes, which only our own sidecars tell from scrubbed ones; time starts after them."""
    count = _read_dropped(path, "Dummy", kept.size)
    return count if not kept[:count].any() else 0


def _find_n_padding(path: Path, kept: Bools) -> int:
    """Count the volumes at the end that our own sidecar says held no data."""
    count = _read_dropped(path, "Padding", kept.size)
    return count if not kept[kept.size - count :].any() else 0


def _read_dropped(path: Path, kind: str, n_volumes: int) -> int:
    try:
        count = read_json(path.with_suffix(".json"))["VolumesDropped"][kind]["Count"]
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    return count if isinstance(count, int) and 0 < count <= n_volumes else 0


def _describe_absent(atlas: Atlas, present: Bools, partial: Bools) -> tuple[str, ...]:
    notes = []
    absent = [name for name, here, some in zip(atlas.parcels, present, partial, strict=True) if not here and not some]
    if absent:
        notes.append(
            f"{len(absent)} of {len(atlas.parcels)} parcels have no series and are absent: {name_some(absent)}."
        )
    if partial.any():
        gaps = [name for name, some in zip(atlas.parcels, partial, strict=True) if some]
        notes.append(
            f"{len(gaps)} of {len(atlas.parcels)} parcels are n/a in some of the kept volumes and taken for absent: "
            f"{name_some(gaps)}."
        )
    return tuple(notes)


def read_columns(path: Path) -> tuple[tuple[str, ...], Floats]:
    """Read a table of series (TSV or ptseries): column names (C,) and values (T, C), NaN for n/a. Drops an unnamed
    first column (row numbers); without a header, columns are named by their number from 0. Raises RunFailed bad_image
    with row and column of a bad cell."""
    if path.name.endswith(PTSERIES):
        return load_parcel_series(path)
    table = _parse(_read_bytes(path), path)
    values = np.array([[_parse_cell(cell) for cell in row] for row in table.rows], dtype=np.float64)
    for row, column in np.argwhere(np.isinf(values))[:1]:
        where = f"in row {row + 1} of column {table.names[column]}"
        refuse_table(path, f"has {table.rows[row][column].strip()!r} {where}, expected a number or n/a")
    return tuple(table.names), values.reshape(len(table.rows), len(table.names))


def _parse_cell(text: str) -> float:
    """Parse a number, NaN where missing; infinity for anything else."""
    try:
        return float(text)
    except ValueError:
        return np.nan if is_missing(text) else np.inf


def read_header(path: Path) -> tuple[str, ...]:
    """Read the parcel names (C,) of a table of series (TSV or ptseries). Raises RunSkipped no_content; RunFailed
    bad_image without a readable header of unique names."""
    check_content(path)
    if path.name.endswith(PTSERIES):
        return load_parcel_series(path)[0]
    return tuple(_parse(_read_bytes(path, first_line=True), path).names)


def _read_bytes(path: Path, *, first_line: bool = False) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.readline() if first_line else b""
            # In UTF-16, an end of line is two bytes.
            return content if first_line and b"\0" not in content else content + file.read()
    except OSError as error:
        raise RunFailed("bad_image", f"{path} cannot be read ({error.strerror}).") from error


def _parse(content: bytes, path: Path) -> TextTable:
    try:
        text = decode_text(content)
        table = parse_table(text, has_header=_has_names(text))
    except ValueError as error:
        refuse_table(path, str(error))
    columns = table.names
    if not columns:
        refuse_table(path, "has no header of parcel names")
    if len(set(columns)) < len(columns):
        refuse_table(path, f"has columns twice: {name_some(sorted({c for c in columns if columns.count(c) > 1}))}")
    return table


def _has_names(text: str) -> bool:
    """Tell names, which may be ascending whole numbers, from the first row of a table without a header."""
    first = text.lstrip("\r\n").splitlines()[:1]
    cells = parse_table("".join(first)).names
    if all(cell.isdecimal() for cell in cells):
        return all(int(one) < int(other) for one, other in itertools.pairwise(cells))
    return any(np.isinf(_parse_cell(cell)) for cell in cells) or all(map(is_missing, cells))


def refuse_table(path: Path, problem: str) -> NoReturn:
    """Raise RunFailed bad_image; `problem` continues the sentence after the path."""
    raise RunFailed("bad_image", f"The table of series {path} {problem}.")


def load_parcel_series(path: Path) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """Load a ``*.ptseries.nii``: parcel names (C,) and values (T, C) with NaN where missing. Raises RunSkipped
    no_content, RunFailed bad_image."""
    check_content(path)
    try:
        image: Any = nib.load(path)
        axes = [image.header.get_axis(number) for number in range(image.ndim)]
        values = np.asarray(image.get_fdata(dtype=np.float64))
    except DAMAGED as error:
        raise RunFailed("bad_image", f"{path} cannot be read as CIFTI: {one_line(error)}") from error
    kinds = [type(axis).__name__ for axis in axes]
    if kinds != ["SeriesAxis", "ParcelsAxis"]:
        raise RunFailed("bad_image", f"{path} has the axes {', '.join(kinds)}; a series of parcels is expected.")
    columns = tuple(str(name) for name in axes[1].name)
    if len(set(columns)) < len(columns):
        twice = sorted({name for name in columns if columns.count(name) > 1})
        raise RunFailed("bad_image", f"{path} has parcels twice: {name_some(twice)}.")
    values[np.isinf(values)] = np.nan
    # Parcels without data are zeros here, but n/a in the same pipelines' tables.
    values[:, (values == 0).all(axis=0)] = np.nan
    return columns, values
