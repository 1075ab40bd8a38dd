"""Series that another pipeline has parcellated and cleaned: taken as they are."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.errors import RunFailed
from bids_semantoks.records import Atlas, ParcelSignals, Run
from bids_semantoks.signals.cleaning import check_duration
from bids_semantoks.signals.images import check_content
from bids_semantoks.signals.labels import name_some
from bids_semantoks.signals.tables import ConfoundsTable

Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

_PREFIX: Final = "7Networks_"
_MISSING: Final = ("n/a", "", "NA")


def read_series(run: Run, atlas: Atlas, *, min_time: float) -> ParcelSignals:
    """Read the series of a run as they are.

    Volumes in which more than half of the parcels are n/a are taken for dropped. A parcel that is n/a in another
    volume is absent, so that one bad parcel costs no volume of the others.

    Parameters
    ----------
    run : Run
        `bold` is the table of series, `mask` that of coverage, `confounds` that of censored volumes.
    atlas : Atlas
        Parcels; those without a column are absent.
    min_time : float
        Seconds of kept data that a run needs.

    Returns
    -------
    ParcelSignals
        `values` and `raw` are the same; without a table of coverage it is 1 for parcels with a signal, else 0.

    Raises
    ------
    RunSkipped
        ``no_content``, ``too_short`` or ``too_few_kept``.
    RunFailed
        ``no_repetition_time``; ``bad_image`` when the table is damaged or has columns that the atlas lacks;
        ``bad_confounds`` when the table of censored volumes is damaged; ``low_coverage`` when no parcel is complete.
    """
    check_content(run.bold)
    if run.repetition_time is None:
        raise RunFailed(
            "no_repetition_time",
            f"No sidecar gives the RepetitionTime or SamplingFrequency of {run.bold}.",
            hint="Write one of them, in seconds or Hz, to the JSON file beside the table.",
        )
    columns, table = read_columns(run.bold)
    try:
        positions = locate_columns(columns, atlas.parcels)
    except ValueError as error:
        _refuse(run.bold, f"{error}, which the atlas {atlas.name} lacks")
    table, notes = _insert_censored(run, table)
    values = np.full((len(table), len(atlas.parcels)), np.nan)
    values[:, positions] = table
    present, kept = _judge(values)
    check_duration(kept, repetition_time=run.repetition_time, min_time=min_time)
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
        repetition_time=run.repetition_time,
        regressors=(),
        framewise_displacement=np.full(len(signals), np.nan),
        warnings=(*notes, *_describe_absent(atlas, present, partial)),
    )


def read_columns(path: Path) -> tuple[tuple[str, ...], Float64]:
    """Read a table of series.

    Parameters
    ----------
    path : Path
        TSV with a header; a first column without a name (row numbers) is left out.

    Returns
    -------
    columns : tuple of str, length C
        Header.
    values : NDArray, float64, shape (T, C)
        One row a volume; NaN for ``n/a``.

    Raises
    ------
    RunFailed
        ``bad_image``, naming row and column of what is neither a finite number nor n/a.
    """
    header, _, body = _read_bytes(path).partition(b"\n")
    columns, has_index = _split_header(header, path)
    rows = [line.split(b"\t") for line in body.splitlines()]
    n_fields = len(columns) + has_index
    for number, row in enumerate(rows, start=1):
        if len(row) != n_fields:
            _refuse(path, f"has {len(row)} fields in row {number}, but {n_fields} columns")
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
    """Read the columns of a table of series.

    Parameters
    ----------
    path : Path
        TSV with a header.

    Returns
    -------
    tuple of str, length C
        Names of parcels.

    Raises
    ------
    RunSkipped
        ``no_content`` when the table was never fetched.
    RunFailed
        ``bad_image`` when it cannot be read, or has no header of unique names.
    """
    check_content(path)
    return _split_header(_read_bytes(path, first_line=True), path)[0]


def locate_columns(columns: Sequence[str], parcels: Sequence[str]) -> NDArray[np.int64]:
    """Find the parcel of each column.

    Parameters
    ----------
    columns : sequence of str, length C
        Header of a table of series: names, with or without ``7Networks_``, or the numbers of all parcels, counted
        from 0 or 1.
    parcels : sequence of str, length P
        Parcels of the atlas.

    Returns
    -------
    NDArray, int64, shape (C,)
        Positions in `parcels`.

    Raises
    ------
    ValueError
        When a column is no parcel; it begins with ``has columns``.
    """
    position = {name.removeprefix(_PREFIX): i for i, name in enumerate(parcels)}
    bare = [name.removeprefix(_PREFIX) for name in columns]
    unknown = [name for name in bare if name not in position]
    if not unknown:
        return np.array([position[name] for name in bare], dtype=np.int64)
    if is_numbered(columns) and len(columns) == len(parcels):
        return np.arange(len(parcels), dtype=np.int64)
    raise ValueError(f"has columns ({len(unknown)} of {len(columns)}) of parcels {name_some(unknown)}")


def is_numbered(columns: Sequence[str]) -> bool:
    """Tell whether columns are counted instead of named.

    Parameters
    ----------
    columns : sequence of str
        Header.

    Returns
    -------
    bool
        True for 0, 1, 2 ... and for 1, 2, 3 ...
    """
    return any(list(columns) == [str(i + first) for i in range(len(columns))] for first in (0, 1))


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
        _refuse(path, "is no text in UTF-8")
    has_index = columns[0] == "" and len(columns) > 1
    columns = columns[1:] if has_index else columns
    if columns == ("",):
        _refuse(path, "has no header of parcel names")
    if len(set(columns)) < len(columns):
        _refuse(path, f"has columns twice: {name_some(sorted({c for c in columns if columns.count(c) > 1}))}")
    return columns, has_index


def _refuse(path: Path, problem: str) -> NoReturn:
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
                _refuse(path, f"has {text!r} in row {number} of column {column}, expected a number or n/a")
    raise AssertionError("a cell was refused before")


def _insert_censored(run: Run, table: Float64) -> tuple[Float64, tuple[str, ...]]:
    """Put the volumes back that a pipeline censored and left out, as n/a: without them time would be too short."""
    if run.confounds is None:
        return table, ()
    outliers = ConfoundsTable(run.confounds)
    column = "framewise_displacement" if "framewise_displacement" in outliers.names else outliers.names[0]
    kept = outliers.read_column(column) == 0
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


def _judge(values: Float64) -> tuple[Bool, Bool]:
    """Which parcels are present and which volumes kept."""
    missing = np.isnan(values)
    somewhere = ~missing.all(axis=0)
    kept: Bool = np.asarray(missing[:, somewhere].sum(axis=1) * 2 <= somewhere.sum()) & bool(somewhere.any())
    present: Bool = np.asarray(somewhere & ~missing[kept].any(axis=0))
    return present, kept


def _read_coverage(path: Path | None, parcels: Sequence[str], present: Bool) -> tuple[Float64, NDArray[np.int64]]:
    """Read what the dataset says about its parcels; what it does not say stays as their presence tells."""
    coverage = present.astype(np.float64)
    n_voxels = np.full(len(parcels), -1, dtype=np.int64)
    if path is None or not path.exists():
        return coverage, n_voxels
    lines = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines(), delimiter="\t"))
    header = lines[0] if lines else []
    if "coverage" not in header:
        return coverage, n_voxels
    position = {name.removeprefix(_PREFIX): i for i, name in enumerate(parcels)}
    for cells in lines[1:]:
        row = dict(zip(header, cells, strict=False))
        parcel = position.get(cells[0].removeprefix(_PREFIX)) if cells else None
        if parcel is not None:
            coverage[parcel] = _to_number(row.get("coverage", ""), coverage[parcel])
            n_voxels[parcel] = int(_to_number(row.get("n_voxels", ""), -1))
    return coverage, n_voxels


def _to_number(text: str, otherwise: float) -> float:
    try:
        number = float(text)
    except ValueError:
        return otherwise
    return number if np.isfinite(number) else otherwise


def _find_n_dummy(path: Path, kept: Bool) -> int:
    """Leading dummy volumes, which our own sidecars tell from scrubbed ones: time starts after them."""
    try:
        count = json.loads(path.with_suffix(".json").read_bytes())["VolumesDropped"]["Dummy"]["Count"]
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    is_count = isinstance(count, int) and 0 < count <= kept.size
    return count if is_count and not kept[:count].any() else 0


def _describe_absent(atlas: Atlas, present: Bool, partial: Bool) -> tuple[str, ...]:
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
