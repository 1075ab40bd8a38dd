"""Resample, z-score and window parcel signals. T volumes, P parcels, B windows, W volumes of a window."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.signal import butter, sosfiltfilt

from bids_semantoks.errors import RunSkipped
from bids_semantoks.records import Windows
from bids_semantoks.signals.cleaning import (
    check_duration,
    clean_signals,
    estimate_freedom,
    interpolate_dropped,
    pass_band,
)

__all__ = [
    "build_windows",
    "check_duration",
    "clean_signals",
    "estimate_freedom",
    "interpolate_dropped",
    "pass_band",
    "resample",
    "window_starts",
    "zscore",
]

Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

_SAME_TR: Final = 1e-6
_LENGTH_SLACK: Final = 1e-6
_CONSTANT: Final = 1e-10
_ANTI_ALIAS_ORDER: Final = 10
_ANTI_ALIAS_EDGE: Final = 0.8


def resample(values: Float64, source: float, target: float) -> Float64:
    """Resample (T, P) between repetition times in seconds; sample k is k * `target` s after the first volume.

    Downsampling first applies a zero-phase Butterworth low-pass (order 10, edge 0.8 of the new Nyquist frequency):
    maximally flat, while the usual Chebyshev decimation ripples by 1 % in the pass band. For 2 s its gain is 1 - 1e-6
    at 0.1 Hz, 0.5 at 0.2 Hz, 0.01 at 0.25 Hz. Then a cubic spline interpolates; past the last volume (upsampling only)
    its value is held. The output has floor(T * source / target + 1e-6) rows, columns with NaN stay NaN; repetition
    times that agree to a relative 1e-6 give a bitwise copy.
    """
    values = np.asarray(values, dtype=np.float64)
    n_volumes = values.shape[0]
    if abs(target - source) <= _SAME_TR * source:
        return values.copy()
    n_samples = int(np.floor(n_volumes * source / target + _LENGTH_SLACK))
    present = ~np.isnan(values).any(axis=0)
    resampled = np.full((n_samples, values.shape[1]), np.nan)
    if n_volumes < 2 or not present.any():
        resampled[:, present] = values[:1, present]
        return resampled
    signals = values[:, present]
    if target > source:
        sections = butter(_ANTI_ALIAS_ORDER, _ANTI_ALIAS_EDGE * 0.5 / target, output="sos", fs=1.0 / source)
        # The slowest part of the response decays over a few periods of the edge, here eight of the new volumes.
        padding = min(int(np.ceil(8 * target / source)) + 3 * _ANTI_ALIAS_ORDER, n_volumes - 1)
        signals = sosfiltfilt(sections, signals, axis=0, padlen=padding)
    times = np.minimum(np.arange(n_samples) * target, (n_volumes - 1) * source)
    resampled[:, present] = CubicSpline(np.arange(n_volumes) * source, signals)(times)
    return resampled


def zscore(values: Float64) -> Float64:
    """Z-score each parcel of complete signals (T, P): (x - mean) / (sd + 1e-8), ddof 0; a constant gives exactly 0."""
    values = np.asarray(values, dtype=np.float64)
    scaled: Float64 = (values - values.mean(axis=0)) / (values.std(axis=0) + 1e-8)
    # Interpolation leaves rounding noise on a constant, which the small 1e-8 alone would not bring to zero.
    constant = np.ptp(values, axis=0) <= _CONSTANT * np.abs(values).max(axis=0)
    scaled[:, constant] = 0.0
    return scaled


def window_starts(n_volumes: int, window: int, n_windows: int) -> NDArray[np.int64]:
    """Return equally spaced window starts (B,): unique int(linspace(0, T - W, n_windows)); 0 alone if T <= W."""
    starts = np.linspace(0, max(n_volumes - window, 0), n_windows).astype(np.int64)
    return np.unique(starts)


def build_windows(
    table: NDArray[np.floating],
    *,
    repetition_time: float,
    n_dummy: int,
    target_repetition_time: float,
    window: int,
    n_windows: int,
) -> Windows:
    """Cut the encoder's windows (B, W, P) from cleaned signals (T, P), NaN in dropped volumes and absent parcels.

    Removes leading dummies, interpolates dropped volumes, resamples and z-scores over the run, then cuts; a run shorter
    than a window is zero-padded at the end, equal starts are given once. Repetition times are in seconds, `window` in
    volumes (W). Raises RunSkipped too_few_kept (no volume has signals) or too_short (less than one sample).
    """
    signals = np.asarray(table, dtype=np.float64)[n_dummy:]
    present: Bool = np.asarray(~np.isnan(signals).all(axis=0))
    kept: Bool = np.asarray(~np.isnan(signals[:, present]).any(axis=1))
    if not present.any() or not kept.any():
        raise RunSkipped("too_few_kept", f"None of {len(table)} volumes has signals, no window can be cut.")
    complete = interpolate_dropped(signals[:, present], kept)
    resampled = resample(complete, repetition_time, target_repetition_time)
    if len(resampled) == 0:
        raise RunSkipped(
            "too_short",
            f"{len(complete)} volumes of {repetition_time:g} s give no sample of {target_repetition_time:g} s.",
        )
    scaled = zscore(resampled)
    starts = window_starts(len(scaled), window, n_windows)
    onsets = starts.astype(np.float64) * target_repetition_time
    values = np.zeros((len(starts), window, table.shape[1]), dtype=np.float32)
    n_real = np.minimum(len(scaled) - starts, window)
    for position, (start, length) in enumerate(zip(starts, n_real, strict=True)):
        values[position, :length, present] = scaled[start : start + length].T
    return Windows(
        values=values,
        n_real=n_real,
        present=present,
        onset=onsets + n_dummy * repetition_time,
        duration=window * target_repetition_time,
        kept=compute_kept_share(kept, repetition_time, onsets, window * target_repetition_time),
    )


def compute_kept_share(
    kept: Bool, repetition_time: float, onsets: Float64, duration: float | NDArray[np.float64]
) -> Float64:
    """Compute the share (0 to 1) of each stretch of `duration` s from `onsets` (n,) that kept volumes (T,) cover.
    Volume t lasts from t to t + 1 repetition times."""
    edges = np.arange(kept.size + 1) * repetition_time
    covered = np.concatenate(([0.0], np.cumsum(kept))) * repetition_time
    shares = (np.interp(onsets + duration, edges, covered) - np.interp(onsets, edges, covered)) / duration
    return np.asarray(np.round(np.clip(shares, 0.0, 1.0), 9), dtype=np.float64)
