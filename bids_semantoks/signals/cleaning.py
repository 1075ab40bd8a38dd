"""Interpolate dropped volumes, filter and regress parcel signals: NumPy on (T, P).

Shape letters: T volumes, P parcels, C regressors.
"""

from __future__ import annotations

import warnings
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from bids_semantoks.errors import RunFailed, RunSkipped

Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

MIN_FREEDOM: Final = 5
"""Kept volumes that must remain beyond the regressors and the linear trend."""

_TREND_TERMS: Final = 2
MIN_VOLUMES: Final = _TREND_TERMS + MIN_FREEDOM
"""Volumes that a run needs even when nothing is removed from it but a line."""

_DURATION_SLACK: Final = 1e-6
_CONSTANT: Final = 1e-10


def interpolate_dropped(values: Float64, kept: Bool) -> Float64:
    """Replace dropped volumes by a cubic spline through the kept ones.

    Between the first and the last kept volume the spline is the not-a-knot cubic through all kept volumes (a parabola
    through three, a line through two); before the first and after the last the nearest kept volume is repeated, since
    a cubic outside its data grows without bound. Kept volumes come back bit for bit.

    Parameters
    ----------
    values : NDArray, shape (T, P)
        Signals; what dropped rows hold is never read. Columns with NaN in a kept row pass as all NaN.
    kept : NDArray, bool, shape (T,)
        False for dropped volumes.

    Returns
    -------
    NDArray, float64, shape (T, P)
        A new array.

    Raises
    ------
    ValueError
        When no volume is kept, or `kept` has another length.
    """
    if kept.shape != values.shape[:1]:
        raise ValueError(f"kept {kept.shape} does not fit values {values.shape}")
    known = np.flatnonzero(kept)
    if known.size == 0:
        raise ValueError(f"none of {kept.size} volumes is kept, nothing to interpolate from")
    filled = np.array(values, dtype=np.float64)
    absent = np.isnan(filled[known]).any(axis=0)
    filled[:, absent] = np.nan
    first, last = known[0], known[-1]
    filled[:first] = filled[first]
    filled[last + 1 :] = filled[last]
    inside = first + np.flatnonzero(~kept[first:last])
    if inside.size and not absent.all():
        spline = CubicSpline(known, filled[np.ix_(known, ~absent)])
        filled[np.ix_(inside, ~absent)] = spline(inside)
    return filled


def pass_band(band_pass: tuple[float, float] | None, *, repetition_time: float) -> tuple[float | None, float | None]:
    """Find which sides of the pass band a run can have.

    Parameters
    ----------
    band_pass : tuple of (float, float) or None
        Low and high edge in Hz; 0 leaves that side open.
    repetition_time : float
        Seconds.

    Returns
    -------
    tuple of (float or None, float or None)
        Low and high edge in Hz, None for an open side. A high edge at or above the run's Nyquist frequency is open:
        the run holds nothing above it that a low-pass could remove.

    Raises
    ------
    RunFailed
        ``no_repetition_time`` when the low edge is at or above the Nyquist frequency, so that nothing would remain.
    """
    low, high = band_pass or (0.0, 0.0)
    nyquist = 0.5 / repetition_time
    if low >= nyquist:
        raise RunFailed(
            "no_repetition_time",
            f"A repetition time of {repetition_time:g} s reaches up to {nyquist:g} Hz, "
            f"but --band-pass starts at {low:g} Hz: nothing would remain.",
            hint="Is RepetitionTime in the sidecar given in milliseconds? It must be in seconds.",
        )
    return (low or None), (high if 0 < high < nyquist else None)


def clean_signals(
    values: NDArray[np.floating],
    regressors: Float64,
    kept: Bool,
    *,
    repetition_time: float,
    band_pass: tuple[float, float] | None,
) -> Float64:
    """Remove linear trend, everything outside the pass band, and the regressors, in one step.

    Dropped volumes of signals and regressors are interpolated first (`interpolate_dropped`), so that what they hold
    reaches no other volume. Signals and regressors are then detrended and filtered alike (Butterworth of order 5,
    forwards and backwards) and the signals are projected onto the orthogonal complement of the regressors: filtering
    only one of the two would bring filtered noise back in [1]_. `nilearn.signal.clean` does this part, without its
    ``sample_mask``, which leaves some dropped volumes uninterpolated.

    Parameters
    ----------
    values : NDArray, shape (T, P)
        Signals; absent parcels are NaN columns.
    regressors : NDArray, float64, shape (T, C)
        Confound regressors, C may be 0; dropped rows are never read.
    kept : NDArray, bool, shape (T,)
        False for dropped volumes.
    repetition_time : float
        Seconds.
    band_pass : tuple of (float, float) or None
        Low and high edge in Hz, 0 for an open side; None for no filter. See `pass_band` for edges beyond Nyquist.

    Returns
    -------
    NDArray, float64, shape (T, P)
        Cleaned signals in input units, around zero; dropped rows and absent columns are NaN.

    Raises
    ------
    RunSkipped
        ``too_few_kept`` when dropping volumes left too few for the regressors, ``too_short`` when there are too few
        volumes without any regressor.
    RunFailed
        ``bad_confounds`` when there are more regressors than all volumes together can bear.

    References
    ----------
    .. [1] Lindquist, M. A., Geuter, S., Wager, T. D., & Caffo, B. S. (2019). Modular preprocessing pipelines can
       reintroduce artifacts into fMRI data. Human Brain Mapping, 40(8), 2358-2376.
    """
    low, high = pass_band(band_pass, repetition_time=repetition_time)
    confounds = _varying(regressors, kept)
    _check_freedom(kept, confounds.shape[1])
    signals = interpolate_dropped(np.asarray(values, dtype=np.float64), kept)
    present = ~np.isnan(signals[0])
    cleaned = np.full(signals.shape, np.nan)
    if present.any():
        cleaned[:, present] = _clean(
            signals[:, present],
            interpolate_dropped(confounds, kept) if confounds.shape[1] else None,
            repetition_time,
            (low, high),
        )
    cleaned[~kept] = np.nan
    return cleaned


def _clean(
    signals: Float64, confounds: Float64 | None, repetition_time: float, band: tuple[float | None, float | None]
) -> Float64:
    """Call nilearn on complete signals; columns without any variation come back as exact zeros."""
    from nilearn.signal import clean  # noqa: PLC0415 - who only cuts windows, on a machine for training, has none

    n_volumes = signals.shape[0]
    low, high = band
    filtered = low is not None or high is not None
    # copy=True filters all columns at once. Runs shorter than SciPy's default padding get what there is.
    options = {"butterworth__copy": True, "butterworth__padlen": min(_padding(low, high), n_volumes - 1)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cleaned: Float64 = clean(
            signals,
            detrend=True,
            standardize=None,
            confounds=confounds,
            filter="butterworth" if filtered else False,
            low_pass=high,
            high_pass=low,
            t_r=repetition_time,
            **(options if filtered else {}),
        )
    cleaned[:, np.ptp(signals, axis=0) == 0] = 0.0
    return cleaned


def _padding(low: float | None, high: float | None) -> int:
    """Volumes SciPy pads by default for a Butterworth filter of order 5 with these edges."""
    return 33 if low is not None and high is not None else 18


def _varying(regressors: Float64, kept: Bool) -> Float64:
    """Leave out regressors that do not vary over kept volumes: scaled to unit variance they would be rounding noise."""
    rows = np.asarray(regressors, dtype=np.float64)[kept]
    if rows.size == 0:
        return np.asarray(regressors, dtype=np.float64)[:, :0]
    constant = np.ptp(rows, axis=0) <= _CONSTANT * np.abs(rows).max(axis=0)
    return np.asarray(regressors, dtype=np.float64)[:, ~constant]


def _check_freedom(kept: Bool, n_regressors: int) -> None:
    n_kept, needed = int(kept.sum()), n_regressors + _TREND_TERMS + MIN_FREEDOM
    if n_kept >= needed:
        return
    if not n_regressors:
        reason = "too_few_kept" if kept.size >= needed else "too_short"
        raise RunSkipped(
            reason, f"{n_kept} of {kept.size} volumes are kept, but a linear trend needs at least {needed}."
        )
    message = (
        f"{n_kept} of {kept.size} volumes are kept, but {n_regressors} regressors and a linear trend "
        f"need at least {needed}."
    )
    hint = "Choose a --denoise preset with fewer regressors."
    if kept.size >= needed:
        raise RunSkipped("too_few_kept", message, hint=hint)
    raise RunFailed("bad_confounds", message, hint=hint)


def estimate_freedom(
    kept: Bool, n_regressors: int, *, repetition_time: float, band_pass: tuple[float, float] | None
) -> float:
    """Estimate the share of the signal's degrees of freedom in the pass band that the regressors leave.

    A band of width b over t seconds of kept data holds about 2 * b * t of them, and filtered regressors take one each:
    36 regressors remove nearly everything from 200 s between 0.01 and 0.1 Hz, however many volumes those hold.

    Parameters
    ----------
    kept : NDArray, bool, shape (T,)
        False for dropped volumes.
    n_regressors : int
        Regressors (C).
    repetition_time : float
        Seconds.
    band_pass : tuple of (float, float) or None
        Low and high edge in Hz, as for `clean_signals`.

    Returns
    -------
    float
        From 0 (nothing is left) to 1.
    """
    low, high = pass_band(band_pass, repetition_time=repetition_time)
    width = (high or 0.5 / repetition_time) - (low or 0.0)
    available = 2 * width * float(kept.sum()) * repetition_time
    return max(0.0, 1.0 - n_regressors / available) if available > 0 else 0.0


def check_duration(kept: Bool, *, repetition_time: float, min_time: float) -> None:
    """Check that a run has enough kept data.

    Parameters
    ----------
    kept : NDArray, bool, shape (T,)
        False for dropped volumes.
    repetition_time : float
        Seconds.
    min_time : float
        Seconds of kept data that a run needs; 0 for no limit (one volume must be kept all the same).

    Raises
    ------
    RunSkipped
        ``too_short`` when the whole run is shorter than `min_time`, ``too_few_kept`` when its kept part is.
    """
    whole, left = kept.size * repetition_time, int(kept.sum()) * repetition_time
    slack = _DURATION_SLACK * repetition_time
    if kept.size == 0 or whole + slack < min_time:
        raise RunSkipped(
            "too_short",
            f"The run lasts {whole:g} s ({kept.size} volumes of {repetition_time:g} s), "
            f"shorter than --min-time {min_time:g} s.",
        )
    if not kept.any():
        raise RunSkipped("too_few_kept", f"0 of {kept.size} volumes are kept.")
    if left + slack < min_time:
        raise RunSkipped(
            "too_few_kept",
            f"{int(kept.sum())} of {kept.size} volumes are kept ({left:g} of {whole:g} s), "
            f"less than --min-time {min_time:g} s.",
        )
