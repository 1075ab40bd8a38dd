"""Functional connectivity of one run (T volumes, P parcels)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def compute_connectivity(values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Correlate parcels (Pearson) over kept volumes: (T, P) -> (P, P); NaN for absent and constant parcels.

    Dropped rows and absent columns of `values` are NaN.
    """
    absent = np.isnan(values).all(axis=0)
    kept = values[~np.isnan(values[:, ~absent]).any(axis=1)][:, ~absent].astype(np.float64)
    centred = kept - kept.mean(axis=0)
    norm = np.sqrt((centred**2).sum(axis=0))
    # A constant parcel has no correlation, not even with itself.
    norm[norm == 0] = np.nan
    unit = centred / norm
    matrix = np.full((values.shape[1],) * 2, np.nan)
    matrix[np.ix_(~absent, ~absent)] = np.clip(unit.T @ unit, -1.0, 1.0)
    return matrix
