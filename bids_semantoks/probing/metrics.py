"""Scores of out-of-fold predictions with intervals; each is the mean over repetitions of the score within one.
Shape letters: n rows, R repetitions, F folds, B bootstrap samples."""

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
    """One metric of one model on one phenotype."""

    model: str
    target: str
    metric: str
    value: float  # mean over repetitions; NaN where it cannot be computed
    ci_low: float  # 95 % interval
    ci_high: float
    chance: float  # score of a model without features; NaN where that means nothing
    n_rows: int  # rows tested


def compute_scores(
    predictions: Predictions,
    *,
    participants: NDArray[Any] | None = None,
    n_bootstrap: int = 2000,
    seed: int = 0,
    metrics: Sequence[str] = (),
) -> tuple[Score, ...]:
    """Score predictions by `metrics`, by default all of their kind, with 95 % bootstrap intervals.

    Participants (n,), by default rows, are drawn with replacement while predictions are held fixed. Intervals are then
    widened by sqrt(1 + n / n_train): models of different folds share most training rows, so errors of all rows move
    together (the correction of Nadeau and Bengio, Machine Learning 52, 2003, for one round of folds). This errs on the
    wide side for large effects.
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
    """Bound a share of 0 or 1, constant in all bootstrap samples, exactly (Clopper and Pearson, Biometrika 26, 1934).
    Counts the members of the smallest class, the fewest that the pairs of an AUROC hold."""
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
    """Draw participants (n,) with replacement among tested rows: how often each row was drawn, (B, n)."""
    rows = np.flatnonzero(tested)
    units = np.arange(len(rows)) if participants is None else np.unique(participants[rows], return_inverse=True)[1]
    n_units = int(units.max()) + 1
    counts = np.random.default_rng(seed).multinomial(n_units, np.full(n_units, 1 / n_units), size=n_bootstrap)
    weights = np.zeros((n_bootstrap, len(tested)))
    weights[:, rows] = counts[:, units.ravel()]
    return weights


def compute_chance(predictions: Predictions, metric: str) -> float:
    """Compute the score of a model without features on the same folds; NaN for measures of calibration."""
    known = {"balanced_accuracy": 1 / max(len(predictions.classes), 1), "auroc": 0.5, "r": 0.0, "r2": 0.0}
    if metric == "mae":
        return float(np.nanmean(np.abs(predictions.truth - predictions.reference)))
    return known.get(metric, 0.0 if metric == "r_pooled" else np.nan)


def compute_fold_scores(predictions: Predictions, metric: str) -> Floats:
    """Score each fold on its own for paired comparisons: (R, F), mean over seeds; NaN where it has no score."""
    n_repeats, n_folds = predictions.n_train.shape
    scores = np.full((n_repeats, n_folds), np.nan)
    for repetition in range(n_repeats):
        one = select_repetitions(predictions, slice(repetition, repetition + 1))
        folds = np.arange(n_folds)
        scores[repetition] = build_scorer(one, metric)((one.fold[0] == folds[:, None]).astype(np.float64))
    scores = np.where(np.isnan(predictions.n_train), np.nan, scores)
    return np.asarray(scores.reshape(predictions.n_seeds, -1, n_folds).mean(axis=0))


def compute_seed_scores(predictions: Predictions, metric: str) -> Floats:
    """Score each encoder of `stack_seeds` on its own: (n_seeds,), mean over repetitions."""
    n_repeats, n_rows = predictions.n_repeats, len(predictions.tested)
    scores = []
    for seed in range(predictions.n_seeds):
        one = select_repetitions(predictions, slice(seed * n_repeats, (seed + 1) * n_repeats))
        scores.append(float(build_scorer(one, metric)(np.ones((1, n_rows)))[0]))
    return np.array(scores)


def select_repetitions(predictions: Predictions, part: slice) -> Predictions:
    """Select some repetitions as predictions of one encoder."""
    names = ("fold", "truth", "scores", "decisions", "reference", "n_train", "penalty")
    return dataclasses.replace(
        predictions, n_seeds=1, warnings=(), **{name: getattr(predictions, name)[part] for name in names}
    )
