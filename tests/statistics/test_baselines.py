"""Baselines against NumPy."""

import numpy as np
import pytest

from bids_semantoks.statistics.baselines import (
    build_connectivity_features,
    compute_correlations,
    compute_covariance,
    compute_moments,
)


def make_signals(n=6, p=7, t=37):
    rng = np.random.default_rng(4)
    return [[rng.standard_normal((t, p)) @ rng.standard_normal((p, p)) for _ in range(2)] for _ in range(n)]


def test_pearson_is_correlation_and_runs_are_averaged():
    signals = make_signals()
    pearson, shrunk = build_connectivity_features(iter(signals), ("pearson", "ledoit_wolf"))
    lower = np.tril_indices(7, -1)
    vectors = np.stack([np.arctanh(np.mean([np.corrcoef(r.T) for r in runs], axis=0)[lower]) for runs in signals])
    np.testing.assert_allclose(pearson.kernel, vectors @ vectors.T, rtol=1e-4)
    assert shrunk.kernel.trace() < pearson.kernel.trace()
    (table,) = build_connectivity_features(iter(signals), ("pearson",), keeps_tables=True)
    np.testing.assert_allclose(table.values, vectors, rtol=1e-4)
    spans = [one.compute_span(np.arange(4), np.arange(4, 6)) for one in (pearson, table)]
    np.testing.assert_allclose(*(np.abs(span.test) for span in spans), rtol=1e-4)
    single = compute_correlations(compute_covariance(signals[0], "pearson"))
    np.testing.assert_allclose(single, vectors[0], rtol=1e-4)
    with pytest.raises(ValueError, match="found partial"):
        build_connectivity_features(signals, ("partial",))


def test_absent_parcels_and_dropped_volumes_are_neutral():
    run = make_signals()[0][0]
    full = compute_covariance([run[:30]], "ledoit_wolf")
    holes = run.copy()
    holes[30:] = np.nan
    np.testing.assert_allclose(compute_covariance([holes], "ledoit_wolf"), full)
    holes[:, 2] = np.nan
    holes[:30, 4] = 1.0
    covariance = compute_covariance([holes], "pearson")
    np.testing.assert_array_equal(covariance[2], np.eye(7)[2])
    np.testing.assert_array_equal(covariance[4], np.eye(7)[4])
    assert covariance[0, 1] == pytest.approx(np.corrcoef(run[:30, :2].T)[0, 1])
    assert np.isfinite(compute_moments([holes])).all()
    with pytest.raises(ValueError, match="3 volumes or more, found 2"):
        compute_covariance([run[:2]], "pearson")


T, P = 30, 6
