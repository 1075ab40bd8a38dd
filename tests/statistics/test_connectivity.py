"""Connectivity against NumPy."""

import numpy as np
import pytest

from bids_semantoks.statistics.connectivity import compute_connectivity

T, P = 30, 6


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
