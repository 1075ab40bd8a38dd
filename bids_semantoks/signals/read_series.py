"""Time series parcellated and denoised by another pipeline, used unchanged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.atlases.label_tables import PREFIX, is_numbered, locate_columns
from bids_semantoks.disk import check_content
from bids_semantoks.errors import RunFailed
from bids_semantoks.files import hash_file, read_json, read_object, read_rows
from bids_semantoks.inputs.repetition_time import decide_repetition_time
from bids_semantoks.records import Atlas, Bools, Floats, ParcelSignals, Run
from bids_semantoks.signals.cleaning import check_duration, describe_parcels, drop_constant, drop_empty, is_in_range
from bids_semantoks.signals.confounds import read_censored, read_displacement, read_filtered
from bids_semantoks.signals.series_tables import TRANSPOSED, read_columns, refuse_table


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
        n_dummy=_find_n_dummy(run.bold, kept),
        n_padding=max(n_padding, _find_n_padding(run.bold, kept)),
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
    try:
        number = float(text)
    except ValueError:
        return otherwise
    return number if np.isfinite(number) else otherwise


def _find_n_dummy(path: Path, kept: Bools) -> int:
    """Count leading dummy volumes, which only our own sidecars distinguish from scrubbed ones; time starts after
    them."""
    count = _read_dropped(path, "Dummy", kept.size)
    return count if not kept[:count].any() else 0


def _find_n_padding(path: Path, kept: Bools) -> int:
    """Count the volumes at the end that have no data according to our own sidecar."""
    count = _read_dropped(path, "Padding", kept.size)
    return count if not kept[kept.size - count :].any() else 0


def _read_dropped(path: Path, kind: str, n_volumes: int) -> int:
    try:
        count = read_json(path.with_suffix(".json"))["VolumesDropped"][kind]["Count"]
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    return count if isinstance(count, int) and 0 < count <= n_volumes else 0
