"""Butterworth filters that run forwards and backwards over signals (T volumes, P columns).

In NumPy only: SciPy's filters are as fast, but importing SciPy takes longer than everything else that a run needs.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.records import Floats

_BLOCK: Final = 16  # volumes filtered by one matrix product, several times faster than a loop


class Section(NamedTuple):
    """One second-order part of a filter, in powers of the delay."""

    zeros: Floats  # (3,) numerator
    poles: Floats  # (3,) denominator, the first is 1


def design_butterworth(order: int, *, low: float | None, high: float | None, rate: float) -> list[Section]:
    """Design a high-pass (edge `low`), low-pass (`high`) or band-pass filter by the bilinear transform.

    Edges and sampling `rate` in Hz, each edge between 0 and half the rate; the gain at an edge is 1 / sqrt(2). The
    poles of a band-pass are twice `order`. Raises ValueError without an edge.
    """
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
    """Filter (T, P) forwards and backwards, so that nothing is delayed and gains are squared.

    Both ends are extended by `padding` (< T) volumes: mirrored (even), or reflected about the end value (odd).
    Each direction starts in the steady state of its first value.
    """
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
