"""Resample, z-score and window parcel signals, at equal distances or one window per task block. T volumes, P
parcels, B windows, W volumes of a window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.errors import RunSkipped
from bids_semantoks.records import Bools, Floats, Windows
from bids_semantoks.signals.cleaning import count_padding, find_varying
from bids_semantoks.signals.filters import design_butterworth, fill_gaps, filter_both_ways

_SAME_TR: Final = 1e-6
_LENGTH_SLACK: Final = 1e-6
_CONSTANT: Final = 1e-10
_ANTI_ALIAS_ORDER: Final = 10
_ANTI_ALIAS_EDGE: Final = 0.8
#: Share of a long block's plateau above which a volume belongs to the block.
THRESHOLD: Final = 0.1
_STEP: Final = 0.05
_TAIL: Final = 32.0
#: Seconds after which a response is constant until its block ends.
_STEADY: Final = 64.0


def resample(values: Floats, source: float, target: float) -> Floats:
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
        edge = _ANTI_ALIAS_EDGE * 0.5 / target
        sections = design_butterworth(_ANTI_ALIAS_ORDER, low=None, high=edge, rate=1.0 / source)
        # The slowest part of the filter's response decays over a few periods of the edge, here eight of the new
        # volumes.
        padding = min(int(np.ceil(8 * target / source)) + 3 * _ANTI_ALIAS_ORDER, n_volumes - 1)
        signals = filter_both_ways(sections, signals, padding=padding, reflection="odd")
    # Imported late: SciPy takes a second, and runs at the target repetition time do not need it.
    from scipy.interpolate import CubicSpline

    times = np.minimum(np.arange(n_samples) * target, (n_volumes - 1) * source)
    resampled[:, present] = CubicSpline(np.arange(n_volumes) * source, signals)(times)
    return resampled


def zscore(values: Floats) -> Floats:
    """Z-score each parcel of complete signals (T, P): (x - mean) / (sd + 1e-8), ddof 0; a constant gives exactly 0."""
    values = np.asarray(values, dtype=np.float64)
    scaled: Floats = (values - values.mean(axis=0)) / (values.std(axis=0) + 1e-8)
    # Interpolation leaves rounding noise on a constant, which the 1e-8 alone would not suppress.
    constant = np.ptp(values, axis=0) <= _CONSTANT * np.abs(values).max(axis=0)
    scaled[:, constant] = 0.0
    return scaled


def window_starts(n_volumes: int, window: int, n_windows: int) -> NDArray[np.int64]:
    """Return equally spaced window starts (B,): unique int(linspace(0, T - W, n_windows)); 0 alone if T <= W."""
    starts = np.linspace(0, max(n_volumes - window, 0), n_windows).astype(np.int64)
    return np.unique(starts)


def select_signals(table: NDArray[np.floating], n_dummy: int) -> tuple[Floats, Bools, Bools]:
    """Select the usable part of a stored table (T, P): the parcels that vary (T', present), over the volumes between
    dummies and padding; which parcels are present (P,), and which volumes have signals in all of them (T',). Raises
    RunSkipped too_few_kept if no volume has signals or no parcel varies, no_content for infinite values."""
    signals = np.asarray(table, dtype=np.float64)[n_dummy:]
    signals = signals[: len(signals) - count_padding(signals)]
    present: Bools = np.asarray(~np.isnan(signals).all(axis=0))
    kept: Bools = np.asarray(~np.isnan(signals[:, present]).any(axis=1))
    if not present.any() or not kept.any():
        raise RunSkipped("too_few_kept", f"None of the {len(table)} volumes has values in all parcels.")
    if np.isinf(signals[kept]).any():
        raise RunSkipped("no_content", "The table contains infinite values.")
    present &= find_varying(signals, kept)
    if not present.any():
        raise RunSkipped("too_few_kept", f"No parcel varies over the {int(kept.sum())} volumes with signals.")
    return signals[:, present], present, kept


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

    Removes dummies and padding, interpolates dropped volumes, resamples and z-scores over the run, then cuts; a run
    shorter than a window is zero-padded at the end; duplicate starts are dropped. Repetition times are in seconds,
    `window` in volumes (W). Raises RunSkipped too_short (less than one sample), or as `select_signals`.
    """
    signals, present, kept = select_signals(table, n_dummy)
    complete = fill_gaps(signals, kept)
    resampled = resample(complete, repetition_time, target_repetition_time)
    if len(resampled) == 0:
        found = f"{len(complete)} volumes of {repetition_time:g} s"
        raise RunSkipped("too_short", f"{found} are too short to resample to {target_repetition_time:g} s.")
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
    kept: Bools, repetition_time: float, onsets: Floats, duration: float | NDArray[np.float64]
) -> Floats:
    """Compute the share (0 to 1) of each stretch of `duration` s from `onsets` (n,) that kept volumes (T,) cover.
    Volume t lasts from t to t + 1 repetition times."""
    edges = np.arange(kept.size + 1) * repetition_time
    covered = np.concatenate(([0.0], np.cumsum(kept))) * repetition_time
    shares = (np.interp(onsets + duration, edges, covered) - np.interp(onsets, edges, covered)) / duration
    return np.asarray(np.round(np.clip(shares, 0.0, 1.0), 9), dtype=np.float64)


def compute_response(times: NDArray[np.float64], duration: float) -> NDArray[np.float64]:
    """Compute the haemodynamic response to a block, 1 at a long block's plateau: times (n,) in s after onset -> (n,).
    Difference of gamma densities (shapes 6 and 16, scale 1 s, ratio 1/6) of Friston et al. (1998), NeuroImage 7,
    30-40."""

    from scipy.special import gammainc

    def integrate(t: NDArray[np.float64]) -> NDArray[np.float64]:
        """Compute the response to a block that starts at 0 and never ends."""
        late = np.maximum(t, 0)
        return np.asarray((gammainc(6, late) - gammainc(16, late) / 6) / (1 - 1 / 6))

    return integrate(times) - integrate(times - duration)


def find_block_times(duration: float) -> tuple[float, float] | None:
    """Find the first and last second after onset with a response above a tenth of a long block's plateau; None
    if a block is too brief to get there."""
    shorter = min(duration, _STEADY)
    times = np.arange(0, shorter + _TAIL, _STEP)
    above = np.flatnonzero(compute_response(times, shorter) > THRESHOLD)
    return (float(times[above[0]]), float(times[above[-1]]) + duration - shorter) if len(above) else None


def find_block_volumes(
    onsets: Sequence[float],
    durations: Sequence[float],
    *,
    n_volumes: int,
    repetition_time: float,
    start: float,
    longest: int,
) -> list[tuple[int, int] | None]:
    """Find the first volume and the number of volumes of each block; no volume belongs to two blocks.

    `onsets` (ascending) and `durations` are in seconds from the run's first volume; volume 0 here is at
    `start` on that clock. A block is cut to its first `longest` volumes. None if a block is too brief, or
    its response starts outside these volumes.
    """
    spans = []
    for onset, duration in zip(onsets, durations, strict=True):
        times = find_block_times(duration)
        if times is None:
            spans.append((n_volumes, 0))  # too brief for any volume
            continue
        begin, end = ((onset - start + time) / repetition_time for time in times)
        spans.append((int(np.ceil(begin - 1e-9)), int(np.floor(end + 1e-9)) + 1))
    found: list[tuple[int, int] | None] = []
    for number, (first, last) in enumerate(spans):
        # The response outlasts its block, but volumes of the next block belong to that block.
        end = min(last, first + longest, n_volumes, *(later for later, _ in spans[number + 1 :]))
        found.append((first, end - first) if first >= 0 and end > first else None)
    return found


def build_block_windows(
    signals: NDArray[np.float32],
    present: NDArray[np.bool_],
    blocks: Sequence[tuple[int, int]],
    *,
    window: int,
    patch: int,
    repetition_time: float,
    last: bool,
) -> Windows:
    """Build a window per block, signals (T, P) -> (B, W, P): the block in the first or `last` patch, zeros elsewhere.
    `signals` are z-scored over the run; `blocks` gives the first volume and the number of volumes, a patch at most, of
    each. All patches but the block's are to be masked."""
    values = np.zeros((len(blocks), window, signals.shape[1]), dtype=np.float32)
    offset = window - patch if last else 0
    for number, (first, length) in enumerate(blocks):
        values[number, offset : offset + length] = signals[first : first + length]
    lengths = np.array([length for _, length in blocks], dtype=np.int64)
    return Windows(
        values=values,
        n_real=offset + lengths,
        present=present,
        onset=np.array([first * repetition_time for first, _ in blocks]),
        duration=patch * repetition_time,
        kept=lengths / patch,
    )
