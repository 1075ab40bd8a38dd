"""Scores of out-of-fold predictions, with intervals that know how little independent data there is.

Every score is the mean over repetitions of a score within a repetition: what one model does, not what an average of
ten does.

Shape letters: n rows, R repetitions, K classes, B bootstrap samples.

References
----------
.. [1] C. Nadeau and Y. Bengio, Inference for the generalization error, Machine Learning 52 (2003).
.. [2] C. Clopper and E. Pearson, The use of confidence or fiducial limits illustrated in the case of the binomial,
   Biometrika 26 (1934).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.probing.predictions import Predictions
from bids_semantoks.probing.scorers import CLASS_METRICS, VALUE_METRICS, build_scorer
from bids_semantoks.probing.targets import Floats

#: What intervals are cut to.
RANGES = {"r2": (-np.inf, 1.0), "mae": (0.0, np.inf), "r": (-1.0, 1.0), "r_pooled": (-1.0, 1.0)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """One number about one model and one phenotype.

    Parameters
    ----------
    model, target, metric : str
        What was scored, and how.
    value : float
        Mean over repetitions; NaN where it cannot be computed.
    ci_low, ci_high : float
        95 % interval.
    chance : float
        What a model without features gets; NaN where that means nothing.
    n_rows : int
        Rows that were tested.
    """

    model: str
    target: str
    metric: str
    value: float
    ci_low: float
    ci_high: float
    chance: float
    n_rows: int


def compute_scores(
    predictions: Predictions,
    *,
    participants: NDArray[Any] | None = None,
    n_bootstrap: int = 2000,
    seed: int = 0,
    metrics: Sequence[str] = (),
) -> tuple[Score, ...]:
    """Score predictions by all metrics of their kind.

    Intervals come from drawing participants with replacement, their predictions held fixed, and are then widened by
    sqrt(1 + n / n_train): models of different folds share most of their training rows, so that errors of all rows move
    together. This is the correction of [1]_ for one round of folds. It errs on the side of too wide where the effect is
    large.

    Parameters
    ----------
    predictions : Predictions
        Of one model.
    participants : NDArray, shape (n,), optional
        Rows of one participant are drawn together; by default each row is one.
    n_bootstrap : int
        Samples.
    seed : int
        Of the drawing.
    metrics : sequence of str
        Only these.

    Returns
    -------
    tuple of Score
        In the order of `metrics`, by default of `CLASS_METRICS` or `VALUE_METRICS`.
    """
    weights = draw_weights(predictions.tested, participants, n_bootstrap=n_bootstrap, seed=seed)
    widening = np.sqrt(1 + predictions.tested.sum() / np.nanmean(predictions.n_train))
    scores = []
    for metric in metrics or (CLASS_METRICS if predictions.classes else VALUE_METRICS):
        scorer = build_scorer(predictions, metric)
        value = float(scorer(np.ones((1, predictions.fold.shape[1])))[0])
        sample = scorer(weights)
        sample = sample[~np.isnan(sample)]
        low, high = np.quantile(sample, (0.025, 0.975)) if len(sample) else (np.nan, np.nan)
        if low == high and metric in ("auroc", "balanced_accuracy") and value in (0.0, 1.0):
            low, high = _bound_extreme(predictions, value, participants)
        if metric in ("r", "r_pooled") and abs(value) > 1 - 1e-9 and high - low < 1e-9:
            low, high = _bound_line(predictions, value, participants)
        # Drawing some twice makes calibration look worse than it is, so that all samples may lie above the value.
        low, high = np.fmin(low, value), np.fmax(high, value)
        floor, ceiling = RANGES.get(metric, (-np.inf, np.inf) if metric == "calibration_slope" else (0.0, 1.0))
        scores.append(
            Score(
                model=predictions.model,
                target=predictions.target,
                metric=metric,
                value=value,
                ci_low=float(np.clip(value + widening * (low - value), floor, ceiling)),
                ci_high=float(np.clip(value + widening * (high - value), floor, ceiling)),
                chance=compute_chance(predictions, metric),
                n_rows=int(predictions.tested.sum()),
            )
        )
    return tuple(scores)


def _bound_extreme(predictions: Predictions, value: float, participants: NDArray[Any] | None) -> tuple[float, float]:
    """Exact interval of a share of 0 or 1 [2]_, of which no bootstrap sample can differ.

    Counts the members of the smallest class, which is the least that the pairs of an AUROC hold.
    """
    units = np.arange(predictions.truth.shape[1]) if participants is None else participants
    counts = [len(np.unique(units[(predictions.truth == k).any(axis=0)])) for k in range(len(predictions.classes))]
    reach = 0.025 ** (1 / max(min(counts), 1))
    return (reach, 1.0) if value else (0.0, 1 - reach)


def _bound_line(predictions: Predictions, value: float, participants: NDArray[Any] | None) -> tuple[float, float]:
    """Bound a correlation of 1 or -1, which two people always have, as a share of 0 or 1 on the scale of -1 to 1."""
    units = np.arange(predictions.truth.shape[1]) if participants is None else participants
    reach = 2 * 0.025 ** (1 / len(np.unique(units[predictions.tested]))) - 1
    return (reach, 1.0) if value > 0 else (-1.0, -reach)


def draw_weights(
    tested: NDArray[np.bool_], participants: NDArray[Any] | None, *, n_bootstrap: int, seed: int
) -> Floats:
    """Draw participants with replacement.

    Parameters
    ----------
    tested : NDArray, bool, shape (n,)
        Rows that can be drawn.
    participants : NDArray, shape (n,) or None
        Rows that are drawn together.
    n_bootstrap : int
        Samples.
    seed : int
        Of the drawing.

    Returns
    -------
    NDArray, float64, shape (B, n)
        How often each row was drawn.
    """
    rows = np.flatnonzero(tested)
    units = np.arange(len(rows)) if participants is None else np.unique(participants[rows], return_inverse=True)[1]
    n_units = int(units.max()) + 1
    counts = np.random.default_rng(seed).multinomial(n_units, np.full(n_units, 1 / n_units), size=n_bootstrap)
    weights = np.zeros((n_bootstrap, len(tested)))
    weights[:, rows] = counts[:, units.ravel()]
    return weights


def compute_chance(predictions: Predictions, metric: str) -> float:
    """Score of a model without features on the same folds.

    Parameters
    ----------
    predictions : Predictions
        Where the folds are.
    metric : str
        Name.

    Returns
    -------
    float
        NaN for measures of calibration.
    """
    known = {"balanced_accuracy": 1 / max(len(predictions.classes), 1), "auroc": 0.5, "r": 0.0, "r2": 0.0}
    if metric == "mae":
        return float(np.nanmean(np.abs(predictions.truth - predictions.reference)))
    return known.get(metric, 0.0 if metric == "r_pooled" else np.nan)


def compute_fold_scores(predictions: Predictions, metric: str) -> Floats:
    """Score each fold on its own, for paired comparisons.

    Parameters
    ----------
    predictions : Predictions
        What is scored.
    metric : str
        Name.

    Returns
    -------
    NDArray, float64, shape (R, F)
        Mean over encoders of other seeds; NaN where there is no such fold or it lacks what the metric needs.
    """
    n_repeats, n_folds = predictions.n_train.shape
    scores = np.full((n_repeats, n_folds), np.nan)
    for repetition in range(n_repeats):
        one = select_repetitions(predictions, slice(repetition, repetition + 1))
        folds = np.arange(n_folds)
        scores[repetition] = build_scorer(one, metric)((one.fold[0] == folds[:, None]).astype(np.float64))
    scores = np.where(np.isnan(predictions.n_train), np.nan, scores)
    return np.asarray(scores.reshape(predictions.n_seeds, -1, n_folds).mean(axis=0))


def compute_seed_scores(predictions: Predictions, metric: str) -> Floats:
    """Score each encoder on its own.

    Parameters
    ----------
    predictions : Predictions
        From `stack_seeds`.
    metric : str
        Name.

    Returns
    -------
    NDArray, float64, shape (n_seeds,)
        Mean over repetitions.
    """
    n_repeats, n_rows = predictions.n_repeats, len(predictions.tested)
    scores = []
    for seed in range(predictions.n_seeds):
        one = select_repetitions(predictions, slice(seed * n_repeats, (seed + 1) * n_repeats))
        scores.append(float(build_scorer(one, metric)(np.ones((1, n_rows)))[0]))
    return np.array(scores)


def select_repetitions(predictions: Predictions, part: slice) -> Predictions:
    """Cut some repetitions out.

    Parameters
    ----------
    predictions : Predictions
        All repetitions.
    part : slice
        Which.

    Returns
    -------
    Predictions
        Of one encoder.
    """
    names = ("fold", "truth", "scores", "decisions", "reference", "n_train", "penalty")
    return dataclasses.replace(
        predictions, n_seeds=1, warnings=(), **{name: getattr(predictions, name)[part] for name in names}
    )
