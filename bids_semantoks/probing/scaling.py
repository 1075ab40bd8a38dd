"""How scores grow with the number of participants that an encoder was pretrained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student


@dataclass(frozen=True, kw_only=True, slots=True)
class LogFit:
    """A line through gains over the logarithm of participants.

    Parameters
    ----------
    slope, ci_low, ci_high : float
        Gain for ten times the participants, and its 95 % interval; NaN where it cannot be computed.
    intercept : float
        Gain at one participant.
    n_points : int
        Encoders.
    """

    slope: float
    ci_low: float
    ci_high: float
    intercept: float
    n_points: int


def fit_log_line(n_participants: NDArray[np.floating | np.integer], gains: NDArray[np.float64]) -> LogFit:
    """Fit gain = intercept + slope * log10(participants) by least squares.

    The interval is that of Student's t over encoders. All are probed on the same people, so it says how sure the slope
    is for these people, not for others.

    Parameters
    ----------
    n_participants : NDArray, shape (n,)
        On which each encoder was pretrained.
    gains : NDArray, float64, shape (n,)
        Score over that of random weights; NaN are left out.

    Returns
    -------
    LogFit
        Without a slope where there are not two different numbers, without an interval where there are not 3 points.
    """
    known = ~np.isnan(gains)
    x, y = np.log10(np.asarray(n_participants, dtype=np.float64)[known]), gains[known]
    n = len(x)
    if n < 2 or np.ptp(x) == 0:
        return LogFit(slope=np.nan, ci_low=np.nan, ci_high=np.nan, intercept=np.nan, n_points=n)
    centred = x - x.mean()
    power = float((centred**2).sum())
    slope = float(centred @ y / power)
    intercept = float(y.mean() - slope * x.mean())
    reach = np.nan
    if n > 2:
        residual = y - intercept - slope * x
        error = np.sqrt(float((residual**2).sum()) / (n - 2) / power)
        reach = float(error * student.ppf(0.975, n - 2))
    return LogFit(slope=slope, ci_low=slope - reach, ci_high=slope + reach, intercept=intercept, n_points=n)


def choose_share(participants: list[str], n_chosen: int, *, seed: int) -> frozenset[str]:
    """Choose participants so that, for one seed, smaller choices lie in larger ones.

    Parameters
    ----------
    participants : list of str
        Labels.
    n_chosen : int
        How many.
    seed : int
        Of the order they are taken in.

    Returns
    -------
    frozenset of str
        Labels.
    """
    order = np.random.default_rng(seed).permutation(len(participants))
    labels = sorted(participants)
    return frozenset(labels[i] for i in order[:n_chosen])
