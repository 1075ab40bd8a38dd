"""Parcel signals of a BOLD run: check, average, compute coverage, clean."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bids_semantoks.config import SignalsConfig
from bids_semantoks.disk import check_content
from bids_semantoks.errors import AtlasError, RunFailed, RunSkipped
from bids_semantoks.images.fsl_warps import check_warp
from bids_semantoks.images.volumes import Volumes, load_volumes
from bids_semantoks.inputs.names import is_surface_file
from bids_semantoks.inputs.repetition_time import decide_repetition_time
from bids_semantoks.records import Atlas, Bools, Floats, ParcelSignals, Run
from bids_semantoks.signals.cleaning import (
    MIN_VOLUMES,
    check_duration,
    clean_signals,
    describe_parcels,
    drop_constant,
    drop_empty,
    estimate_freedom,
)
from bids_semantoks.signals.confounds import open_confounds
from bids_semantoks.signals.denoising import Denoising
from bids_semantoks.signals.regressors import Regressors, has_confounds, select_regressors, select_volumes
from bids_semantoks.signals.surface_means import SurfaceSeries, extract_surface_means, load_surface_series
from bids_semantoks.signals.volume_means import extract_means, extract_native_means

#: Share of the pass band's degrees of freedom below which a warning is given.
_LITTLE_FREEDOM = 0.3


def check_run(run: Run, config: SignalsConfig, denoising: Denoising) -> Regressors:
    """Check a run without reading its voxels; return its regressors and kept volumes. Raises RunSkipped no_content,
    too_short or too_few_kept; RunFailed no_mask, no_repetition_time, no_confounds, bad_confounds or bad_image."""
    series, _ = _open_run(run)
    repetition_time, _ = decide_repetition_time(run, series.repetition_time)
    return _select_volumes(run, series.n_volumes, repetition_time, config, denoising)


def check_names(run: Run, config: SignalsConfig, denoising: Denoising) -> None:
    """Check that a run's files exist, by name only: RunFailed no_mask or no_confounds, RunSkipped no_content."""
    check_content(run.bold)
    if run.warp is None:
        _find_mask(run)
    if not run.is_denoised:
        has_confounds(run.confounds, denoising, config, missing=run.describe_missing("confounds"))


def _open_run(run: Run) -> tuple[Volumes | SurfaceSeries, Path | None]:
    """Read the header of a run's image, and find its mask."""
    check_content(run.bold)
    mask = _find_mask(run)
    return load_surface_series(run) if is_surface_file(run.bold.name) else load_volumes(run.bold), mask


def _select_volumes(
    run: Run, n_volumes: int, repetition_time: float, config: SignalsConfig, denoising: Denoising
) -> Regressors:
    if run.confounds is not None:
        check_content(run.confounds)
    if n_volumes < MIN_VOLUMES:
        raise RunSkipped("too_short", f"{run.bold} has {n_volumes} volumes; at least {MIN_VOLUMES} are required.")
    if run.is_denoised:
        # The image may be shorter than its run.
        regressors = select_volumes(run, config, n_volumes=n_volumes, repetition_time=repetition_time)
    else:
        # An aborted run has incomplete confounds or none; report its length as the reason.
        whole = np.ones(n_volumes, dtype=np.bool_)
        check_duration(whole, repetition_time=repetition_time, min_time=config.min_time)
        regressors = select_regressors(
            open_confounds(run, denoising, repetition_time=repetition_time),
            denoising,
            config,
            n_volumes=n_volumes,
            repetition_time=repetition_time,
            missing=run.describe_missing("confounds"),
        )
    check_duration(regressors.kept, repetition_time=repetition_time, min_time=config.min_time)
    return regressors


def extract_signals(run: Run, atlas: Atlas, config: SignalsConfig, denoising: Denoising) -> ParcelSignals:
    """Extract the raw and cleaned parcel signals (T, P) of one run; NaN columns where coverage < `config.min_coverage`.
    Raises AtlasError if the atlas is in another space than the run or covers nothing of it; RunSkipped and RunFailed as
    `check_run`, and RunFailed space_mismatch or low_coverage."""
    if run.space != atlas.space:
        raise AtlasError(
            f"The atlas {atlas.name} is in space {atlas.space}, {run.bold} in {run.space or 'an unknown space'}.",
            hint=f"Use data in --space {atlas.space}, or an atlas in the space of the data.",
        )
    series, mask = _open_run(run)
    repetition_time, time_notes = decide_repetition_time(run, series.repetition_time)
    # Skip short and scrubbed runs before spending seconds on their voxels.
    regressors = _select_volumes(run, series.n_volumes, repetition_time, config, denoising)
    unit, place = "voxel", "voxels in the brain mask of"
    if not isinstance(series, Volumes):
        means, unit, place = extract_surface_means(series, atlas), "vertex or voxel", "grayordinates with data in"
    elif run.warp is not None and mask is not None:
        means = extract_native_means(series, mask, run.warp, atlas)
    else:
        means = extract_means(series, mask, atlas)
    coverage = means.coverage
    present = (means.n_used > 0) & (coverage >= config.min_coverage)
    if not present.any():
        raise RunFailed(
            "low_coverage",
            f"No parcel of the atlas {atlas.name} has a coverage of {config.min_coverage:g} by {place} {run.bold} "
            f"(maximum {coverage.max():.2f}).",
            hint="Check that image and atlas overlap, or lower --min-coverage.",
        )
    raw = np.full((regressors.stored.size, len(atlas.parcels)), np.nan)
    raw[np.ix_(regressors.stored, present)] = means.values[:, present]
    gone, n_padding, empty_notes = drop_empty(raw, regressors.kept, regressors.stored)
    regressors = regressors._replace(kept=regressors.kept & ~gone)
    check_duration(regressors.kept, repetition_time=repetition_time, min_time=config.min_time)
    constant_notes = drop_constant(raw, regressors.kept, atlas.parcels)
    if np.isnan(raw).all():
        raise RunFailed("bad_image", f"No parcel of {run.bold} varies over its {regressors.kept.sum()} kept volumes.")
    cleaned = clean_signals(
        raw, regressors.values, regressors.kept, repetition_time=repetition_time, band_pass=config.band_pass
    )
    is_outside = means.n_voxels == 0
    shortage = f"coverage below {config.min_coverage:g}" if config.min_coverage else f"no usable {unit}"
    notes = (
        *time_notes,
        *regressors.warnings,
        *means.warnings,
        *empty_notes,
        *constant_notes,
        *describe_parcels(atlas.parcels, is_outside, f"have no {unit} on this grid and are treated as absent"),
        *describe_parcels(atlas.parcels, ~present & ~is_outside, f"have {shortage} and are treated as absent"),
        *_describe_freedom(regressors, repetition_time, config.band_pass),
    )
    return ParcelSignals(
        values=cleaned.astype(np.float32),
        raw=raw.astype(np.float32),
        kept=regressors.kept,
        n_padding=n_padding,
        n_dummy=regressors.n_dummy,
        coverage=coverage,
        n_voxels=means.n_voxels,
        repetition_time=repetition_time,
        regressors=regressors.names,
        framewise_displacement=regressors.framewise_displacement,
        warnings=notes,
        temporal_snr=compute_temporal_snr(raw, regressors.kept),
        resampling=means.resampling,
        filtered_motion=regressors.filtered_motion,
    )


def compute_temporal_snr(raw: Floats, kept: Bools) -> Floats:
    """Compute the mean of each parcel's signal over its SD around a line, in kept volumes: (T, P) -> (P,). NaN for
    absent and constant parcels and below 1: the SD of a BOLD signal does not exceed its mean, so the mean must have
    been removed already."""
    signals = raw[kept]
    line = np.stack([np.ones(len(signals)), np.linspace(-1, 1, len(signals))], axis=1)
    deviation = (signals - line @ np.linalg.lstsq(line, np.nan_to_num(signals), rcond=None)[0]).std(axis=0)
    ratio = np.divide(signals.mean(axis=0), deviation, out=np.full(len(deviation), np.nan), where=deviation > 0)
    return np.asarray(np.where(ratio >= 1, ratio, np.nan))


def _describe_freedom(
    regressors: Regressors, repetition_time: float, band_pass: tuple[float, float] | None
) -> tuple[str, ...]:
    """Warn if the regressors remove most of the variance in the pass band."""
    n_regressors = len(regressors.names)
    left = estimate_freedom(regressors.kept, n_regressors, repetition_time=repetition_time, band_pass=band_pass)
    if left >= _LITTLE_FREEDOM:
        return ()
    return (
        f"{n_regressors} regressors leave about {left:.0%} of the variance in the pass band; consider a preset with "
        f"fewer regressors.",
    )


def _find_mask(run: Run) -> Path | None:
    if run.warp is not None:
        check_warp(run.bold, run.mask, run.warp)
    # Pipelines that denoise set voxels outside the brain to zero, and some write no mask; surfaces have no outside.
    if run.mask is None and (run.is_denoised or is_surface_file(run.bold.name)):
        return None
    if run.mask is None:
        raise RunFailed(
            "no_mask",
            f"No brain mask (desc-brain_mask) found for {run.bold}.",
            hint=run.describe_missing("mask")
            or "fMRIPrep writes one next to each BOLD image; without it, voxels outside the brain would be averaged.",
        )
    check_content(run.mask)
    return run.mask
