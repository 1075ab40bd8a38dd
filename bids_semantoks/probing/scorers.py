"""Metrics as functions of row weights, so that a bootstrap takes a few matrix products.
Shape letters: n rows, K classes, B weightings."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.probing.predictions import Predictions
from bids_semantoks.probing.targets import Floats

Scorer = Callable[[Floats], Floats]
CLASS_METRICS = ("balanced_accuracy", "auroc", "calibration_error")
VALUE_METRICS = ("r", "r2", "mae", "r_pooled", "calibration_slope")


def build_scorer(predictions: Predictions, metric: str) -> Scorer:
    """Prepare one of `CLASS_METRICS` or `VALUE_METRICS`: weights (B, n) -> scores (B,), NaN where a class is absent.

    ``auroc`` and ``r`` compare rows of the same test fold only. Pooled over folds both fall below chance on noise,
    because a fold whose mean is high is predicted from a training part whose mean is low.
    """
    builders = {
        "balanced_accuracy": _build_balanced_accuracy,
        "auroc": _build_auroc,
        "calibration_error": _build_calibration_error,
        "r": lambda p: _build_moments(p, p.fold, _correlate),
        "r_pooled": lambda p: _build_moments(p, np.minimum(p.fold, 0), _correlate),
        "calibration_slope": lambda p: _build_moments(p, p.fold, _regress),
        "r2": _build_r2,
        "mae": _build_mae,
    }
    return builders[metric](predictions)


def _divide(numerator: Floats, denominator: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(denominator > 0, numerator / denominator, np.nan))


def _build_balanced_accuracy(predictions: Predictions) -> Scorer:
    classes = np.arange(len(predictions.classes))[:, None, None]
    member = (predictions.truth == classes).sum(axis=1).astype(np.float64)  # (K, n)
    hit = ((predictions.truth == classes) & (predictions.decisions == classes)).sum(axis=1).astype(np.float64)

    def score(weights: Floats) -> Floats:
        recalls = _divide(weights @ hit.T, weights @ member.T)
        n_known = (~np.isnan(recalls)).sum(axis=1)
        return _divide(np.nansum(recalls, axis=1), n_known * (n_known >= 2))

    return score


def _build_auroc(predictions: Predictions) -> Scorer:
    """Share of pairs, one of the class and one of the rest in the same test fold, that are in the right order."""
    n_classes = len(predictions.classes)
    pairs = [_count_pairs(predictions, k) for k in (range(n_classes) if n_classes > 2 else (1,))]

    def score(weights: Floats) -> Floats:
        values = [_divide(_weigh(weights, right), _weigh(weights, every)) for right, every in pairs]
        known = ~np.isnan(values)
        return _divide(np.nansum(values, axis=0), known.sum(axis=0))

    return score


def _weigh(weights: Floats, pairs: Floats) -> Floats:
    return np.asarray(((weights @ pairs) * weights).sum(axis=1))


def _count_pairs(predictions: Predictions, k: int) -> tuple[Floats, Floats]:
    n_rows = predictions.fold.shape[1]
    right, every = np.zeros((n_rows, n_rows)), np.zeros((n_rows, n_rows))
    for fold, truth, scores in zip(predictions.fold, predictions.truth, predictions.scores[:, :, k], strict=True):
        for number in np.unique(fold[fold >= 0]):
            inside = np.flatnonzero(fold == number)
            members, others = inside[truth[inside] == k], inside[truth[inside] != k]
            first, second = scores[members][:, None], scores[others]
            right[np.ix_(members, others)] += (first > second) + 0.5 * (first == second)
            every[np.ix_(members, others)] += 1
    return right, every


def _build_calibration_error(predictions: Predictions, n_bins: int = 10) -> Scorer:
    """Expected calibration error: mean gap between confidence and hits over ten bins of equal size."""
    tested = predictions.fold >= 0
    confidence = np.where(tested, predictions.scores.max(axis=2), np.nan)
    hit = (predictions.scores.argmax(axis=2) == predictions.truth).astype(np.float64)
    edges = np.unique(np.quantile(confidence[tested], np.arange(1, n_bins) / n_bins))
    bins = np.where(tested, np.searchsorted(edges, confidence, side="right"), -1)
    gaps = np.where(tested, confidence - hit, 0.0)
    gap = np.stack([np.where(bins == number, gaps, 0).sum(axis=0) for number in range(len(edges) + 1)])
    n_tests = tested.sum(axis=0).astype(np.float64)
    return lambda weights: _divide(np.abs(weights @ gap.T).sum(axis=1), weights @ n_tests)


def _build_moments(predictions: Predictions, parts: NDArray[np.int64], finish: Callable[[Floats], Floats]) -> Scorer:
    """Sum squares and products about the mean of each part, then finish each repetition."""

    def score(weights: Floats) -> Floats:
        values = []
        for part, truth, decisions in zip(parts, predictions.truth, predictions.decisions, strict=True):
            total = np.zeros((3, len(weights)))
            for number in np.unique(part[part >= 0]):
                rows = np.flatnonzero(part == number)
                total += _sum_products(weights[:, rows], truth[rows], decisions[rows])
            values.append(finish(total))
        known = ~np.isnan(values)
        return _divide(np.nansum(values, axis=0), known.sum(axis=0))

    return score


def _sum_products(weights: Floats, truth: Floats, predicted: Floats) -> Floats:
    truth, predicted = truth - truth.mean(), predicted - predicted.mean()
    columns = np.stack([np.ones_like(truth), truth, predicted, truth**2, predicted**2, truth * predicted], axis=1)
    size, sum_t, sum_p, sum_tt, sum_pp, sum_tp = (weights @ columns).T
    size = np.maximum(size, 1e-300)
    return np.stack([sum_tt - sum_t**2 / size, sum_pp - sum_p**2 / size, sum_tp - sum_t * sum_p / size])


def _correlate(total: Floats) -> Floats:
    """Correlation; 0 where predictions do not vary, since they say nothing."""
    truth, predicted, both = total
    r = _divide(both, np.sqrt(np.maximum(truth * predicted, 0)))
    return np.asarray(np.where(predicted <= 1e-12 * truth, np.where(truth > 0, 0.0, np.nan), r))


def _regress(total: Floats) -> Floats:
    """Slope of truth over prediction: 1 is calibrated, less is overconfident.
    NaN where predictions vary by less than a hundredth of the truth: the slope would be arbitrary."""
    truth, predicted, both = total
    return np.asarray(np.where(predicted <= 1e-4 * truth, np.nan, _divide(both, predicted)))


def _build_r2(predictions: Predictions) -> Scorer:
    error = np.nan_to_num((predictions.truth - predictions.decisions) ** 2)
    base = np.nan_to_num((predictions.truth - predictions.reference) ** 2)

    def score(weights: Floats) -> Floats:
        return np.asarray(np.mean(1 - _divide(weights @ error.T, weights @ base.T), axis=1))

    return score


def _build_mae(predictions: Predictions) -> Scorer:
    error = np.nan_to_num(np.abs(predictions.truth - predictions.decisions)).sum(axis=0)
    n_tests = (predictions.fold >= 0).sum(axis=0).astype(np.float64)
    return lambda weights: _divide(weights @ error, weights @ n_tests)
