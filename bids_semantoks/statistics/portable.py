"""Linear predictors that leave their study: the fit of the nested protocol in terms of the features, intervals and sets
from its out-of-fold predictions, tests of whether people elsewhere are like those at home, and a correction by some of
them. Shape letters: n rows or people, N people at home, d features, c covariates, K classes, m outputs (1 of values and
two classes, else K), k axes, q positions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import gamma, mannwhitneyu, t

from bids_semantoks.errors import InputError
from bids_semantoks.records import Floats, Indices
from bids_semantoks.statistics.baselines import CONNECTIVITY
from bids_semantoks.statistics.linear import fit_classes, fit_values
from bids_semantoks.statistics.predictions import Target, compute_probabilities
from bids_semantoks.statistics.spans import (
    KernelFeatures,
    Scaling,
    TableFeatures,
    TangentFeatures,
    compute_gram,
    fit_scaling,
    project_tangent,
    rotate_table,
)
from bids_semantoks.statistics.splits import Split

#: Main axes of the features that a predictor keeps to judge how unusual people are.
_N_AXES: Final = 10

#: Share of people whose true value the intervals and sets are to hold.
LEVEL: Final = 0.9

#: Chance that any of the tests of a study calls people different who are not. The distances of people at home come from
#: models of fewer people, so that the share is larger: a few percent in simulations (benchmarks/bench_predictor.py).
SHIFT_ALPHA: Final = 0.02

#: Share of the squared length of features that lies beside axes by rounding alone: few features lie on them.
_ROUNDING: Final = 1e-12

_WAYS: Final = ("none", "intercept", "both")
_N_FOLDS: Final = 10


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CorrelationFeatures(KernelFeatures):
    """Correlations with their inner products."""

    values: Floats  # (n, d)


#: Features whose rows can be computed at another place.
CarriedFeatures = TableFeatures | CorrelationFeatures | TangentFeatures


def build_features(model: str, values: NDArray[np.floating[Any]]) -> CarriedFeatures:
    """Build the features of a model of group_probe.tsv from its rows (n, d): those of `compute_connectivity_rows`, or a
    table."""
    if model == "tangent":
        return TangentFeatures(name=model, packed=np.asarray(values, dtype=np.float32))
    if model in CONNECTIVITY:
        return CorrelationFeatures(name=model, kernel=compute_gram(values), values=np.asarray(values, np.float64))
    return TableFeatures(name=model, values=values)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LinearPredictor:
    """A linear model of features, and the main axes of the rows it was fitted to."""

    reference: Floats  # (P, k) of a tangent space, whose features are covariances; else (0, 0)
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
        scaled = self._scale(values, covariates)
        outputs = scaled @ self.weights + self.intercepts
        along = scaled @ self.axes
        within = np.sqrt(((along / self.deviation) ** 2).mean(axis=1))
        size = (scaled**2).sum(axis=1)
        rest = size - (along**2).sum(axis=1)
        rest = np.sqrt(np.where(rest > _ROUNDING * size, rest, 0.0))
        positions = np.column_stack([outputs, within, rest])
        return (compute_probabilities(outputs) if len(self.shares) else outputs), positions

    def _scale(self, values: NDArray[np.floating[Any]], covariates: Floats | None) -> Floats:
        return self.scaling.apply(
            project_tangent(values, self.reference) if self.reference.size else values, covariates
        )

    def compare_means(
        self, values: NDArray[np.floating[Any]], covariates: Floats | None, n_home: int, classes: Sequence[str] = ()
    ) -> dict[str, float]:
        """Test whether the mean of features (n, d) is that of the N people the model was fitted to: along the main
        axes, besides them, and in the directions that predict. p values by what was compared."""
        scaled = self._scale(values, covariates)
        along = scaled @ self.axes
        besides = scaled - along @ self.axes.T
        if (besides**2).sum() <= _ROUNDING * (scaled**2).sum():
            besides[:] = 0.0
        found = {
            "mean of the features along their main axes": compare_means(along / self.deviation, n_home),
            "mean of the features besides their main axes": compare_means(besides, n_home),
        }
        # By one model: those of folds at home have other intercepts, and predict with another spread.
        outputs, n = scaled @ self.weights, len(scaled)
        errors = outputs.std(axis=0, ddof=1) * np.sqrt(1 / n + 1 / n_home) if n > 1 else np.zeros(outputs.shape[1])
        for column, (mean, error) in enumerate(zip(outputs.mean(axis=0), errors, strict=True)):
            name = f"predictions of {classes[column]}" if len(classes) > 2 else "predictions"
            found[f"level of {name}"] = float(2 * t.sf(abs(mean) / error, n - 1)) if error > 0 else 1.0
        return found

    def decide(self, scores: Floats) -> Indices:
        """Decide for the class (n,) with the highest probability (n, K) relative to its share, as the probes do."""
        return np.asarray((scores / self.shares).argmax(axis=1))


def fit_predictor(
    features: CarriedFeatures,
    target: Target,
    train: Indices,
    *,
    covariates: Floats | None = None,
    groups: NDArray[Any] | None = None,
    seed: int = 0,
) -> LinearPredictor:
    """Fit the model of the nested protocol to the sorted `train` rows of features, target, covariates (n, c) and
    `groups` (n,). Raises InputError if no feature varies, ValueError if the target has bins."""
    if target.n_bins:
        raise ValueError(f"{target.name}: bins are cut anew in each study")
    own, reference = None if covariates is None else covariates[train], np.zeros((0, 0))
    if isinstance(features, TableFeatures):
        scaled = np.asarray(features.values[train], dtype=np.float64)
        scaling = fit_scaling(scaled, own)
        span = rotate_table(scaled)
        axes = span.test
    else:
        span = features.compute_span(train, train[:0], covariates)
        if isinstance(features, TangentFeatures):
            reference = features.fit_reference(train)
            scaled = project_tangent(features.packed[train], reference)
        else:
            scaled = np.asarray(features.values[train], dtype=np.float64)
        scaling = fit_scaling(scaled, own, scales=False)
        axes = scaled.T @ (span.train / span.eigenvalues)
    if not len(span.eigenvalues):
        raise InputError(
            f"--save-predictor cannot fit {target.name} by {features.name}: no feature varies.",
            hint="All other results are complete; save another model.",
        )
    together, labels = None if groups is None else groups[train], target.values[train]
    if target.is_class:
        n_classes = len(target.classes)
        fit, penalty = fit_classes(span, labels.astype(np.int64), n_classes, together, seed=seed)
        shares = np.bincount(labels.astype(np.int64), minlength=n_classes) / len(train)
    else:
        (fit, penalty), shares = fit_values(span, labels, together, seed=seed), np.zeros(0)
    kept = np.argsort(span.eigenvalues)[::-1][:_N_AXES]
    return LinearPredictor(
        reference=reference,
        scaling=scaling,
        weights=axes @ fit.coefficients,
        intercepts=fit.intercepts,
        axes=axes[:, kept],
        deviation=np.sqrt(span.eigenvalues[kept] / len(train)),
        shares=shares,
        penalty=penalty,
    )


def predict_at_home(
    features: CarriedFeatures,
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
    values = features.packed if isinstance(features, TangentFeatures) else features.values
    for split in (one for one in splits if one.repetition == first):
        train = np.sort(np.concatenate([split.train, split.validation]))
        model = fit_predictor(features, target, train, covariates=covariates, groups=groups, seed=seed + first)
        own = None if covariates is None else covariates[split.test]
        found.append((split.test, *model.predict(values[split.test], own)))
    rows, scores, positions = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return rows, scores, positions


def find_quantile(scores: Floats, level: float = LEVEL) -> float:
    """Find the ceil((N + 1) level)-th smallest of scores (N,); infinite where there are too few.

    With scores of out-of-fold predictions this is the cross-conformal predictor of Vovk (Annals of Mathematics and
    Artificial Intelligence 74, 2015): marginal, for exchangeable people, without a guarantee for finite samples.
    """
    place = math.ceil((len(scores) + 1) * level - 1e-9)
    return float(np.sort(scores)[place - 1]) if 1 <= place <= len(scores) else math.inf


def choose_sets(probabilities: Floats, home: Floats, truth: Indices, level: float = LEVEL) -> NDArray[np.bool_]:
    """Choose the classes (n, K) whose probability is as high as those of true classes (N,) at home (N, K); the most
    probable one is always in the set."""
    limit = find_quantile(1 - home[np.arange(len(home)), truth], level)
    is_best = probabilities == probabilities.max(axis=1, keepdims=True)
    return np.asarray((1 - probabilities <= limit) | is_best)


def compute_excess(n_outside: int, n: int, n_home: int) -> float:
    """Compute the chance that at least `n_outside` of n people lie beyond all of N at home on one side, if all are
    exchangeable: exact, since it is that of the highest ranks being theirs."""
    ranks = np.arange(n_outside)
    return float(np.prod((n - ranks) / (n + n_home - ranks)))


def compare_positions(home: Floats, abroad: Floats) -> dict[str, float]:
    """Compare the distances of positions (N, m + 2) and (n, m + 2) by rank-sum tests: p values by what was compared."""
    pairs = zip(("within", "from"), home.T[-2:], abroad.T[-2:], strict=True)
    return {
        f"distance {way} the main axes of the features": float(mannwhitneyu(own, other, method="asymptotic").pvalue)
        for way, own, other in pairs
    }


def compare_means(values: Floats, n_home: int) -> float:
    """Test whether the mean of features (n, d) is 0, that of N people at home in the same units: the p value.

    The squared length of the mean is held against what chance adds, with variances and their squares estimated without
    bias as by Bai and Saranadasa (Statistica Sinica 6, 1996), and a gamma distribution of its mean and variance.
    """
    n, mean = len(values), values.mean(axis=0)
    centred = values - mean
    total = float((centred**2).sum() / (n - 1)) if n > 2 else 0.0
    if total <= 0:
        return 1.0
    products = centred @ centred.T if n < centred.shape[1] else centred.T @ centred
    squares = float(((products / (n - 1)) ** 2).sum())
    squares = (n - 1) ** 2 / ((n + 1) * (n - 2)) * max(squares - total**2 / (n - 1), 1e-12 * total**2)
    share = 1 / n + 1 / n_home
    return float(gamma.sf(mean @ mean / share, total**2 / squares / 2, scale=2 * squares / total))


def find_shifts(p_values: Mapping[str, float]) -> list[str]:
    """List what differs between places, at a joint chance of `SHIFT_ALPHA` of any mistake (Bonferroni)."""
    return [name for name, p_value in p_values.items() if p_value < SHIFT_ALPHA / len(p_values)]


def recalibrate(truth: Floats, scores: Floats, *, is_class: bool, seed: int = 0) -> tuple[tuple[float, float], Floats]:
    """Correct intercept and slope by k labelled people: truth (k,), and predicted values or log odds of the second of
    two classes (k,).

    In inner folds it is chosen whether neither, only the intercept, or both are corrected. Returns intercept and slope
    fitted to all, and nested corrected scores (k,) of people whom neither choice nor fit has seen.
    """
    nested, fold_of = np.empty(len(truth)), _draw_folds(len(truth), seed)
    for fold in np.unique(fold_of):
        train, test = fold_of != fold, fold_of == fold
        intercept, slope = _fit_best(truth[train], scores[train], is_class=is_class, seed=seed)
        nested[test] = intercept + slope * scores[test]
    return _fit_best(truth, scores, is_class=is_class, seed=seed), nested


def _draw_folds(n: int, seed: int) -> Indices:
    return np.asarray(np.random.default_rng(seed).permutation(n) % min(n, _N_FOLDS))


def _fit_best(truth: Floats, scores: Floats, *, is_class: bool, seed: int) -> tuple[float, float]:
    fold_of, losses = _draw_folds(len(truth), seed), []
    for way in _WAYS:
        loss = 0.0
        for fold in np.unique(fold_of):
            train, test = fold_of != fold, fold_of == fold
            intercept, slope = _fit_way(way, truth[train], scores[train], is_class=is_class)
            loss += compute_loss(truth[test], intercept + slope * scores[test], is_class=is_class) * test.sum()
        losses.append(loss)
    return _fit_way(_WAYS[int(np.argmin(losses))], truth, scores, is_class=is_class)


def compute_loss(truth: Floats, scores: Floats, *, is_class: bool) -> float:
    """Average the log loss of log odds, or the squared error of values."""
    return float((np.logaddexp(0, scores) - truth * scores if is_class else (truth - scores) ** 2).mean())


def _fit_way(way: str, truth: Floats, scores: Floats, *, is_class: bool) -> tuple[float, float]:
    """Fit intercept and slope; those of log odds are drawn to 0 and 1 by a penalty as strong as one person."""
    if way == "none":
        return 0.0, 1.0
    if not is_class:
        if way == "intercept" or np.ptp(scores) == 0:
            return float((truth - scores).mean()), 1.0
        slope = float(np.cov(truth, scores, bias=True)[0, 1] / scores.var())
        return float(truth.mean() - slope * scores.mean()), slope
    n_free = 1 if way == "intercept" else 2

    def penalise(change: Floats) -> tuple[float, Floats]:
        logits = change[0] + (1 + (change[1] if n_free == 2 else 0.0)) * scores
        error = expit(logits) - truth
        slopes = np.array([error.sum(), (error * scores).sum()])[:n_free]
        loss = compute_loss(truth, logits, is_class=True) * len(truth)
        return loss + float(change @ change) / 2, slopes + change

    change = np.append(minimize(penalise, np.zeros(n_free), jac=True, method="BFGS").x, 0.0)
    return float(change[0]), 1.0 + float(change[1])
