"""Parcels ordered by network, and their labels."""

import numpy as np

from bids_semantoks.reports.pictures import sort_by_network, spread

NETWORKS = ("Cont", "Vis", "", "Other", "Vis", "Limbic", "Vis", "Cont", "", "Other", "Vis", "Limbic", "Default")


def test_parcels_are_sorted_by_network():
    order = sort_by_network(NETWORKS)
    assert order.names == ("Vis", "Limbic", "Cont", "Default", "Other", "no network")
    assert order.edges.tolist() == [0, 4, 6, 8, 9, 11, 13]
    assert order.order.tolist() == [1, 4, 6, 10, 5, 11, 0, 7, 12, 3, 9, 2, 8]


def test_labels_are_moved_apart_within_limits():
    placed = spread([1.0, 1.5, 9.0, 9.5], gap=2.0, low=0.0, high=10.0)
    assert np.diff(placed).min() >= 2.0
    assert placed[0] >= 0
    assert placed[-1] <= 10
