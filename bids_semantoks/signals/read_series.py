"""Series already parcellated and denoised by another pipeline (TSV or CIFTI), used unchanged."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from bids_semantoks.atlases.label_tables import PREFIX, locate_columns
from bids_semantoks.errors import RunFailed, RunSkipped, name_some
from bids_semantoks.files import read_json, read_rows, split_rows
from bids_semantoks.images.volumes import DAMAGED, check_content, is_surface, load_volumes, one_line
from bids_semantoks.records import Atlas, Bools, Floats, ParcelSignals, Run
from bids_semantoks.signals.cleaning import check_duration
from bids_semantoks.signals.confounds import ConfoundsTable, read_censored
from bids_semantoks.signals.surface_means import load_surface_series

PTSERIES: Final = ".ptseries.nii"
_MISSING: Final = ("n/a", "", "NA")
# Derived entities, which follow those of the run in file names.
_DERIVED: Final = r"_(?:space|cohort|atlas|seg|scale|res|den|stat|desc)-.*"
# Cheapest first: series of parcels, then images, whose headers alone are read.
_ENDS: Final = (PTSERIES, "_bold.dtseries.nii", "_bold.nii.gz", "_bold.nii")


def read_series(run: Run, atlas: Atlas, *, min_time: float) -> ParcelSignals:
    """Read the parcellated series of a run unchanged from the table `run.bold`; `values` and `raw` are both it (T, P).

    A volume in which more than half of the parcels are n/a counts as dropped; a parcel that is n/a in any kept volume
    is absent, so that one bad parcel does not cost the others volumes. Without a coverage table (`run.mask`), coverage
    is 1 or 0. `run.confounds` lists censored volumes, the first of `run.tables` motion. `min_time` is in seconds.
    Raises RunSkipped no_content, too_short or too_few_kept; RunFailed no_repetition_time, bad_image (damaged table,
    columns that the atlas lacks), bad_confounds or low_coverage (no complete parcel).
    """
    check_content(run.bold)
    repetition_time, time_notes = _find_repetition_time(run)
    columns, table = read_columns(run.bold)
    try:
        positions = locate_columns(columns, atlas.parcels)
    except ValueError as error:
        refuse_table(run.bold, f"{error}, which the atlas {atlas.name} lacks")
    table, notes = _insert_censored(run, table)
    values = np.full((len(table), len(atlas.parcels)), np.nan)
    values[:, positions] = table
    displacement, motion_notes = _read_motion(run, len(values))
    present, kept = _judge(values)
    check_duration(kept, repetition_time=repetition_time, min_time=min_time)
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
        coverage=coverage,
        n_voxels=n_voxels,
        repetition_time=repetition_time,
        regressors=(),
        framewise_displacement=displacement,
        warnings=(*time_notes, *notes, *motion_notes, *_describe_absent(atlas, present, partial)),
    )


def _find_repetition_time(run: Run) -> tuple[float, tuple[str, ...]]:
    """Return the repetition time (s) from the sidecars, else from a header of the run's files with a note saying so."""
    if run.repetition_time is not None:
        return run.repetition_time, ()
    if (found := find_header_time(run)) is None:
        raise RunFailed(
            "no_repetition_time",
            f"No sidecar gives the RepetitionTime or SamplingFrequency of {run.bold}, nor does the header of an image "
            "of its run beside it.",
            hint="Write one of them, in seconds or Hz, to the JSON file beside the table.",
        )
    time, path = found
    note = f"No sidecar states the repetition time of {run.bold.name}: {time:g} s is from the header of {path.name}."
    return time, () if path == run.bold else (note,)


def _insert_censored(run: Run, table: Floats) -> tuple[Floats, tuple[str, ...]]:
    """Reinsert censored volumes that the pipeline left out, as n/a; without them the time axis would be too short."""
    if run.confounds is None:
        return table, ()
    _, kept = read_censored(run.confounds)
    if kept.size == len(table):
        return table, ()
    if int(kept.sum()) != len(table):
        note = (
            f"{run.confounds.name} keeps {int(kept.sum())} of {kept.size} volumes, but {run.bold.name} has "
            f"{len(table)}; its rows are taken for consecutive volumes."
        )
        return table, (note,)
    whole = np.full((kept.size, table.shape[1]), np.nan)
    whole[kept] = table
    return whole, (f"{int((~kept).sum())} censored volumes were left out by {run.pipeline} and are n/a.",)


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
        raise RunFailed("bad_image", f"The table of coverage {path} cannot be read: {one_line(error)}") from error
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
    try:
        count = read_json(path.with_suffix(".json"))["VolumesDropped"]["Dummy"]["Count"]
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    is_count = isinstance(count, int) and 0 < count <= kept.size
    return count if is_count and not kept[:count].any() else 0


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
    first column (row numbers). Raises RunFailed bad_image with row and column of a bad cell."""
    if path.name.endswith(PTSERIES):
        return load_parcel_series(path)[:2]
    header, _, body = _read_bytes(path).partition(b"\n")
    columns, has_index = _split_header(header, path)
    rows = split_rows(body)
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
    """Read the parcel names (C,) of a table of series (TSV or ptseries). Raises RunSkipped no_content; RunFailed
    bad_image without a readable header of unique names."""
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
        columns = tuple(name.strip() for name in (split_rows(line.decode()) or [[""]])[0])
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


def load_parcel_series(path: Path) -> tuple[tuple[str, ...], NDArray[np.float64], float | None]:
    """Load a ``*.ptseries.nii``: parcel names (C,), values (T, C) with NaN where missing, and seconds per volume. The
    time is None for a series not in seconds. Raises RunSkipped no_content, RunFailed bad_image."""
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
    step = float(axes[0].step)
    return columns, values, step if axes[0].unit == "SECOND" and step > 0 else None


def find_header_time(run: Run) -> tuple[float, Path] | None:
    """Find the repetition time (s) of a run of parcel series in a header of its CIFTI or NIfTI files,
    and that file; None where there is none."""
    source = re.sub(f"{_DERIVED}$", "", run.bold.name)
    of_run = re.compile(re.escape(source) + _DERIVED)
    siblings = sorted(path for path in run.bold.parent.iterdir() if of_run.fullmatch(path.name) and path != run.bold)
    for end in _ENDS:
        for path in (run.bold, *siblings):
            if path.name.endswith(end) and (time := _read_time(run, path)):
                return time, path
    return None


def _read_time(run: Run, path: Path) -> float | None:
    # A file that is damaged or was never fetched says nothing; the series are read without it.
    with contextlib.suppress(RunFailed, RunSkipped):
        if path.name.endswith(PTSERIES):
            return load_parcel_series(path)[2]
        if is_surface(path):
            return load_surface_series(dataclasses.replace(run, bold=path)).repetition_time
        return load_volumes(path).repetition_time
    return None
