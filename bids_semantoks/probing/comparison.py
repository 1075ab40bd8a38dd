"""Tests of which of two models scores better on the same folds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from bids_semantoks.probing.metrics import compute_fold_scores
from bids_semantoks.probing.predictions import Predictions
from bids_semantoks.probing.targets import Floats


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Corrected resampled t test of two models on one phenotype."""

    target: str
    metric: str
    first: str
    second: str
    difference: float  # score of the first minus that of the second, mean over folds
    ci_low: float  # 95 % interval of the difference
    ci_high: float
    p_value: float  # two-sided, for one comparison
    n_folds: int  # folds in which both have a score


def compare_models(first: Predictions, second: Predictions, metric: str) -> Comparison:
    """Test whether two models score differently on the same folds (Nadeau and Bengio, Machine Learning 52, 2003).

    The variance of the mean over J folds is (1/J + n_test / n_train) times that of the differences, because training
    parts overlap. NaN with fewer than two scored folds; p = 1 where all differences are 0. ValueError for other folds.
    """
    folds = [one.fold[: one.n_repeats] for one in (first, second)]
    if first.target != second.target or not np.array_equal(folds[0], folds[1]):
        raise ValueError(f"{first.model} and {second.model} were not tested on the same folds of {first.target}")
    differences = compute_fold_scores(first, metric) - compute_fold_scores(second, metric)
    known = ~np.isnan(differences)
    values, n_folds = differences[known], int(known.sum())
    mean = float(values.mean()) if n_folds else np.nan
    if n_folds < 2:
        error, p_value, reach = np.nan, np.nan, np.nan
    else:
        error = float(np.sqrt((1 / n_folds + _compute_test_ratio(first)) * values.var(ddof=1)))
        p_value = float(2 * student.sf(abs(mean) / error, n_folds - 1)) if error > 0 else float(mean == 0)
        reach = error * float(student.ppf(0.975, n_folds - 1))
    return Comparison(
        target=first.target,
        metric=metric,
        first=first.model,
        second=second.model,
        difference=mean,
        ci_low=mean - reach,
        ci_high=mean + reach,
        p_value=p_value,
        n_folds=n_folds,
    )


def _compute_test_ratio(predictions: Predictions) -> float:
    """Average the ratio of test to training rows over folds."""
    n_repeats, n_folds = predictions.n_train.shape
    n_test = np.stack([(predictions.fold == fold).sum(axis=1) for fold in range(n_folds)], axis=1)
    assert n_test.shape == (n_repeats, n_folds)
    return float(np.nanmean(n_test / predictions.n_train))


def adjust_holm(p_values: Sequence[float]) -> Floats:
    """Adjust p values for the number of tests (Holm, Scand J Stat 6, 1979); NaN stays NaN and does not count."""
    values = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(values.shape, np.nan)
    order = np.argsort(values)[: int((~np.isnan(values)).sum())]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * factors), 1.0)
    return adjusted
