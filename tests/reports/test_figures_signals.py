"""What is drawn of signals over time."""

import numpy as np
import pytest
from bids_semantoks.reports.figures_signals import compute_dvars, compute_global

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
