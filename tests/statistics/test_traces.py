"""What is drawn of signals over time."""

import numpy as np
import pytest

from bids_semantoks.statistics.traces import compute_dvars, compute_global, thin_columns, zscore_rows

P, T = 13, 41


def test_dvars_and_global_signal_against_loops():
    rng = np.random.default_rng(3)
    values = rng.normal(size=(T, P)).astype(np.float32)
    values[5] = np.nan
    values[:, 4] = np.nan
    weights = rng.integers(1, 9, P)
    there = [p for p in range(P) if p != 4]
    dvars, mean = compute_dvars(values), compute_global(values, weights)
    for t in range(T):
        if t in (0, 5, 6):
            assert np.isnan(dvars[t])
        else:
            wanted = np.sqrt(np.mean([(float(values[t, p]) - float(values[t - 1, p])) ** 2 for p in there]))
            assert dvars[t] == pytest.approx(wanted)
    wanted = sum(float(values[9, p]) * weights[p] for p in there) / sum(weights[p] for p in there)
    assert mean[9] == pytest.approx(wanted)


def test_parcels_are_scored_over_the_volumes_they_have():
    values = np.random.default_rng(3).normal(size=(T, P)).astype(np.float32)
    values[5] = np.nan
    values[:, 4] = np.nan
    scores = zscore_rows(values)
    assert scores.shape == (P, T)
    np.testing.assert_allclose(np.nanstd(scores[0]), 1)


def test_columns_are_averaged_in_groups_without_what_is_missing():
    values = np.array([[1.0, 3, 5, np.nan, np.nan], [np.nan, np.nan, 1, 2, 3]])
    np.testing.assert_array_equal(thin_columns(values, 2), [[2, 5, np.nan], [np.nan, 1.5, 3]])
    assert thin_columns(values, 1) is values


def test_nothing_is_known_of_a_run_without_signals():
    nothing = np.full((4, 3), np.nan)
    assert np.isnan(compute_dvars(nothing)).all()
    assert np.isnan(compute_global(nothing, np.ones(3, dtype=np.int64))).all()
