"""Fill the gaps that dropped volumes leave in signals (T volumes, P columns)."""

from __future__ import annotations

from typing import Final

import numpy as np

from bids_semantoks.records import Bools, Floats

#: Longest gap (volumes) interpolated by a cubic spline, as in nilearn; in longer gaps splines overshoot.
SPLINE_VOLUMES: Final = 3

GAPS: Final = "by spline, by Lomb-Scargle spectrum where one exceeds 3 volumes"
"""Part of the settings of outputs, since it determines their values."""

_OVERSAMPLING: Final = 8
_COLUMNS: Final = 64  # at once: the spectrum of 64 columns of 1,200 volumes takes 5 MB


def fill_gaps(values: Floats, kept: Bools) -> Floats:
    """Replace dropped volumes by estimates from the kept ones: values (T, P), kept (T,) -> a new (T, P).

    If no gap is longer than 3 volumes, by a cubic spline (not-a-knot) through the kept ones; otherwise all gaps by
    their least-squares spectrum (Power et al., 2014, NeuroImage 84, 320-341; frequencies oversampled 8 times):
    see `benchmarks/bench_signals.py`. Before the first and after the last kept volume the nearest kept one is repeated.
    Kept volumes are unchanged bit for bit, dropped rows are never read, and columns with NaN in a kept row become all
    NaN. Raises ValueError if no volume is kept, or the lengths differ.
    """
    if kept.shape != values.shape[:1]:
        raise ValueError(f"kept {kept.shape} does not fit values {values.shape}")
    known = np.flatnonzero(kept)
    if known.size == 0:
        raise ValueError(f"none of {kept.size} volumes is kept")
    filled = np.array(values, dtype=np.float64)
    absent = np.isnan(filled[known]).any(axis=0)
    filled[:, absent] = np.nan
    first, last = known[0], known[-1]
    filled[:first], filled[last + 1 :] = filled[first], filled[last]
    is_known = kept[first : last + 1]
    if is_known.all() or absent.all():
        return filled
    # Imported late: SciPy takes a second, and most runs have no gaps.
    from scipy.interpolate import CubicSpline

    inside = filled[first : last + 1, ~absent]
    if _find_longest_gap(is_known) <= SPLINE_VOLUMES:
        inside[~is_known] = CubicSpline(np.flatnonzero(is_known), inside[is_known])(np.flatnonzero(~is_known))
    else:
        for start in range(0, inside.shape[1], _COLUMNS):
            part = inside[:, start : start + _COLUMNS]
            part[~is_known] = _estimate_from_spectrum(part, is_known)[~is_known]
    filled[first : last + 1, ~absent] = inside
    return filled


def _find_longest_gap(is_known: Bools) -> int:
    """Find the length of the longest gap between two known volumes."""
    return int(np.diff(np.flatnonzero(is_known)).max()) - 1


def _estimate_from_spectrum(values: Floats, is_known: Bools) -> Floats:
    """Estimate all volumes (T, P) from the Lomb-Scargle spectrum of the known ones, scaled to their variance.

    Volumes are equally spaced, so all sums of the periodogram (Scargle, 1982, ApJ 263, 835-853) are Fourier transforms
    of the series with zeros in the gaps.
    """
    n_volumes, n_known = is_known.size, int(is_known.sum())
    length = _OVERSAMPLING * n_volumes
    # Up to the Nyquist frequency of volumes that are as many, but equally spaced.
    cycles = np.arange(1, max(2, _OVERSAMPLING * n_known // 2))
    known = values[is_known]
    mean, spread = known.mean(axis=0), known.std(axis=0)
    centred = np.where(is_known[:, None], values - mean, 0.0)
    sums = np.fft.rfft(centred, length, axis=0)[cycles]
    doubled = np.fft.fft(is_known.astype(np.float64), length)[2 * cycles % length]
    # The shift of each frequency makes its cosine and sine orthogonal over the known volumes.
    shift = np.exp(-0.5j * np.angle(np.conj(doubled)))
    sums *= np.conj(shift)[:, None]
    n_cosine = 0.5 * (n_known + np.abs(doubled))
    n_sine = np.maximum(0.5 * (n_known - np.abs(doubled)), 1e-9 * n_known)
    spectrum = np.zeros((length // 2 + 1, values.shape[1]), dtype=np.complex128)
    spectrum[cycles] = (sums.real / n_cosine[:, None] + 1j * sums.imag / n_sine[:, None]) * shift[:, None]
    estimate = np.fft.irfft(spectrum, length, axis=0)[:n_volumes]
    scale = estimate[is_known].std(axis=0)
    scaled: Floats = mean + estimate * np.divide(spread, scale, out=np.zeros_like(spread), where=scale > 0)
    return scaled
