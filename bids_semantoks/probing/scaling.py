"""How scores grow with the number of participants that an encoder was pretrained on.

Shape letters: n encoders, m rows, B bootstrap samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from bids_semantoks.probing.metrics import draw_weights
from bids_semantoks.probing.person_scores import average_participants
from bids_semantoks.probing.predictions import Predictions
from bids_semantoks.probing.scorers import build_scorer
from bids_semantoks.probing.targets import Floats

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Gain:
    """What one pretrained encoder has over the random weights that its training started from.

    Parameters
    ----------
    value, value_random : float
        Scores of both, on the same people and folds.
    sample : NDArray, float64, shape (B,)
        Gains when participants are drawn with replacement, widened as intervals of scores are; NaN where a draw lacks
        what the metric needs.
    """

    value: float
    value_random: float
    sample: Floats

    @property
    def gain(self) -> float:
        """Difference of the scores."""
        return self.value - self.value_random

    @property
    def interval(self) -> Interval:
        """95 % interval of the gain over participants."""
        return _cut_interval(self.sample)


@dataclass(frozen=True, kw_only=True, slots=True)
class MeanGain:
    """Gains of encoders of several seeds on one share.

    Parameters
    ----------
    gain : float
        Mean.
    over_participants : tuple of float
        95 % interval for other participants tested, the encoders held fixed.
    over_seeds : tuple of float
        95 % interval for other seeds, the participants held fixed; NaN for one seed.
    n : int
        Encoders.
    """

    gain: float
    over_participants: Interval
    over_seeds: Interval
    n: int


def _cut_interval(sample: Floats) -> Interval:
    known = sample[~np.isnan(sample)]
    if not len(known):
        return np.nan, np.nan
    low, high = np.quantile(known, (0.025, 0.975))
    return float(low), float(high)


def compute_gain(
    trained: Predictions,
    untrained: Predictions,
    metric: str,
    *,
    participants: NDArray[Any] | None = None,
    n_bootstrap: int = 2000,
    seed: int = 0,
) -> Gain:
    """Compare a pretrained encoder with random weights on the same participants.

    Both are scored on the same draws of participants, so that what makes a draw easy or hard for both cancels.

    Parameters
    ----------
    trained, untrained : Predictions
        Of the same folds.
    metric : str
        Name.
    participants : NDArray, shape (m,), optional
        Rows of one participant are drawn together; by default each row is one.
    n_bootstrap : int
        Samples.
    seed : int
        Of the drawing; the same for gains that are averaged.

    Returns
    -------
    Gain
        With its distribution over participants.
    """
    weights = draw_weights(trained.tested, participants, n_bootstrap=n_bootstrap, seed=seed)
    widening = np.sqrt(1 + trained.tested.sum() / np.nanmean(trained.n_train))
    everyone = np.ones((1, weights.shape[1]))
    scorers = [build_scorer(one, metric) for one in (trained, untrained)]
    value, value_random = (float(scorer(everyone)[0]) for scorer in scorers)
    drawn = scorers[0](weights) - scorers[1](weights)
    gain = value - value_random
    return Gain(value=value, value_random=value_random, sample=np.asarray(gain + widening * (drawn - gain)))


def average_gains(gains: Sequence[Gain]) -> MeanGain:
    """Average the gains of several seeds.

    Parameters
    ----------
    gains : sequence of Gain
        Of the same participants, draws and share.

    Returns
    -------
    MeanGain
        With one interval for people and one for seeds.
    """
    mean = average_participants(np.array([one.gain for one in gains]), reference=0.0)
    return MeanGain(
        gain=mean.value,
        over_participants=_cut_interval(np.mean([one.sample for one in gains], axis=0)),
        over_seeds=(mean.ci_low, mean.ci_high),
        n=len(gains),
    )


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


def fit_log_line(
    n_participants: NDArray[np.floating | np.integer], gains: NDArray[np.float64], seeds: NDArray[np.integer]
) -> LogFit:
    """Fit gain = level of the seed + slope * log10(participants) by least squares.

    Encoders of one seed start from the same weights, have the same baseline, and smaller shares of theirs lie in larger
    ones: what they have in common is a level of that seed. The interval is that of Student's t with a degree of freedom
    less for each seed. All encoders are probed on the same people, so it says how sure the slope is for these people,
    not for others.

    Parameters
    ----------
    n_participants : NDArray, shape (n,)
        On which each encoder was pretrained.
    gains : NDArray, float64, shape (n,)
        Score over that of random weights of the same seed; NaN are left out.
    seeds : NDArray, shape (n,)
        Of each encoder.

    Returns
    -------
    LogFit
        Without a slope where no seed has two different numbers, without an interval where nothing is left to judge by.
    """
    known = ~np.isnan(gains)
    x, y, own = np.log10(np.asarray(n_participants, dtype=np.float64)[known]), gains[known], seeds[known]
    n, levels = len(x), np.unique(own)
    member = (own == levels[:, None]).astype(np.float64)
    counts = member.sum(axis=1)
    centred_x, centred_y = (values - (member @ values / counts) @ member for values in (x, y))
    power = float(centred_x @ centred_x)
    if power < 1e-12:
        return LogFit(slope=np.nan, ci_low=np.nan, ci_high=np.nan, intercept=np.nan, n_points=n)
    slope = float(centred_x @ centred_y / power)
    n_free, reach = n - len(levels) - 1, np.nan
    if n_free > 0:
        residual = centred_y - slope * centred_x
        error = np.sqrt(float(residual @ residual) / n_free / power)
        reach = float(error * student.ppf(0.975, n_free))
    intercept = float(y.mean() - slope * x.mean())
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
