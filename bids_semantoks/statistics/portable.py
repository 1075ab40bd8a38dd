"""Linear predictors that leave their study: the fit of the nested protocol in terms of the features. Shape letters: n
rows, d features, c covariates, K classes, m outputs (1 of values and two classes, else K), k axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.records import Floats, Indices
from bids_semantoks.statistics.conformal import compare_means
from bids_semantoks.statistics.linear import fit_classes, fit_values
from bids_semantoks.statistics.predictions import Target, compute_probabilities
from bids_semantoks.statistics.spans import Scaling, TableFeatures, rotate_table
from bids_semantoks.statistics.splits import Split

#: Main axes of the features that a predictor keeps to judge how unusual people are.
_N_AXES: Final = 10


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LinearPredictor:
    """A linear model of features, and the main axes of the rows it was fitted to."""

    scaling: Scaling
    weights: Floats  # (d, m)
    intercepts: Floats  # (m,)
    axes: Floats  # (d, k) orthonormal
    deviation: Floats  # (k,) of training rows on the axes
    shares: Floats  # (K,) of classes in the training rows; (0,) for values
    penalty: float

    def predict(self, values: NDArray[np.floating[Any]], covariates: Floats | None = None) -> tuple[Floats, Floats]:
        """Predict values (n, 1) or class probabilities (n, K) from features (n, d) and covariates (n, c).

        Also returns positions (n, m + 2) of the people: outputs of the model, distance along the main axes in standard
        deviations, and distance from them in scaled features.
        """
        scaled = self.scaling.apply(values, covariates)
        outputs = scaled @ self.weights + self.intercepts
        along = scaled @ self.axes
        within = np.sqrt(((along / self.deviation) ** 2).mean(axis=1))
        rest = np.sqrt(np.maximum((scaled**2).sum(axis=1) - (along**2).sum(axis=1), 0.0))
        positions = np.column_stack([outputs, within, rest])
        return (compute_probabilities(outputs) if len(self.shares) else outputs), positions

    def compare_means(self, values: Floats, covariates: Floats | None, n_home: int) -> dict[str, float]:
        """Test whether the mean of features (n, d) is that of the N people the model was fitted to, along the main axes
        and besides them: p values by what was compared."""
        scaled = self.scaling.apply(values, covariates)
        along = scaled @ self.axes
        return {
            "mean of the embedding along its main axes": compare_means(along / self.deviation, n_home),
            "mean of the embedding besides its main axes": compare_means(scaled - along @ self.axes.T, n_home),
        }

    def decide(self, scores: Floats) -> Indices:
        """Decide for the class (n,) with the highest probability (n, K) relative to its share, as the probes do."""
        return np.asarray((scores / self.shares).argmax(axis=1))


def fit_predictor(
    features: TableFeatures,
    target: Target,
    train: Indices,
    *,
    covariates: Floats | None = None,
    groups: NDArray[Any] | None = None,
    seed: int = 0,
) -> LinearPredictor:
    """Fit the model of the nested protocol to the sorted `train` rows of features, target, covariates (n, c) and
    `groups` (n,); ValueError if no feature varies or the target has bins."""
    if target.n_bins:
        raise ValueError(f"{target.name}: bins are cut anew in each study")
    scaled, scaling = features.fit_scaling(train, covariates)
    span = rotate_table(scaled)
    if not len(span.eigenvalues):
        raise ValueError(f"{features.name}: no feature varies")
    together, labels = None if groups is None else groups[train], target.values[train]
    if target.is_class:
        n_classes = len(target.classes)
        fit, penalty = fit_classes(span, labels.astype(np.int64), n_classes, together, seed=seed)
        shares = np.bincount(labels.astype(np.int64), minlength=n_classes) / len(train)
    else:
        (fit, penalty), shares = fit_values(span, labels, together, seed=seed), np.zeros(0)
    kept = np.argsort(span.eigenvalues)[::-1][:_N_AXES]
    return LinearPredictor(
        scaling=scaling,
        weights=span.test @ fit.coefficients,
        intercepts=fit.intercepts,
        axes=span.test[:, kept],
        deviation=np.sqrt(span.eigenvalues[kept] / len(train)),
        shares=shares,
        penalty=penalty,
    )


def predict_at_home(
    features: TableFeatures,
    target: Target,
    splits: Sequence[Split],
    *,
    covariates: Floats | None = None,
    groups: NDArray[Any] | None = None,
    seed: int = 0,
) -> tuple[Indices, Floats, Floats]:
    """Predict the rows tested in the first repetition of `splits` by predictors of the other folds: rows (N,), scores
    and positions as of `LinearPredictor.predict`."""
    found, first = [], min(split.repetition for split in splits)
    for split in (one for one in splits if one.repetition == first):
        train = np.sort(np.concatenate([split.train, split.validation]))
        model = fit_predictor(features, target, train, covariates=covariates, groups=groups, seed=seed + first)
        own = None if covariates is None else covariates[split.test]
        found.append((split.test, *model.predict(features.values[split.test], own)))
    rows, scores, positions = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return rows, scores, positions
