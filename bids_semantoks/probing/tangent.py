"""Connectivity in the tangent space of a reference that only training rows decide.

Shape letters: n rows, P parcels, k components, e = P(P+1)/2 entries of a symmetric matrix.

References
----------
.. [1] G. Varoquaux et al., Detection of brain functional-connectivity difference in post-stroke patients using
   group-level covariance modeling, MICCAI (2010).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.probing.spans import Floats, Indices, Span, build_designs, rotate_kernel


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TangentFeatures:
    """Covariances as directions from a reference that only training rows decide [1]_.

    The reference is the geometric mean of the training covariances, by one step of the iteration that nilearn repeats
    ten times (a reference, unlike a result, need not be converged). Before, covariances are reduced to the leading
    components of the training mean, since a few hundred band-passed volumes hold no more: with 457 parcels this takes
    a fold from half a minute to a few seconds.

    Parameters
    ----------
    name : str
        What a report calls it.
    packed : NDArray, float32, shape (n, e)
        Lower triangles of positive definite covariances, row by row.
    n_components : int
        Components k; all where there are no more parcels than that.
    n_steps : int
        Steps towards the geometric mean.
    """

    name: str
    packed: NDArray[np.float32]
    n_components: int = 100
    n_steps: int = 1

    def compute_span(self, train: Indices, test: Indices, covariates: Floats | None = None) -> Span:
        """Fit reference and components to the training rows, then centre and remove covariates.

        Parameters
        ----------
        train, test : NDArray, int64
            Positions of rows.
        covariates : NDArray, float64, shape (n, c), optional
            Removed by regression fitted to the training rows.

        Returns
        -------
        Span
            Of tangent vectors, not scaled one by one.
        """
        whitening = self.fit_whitening(train)
        first, second = self.compute_vectors(train, whitening), self.compute_vectors(test, whitening)
        designs = build_designs(train, test, covariates)
        return rotate_kernel(first @ first.T, second @ first.T, designs)

    def fit_whitening(self, train: Indices) -> Floats:
        """Find the matrix that turns the reference into the identity.

        Parameters
        ----------
        train : NDArray, int64
            Training rows.

        Returns
        -------
        NDArray, float64, shape (k, P)
            Applied from both sides.
        """
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
        """Compute tangent vectors.

        Parameters
        ----------
        rows : NDArray, int64
            Positions of rows.
        whitening : NDArray, float64, shape (k, P)
            From `fit_whitening`.

        Returns
        -------
        NDArray, float64, shape (rows, k(k+1)/2)
            Their inner products are those of the matrices.
        """
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
