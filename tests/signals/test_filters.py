"""Filters against SciPy's, which they replace."""

import itertools

import numpy as np
import pytest
from scipy.interpolate import CubicSpline
from scipy.signal import butter, sosfiltfilt

from bids_semantoks.signals.filters import design_butterworth, fill_gaps, filter_both_ways

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


T, P = 141, 13


def drop(n_volumes: int, *dropped: int) -> np.ndarray:
    kept = np.ones(n_volumes, dtype=bool)
    kept[list(dropped)] = False
    return kept


@pytest.fixture
def signals() -> np.ndarray:
    rng = np.random.default_rng(5)
    return 1000 + 40 * rng.standard_normal((T, P)).cumsum(axis=0) / 5 + rng.standard_normal((T, P))


def test_kept_volumes_are_untouched_and_ends_take_the_nearest(signals):
    kept = drop(T, 0, 1, 9, 50, 51, T - 1)
    spoiled = signals.copy()
    spoiled[~kept] = np.nan
    filled = fill_gaps(spoiled, kept)
    assert filled.dtype == np.float64
    np.testing.assert_array_equal(filled[kept], signals[kept])
    np.testing.assert_array_equal(filled[:2], np.broadcast_to(signals[2], (2, P)))
    np.testing.assert_array_equal(filled[-1], signals[-2])
    oracle = CubicSpline(np.flatnonzero(kept), signals[kept])
    np.testing.assert_allclose(filled[[9, 50, 51]], oracle([9, 50, 51]), rtol=1e-12)
    assert np.isnan(spoiled[0]).all()


def test_a_cubic_is_found_again_exactly():
    rng = np.random.default_rng(11)
    for _ in range(20):
        time = np.arange(37) / 10
        cubic = np.stack([np.polyval(rng.standard_normal(4), time) for _ in range(5)], axis=1)
        kept = np.ones(37, dtype=bool)
        kept[[4, 5, 6, 11, 20, 21, 30]] = False
        np.testing.assert_allclose(fill_gaps(cubic, kept), cubic, atol=1e-9)


@pytest.mark.parametrize("n_kept", [1, 2, 3])
def test_few_kept_volumes_still_interpolate(n_kept):
    values = np.arange(11.0)[:, None] * [1.0, -2.0, 0.5]
    kept = np.zeros(11, dtype=bool)
    kept[[2, 5, 8][:n_kept]] = True
    filled = fill_gaps(values, kept)
    last = [2, 5, 8][n_kept - 1]
    np.testing.assert_allclose(filled, values[np.clip(np.arange(11), 2, last)], atol=1e-12)


def test_absent_columns_pass_and_nothing_kept_is_an_error(signals):
    signals[:, 4] = np.nan
    signals[20, 8] = np.nan
    filled = fill_gaps(signals, drop(T, 3))
    assert np.flatnonzero(np.isnan(filled).any(axis=0)).tolist() == [4, 8]
    assert np.isnan(filled[:, [4, 8]]).all()
    with pytest.raises(ValueError, match="none of 141 volumes is kept"):
        fill_gaps(signals, np.zeros(T, dtype=bool))
    with pytest.raises(ValueError, match=r"kept \(140,\) does not fit"):
        fill_gaps(signals, np.ones(T - 1, dtype=bool))


def write_out_spectrum(values: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Estimate all volumes from the periodogram of the kept ones, frequency by frequency."""
    times = np.flatnonzero(kept)
    known = values[kept] - values[kept].mean(axis=0)
    estimate = np.zeros_like(values)
    for cycle in range(1, 8 * times.size // 2):
        rate = 2 * np.pi * cycle / (8 * len(values))
        shift = np.arctan2(np.sin(2 * rate * times).sum(), np.cos(2 * rate * times).sum()) / (2 * rate)
        for wave in (np.cos, np.sin):
            basis = wave(rate * (times - shift))
            weight = basis @ known / (basis @ basis)
            estimate += wave(rate * (np.arange(len(values)) - shift))[:, None] * weight
    return values[kept].mean(axis=0) + estimate * known.std(axis=0) / estimate[kept].std(axis=0)


def test_gaps_come_from_the_spectrum_where_one_is_longer_than_three_volumes(signals):
    kept = drop(T, 20, 21, 22, *range(60, 64), *range(90, 110))
    filled = fill_gaps(np.where(kept[:, None], signals, np.nan), kept)
    expected = write_out_spectrum(signals, kept)
    np.testing.assert_allclose(filled[~kept], expected[~kept], rtol=1e-9)
    np.testing.assert_array_equal(filled[kept], signals[kept])
    short = drop(T, 20, 21, 22, 60, 61, 62)
    spline = CubicSpline(np.flatnonzero(short), signals[short])(np.flatnonzero(~short))
    np.testing.assert_allclose(fill_gaps(signals, short)[~short], spline, rtol=1e-12)


def test_a_long_gap_stays_within_the_range_of_its_series():
    time = np.arange(200) * 2.0
    rng = np.random.default_rng(2)
    phases = rng.uniform(0, 2 * np.pi, (40, 6))
    rates = rng.uniform(0.005, 0.2, (40, 1))
    values = np.sin(2 * np.pi * rates[:, :, None] * time + phases[:, :, None]).sum(axis=0).T
    kept = drop(200, *range(90, 130))
    filled = fill_gaps(values, kept)
    assert np.abs(filled[~kept]).max() < np.abs(values).max()


def test_constants_and_gaps_with_almost_nothing_around_stay_finite():
    kept = drop(30, *range(3, 28))
    values = np.outer(np.arange(30.0), [0.0, 1.0]) + 7
    filled = fill_gaps(values, kept)
    np.testing.assert_allclose(filled[:, 0], 7, rtol=1e-12)
    assert np.isfinite(filled).all()
