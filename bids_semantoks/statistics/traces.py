"""Time courses of a run for figures: DVARS, global signal, z-scored parcels (T volumes, P parcels)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def compute_dvars(values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Compute DVARS over parcels, the RMS change from the previous volume: (T, P) -> (T,), in input units.

    NaN for the first volume and where either volume is dropped. Source, there over voxels: Power et al.
    (2012), doi:10.1016/j.neuroimage.2011.10.018.
    """
    present = ~np.isnan(values).all(axis=0)
    change = np.diff(values[:, present].astype(np.float64), axis=0)
    dvars = np.full(values.shape[0], np.nan)
    if present.any():
        dvars[1:] = np.sqrt((change**2).mean(axis=1))
    return dvars


def compute_global(values: NDArray[np.floating[Any]], n_voxels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Average the parcels, weighted by voxel counts: (T, P), (P,) -> (T,); NaN for dropped volumes.

    Weights are equal where the voxel count of any parcel is unknown (0 or less).
    """
    present = ~np.isnan(values).all(axis=0)
    if not present.any():
        return np.full(values.shape[0], np.nan)
    weights = n_voxels[present].astype(np.float64)
    if weights.min() <= 0:
        weights = np.ones(weights.size)
    mean: NDArray[np.float64] = values[:, present].astype(np.float64) @ (weights / weights.sum())
    return mean


def zscore_rows(values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Z-score each parcel over its non-NaN volumes and transpose: (T, P) -> (P, T); constant parcels give 0."""
    turned = values.T.astype(np.float64)
    there = ~np.isnan(turned)
    n = np.maximum(there.sum(axis=1, keepdims=True), 1)
    centred = turned - np.where(there, turned, 0).sum(axis=1, keepdims=True) / n
    deviation = np.sqrt((np.where(there, centred, 0) ** 2).sum(axis=1, keepdims=True) / n)
    result: NDArray[np.float64] = centred / np.where(deviation > 0, deviation, 1)
    return result


def thin_columns(values: NDArray[np.float64], step: int) -> NDArray[np.float64]:
    """Average groups of `step` columns, the last perhaps smaller, ignoring NaN: (m, n) -> (m, ceil(n / step))."""
    if step == 1:
        return values
    n = values.shape[1]
    padded = np.pad(values, ((0, 0), (0, -n % step)), constant_values=np.nan).reshape(values.shape[0], -1, step)
    count = (~np.isnan(padded)).sum(axis=2)
    total = np.nansum(padded, axis=2)
    means: NDArray[np.float64] = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return means
