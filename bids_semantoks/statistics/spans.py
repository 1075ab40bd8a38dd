"""Features as coordinates in the span of the training rows, to which everything is fitted, and spans that targets
share. Shape letters: n rows (participants or sessions), d features, r columns of the span, c covariates."""

from __future__ import annotations

import functools
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.records import Bools, Floats, Indices, Reals

_MOST_BYTES = 2**30  # memory for spans that may be needed again: six folds of 5,000 participants and connectivity
CUTOFF = 1e-10  # directions with a smaller share of the largest eigenvalue are rounding

#: Covariances unpacked at a time, 27 MB of 457 parcels, and matrices decomposed at a time, 20 MB of 100 components.
_BLOCK, _MANY = 16, 256


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Span:
    """Training and test rows in principal axes of the training rows. A model with an L2 penalty never leaves this span:
    a fit needs only n_train columns, however wide the features are."""

    train: Floats  # (n_train, r) centred; columns are orthogonal
    test: Floats  # (n_test, r) centred and scaled as `train` was
    eigenvalues: Floats  # (r,) squared lengths of the columns of `train`


class Features(Protocol):
    """Features that can be turned into a span of training rows."""

    @property
    def name(self) -> str:
        """Name in reports."""
        ...

    def compute_span(self, train: Indices, test: Indices, covariates: Floats | None = None) -> Span:
        """Fit to the training rows, removing covariates (n, c) by regression; only `test` may depend on test rows."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Scaling:
    """What training rows say about features: what covariates explain of them, and their standard deviation."""

    mean: Floats  # (c,) of the covariates
    deviation: Floats  # (c,) of the covariates; infinite where they are constant
    coefficients: Floats  # (1 + c, d) of a constant and the covariates in these units
    scale: Floats  # (d,) of what is left; infinite where it is constant

    def apply(self, values: Reals, covariates: Floats | None = None) -> Floats:
        """Remove covariates (n, c) from features (n, d), centre and scale."""
        scaled = np.array(values, dtype=np.float64)
        design = _build_design(covariates, self.mean, self.deviation, len(scaled))
        for some in _cut(scaled):
            scaled[some] -= design[some] @ self.coefficients
        scaled /= self.scale
        return scaled


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TableFeatures:
    """Table of features, each scaled by its standard deviation in the training rows."""

    name: str
    values: Reals  # (n, d) finite; d may be 0, the model without knowledge

    def __post_init__(self) -> None:
        _check_finite(self.name, self.values)

    def compute_span(self, train: Indices, test: Indices, covariates: Floats | None = None) -> Span:
        """Remove covariates (n, c), centre and scale by the training rows; constant features are dropped."""
        return self.rotate(*self.take(train, test), build_covariate_designs(train, test, covariates))

    def take(self, train: Indices, test: Indices) -> tuple[Floats, Floats]:
        """Copy training and test rows."""
        # Copies of their own, changed in place: of 50,000 rows each takes half a gigabyte.
        first, second = (np.asarray(self.values[rows], dtype=np.float64) for rows in (train, test))
        return first, second

    def rotate(self, values_train: Floats, values_test: Floats, designs: tuple[Floats, Floats]) -> Span:
        """Remove regressors from rows of `take`, centre and scale them in place, and rotate."""
        design_train, design_test = designs
        coefficients, scale = _scale(values_train, design_train)
        for some in _cut(values_test):
            values_test[some] -= design_test[some] @ coefficients
        values_test /= scale
        return rotate_table(values_train, values_test)


def fit_scaling(values: Floats, covariates: Floats | None = None, *, scales: bool = True) -> Scaling:
    """Fit what is removed from training rows (n, d), which are changed in place, with covariates (n, c); without
    `scales` features stay in their units."""
    mean, deviation = _find_units(np.arange(len(values)), covariates)
    design = _build_design(covariates, mean, deviation, len(values))
    if scales:
        coefficients, scale = _scale(values, design)
    else:
        coefficients, scale = np.linalg.pinv(design) @ values, np.ones(values.shape[1])
        for some in _cut(values):
            values[some] -= design[some] @ coefficients
    return Scaling(mean=mean, deviation=deviation, coefficients=coefficients, scale=scale)


def _scale(values: Floats, design: Floats) -> tuple[Floats, Floats]:
    """Remove regressors (n, 1 + c) from rows (n, d) and scale these, in place; return coefficients (1 + c, d) and
    deviations (d,), infinite for constant features."""
    coefficients = np.linalg.pinv(design) @ values
    size = np.maximum(values.max(axis=0, initial=0.0), -values.min(axis=0, initial=0.0))
    for some in _cut(values):
        values[some] -= design[some] @ coefficients
    total = np.zeros((0, len(size)))
    for some in _cut(values):
        # In the order of rows, as one sum over all of them would be.
        total = np.add.reduce(np.vstack([total, values[some] ** 2]), axis=0, keepdims=True)
    deviation = np.sqrt(total[0] / len(values))
    scale = np.where(deviation > 1e-10 * size, deviation, np.inf)
    values /= scale
    return coefficients, scale


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class KernelFeatures:
    """Wide features in common units, represented by their inner products. Features are centred but not scaled one by
    one: scaling would raise the least reliable entries of a connectivity matrix to the size of the others, and would
    need the table; centring acts on a Gram matrix computed once."""

    name: str
    kernel: Floats  # (n, n) inner products of all rows, from `compute_gram`

    def __post_init__(self) -> None:
        _check_finite(self.name, self.kernel)

    def compute_span(self, train: Indices, test: Indices, covariates: Floats | None = None) -> Span:
        """Centre and remove covariates (n, c) by the training rows, as for a table of unscaled features."""
        designs = build_covariate_designs(train, test, covariates)
        return rotate_kernel(self.kernel[np.ix_(train, train)], self.kernel[np.ix_(test, train)], designs)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class WideFeatures:
    """Wide features in common units, as `KernelFeatures`, but with their table, so that rows can be changed first."""

    name: str
    values: NDArray[np.float32]  # (n, d) finite

    def __post_init__(self) -> None:
        _check_finite(self.name, self.values)

    def compute_span(self, train: Indices, test: Indices, covariates: Floats | None = None) -> Span:
        """Centre and remove covariates (n, c) by the training rows."""
        return self.rotate(*self.take(train, test), build_covariate_designs(train, test, covariates))

    def take(self, train: Indices, test: Indices) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Copy training and test rows."""
        return self.values[train], self.values[test]

    def rotate(self, train: Reals, test: Reals, designs: tuple[Floats, Floats]) -> Span:
        """Centre and remove regressors from rows, and rotate."""
        kernel, cross = np.zeros((len(train), len(train))), np.zeros((len(test), len(train)))
        for start in range(0, train.shape[1], 4096):
            first, second = (np.asarray(rows[:, start : start + 4096], dtype=np.float64) for rows in (train, test))
            kernel += first @ first.T
            cross += second @ first.T
        return rotate_kernel(kernel, cross, designs)


def _cut(values: Floats) -> Iterator[slice]:
    """Cut the rows of a table into parts of 8 MB."""
    step = max(1, 2**20 // max(values.shape[1], 1))
    return (slice(start, start + step) for start in range(0, len(values), step))


def _check_finite(name: str, values: Reals) -> None:
    if values.ndim != 2 or not np.isfinite(values).all():
        rows = np.unique(np.argwhere(~np.isfinite(values))[:, 0])[:3] if values.ndim == 2 else values.shape
        raise ValueError(f"{name}: features must be finite; found NaN or infinite values in rows {rows}")


def compute_gram(values: Reals, *, block: int = 4096) -> Floats:
    """Compute the inner products (n, n) of rows (n, d) in float64, `block` columns at a time."""
    gram = np.zeros((len(values), len(values)))
    for start in range(0, values.shape[1], block):
        part = np.asarray(values[:, start : start + block], dtype=np.float64)
        gram += part @ part.T
    return gram


def build_covariate_designs(train: Indices, test: Indices, covariates: Floats | None) -> tuple[Floats, Floats]:
    """Build the regressors to remove, (rows, 1 + c): a constant, and covariates in units of the training rows. A
    covariate that is constant in the training rows becomes 0, as its effect is unknown."""
    mean, deviation = _find_units(train, covariates)
    parts = [(rows, None if covariates is None else covariates[rows]) for rows in (train, test)]
    first, second = (_build_design(own, mean, deviation, len(rows)) for rows, own in parts)
    return first, second


def _find_units(train: Indices, covariates: Floats | None) -> tuple[Floats, Floats]:
    """Find mean and deviation (c,) of covariates in the training rows; the latter is infinite where they are
    constant."""
    if covariates is None:
        return np.zeros(0), np.zeros(0)
    mean, deviation = covariates[train].mean(axis=0), covariates[train].std(axis=0)
    return mean, np.where(deviation > 1e-10 * (np.abs(mean) + 1), deviation, np.inf)


def _build_design(covariates: Floats | None, mean: Floats, deviation: Floats, n_rows: int) -> Floats:
    """Build regressors (n, 1 + c) of covariates (n, c)."""
    constant = np.ones((n_rows, 1))
    return constant if covariates is None else np.hstack([constant, (covariates - mean) / deviation])


def rotate_table(train: Floats, test: Floats | None = None) -> Span:
    """Rotate rows (n_train, d) and (n_test, d), centred by the training rows, to principal axes of the former. Without
    test rows, `Span.test` has the axes (d, r)."""
    if train.shape[1] > len(train):
        return _rotate(train @ train.T, train.T if test is None else test @ train.T)
    values, axes = np.linalg.eigh(train.T @ train)
    axes = axes[:, _is_real(values)]
    values = values[_is_real(values)]
    return Span(train=train @ axes, test=axes if test is None else test @ axes, eigenvalues=values)


def rotate_kernel(train: Floats, test: Floats, designs: tuple[Floats, Floats]) -> Span:
    """Remove regressors from inner products with training rows, then rotate to principal axes of the training rows.
    Products are (n_train, n_train) and (n_test, n_train), regressors those of `build_covariate_designs`."""
    design_train, design_test = designs
    inverse = np.linalg.pinv(design_train)  # (1 + c, n_train)
    fitted = inverse @ train
    residual_train = train - design_train @ fitted
    residual_test = test - design_test @ fitted
    residual_train = residual_train - (residual_train @ inverse.T) @ design_train.T
    residual_test = residual_test - (residual_test @ inverse.T) @ design_train.T
    return _rotate((residual_train + residual_train.T) / 2, residual_test)


def _rotate(kernel: Floats, kernel_test: Floats) -> Span:
    values, axes = np.linalg.eigh(kernel)
    axes = axes[:, _is_real(values)]
    values = values[_is_real(values)]
    lengths = np.sqrt(values)
    return Span(train=axes * lengths, test=kernel_test @ axes / lengths, eigenvalues=values)


def _is_real(eigenvalues: Floats) -> Bools:
    largest = eigenvalues.max(initial=0.0)
    return np.asarray(eigenvalues > max(CUTOFF * largest, 1e-300))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TangentFeatures:
    """Covariances as directions from a reference fitted to the training rows. The reference is the geometric mean of
    the training covariances by one step of the iteration that nilearn repeats ten times (it need not converge).
    Covariances are first reduced to the leading components of the training mean, since a few hundred band-passed
    volumes hold no more: with 457 parcels a fold takes seconds, not half a minute."""

    name: str
    packed: NDArray[np.float32]  # (n, e) lower triangles of positive definite covariances, row by row
    n_components: int = 100  # k; all where there are fewer parcels
    n_steps: int = 1  # steps towards the geometric mean

    def compute_span(self, train: Indices, test: Indices, covariates: Floats | None = None) -> Span:
        """Fit reference and components to the training rows; centre, remove covariates (n, c), do not scale."""
        return self.rotate(*self.take(train, test), build_covariate_designs(train, test, covariates))

    def rotate(self, first: Floats, second: Floats, designs: tuple[Floats, Floats]) -> Span:
        """Centre and remove regressors from vectors of `take`, and rotate."""
        return rotate_kernel(first @ first.T, second @ first.T, designs)

    def take(self, train: Indices, test: Indices) -> tuple[Floats, Floats]:
        """Compute tangent vectors (rows, k(k+1)/2) of training and test rows at the reference of the former, weighted
        to keep the inner products of the matrices."""
        whitening, turns, first = self._fit(train)
        second = _whiten(self.packed[test], whitening)
        for turn in turns:
            _turn(second, turn)
        return _vectorise(first), _vectorise(second)

    def fit_reference(self, train: Indices) -> Floats:
        """Fit the reference of the training rows, for `project_tangent`: (P, k)."""
        whitening, turns, _ = self._fit(train)
        for turn in turns:
            whitening = whitening @ turn
        return whitening

    def _fit(self, train: Indices) -> tuple[Floats, list[Floats], Floats]:
        """Fit components (P, k) and steps (k, k) towards the geometric mean; return the training rows (n, k, k), too,
        after all of these."""
        values, axes = np.linalg.eigh(_unpack(self.packed[train].mean(axis=0, dtype=np.float64)))
        whitening = axes[:, -self.n_components :] / np.sqrt(values[-self.n_components :])  # (P, k)
        matrices, turns = _whiten(self.packed[train], whitening), list[Floats]()
        for _ in range(self.n_steps):
            total = np.zeros(matrices.shape[1:])
            for start in range(0, len(train), _MANY):
                found = _map_eigenvalues(matrices[start : start + _MANY], np.log)
                total = np.add.reduce(np.concatenate([total[None], found]), axis=0)
            turns.append(_map_eigenvalues(total / len(train), lambda x: np.exp(-x / 2)))
            _turn(matrices, turns[-1])
        return whitening, turns, matrices


def project_tangent(packed: NDArray[np.floating[Any]], reference: Floats) -> Floats:
    """Compute tangent vectors (n, k(k+1)/2) of covariances (n, e) at a reference (P, k) of `TangentFeatures`."""
    return _vectorise(_whiten(packed, reference))


def _whiten(packed: NDArray[np.floating[Any]], whitening: Floats) -> Floats:
    """Reduce covariances (n, e) to components (P, k): (n, k, k)."""
    matrices = np.empty((len(packed), whitening.shape[1], whitening.shape[1]))
    for start in range(0, len(packed), _BLOCK):
        some = slice(start, start + _BLOCK)
        matrices[some] = whitening.T @ _unpack(packed[some]) @ whitening
    return matrices


def _turn(matrices: Floats, turn: Floats) -> None:
    """Multiply matrices (n, k, k) by another one from both sides, in place."""
    for start in range(0, len(matrices), _MANY):
        matrices[start : start + _MANY] = turn @ matrices[start : start + _MANY] @ turn


def _vectorise(matrices: Floats) -> Floats:
    """Convert the logarithms of matrices (n, k, k) to vectors (n, k(k+1)/2) with the same inner products."""
    lower = np.tril_indices(matrices.shape[1])
    weight = np.where(lower[0] == lower[1], 1.0, np.sqrt(2.0))
    vectors = np.empty((len(matrices), len(weight)))
    for start in range(0, len(matrices), _MANY):
        vectors[start : start + _MANY] = _map_eigenvalues(matrices[start : start + _MANY], np.log)[:, *lower] * weight
    return vectors


def _unpack(packed: Reals) -> Floats:
    """Unpack lower triangles (..., e) into symmetric matrices (..., P, P)."""
    n_parcels = int(np.sqrt(2 * packed.shape[-1]))
    full = np.take(packed, _find_places(n_parcels), axis=-1).astype(np.float64)
    return np.asarray(full.reshape(*packed.shape[:-1], n_parcels, n_parcels))


@functools.cache
def _find_places(n_parcels: int) -> Indices:
    """Find where each entry (P * P,) of a symmetric matrix is in its lower triangle."""
    rows, columns = np.tril_indices(n_parcels)
    places = np.empty((n_parcels, n_parcels), dtype=np.int64)
    places[rows, columns] = places[columns, rows] = np.arange(len(rows))
    return places.ravel()


def _map_eigenvalues(matrices: Floats, function: Any) -> Floats:
    """Apply a function to the eigenvalues of symmetric matrices (..., k, k)."""
    values, axes = np.linalg.eigh((matrices + matrices.swapaxes(-1, -2)) / 2)
    mapped: Floats = (axes * function(values)[..., None, :]) @ axes.swapaxes(-1, -2)
    return mapped


class SharedSpans:
    """Features with a cache of the most recent spans, up to `most_bytes`, for repeated use of the same rows."""

    def __init__(self, features: Features, *, most_bytes: int = _MOST_BYTES) -> None:
        self.features, self.most_bytes = features, most_bytes
        self._kept: OrderedDict[bytes, Span] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """Name in reports."""
        return self.features.name

    def compute_span(self, train: Indices, test: Indices, covariates: Floats | None = None) -> Span:
        """Compute the span as the features do, or find it."""
        digest = hashlib.sha256()
        for part in (train, test) if covariates is None else (train, test, covariates):
            digest.update(str((part.shape, part.dtype.str)).encode() + part.tobytes())
        key = digest.digest()
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        span = self.features.compute_span(train, test, covariates)
        with self._lock:
            self._kept[key] = span
            while self._kept and sum(map(_count_bytes, self._kept.values())) > self.most_bytes:
                self._kept.popitem(last=False)
        return span


def _count_bytes(span: Span) -> int:
    return span.train.nbytes + span.test.nbytes + span.eigenvalues.nbytes
