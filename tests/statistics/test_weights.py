"""Weights of windows and runs by what they hold."""

import numpy as np

from bids_semantoks.statistics.weights import weigh_runs, weigh_windows


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
