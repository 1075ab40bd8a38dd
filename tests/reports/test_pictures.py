"""Parcels ordered by network, and their labels."""

import numpy as np

from bids_semantoks.reports.pictures import spread


def test_labels_are_moved_apart_within_limits():
    placed = spread([1.0, 1.5, 9.0, 9.5], gap=2.0, low=0.0, high=10.0)
    assert np.diff(placed).min() >= 2.0
    assert placed[0] >= 0
    assert placed[-1] <= 10
