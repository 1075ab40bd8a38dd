"""Numbers of one run: time courses for figures, connectivity, weights of its windows, similarity of its tokens. T
volumes, P parcels, B windows, K patches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bids_semantoks.records import Floats, Indices, Reals


def compute_dvars(values: Reals) -> Floats:
    """Compute DVARS over parcels, the RMS change from the previous volume: (T, P) -> (T,), in input units. NaN for the
    first volume and where either volume is dropped. Source, there over voxels: Power et al. (2012),
    doi:10.1016/j.neuroimage.2011.10.018."""
    present = ~np.isnan(values).all(axis=0)
    change = np.diff(values[:, present].astype(np.float64), axis=0)
    dvars = np.full(values.shape[0], np.nan)
    if present.any():
        dvars[1:] = np.sqrt((change**2).mean(axis=1))
    return dvars


def compute_global(values: Reals, n_voxels: Indices) -> Floats:
    """Average the parcels, weighted by voxel counts: (T, P), (P,) -> (T,); NaN for dropped volumes. Weights are equal
    where the voxel count of any parcel is unknown (0 or less)."""
    present = ~np.isnan(values).all(axis=0)
    if not present.any():
        return np.full(values.shape[0], np.nan)
    weights = n_voxels[present].astype(np.float64)
    if weights.min() <= 0:
        weights = np.ones(weights.size)
    mean: Floats = values[:, present].astype(np.float64) @ (weights / weights.sum())
    return mean


def zscore_rows(values: Reals) -> Floats:
    """Z-score each parcel over its non-NaN volumes and transpose: (T, P) -> (P, T); constant parcels give 0."""
    turned = values.T.astype(np.float64)
    there = ~np.isnan(turned)
    n = np.maximum(there.sum(axis=1, keepdims=True), 1)
    centred = turned - np.where(there, turned, 0).sum(axis=1, keepdims=True) / n
    deviation = np.sqrt((np.where(there, centred, 0) ** 2).sum(axis=1, keepdims=True) / n)
    result: Floats = centred / np.where(deviation > 0, deviation, 1)
    return result


def thin_columns(values: Floats, step: int) -> Floats:
    """Average groups of `step` columns, the last perhaps smaller, ignoring NaN: (m, n) -> (m, ceil(n / step))."""
    if step == 1:
        return values
    n = values.shape[1]
    padded = np.pad(values, ((0, 0), (0, -n % step)), constant_values=np.nan).reshape(values.shape[0], -1, step)
    count = (~np.isnan(padded)).sum(axis=2)
    total = np.nansum(padded, axis=2)
    means: Floats = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return means


def compute_cosines(vectors: Reals) -> Floats:
    """Compute the cosine similarities between rows: (n, D) -> (n, n); 0 for rows of zeros."""
    rows = vectors.astype(np.float64)
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = rows / np.where(norm > 0, norm, 1)
    return np.clip(unit @ unit.T, -1, 1)


def compare_tokens(tokens: Reals, n_rows: int) -> tuple[Floats, Floats]:
    """Compare the output tokens of a run between networks, as means over windows and patches (N, N), and between
    windows, as means over networks (B, B). `tokens` is (B, 1 + N*K, D), the class token first; `n_rows` is N."""
    n_windows, _, width = tokens.shape
    rows = tokens[:, 1:].reshape(n_windows, n_rows, -1, width).mean(axis=2, dtype=np.float64)  # (B, N, D)
    across = np.mean([compute_cosines(rows[:, n]) for n in range(n_rows)], axis=0)
    return compute_cosines(rows.mean(axis=0)), across


def weigh_windows(kept: Reals, min_kept: float | None) -> Floats:
    """Weight windows (B,) by the share of their time that is kept; the weights sum to 1. Windows below `min_kept` get
    none, unless all are below. None for `min_kept` weights all equally, as in the published protocol."""
    weights = np.asarray(kept, dtype=np.float64)
    if min_kept is None or not weights.any():
        return np.full(weights.size, 1 / weights.size)
    if (weights >= min_kept).any():
        weights = np.where(weights >= min_kept, weights, 0.0)
    return np.asarray(weights / weights.sum())


def weigh_runs(seconds: Sequence[float], *, is_weighted: bool) -> Floats:
    """Weight runs (R,) by their seconds of kept data, or equally; the weights sum to 1."""
    weights = np.asarray(seconds if is_weighted else np.ones(len(seconds)), dtype=np.float64)
    return np.asarray(weights / weights.sum())


def compute_connectivity(values: Reals) -> Floats:
    """Correlate parcels (Pearson) over kept volumes: (T, P) -> (P, P); NaN for absent and constant parcels. Dropped
    rows and absent columns of `values` are NaN."""
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
