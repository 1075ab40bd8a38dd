"""Filtering and confound regression of parcel signals (T volumes, P parcels, C regressors)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.errors import RunFailed, RunSkipped, name_some
from bids_semantoks.records import Bools, Floats
from bids_semantoks.signals.filters import GAPS, design_butterworth, fill_gaps, filter_both_ways

#: Kept volumes that must remain beyond the regressors and the linear trend.
MIN_FREEDOM: Final = 5
_TREND_TERMS: Final = 2
#: Volumes that a run needs even if only a linear trend is removed.
MIN_VOLUMES: Final = _TREND_TERMS + MIN_FREEDOM
#: Part of the settings of outputs, since it determines their values.
CLEANING: Final = f"ends reflected; gaps {GAPS}"
_ORDER: Final = 5  # of the filter in one direction
#: A regressor of which detrending and filtering leave less than this share is rounding noise.
_NOTHING_LEFT: Final = 1e-12
_DURATION_SLACK: Final = 1e-6
_CONSTANT: Final = 1e-10
# Beyond these, squares or their sums over a run overflow float32, in which encoders compute.
_SMALLEST: Final = 1e-15
_LARGEST: Final = 1e15


def count_padding(values: NDArray[np.floating]) -> int:
    """Count the volumes at the end of (T, P) without data, which repeat one volume in all parcels. The first of them is
    itself padding where all its parcels hold the same number, as zeros do; else it is the last real volume. Volumes of
    NaN only are skipped; 0 for values that never vary."""
    places = np.flatnonzero(~np.isnan(values).all(axis=1))
    rows, last = values[places], values[places[-1:]]
    differing = np.flatnonzero(((rows != last) & ~(np.isnan(rows) & np.isnan(last))).any(axis=1))
    if not differing.size:
        return 0
    places = places[differing[-1] + 1 :]
    known = last[~np.isnan(last)]
    is_flat = not known.any() or (places.size > 1 and np.ptp(known) == 0)
    first = places[0] if is_flat else [*places, len(values)][1]
    return len(values) - int(first)


def find_empty_volumes(values: NDArray[np.floating]) -> Bools:
    """Find the volumes (T,) of (T, P) without data: padding at the end, and zeros in all parcels."""
    varying = values[:, find_varying(values, np.ones(len(values), dtype=np.bool_))]
    known = ~np.isnan(varying).all(axis=1)
    is_zero = known & ~(np.nan_to_num(varying) != 0).any(axis=1)
    empty: Bools = is_zero & (varying.shape[1] > 0)
    if n_padding := count_padding(varying):
        empty[-n_padding:] = known[-n_padding:]
    return empty


def drop_empty(values: Floats, kept: Bools, expected: Bools) -> tuple[Bools, int, tuple[str, ...]]:
    """Set volumes without data to NaN, in place: values (T, P). Return which volumes (T,) are gone, how many of them
    end the run, and warnings. Volumes of NaN count where data are `expected` (T,); none is gone where nothing varies
    over the `kept` volumes (T,)."""
    missing = np.isnan(values).all(axis=1)
    empty = find_empty_volumes(values) & find_varying(values, kept).any()
    values[empty] = np.nan
    gone: Bools = empty | (missing & expected)
    with_data = np.flatnonzero(~missing & ~empty)
    end = int(with_data[-1]) + 1 if with_data.size else 0
    after = np.flatnonzero(gone[end:])
    n_padding = len(values) - end - int(after[0]) if after.size else 0
    notes = []
    if n_end := int(empty[end:].sum()):
        notes.append(f"{n_end} volumes at the end have no data (identical values) and are set to n/a.")
    if inside := np.flatnonzero(empty[:end]).tolist():
        notes.append(
            f"{len(inside)} volumes are 0 in all parcels and are set to n/a: {name_some(inside)} (counted from 0)."
        )
    return gone, n_padding, tuple(notes)


def drop_constant(values: Floats, kept: Bools, names: Sequence[str]) -> tuple[str, ...]:
    """Set parcels that do not vary over the kept volumes to NaN, in place: values (T, P); return warnings with their
    `names` (P,)."""
    constant = ~find_varying(values, kept) & ~np.isnan(values).all(axis=0)
    values[:, constant] = np.nan
    return describe_parcels(names, constant, "are constant and treated as absent")


def describe_parcels(names: Sequence[str], chosen: NDArray[np.bool_], what: str) -> tuple[str, ...]:
    """Say in a warning `what` some of the parcels (P,) are, if there are any."""
    listed = [name for name, here in zip(names, chosen, strict=True) if here]
    return (f"{len(listed)} of {len(names)} parcels {what}: {name_some(listed)}.",) if listed else ()


def find_varying(values: NDArray[np.floating], kept: Bools) -> Bools:
    """Find the columns (C,) of (T, C) that vary over the kept rows, NaN aside, by more than rounding noise."""
    rows = np.asarray(values, dtype=np.float64)[kept]
    missing = np.isnan(rows)
    high = np.where(missing, -np.inf, rows).max(axis=0, initial=-np.inf)
    low = np.where(missing, np.inf, rows).min(axis=0, initial=np.inf)
    return np.asarray(high - low > _CONSTANT * np.maximum(np.abs(high), np.abs(low)))


def pass_band(band_pass: tuple[float, float] | None, *, repetition_time: float) -> tuple[float | None, float | None]:
    """Find the edges (Hz) of the pass band that a run can have; None for an open side: 0, or a high edge at or above
    Nyquist. Raises RunFailed no_repetition_time if the low edge is at or above Nyquist."""
    low, high = band_pass or (0.0, 0.0)
    nyquist = 0.5 / repetition_time
    if low >= nyquist:
        raise RunFailed(
            "no_repetition_time",
            f"With TR = {repetition_time:g} s the highest frequency is {nyquist:g} Hz, "
            f"below the start of --band-pass ({low:g} Hz).",
            hint="Is the repetition time given in milliseconds? It must be in seconds.",
        )
    return (low or None), (high if 0 < high < nyquist else None)


def clean_signals(
    values: NDArray[np.floating],
    regressors: Floats,
    kept: Bools,
    *,
    repetition_time: float,
    band_pass: tuple[float, float] | None,
) -> Floats:
    """Remove linear trend, frequencies outside the pass band, and regressors in one step: (T, P), (T, C) -> (T, P).

    Dropped volumes are interpolated first (`fill_gaps`) so that they do not affect other volumes; nilearn's
    ``sample_mask`` leaves some uninterpolated. Signals and regressors are then detrended and filtered alike
    (Butterworth, order 5, forwards and backwards): filtering only one of them brings filtered noise back in (Lindquist
    et al., 2019, Human Brain Mapping 40, 2358-2376). `band_pass` is in Hz, see `pass_band`. The result is in input
    units around zero; dropped rows and absent parcels are NaN. Raises RunSkipped too_few_kept or too_short, RunFailed
    bad_confounds if even the whole run has too few volumes for the regressors.
    """
    low, high = pass_band(band_pass, repetition_time=repetition_time)
    # Scaled to unit variance, regressors that are constant over the kept volumes would be rounding noise.
    confounds = np.asarray(regressors, dtype=np.float64)[:, find_varying(regressors, kept)]
    _check_freedom(kept, confounds.shape[1])
    signals = fill_gaps(np.asarray(values, dtype=np.float64), kept)
    present = ~np.isnan(signals[0])
    cleaned = np.full(signals.shape, np.nan)
    if present.any():
        cleaned[:, present] = _clean(signals[:, present], fill_gaps(confounds, kept), repetition_time, (low, high))
    cleaned[~kept] = np.nan
    return cleaned


def _clean(
    signals: Floats, confounds: Floats, repetition_time: float, band: tuple[float | None, float | None]
) -> Floats:
    """Clean complete signals (T, P) with complete confounds (T, C); constant columns become exact zeros."""
    both = _detrend(np.concatenate([signals, confounds], axis=1))
    low, high = band
    if low is not None or high is not None:
        # Padding by reflection halves the error of the first and last 20 s that SciPy's default, a point reflection,
        # leaves; its length is SciPy's default for these edges, or what a run has.
        padding = 33 if low is not None and high is not None else 18
        sections = design_butterworth(_ORDER, low=low, high=high, rate=1 / repetition_time)
        both = filter_both_ways(sections, both, padding=min(padding, len(both) - 1), reflection="even")
    cleaned, removed = both[:, : signals.shape[1]], both[:, signals.shape[1] :]
    removed = removed[:, _measure(removed) > _NOTHING_LEFT * _measure(confounds)]
    if removed.shape[1]:
        axes = _find_axes(removed)
        cleaned = cleaned - axes @ (axes.T @ cleaned)
    cleaned[:, np.ptp(signals, axis=0) == 0] = 0.0
    return cleaned


def _detrend(values: Floats) -> Floats:
    """Remove the mean and the linear trend of each column (T, C)."""
    line = np.arange(len(values)) - (len(values) - 1) / 2
    line /= np.sqrt(line @ line)
    centred = values - values.mean(axis=0)
    return np.asarray(centred - line[:, None] * (line @ centred))


def _measure(values: Floats) -> Floats:
    """Measure the length (C,) of each column (T, C) around its mean."""
    return np.asarray(np.sqrt(((values - values.mean(axis=0)) ** 2).sum(axis=0)))


def _find_axes(values: Floats) -> Floats:
    """Find orthonormal axes (T, r) of the space that columns (T, C) span around their means, r their rank."""
    centred = values - values.mean(axis=0)
    axes, weights, _ = np.linalg.svd(centred / _measure(values), full_matrices=False)
    return np.asarray(axes[:, weights > weights[0] * max(values.shape) * np.finfo(np.float64).eps])


def _check_freedom(kept: Bools, n_regressors: int) -> None:
    n_kept, needed = int(kept.sum()), n_regressors + _TREND_TERMS + MIN_FREEDOM
    if n_kept >= needed:
        return
    is_whole_enough, found = kept.size >= needed, f"{n_kept} of {kept.size} volumes are kept"
    if not n_regressors:
        reason = "too_few_kept" if is_whole_enough else "too_short"
        raise RunSkipped(reason, f"{found}; removing a linear trend requires at least {needed}.")
    message = f"{found}; {n_regressors} regressors and a linear trend require at least {needed}."
    hint = "Use a --denoise preset with fewer regressors."
    if is_whole_enough:
        raise RunSkipped("too_few_kept", message, hint=hint)
    raise RunFailed("bad_confounds", message, hint=hint)


def estimate_freedom(
    kept: Bools, n_regressors: int, *, repetition_time: float, band_pass: tuple[float, float] | None
) -> float:
    """Estimate the share (0 to 1) of the degrees of freedom in the pass band that the regressors leave. A band of width
    b over t seconds of kept data holds about 2 * b * t, and each filtered regressor takes one: 36 regressors remove
    nearly everything from 200 s between 0.01 and 0.1 Hz, whatever the number of volumes."""
    low, high = pass_band(band_pass, repetition_time=repetition_time)
    width = (high or 0.5 / repetition_time) - (low or 0.0)
    available = 2 * width * float(kept.sum()) * repetition_time
    return max(0.0, 1.0 - n_regressors / available) if available > 0 else 0.0


def is_in_range(values: Floats) -> bool:
    """Return whether finite values (T, P), NaN where missing, can be stored, squared and summed in float32 without
    overflow or underflow."""
    largest = float(np.nanmax(np.abs(values), initial=0.0))
    return not largest or _SMALLEST < largest < _LARGEST


def check_duration(kept: Bools, *, repetition_time: float, min_time: float) -> None:
    """Skip a run with less than `min_time` seconds of data: RunSkipped too_short (whole run) or too_few_kept (kept
    part). At least one volume must be kept even if `min_time` is 0."""
    whole, left = kept.size * repetition_time, int(kept.sum()) * repetition_time
    slack = _DURATION_SLACK * repetition_time
    if kept.size == 0 or whole + slack < min_time:
        found = f"The run lasts {whole:g} s ({kept.size} volumes of {repetition_time:g} s)"
        raise RunSkipped("too_short", f"{found}, shorter than --min-time {min_time:g} s.")
    if not kept.any():
        raise RunSkipped("too_few_kept", f"0 of {kept.size} volumes are kept.")
    if left + slack < min_time:
        found = f"{int(kept.sum())} of {kept.size} volumes are kept ({left:g} of {whole:g} s)"
        raise RunSkipped("too_few_kept", f"{found}, less than --min-time {min_time:g} s.")
