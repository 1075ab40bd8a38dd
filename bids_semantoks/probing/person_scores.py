"""Scores of each participant who gave many rows, and what their spread says about the mean.

References
----------
.. [1] C. Nadeau and Y. Bengio, Inference for the generalization error, Machine Learning 52 (2003).
.. [2] C. Clopper and E. Pearson, The use of confidence or fiducial limits illustrated in the case of the binomial,
   Biometrika 26 (1934).
"""

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
    """A mean over participants.

    Parameters
    ----------
    value, ci_low, ci_high : float
        Mean and its 95 % interval; NaN where there are not two participants.
    p_value : float
        Two-sided, against the reference; NaN as above.
    n : int
        Participants.
    """

    value: float
    ci_low: float
    ci_high: float
    p_value: float
    n: int


def score_participants(predictions: Predictions, participants: NDArray[Any], metric: str) -> Floats:
    """Score the rows of each participant on their own.

    Parameters
    ----------
    predictions : Predictions
        Of n rows.
    participants : NDArray, shape (n,)
        To whom a row belongs.
    metric : str
        Name of a metric.

    Returns
    -------
    NDArray, float64
        One score a participant who was tested, in the order of their labels; NaN where the metric has none.
    """
    tested = predictions.tested
    labels = np.unique(participants[tested])
    weights = ((participants == labels[:, None]) & tested).astype(np.float64)
    return build_scorer(predictions, metric)(weights)


def average_participants(
    scores: Floats, *, reference: float, widening: float = 1.0, limits: tuple[float, float] = (-np.inf, np.inf)
) -> MeanScore:
    """Average scores, and test the mean by Student's t over participants.

    Where all have the same score, which leaves Student's t nothing to judge by, p is that of a sign test; at a limit of
    the scale, the interval is the exact one of a share of 0 or 1 [2]_.

    Parameters
    ----------
    scores : NDArray, float64
        One a participant; NaN are left out.
    reference : float
        What the mean is tested against.
    widening : float
        Factor of the standard error. Models of different folds share most of their training rows, so that their errors
        move together: sqrt(1 + n_test_all / n_train) is the correction of [1]_ for one round of folds.
    limits : tuple of float
        Least and largest score that there can be, to which the interval is cut.

    Returns
    -------
    MeanScore
        NaN where nothing is left.
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
    """Bound a score that all n participants have."""
    first, last = limits
    if value == last:
        return first + (last - first) * 0.025 ** (1 / n), last
    if value == first:
        return first, last - (last - first) * 0.025 ** (1 / n)
    return value, value
