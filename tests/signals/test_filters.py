"""Filters against SciPy's, which they replace."""

import itertools

import numpy as np
import pytest
from scipy.signal import butter, sosfiltfilt

from bids_semantoks.signals.filters import design_butterworth, filter_both_ways

BANDS = {
    "band": (0.01, 0.1),  # wide: the prototype's real pole becomes two real ones
    "narrow": (0.03, 0.05),
    "high": (0.008, None),
    "low": (None, 0.1),
    "near Nyquist": (0.01, 0.1599),
}


def measure_error(*, order: int, band: str, repetition_time: float, n_volumes: int, reflection: str) -> float:
    low, high = BANDS[band]
    rate, padding = 1 / repetition_time, min(33, n_volumes - 1)
    walk = np.random.default_rng(n_volumes).standard_normal((n_volumes, 5)).cumsum(axis=0)
    kind = "band" if low and high else "high" if low else "low"
    sections = butter(order, (low, high) if kind == "band" else low or high, btype=kind, fs=rate, output="sos")
    expected = sosfiltfilt(sections, walk, axis=0, padtype=reflection, padlen=padding)
    design = design_butterworth(order, low=low, high=high, rate=rate)
    found = filter_both_ways(design, walk, padding=padding, reflection=reflection)
    assert found.shape == walk.shape
    return float(np.abs(found - expected).max() / np.abs(walk).max())


@pytest.mark.parametrize(("order", "band"), [*itertools.product((1, 2, 5), BANDS), (10, "low")])
def test_filters_are_scipys(order, band):
    for repetition_time in (0.5, 2.0, 3.1):
        if band == "near Nyquist" and repetition_time != 3.1:
            continue
        for n_volumes in (7, 32, 33, 231):  # shorter than a block, a whole one, and more
            for reflection in ("even", "odd"):
                case = {"order": order, "band": band, "repetition_time": repetition_time, "reflection": reflection}
                assert measure_error(**case, n_volumes=n_volumes) < 1e-10, (case, n_volumes)


def test_long_runs_at_short_repetition_times_stay_exact():
    for band in ("band", "high"):
        case = {"order": 5, "band": band, "repetition_time": 0.3, "n_volumes": 4800, "reflection": "even"}
        assert measure_error(**case) < 1e-11, band


def test_gains_are_those_of_a_butterworth_filter_run_twice():
    time = np.arange(3000) * 2.0
    for edges in ({"low": 0.02, "high": None}, {"low": None, "high": 0.1}, {"low": 0.02, "high": 0.1}):
        edge = edges["low"] or edges["high"]
        wave = np.sin(2 * np.pi * edge * time)[:, None]
        passed = filter_both_ways(design_butterworth(5, **edges, rate=0.5), wave, padding=33, reflection="even")
        assert passed[500:-500].std() / wave[500:-500].std() == pytest.approx(0.5, abs=0.001), edges


def test_a_filter_needs_an_edge():
    with pytest.raises(ValueError, match="edge"):
        design_butterworth(5, low=None, high=None, rate=0.5)
