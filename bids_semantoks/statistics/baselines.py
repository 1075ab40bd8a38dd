"""Baselines to compare an encoder with: connectivity, parcel means and variances, motion, covariates, chance. Shape
letters: n participants, T volumes of a run, P parcels, e = P(P+1)/2 entries of a symmetric matrix."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from nilearn.connectome import ConnectivityMeasure
from numpy.typing import DTypeLike, NDArray
from sklearn.covariance import EmpiricalCovariance, LedoitWolf

from bids_semantoks.records import Floats, Reals
from bids_semantoks.statistics.spans import Features, KernelFeatures, TangentFeatures, WideFeatures, compute_gram

CONNECTIVITY = ("pearson", "ledoit_wolf", "tangent")
OF_SIGNALS = (*CONNECTIVITY, "parcel_moments")  # baselines that depend on how signals were prepared
ESTIMATORS = {"pearson": EmpiricalCovariance, "ledoit_wolf": LedoitWolf}


def compute_covariance(runs: Sequence[Reals], estimator: str, weights: Floats | None = None) -> Floats:
    """Average the covariance (P, P) of standardised signals (T, P) over runs; NaN rows (dropped volumes) are skipped.
    `weights` (runs,) sum to 1; None weights all equally. An absent (NaN) or constant parcel gets variance 1 and no
    covariance. Estimator ``pearson`` (sample) or ``ledoit_wolf`` (shrunk; Ledoit and Wolf, J Multivar Anal 88, 2004).
    Raises ValueError below 3 volumes."""
    total = np.zeros((runs[0].shape[1], runs[0].shape[1]))
    for run, weight in zip(runs, np.full(len(runs), 1 / len(runs)) if weights is None else weights, strict=True):
        values = np.asarray(run, dtype=np.float64)
        values = values[~np.isnan(values).all(axis=1)]
        if len(values) < 3:
            raise ValueError(f"connectivity needs 3 volumes or more, found {len(values)}")
        present = np.flatnonzero(np.isfinite(values).all(axis=0) & (np.ptp(values, axis=0) > 0))
        values = values[:, present] - values[:, present].mean(axis=0)
        measure = ConnectivityMeasure(
            cov_estimator=ESTIMATORS[estimator](store_precision=False), kind="covariance", standardize=False
        )
        covariance = np.eye(len(total))
        if len(present):
            covariance[np.ix_(present, present)] = measure.fit_transform([values / values.std(axis=0)])[0]
        total += weight * covariance
    return total


def build_connectivity_features(
    participants: Iterable[Sequence[Reals]],
    kinds: Sequence[str] = CONNECTIVITY,
    *,
    n_components: int = 100,
    weights: Sequence[Floats] | None = None,
    keeps_tables: bool = False,
) -> tuple[Features, ...]:
    """Build connectivity features of some `CONNECTIVITY` kinds from runs (T, P), reading one participant at a time;
    `weights` of each one's runs sum to 1. With `keeps_tables` correlations stay a table, whose rows can be changed.
    Correlations are Fisher-transformed. Memory is at most 2 n e float32: 0.8 GB for 1,000 participants and 457 parcels;
    without weights all runs are held as well. Raises ValueError for an unknown kind."""
    unknown = set(kinds) - set(CONNECTIVITY)
    if unknown:
        raise ValueError(f"connectivity must be of {', '.join(CONNECTIVITY)}, found {', '.join(sorted(unknown))}")
    needed = {"pearson" if kind == "pearson" else "ledoit_wolf" for kind in kinds}
    people = list(participants) if weights is None else participants
    shares: Sequence[Floats | None] = weights if weights is not None else [None for _ in people]
    tables: dict[str, NDArray[np.float32]] = {}
    for place, (runs, own) in enumerate(zip(people, shares, strict=True)):
        for estimator in sorted(needed):
            covariance = compute_covariance(runs, estimator, own)
            found = covariance[np.tril_indices(len(covariance))]
            if estimator not in tables:
                # A list of rows would be in memory together with the table into which they are stacked.
                tables[estimator] = np.empty((len(shares), len(found)), dtype=np.float32)
            tables[estimator][place] = found
    features: dict[str, Features] = {}
    for kind in ("pearson", "ledoit_wolf"):
        if kind in kinds:
            packed = tables[kind] if "tangent" in kinds and kind == "ledoit_wolf" else tables.pop(kind)
            if keeps_tables:
                features[kind] = WideFeatures(name=kind, values=_convert_to_correlations(packed))
            else:
                features[kind] = KernelFeatures(name=kind, kernel=_compute_correlation_gram(packed))
    if "tangent" in kinds:
        features["tangent"] = TangentFeatures(name="tangent", packed=tables["ledoit_wolf"], n_components=n_components)
    return tuple(features[kind] for kind in kinds)


def compute_connectivity_rows(participants: Iterable[Sequence[Reals]], kind: str, weights: Iterable[Floats]) -> Reals:
    """Compute the rows behind connectivity features of a kind from runs (T, P) and their weights: Fisher-transformed
    correlations (n, P(P-1)/2) in float64, of the tangent space lower triangles of covariances (n, e) in float32."""
    estimator = "pearson" if kind == "pearson" else "ledoit_wolf"
    covariances = (compute_covariance(runs, estimator, own) for runs, own in zip(participants, weights, strict=True))
    packed = np.stack([one[np.tril_indices(len(one))].astype(np.float32) for one in covariances])
    return packed if kind == "tangent" else _convert_to_correlations(packed, np.float64)


def compute_correlations(covariance: Floats) -> NDArray[np.float32]:
    """Convert a covariance (P, P) to Fisher-transformed correlations below the diagonal, clipped at 0.999999 first."""
    deviation = np.sqrt(np.diag(covariance))
    lower = np.tril_indices(len(covariance), -1)
    correlation = covariance[lower] / (deviation[lower[0]] * deviation[lower[1]])
    return np.asarray(np.arctanh(np.clip(correlation, -0.999999, 0.999999)), dtype=np.float32)


def _compute_correlation_gram(packed: NDArray[np.float32]) -> Floats:
    """Compute inner products of correlations, a block of edges at a time to avoid a second table."""
    gram = np.zeros((len(packed), len(packed)))
    for values in _iterate_correlations(packed):
        gram += compute_gram(values)
    return gram


def _convert_to_correlations(packed: NDArray[np.float32], kind: DTypeLike = np.float32) -> Reals:
    """Convert covariances (n, e) to a table of Fisher-transformed correlations (n, P(P-1)/2), numbers of a `kind`."""
    n_parcels = int(np.sqrt(2 * packed.shape[1]))
    table, end = np.empty((len(packed), packed.shape[1] - n_parcels), dtype=kind), 0
    for values in _iterate_correlations(packed):
        table[:, end : end + values.shape[1]] = values
        end += values.shape[1]
    return table


def _iterate_correlations(packed: NDArray[np.float32]) -> Iterator[Floats]:
    """Yield Fisher-transformed correlations (n, some) from the lower triangles (n, e) of covariances."""
    rows, columns = np.tril_indices(int(np.sqrt(2 * packed.shape[1])))
    deviation = np.sqrt(packed[:, rows == columns].astype(np.float64))
    edges = np.flatnonzero(rows != columns)
    for start in range(0, len(edges), 4096):
        part = edges[start : start + 4096]
        values = packed[:, part] / (deviation[:, rows[part]] * deviation[:, columns[part]])
        yield np.arctanh(np.clip(values, -0.999999, 0.999999))


def compute_moments(runs: Sequence[Reals], weights: Floats | None = None) -> Floats:
    """Compute the mean and log variance (2 P,) of each parcel, averaged over runs (T, P); 0 where absent."""
    moments = []
    for run in runs:
        values = np.asarray(run, dtype=np.float64)
        values = values[~np.isnan(values).all(axis=1)]
        with np.errstate(divide="ignore"):
            moments.append(np.concatenate([values.mean(axis=0), np.log(values.var(axis=0))]))
    return np.asarray(np.average(np.where(np.isfinite(moments), moments, 0.0), axis=0, weights=weights))
