"""Scores of each participant who gave many rows, and tests of their mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from bids_semantoks.probing.predictions import Predictions
from bids_semantoks.probing.scorers import build_scorer
from bids_semantoks.probing.targets import Floats


@dataclass(frozen=True, kw_only=True, slots=True)
class MeanScore:
    """Mean score over participants."""

    value: float  # NaN without participants
    ci_low: float  # 95 % interval; NaN for fewer than two participants
    ci_high: float
    p_value: float  # two-sided, against the reference; NaN for fewer than two participants
    n: int  # participants


def score_participants(predictions: Predictions, participants: NDArray[Any], metric: str) -> Floats:
    """Score the rows of each tested participant separately, sorted by label; NaN where the metric is undefined."""
    tested = predictions.tested
    labels = np.unique(participants[tested])
    weights = ((participants == labels[:, None]) & tested).astype(np.float64)
    return build_scorer(predictions, metric)(weights)


def average_participants(
    scores: Floats, *, reference: float, widening: float = 1.0, limits: tuple[float, float] = (-np.inf, np.inf)
) -> MeanScore:
    """Average one score per participant, skipping NaN, and test the mean against `reference` by Student's t.

    `widening` multiplies the standard error: models share most training rows, for which sqrt(1 + n_test_all / n_train)
    corrects with one round of folds (Nadeau and Bengio, Machine Learning 52, 2003). Where all scores are equal, p is
    that of a sign test and, at one of the scale's `limits`, the interval is exact (Clopper and Pearson, Biometrika 26,
    1934). Intervals are cut to `limits`.
    """
    known = scores[~np.isnan(scores)]
    n = len(known)
    value = float(known.mean()) if n else np.nan
    if n < 2:
        return MeanScore(value=value, ci_low=np.nan, ci_high=np.nan, p_value=np.nan, n=n)
    error = widening * float(known.std(ddof=1)) / np.sqrt(n)
    if error == 0:
        low, high = _bound_equal(value, limits, n)
        p_value = 1.0 if value == reference else min(1.0, 2 * 0.5**n)
        return MeanScore(value=value, ci_low=low, ci_high=high, p_value=p_value, n=n)
    reach = error * float(student.ppf(0.975, n - 1))
    p_value = float(2 * student.sf(abs(value - reference) / error, n - 1))
    low, high = max(value - reach, limits[0]), min(value + reach, limits[1])
    return MeanScore(value=value, ci_low=low, ci_high=high, p_value=p_value, n=n)


def _bound_equal(value: float, limits: tuple[float, float], n: int) -> tuple[float, float]:
    """Bound a score that all n participants share."""
    first, last = limits
    if value == last:
        return first + (last - first) * 0.025 ** (1 / n), last
    if value == first:
        return first, last - (last - first) * 0.025 ** (1 / n)
    return value, value
