"""Zero-phase Butterworth filters, and gaps that dropped volumes leave in signals (T volumes, P columns). In NumPy only:
SciPy's filters are as fast, but importing SciPy takes longer than everything else that a run needs."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.records import Bools, Floats

_BLOCK: Final = 16  # volumes filtered by one matrix product, several times faster than a loop


class Section(NamedTuple):
    """One second-order part of a filter, in powers of the delay."""

    zeros: Floats  # (3,) numerator
    poles: Floats  # (3,) denominator, the first is 1


def design_butterworth(order: int, *, low: float | None, high: float | None, rate: float) -> list[Section]:
    """Design a high-pass (edge `low`), low-pass (`high`) or band-pass filter by the bilinear transform. Edges and
    sampling `rate` in Hz, each edge between 0 and half the rate; the gain at an edge is 1 / sqrt(2). The poles of a
    band-pass are twice `order`. Raises ValueError without an edge."""
    prototype = np.exp(1j * np.pi * (np.arange(order) + 0.5 + order / 2) / order)
    # Pre-warped so that the transform is s = (z - 1) / (z + 1).
    edges = [np.tan(np.pi * edge / rate) for edge in (low, high) if edge is not None]
    if len(edges) == 2:
        half, squared = prototype * (edges[1] - edges[0]) / 2, edges[0] * edges[1]
        root = np.sqrt(half**2 - squared)
        analog, passed = np.concatenate([half + root, half - root]), np.sqrt(squared)
        pair = np.array([1.0, 0.0, -1.0])
    elif not edges:
        raise ValueError("a filter needs an edge")
    elif high is not None:
        analog, passed, pair = prototype * edges[0], 0.0, np.array([1.0, 2.0, 1.0])
    else:
        analog, passed, pair = edges[0] / prototype, np.inf, np.array([1.0, -2.0, 1.0])
    poles = (1 + analog) / (1 - analog)
    sections = [_build_section(part, pair) for part in _pair_poles(poles)]
    # Scaled to a gain of 1 at the centre of the pass band.
    turn = -1.0 if passed == np.inf else (1 + 1j * passed) / (1 - 1j * passed)
    powers = np.array([1, 1 / turn, 1 / turn**2])
    for index, one in enumerate(sections):
        sections[index] = Section(one.zeros / abs(one.zeros @ powers / (one.poles @ powers)), one.poles)
    return sections


def _pair_poles(poles: NDArray[np.complex128]) -> list[NDArray[np.complex128]]:
    """Pair conjugate poles, then real ones (one may be left alone); those nearest to the unit circle come last."""
    is_real = np.abs(poles.imag) < 1e-12
    upper = poles[~is_real & (poles.imag > 0)]
    real = np.sort(poles[is_real].real).astype(np.complex128)
    parts = [np.array([pole, pole.conjugate()]) for pole in upper]
    parts += [real[start : start + 2] for start in range(0, len(real), 2)]
    return sorted(parts, key=lambda part: float(np.abs(part).max()))


def _build_section(poles: NDArray[np.complex128], pair: Floats) -> Section:
    if len(poles) == 2:
        return Section(pair, np.array([1.0, -poles.sum().real, poles.prod().real]))
    # The square of a single zero is a pair: its root has half the middle term.
    return Section(np.array([1.0, pair[1] / 2, 0.0]), np.array([1.0, -poles[0].real, 0.0]))


def filter_both_ways(
    sections: list[Section], signals: Floats, *, padding: int, reflection: Literal["even", "odd"]
) -> Floats:
    """Filter (T, P) forwards and backwards, so that nothing is delayed and gains are squared. Both ends are extended by
    `padding` (< T) volumes: mirrored (even), or reflected about the end value (odd). Each direction starts in the
    steady state of its first value."""
    start, end = signals[padding:0:-1], signals[-2 : -padding - 2 : -1]
    if reflection == "odd":
        start, end = 2 * signals[:1] - start, 2 * signals[-1:] - end
    padded = np.concatenate([start, signals, end])
    for _ in range(2):
        padded = _filter_forwards(sections, padded)[::-1]
    return padded[padding : len(padded) - padding]


def _filter_forwards(sections: list[Section], signals: Floats) -> Floats:
    """Apply the sections in turn, zeros first: components that they remove exactly, such as a mean, do not return."""
    before = signals[:1]
    for zeros, poles in sections:
        after = before * (zeros.sum() / poles.sum())
        fed = np.concatenate([before, before, signals])
        fed = zeros[0] * fed[2:] + zeros[1] * fed[1:-1] + zeros[2] * fed[:-2]
        filtered = np.concatenate([after, after, fed])
        matrix = _unroll(poles)
        for start in range(2, len(filtered), _BLOCK):
            block = filtered[start - 2 : start + _BLOCK]
            n = len(block) - 2
            block[2:] = matrix[:n, : n + 2] @ block
        signals, before = filtered[2:], after
    return signals


def _unroll(poles: Floats) -> Floats:
    """Unroll the recursion of a section: the matrix (B, 2 + B) from its last two results and what enters to the next
    results."""
    rows = np.eye(2 + _BLOCK)
    for now in range(2, len(rows)):
        rows[now] -= poles[1] * rows[now - 1] + poles[2] * rows[now - 2]
    return rows[2:]


#: Longest gap (volumes) interpolated by a cubic spline, as in nilearn; in longer gaps splines overshoot.
SPLINE_VOLUMES: Final = 3
#: Part of the settings of outputs, since it determines their values.
GAPS: Final = "by spline, by Lomb-Scargle spectrum where one exceeds 3 volumes"
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
    longest = int(np.diff(known).max()) - 1
    if longest <= SPLINE_VOLUMES:
        inside[~is_known] = CubicSpline(np.flatnonzero(is_known), inside[is_known])(np.flatnonzero(~is_known))
    else:
        for start in range(0, inside.shape[1], _COLUMNS):
            part = inside[:, start : start + _COLUMNS]
            part[~is_known] = _estimate_from_spectrum(part, is_known)[~is_known]
    filled[first : last + 1, ~absent] = inside
    return filled


def _estimate_from_spectrum(values: Floats, is_known: Bools) -> Floats:
    """Estimate all volumes (T, P) from the Lomb-Scargle spectrum of the known ones, scaled to their variance. Volumes
    are equally spaced, so all sums of the periodogram (Scargle, 1982, ApJ 263, 835-853) are Fourier transforms of the
    series with zeros in the gaps."""
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
