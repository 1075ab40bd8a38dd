"""Figures: what they show, and that they can fail nobody."""

import numpy as np
import pytest

from bids_semantoks.reports.figure_files import build_figure_path, write_figure
from bids_semantoks.reports.figures import zscore_rows
from bids_semantoks.reports.figures_coverage import draw_coverage
from bids_semantoks.reports.figures_embedding import compute_stability, draw_stability, draw_tokens, draw_windows
from bids_semantoks.reports.figures_networks import sort_by_network, spread
from bids_semantoks.reports.figures_signals import Volumes, compute_dvars, compute_global, draw_carpet

P, T = 13, 41


NETWORKS = ("Cont", "Vis", "", "Other", "Vis", "Limbic", "Vis", "Cont", "", "Other", "Vis", "Limbic", "Default")


def build_volumes():
    kept = np.ones(T, dtype=bool)
    kept[[0, 1, 7, 8, 20]] = False
    return Volumes(kept=kept, n_dummy=2, motion=np.full(T, 0.1), threshold=0.3, repetition_time=1.5)


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
    scores = zscore_rows(values)
    assert scores.shape == (P, T)
    np.testing.assert_allclose(np.nanstd(scores[0]), 1)


def test_stability_tells_runs_from_others():
    rng = np.random.default_rng(5)
    own = rng.normal(size=8)
    runs = [(own + 0.1 * rng.normal(size=(n, 8))).astype(np.float32) for n in (3, 2)]
    others = [rng.normal(size=(4, 8)).astype(np.float32) for _ in range(6)]
    found = compute_stability(runs, ("a", "b"), others)
    assert found.is_centred
    assert (found.within.size, found.between.size, found.others.size) == (4, 6, 30)
    assert np.median(found.within) > 0.9
    assert np.median(found.between) > 0.9
    assert np.median(found.others) < 0.5
    assert not compute_stability(runs, ("a", "b"), others[:3]).is_centred


@pytest.mark.parametrize("n_windows", [1, 3])
def test_figures_are_drawn_even_where_little_is_known(tmp_path, n_windows):
    rng = np.random.default_rng(1)
    values = rng.normal(size=(T, P)).astype(np.float32)
    values[:, 3] = np.nan
    unknown = Volumes(
        kept=np.ones(T, dtype=bool), n_dummy=0, motion=np.full(T, np.nan), threshold=None, repetition_time=2
    )
    order, missing = sort_by_network(NETWORKS), np.full(P, np.nan)
    tokens = rng.normal(size=(n_windows, 1 + 3 * 2, 8)).astype(np.float32)
    onset, kept = np.arange(n_windows) * 10.0, np.full(n_windows, 0.5)
    vectors = [tokens[:, 0]]
    draws = {
        "carpet": lambda: draw_carpet(values, values, unknown, order, np.full(P, -1)),
        "coverage": lambda: draw_coverage(missing, np.zeros(P, dtype=bool), order, None),
        "windows": lambda: draw_windows(onset, 100.0, kept, build_volumes()),
        "tokens": lambda: draw_tokens(tokens, ("a", "b", "c"), ("b",)),
        "stability": lambda: draw_stability(compute_stability(vectors, ("run",), [])),
    }
    for word, draw in draws.items():
        path = build_figure_path(tmp_path, "sub-01_task-rest", word)
        assert path == tmp_path / "sub-01" / "figures" / f"sub-01_task-rest_desc-{word}_bold.svg"
        assert write_figure(path, draw), word
        first = path.read_bytes()
        assert first.startswith(b"<?xml")
        assert write_figure(path, draw)
        assert path.read_bytes() == first
