"""Connectivity in the tangent space of a reference fitted to the training rows (Varoquaux et al., MICCAI 2010).
Shape letters: n rows, P parcels, k components, e = P(P+1)/2 entries of a symmetric matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.probing.spans import Floats, Indices, Span, build_designs, rotate_kernel


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TangentFeatures:
    """Covariances as directions from a reference fitted to the training rows.

    The reference is the geometric mean of the training covariances by one step of the iteration that nilearn repeats
    ten times (it need not converge). Covariances are first reduced to the leading components of the training mean,
    since a few hundred band-passed volumes hold no more: with 457 parcels a fold takes seconds, not half a minute.
    """

    name: str
    packed: NDArray[np.float32]  # (n, e) lower triangles of positive definite covariances, row by row
    n_components: int = 100  # k; all where there are fewer parcels
    n_steps: int = 1  # steps towards the geometric mean

    def compute_span(self, train: Indices, test: Indices, covariates: Floats | None = None) -> Span:
        """Fit reference and components to the training rows; centre, remove covariates (n, c), do not scale."""
        whitening = self.fit_whitening(train)
        first, second = self.compute_vectors(train, whitening), self.compute_vectors(test, whitening)
        designs = build_designs(train, test, covariates)
        return rotate_kernel(first @ first.T, second @ first.T, designs)

    def fit_whitening(self, train: Indices) -> Floats:
        """Find the matrix (k, P) that, applied from both sides, turns the reference into the identity."""
        mean = _unpack(self.packed[train].mean(axis=0, dtype=np.float64))
        values, axes = np.linalg.eigh(mean)
        k = min(self.n_components, len(mean))
        whitening: Floats = (axes[:, -k:] / np.sqrt(values[-k:])).T
        for _ in range(self.n_steps):
            total = np.zeros((k, k))
            for row in train:
                total += _map_eigenvalues(whitening @ _unpack(self.packed[row]) @ whitening.T, np.log)
            whitening = _map_eigenvalues(total / len(train), lambda x: np.exp(-x / 2)) @ whitening
        return whitening

    def compute_vectors(self, rows: Indices, whitening: Floats) -> Floats:
        """Compute tangent vectors (rows, k(k+1)/2), weighted to keep the inner products of the matrices."""
        lower = np.tril_indices(len(whitening))
        weight = np.where(lower[0] == lower[1], 1.0, np.sqrt(2.0))
        vectors = np.empty((len(rows), len(weight)))
        for index, row in enumerate(rows):
            matrix = whitening @ _unpack(self.packed[row]) @ whitening.T
            vectors[index] = weight * _map_eigenvalues(matrix, np.log)[lower]
        return vectors


def _unpack(packed: NDArray[Any]) -> Floats:
    n_parcels = int(np.sqrt(2 * len(packed)))
    matrix: Floats = np.zeros((n_parcels, n_parcels))
    matrix[np.tril_indices(n_parcels)] = packed
    full: Floats = matrix + np.tril(matrix, -1).T
    return full


def _map_eigenvalues(matrix: Floats, function: Any) -> Floats:
    values, axes = np.linalg.eigh((matrix + matrix.T) / 2)
    mapped: Floats = (axes * function(values)) @ axes.T
    return mapped
