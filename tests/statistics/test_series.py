"""What is drawn of signals over time."""

import numpy as np
import pytest

from bids_semantoks.statistics.series import (
    compare_tokens,
    compute_connectivity,
    compute_cosines,
    compute_dvars,
    compute_global,
    thin_columns,
    weigh_runs,
    weigh_windows,
    zscore_rows,
)

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


def test_cosines_of_rows():
    rows = np.array([[1.0, 0, 0], [1, 1, 0], [0, 0, 0]])
    np.testing.assert_allclose(compute_cosines(rows), [[1, 0.5**0.5, 0], [0.5**0.5, 1, 0], [0, 0, 0]])


def test_tokens_are_compared_between_networks_and_between_windows():
    n_windows, n_rows, n_patches, width = 3, 4, 5, 7
    tokens = np.random.default_rng(0).normal(size=(n_windows, 1 + n_rows * n_patches, width))
    networks, windows = compare_tokens(tokens, n_rows)
    means = tokens[:, 1:].reshape(n_windows, n_rows, n_patches, width).mean(axis=2)
    for i in range(n_rows):
        for j in range(n_rows):
            a, b = means[:, i].mean(axis=0), means[:, j].mean(axis=0)
            np.testing.assert_allclose(networks[i, j], a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    a, b = means[0], means[2]
    each = [a[n] @ b[n] / np.linalg.norm(a[n]) / np.linalg.norm(b[n]) for n in range(n_rows)]
    np.testing.assert_allclose(windows[0, 2], np.mean(each))


def test_windows_weigh_by_their_kept_share_and_the_worst_are_left_out():
    np.testing.assert_allclose(weigh_windows(np.array([1.0, 0.5, 0.24]), 0.5), [2 / 3, 1 / 3, 0])
    np.testing.assert_allclose(weigh_windows(np.array([1.0, 0.6, 0.4]), 0.0), [0.5, 0.3, 0.2])


def test_poor_windows_count_where_a_run_has_no_better_ones():
    np.testing.assert_allclose(weigh_windows(np.array([0.3, 0.1]), 0.5), [0.75, 0.25])
    np.testing.assert_allclose(weigh_windows(np.zeros(2), 0.5), [0.5, 0.5])


def test_the_published_protocol_weighs_all_alike():
    np.testing.assert_allclose(weigh_windows(np.array([1.0, 0.24]), None), [0.5, 0.5])
    np.testing.assert_allclose(weigh_runs([100.0, 1200.0], is_weighted=False), [0.5, 0.5])
    np.testing.assert_allclose(weigh_runs([100.0, 300.0], is_weighted=True), [0.25, 0.75])


@pytest.fixture
def values():
    """Signals whose first and eighth volumes are dropped and whose parcel 3 is absent."""
    found = np.random.default_rng(1).standard_normal((T, P)).astype(np.float32)
    found[[0, 7]] = np.nan
    found[:, 3] = np.nan
    return found


def test_connectivity_uses_kept_rows_and_present_parcels(values):
    matrix = compute_connectivity(values)
    kept = np.delete(values, [0, 7], axis=0).astype(np.float64)
    others = [p for p in range(P) if p != 3]
    np.testing.assert_allclose(matrix[np.ix_(others, others)], np.corrcoef(kept[:, others].T), atol=1e-12)
    assert np.isnan(matrix[3]).all()
    assert np.isnan(matrix[:, 3]).all()


def test_constant_parcel_has_no_correlation(values):
    values[~np.isnan(values[:, 0]), 5] = 2.0
    matrix = compute_connectivity(values)
    assert np.isnan(matrix[5]).all()
    assert not np.isnan(matrix[0, 1])
