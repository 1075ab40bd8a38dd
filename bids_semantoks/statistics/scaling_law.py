"""Growth of scores with the number of participants an encoder was pretrained on. Shape letters:
n encoders, m rows, B bootstrap samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from bids_semantoks.records import Floats, Labels
from bids_semantoks.statistics.metrics import average_participants, build_scorer, draw_weights
from bids_semantoks.statistics.predictions import Predictions

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Gain:
    """Gain of a pretrained encoder over the random weights that its training started from."""

    value: float  # value and value_random are scores on the same participants and folds
    value_random: float
    sample: Floats  # (B,) gains for resampled participants, widened as intervals are; NaN where a draw lacks a class

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
    """Mean gain of encoders of several seeds on one share."""

    gain: float
    over_participants: Interval  # 95 % interval with the encoders held fixed
    over_seeds: Interval  # 95 % interval with the participants held fixed; NaN for one seed
    n: int  # encoders


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
    participants: Labels | None = None,
    n_bootstrap: int = 2000,
    seed: int = 0,
) -> Gain:
    """Compare a pretrained encoder with random weights on the same draws of participants (m,) or, by default, rows.
    What makes a draw easy or hard for both cancels. Gains to be averaged need the same `seed`."""
    weights = draw_weights(trained.tested, participants, n_bootstrap=n_bootstrap, seed=seed)
    widening = np.sqrt(1 + trained.tested.sum() / np.nanmean(trained.n_train))
    everyone = np.ones((1, weights.shape[1]))
    scorers = [build_scorer(one, metric) for one in (trained, untrained)]
    value, value_random = (float(scorer(everyone)[0]) for scorer in scorers)
    drawn = scorers[0](weights) - scorers[1](weights)
    gain = value - value_random
    return Gain(value=value, value_random=value_random, sample=np.asarray(gain + widening * (drawn - gain)))


def average_gains(gains: Sequence[Gain]) -> MeanGain:
    """Average the gains of several seeds for the same participants, draws and share."""
    mean = average_participants(np.array([one.gain for one in gains]), reference=0.0)
    return MeanGain(
        gain=mean.value,
        over_participants=_cut_interval(np.mean([one.sample for one in gains], axis=0)),
        over_seeds=(mean.ci_low, mean.ci_high),
        n=len(gains),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class LogFit:
    """Line through gains over the logarithm of participants."""

    slope: float  # gain for ten times the participants; NaN where undefined
    ci_low: float  # 95 % interval of the slope; NaN where undefined
    ci_high: float
    intercept: float  # gain at one participant
    n_points: int  # encoders


def fit_log_line(
    n_participants: NDArray[np.floating | np.integer], gains: Floats, seeds: NDArray[np.integer]
) -> LogFit:
    """Fit gain = level of the seed + slope * log10(participants) by least squares; arguments (n,), NaN gains skipped.
    Encoders of one seed share initial weights, baseline and nested shares, hence a level and one degree of freedom less
    in the t interval for each seed. All encoders are probed on the same participants: the interval does not generalise
    to others. No slope if no seed has two different numbers, no interval without degrees of freedom."""
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
    """Choose participants so that, for one seed, smaller choices are subsets of larger ones."""
    order = np.random.default_rng(seed).permutation(len(participants))
    labels = sorted(participants)
    return frozenset(labels[i] for i in order[:n_chosen])
