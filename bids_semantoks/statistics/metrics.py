"""Scores of out-of-fold predictions with intervals; each is the mean over repetitions of the score within one. Shape
letters: n rows, R repetitions, F folds, B bootstrap samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from bids_semantoks.records import Bools, Floats, Indices, Labels
from bids_semantoks.statistics.class_metrics import (
    Scorer,
    average,
    build_accuracy,
    build_auroc,
    build_average_precision,
    build_balanced_accuracy,
    build_brier_score,
    build_calibration_error,
    build_macro_f1,
    divide,
)
from bids_semantoks.statistics.predictions import ARRAYS, Predictions

#: Range of each metric, to which intervals are clipped.
RANGES = {
    **{"r2": (-np.inf, 1.0), "mae": (0.0, np.inf), "r": (-1.0, 1.0), "r_pooled": (-1.0, 1.0)},
    **{"brier_score": (0.0, 2.0), "calibration_slope": (-np.inf, np.inf)},
}

CLASS_METRICS = ("balanced_accuracy", "auroc", "average_precision", "brier_score", "macro_f1", "calibration_error")
VALUE_METRICS = ("r", "r2", "mae", "r_pooled", "calibration_slope")
_MOST_POINTS = 401
_MOST_WEIGHTS = 20_000_000  # cells of a table of weights that is held at once: 160 MB


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """One metric of one model on one phenotype."""

    model: str
    target: str
    metric: str
    value: float  # mean over repetitions; NaN where it cannot be computed
    ci_low: float  # 95 % interval
    ci_high: float
    bound: float  # one-sided 95 % lower bound, as strict as the one-sided permutation test
    chance: float  # score of a model without features; NaN where that means nothing
    n_rows: int  # rows tested


def compute_scores(
    predictions: Predictions,
    *,
    participants: Labels | None = None,
    n_bootstrap: int = 2000,
    seed: int = 0,
    metrics: Sequence[str] = (),
) -> tuple[Score, ...]:
    """Score predictions by `metrics`, by default all of their kind, with 95 % bootstrap intervals.

    Participants (n,), by default rows, are drawn with replacement while predictions are held fixed. Intervals are
    then widened by sqrt(1 + n / n_train): models of different folds share most training rows, so errors of all rows
    move together (the correction of Nadeau and Bengio, Machine Learning 52, 2003, for one round of folds). This
    is conservative for large effects.
    """
    widening = np.sqrt(1 + predictions.tested.sum() / np.nanmean(predictions.n_train))
    names = metrics or (CLASS_METRICS if predictions.classes else VALUE_METRICS)
    scorers = {metric: build_scorer(predictions, metric) for metric in names}
    blocks = iterate_weights(predictions.tested, participants, n_bootstrap=n_bootstrap, seed=seed)
    parts = [[scorer(weights) for scorer in scorers.values()] for weights in blocks]
    samples = [np.concatenate(own) for own in zip(*parts, strict=True)]
    scores = []
    for (metric, scorer), drawn in zip(scorers.items(), samples, strict=True):
        value = float(scorer(np.ones((1, predictions.fold.shape[1])))[0])
        sample = drawn[~np.isnan(drawn)]
        low, bound, high = np.quantile(sample, (0.025, 0.05, 0.975)) if len(sample) else (np.nan,) * 3
        if low == high and metric in ("auroc", "balanced_accuracy") and value in (0.0, 1.0):
            low, high = bound_equal(value, (0.0, 1.0), _count_smallest_class(predictions, participants))
            bound = low
        if metric in ("r", "r_pooled") and abs(value) > 1 - 1e-9 and high - low < 1e-9:
            # Two participants always have a correlation of 1 or -1.
            low, high = bound_equal(np.sign(value), (-1.0, 1.0), _count_units(predictions.tested, participants))
            bound = low
        # Repeated rows inflate calibration errors, so that all bootstrap samples may exceed the estimate.
        low, high = np.fmin(low, value), np.fmax(high, value)
        bound = np.clip(bound, low, value)
        floor, ceiling = RANGES.get(metric, (0.0, 1.0))
        scores.append(
            Score(
                model=predictions.model,
                target=predictions.target,
                metric=metric,
                value=value,
                ci_low=float(np.clip(value + widening * (low - value), floor, ceiling)),
                ci_high=float(np.clip(value + widening * (high - value), floor, ceiling)),
                bound=float(np.clip(value + widening * (bound - value), floor, ceiling)),
                chance=compute_chance(predictions, metric),
                n_rows=int(predictions.tested.sum()),
            )
        )
    return tuple(scores)


def _count_units(inside: Bools, participants: Labels | None) -> int:
    """Count the participants (n,), by default rows, inside."""
    return int(inside.sum()) if participants is None else len(np.unique(participants[inside]))


def _count_smallest_class(predictions: Predictions, participants: Labels | None) -> int:
    """Count the members of the smallest class, the fewest that the pairs of an AUROC hold."""
    members = [(predictions.truth == k).any(axis=0) for k in range(len(predictions.classes))]
    return max(min(_count_units(inside, participants) for inside in members), 1)


def draw_weights(tested: Bools, participants: Labels | None, *, n_bootstrap: int, seed: int) -> Floats:
    """Draw participants (n,) with replacement among tested rows: how often each row was drawn, (B, n)."""
    return np.concatenate(list(iterate_weights(tested, participants, n_bootstrap=n_bootstrap, seed=seed)))


def iterate_weights(tested: Bools, participants: Labels | None, *, n_bootstrap: int, seed: int) -> Iterator[Floats]:
    """Draw as `draw_weights`, yielding as many samples at a time as memory has room for: up to 10,000 rows all."""
    rows = np.flatnonzero(tested)
    units = np.arange(len(rows)) if participants is None else np.unique(participants[rows], return_inverse=True)[1]
    n_units = int(units.max()) + 1
    rng, step = np.random.default_rng(seed), max(1, _MOST_WEIGHTS // len(tested))
    for start in range(0, n_bootstrap, step):
        n_drawn = min(step, n_bootstrap - start)
        counts = rng.multinomial(n_units, np.full(n_units, 1 / n_units), size=n_drawn)
        weights = np.zeros((n_drawn, len(tested)))
        weights[:, rows] = counts[:, units.ravel()]
        yield weights


def compute_chance(predictions: Predictions, metric: str) -> float:
    """Compute the score of a model without features on the same folds; NaN for measures of calibration. It knows the
    shares of classes (accuracy, average precision, Brier score) or guesses all classes with equal probability (macro
    F1)."""
    known = {"auroc": 0.5, "r": 0.0, "r2": 0.0, "r_pooled": 0.0}
    if metric == "mae":
        return float(np.nanmean(np.abs(predictions.truth - predictions.reference)))
    n_classes = len(predictions.classes)
    if not n_classes:
        return known.get(metric, np.nan)
    shares = np.array([(predictions.truth == k).sum() for k in range(n_classes)]) / (predictions.fold >= 0).sum()
    known |= {
        "accuracy": float(shares.max()),
        "balanced_accuracy": 1 / n_classes,
        "average_precision": float(shares[1] if n_classes == 2 else shares.mean()),
        "brier_score": float((shares * (1 - shares)).sum() / (2 if n_classes == 2 else 1)),
        "macro_f1": float((2 * shares / n_classes / (shares + 1 / n_classes)).mean()),
    }
    return known.get(metric, np.nan)


def compute_fold_scores(predictions: Predictions, metric: str) -> Floats:
    """Score each fold on its own for paired comparisons: (R, F), mean over seeds; NaN where it has no score."""
    n_folds = predictions.n_train.shape[1]
    scores = np.empty(predictions.n_train.shape)
    for repetition in range(len(scores)):
        one = select_repetitions(predictions, slice(repetition, repetition + 1))
        scores[repetition] = build_scorer(one, metric)((one.fold[0] == np.arange(n_folds)[:, None]).astype(np.float64))
    scores = np.where(np.isnan(predictions.n_train), np.nan, scores)
    return np.asarray(scores.reshape(predictions.n_seeds, -1, n_folds).mean(axis=0))


def compute_seed_scores(predictions: Predictions, metric: str) -> Floats:
    """Score each encoder of `stack_seeds` on its own: (n_seeds,), mean over repetitions."""
    n, everyone = predictions.n_repeats, np.ones((1, len(predictions.tested)))
    seeds = [select_repetitions(predictions, slice(i * n, (i + 1) * n)) for i in range(predictions.n_seeds)]
    return np.array([float(build_scorer(one, metric)(everyone)[0]) for one in seeds])


def select_repetitions(predictions: Predictions, part: slice) -> Predictions:
    """Select some repetitions as predictions of one encoder."""
    arrays = {name: getattr(predictions, name)[part] for name in ARRAYS}
    return dataclasses.replace(predictions, n_seeds=1, warnings=(), **arrays)


def build_scorer(predictions: Predictions, metric: str) -> Scorer:
    """Prepare one of `CLASS_METRICS` or `VALUE_METRICS`: weights (B, n) -> scores (B,), NaN where a class is absent.
    ``auroc`` and ``r`` compare rows of the same test fold only. Pooled over folds both fall below chance on noise,
    because a fold whose mean is high is predicted from a training part whose mean is low."""
    builders = {
        "accuracy": build_accuracy,
        "balanced_accuracy": build_balanced_accuracy,
        "auroc": build_auroc,
        "average_precision": build_average_precision,
        "brier_score": build_brier_score,
        "macro_f1": build_macro_f1,
        "calibration_error": build_calibration_error,
        "r": lambda p: _build_moments(p, p.fold, _correlate),
        "r_pooled": lambda p: _build_moments(p, np.minimum(p.fold, 0), _correlate),
        "calibration_slope": lambda p: _build_moments(p, p.fold, _regress),
        "r2": _build_r2,
        "mae": _build_mae,
    }
    return builders[metric](predictions)


def _build_moments(predictions: Predictions, parts: Indices, finish: Callable[[Floats], Floats]) -> Scorer:
    """Sum squares and products about the mean of each part, then finish each repetition."""

    def score(weights: Floats) -> Floats:
        values = []
        for part, truth, decisions in zip(parts, predictions.truth, predictions.decisions, strict=True):
            total = np.zeros((3, len(weights)))
            for number in np.unique(part[part >= 0]):
                rows = np.flatnonzero(part == number)
                total += _sum_products(weights[:, rows], truth[rows], decisions[rows])
            values.append(finish(total))
        return average(values)

    return score


def _sum_products(weights: Floats, truth: Floats, predicted: Floats) -> Floats:
    truth, predicted = truth - truth.mean(), predicted - predicted.mean()
    columns = np.stack([np.ones_like(truth), truth, predicted, truth**2, predicted**2, truth * predicted], axis=1)
    size, sum_t, sum_p, sum_tt, sum_pp, sum_tp = (weights @ columns).T
    size = np.maximum(size, 1e-300)
    return np.stack([sum_tt - sum_t**2 / size, sum_pp - sum_p**2 / size, sum_tp - sum_t * sum_p / size])


def _correlate(total: Floats) -> Floats:
    """Correlation; 0 if predictions do not vary, since they carry no information."""
    truth, predicted, both = total
    r = divide(both, np.sqrt(np.maximum(truth * predicted, 0)))
    return np.asarray(np.where(predicted <= 1e-12 * truth, np.where(truth > 0, 0.0, np.nan), r))


def _regress(total: Floats) -> Floats:
    """Slope of truth over prediction: 1 is calibrated, less is overconfident. NaN where predictions vary by less than a
    hundredth of the truth: the slope would be arbitrary."""
    truth, predicted, both = total
    return np.asarray(np.where(predicted <= 1e-4 * truth, np.nan, divide(both, predicted)))


def _build_r2(predictions: Predictions) -> Scorer:
    error = np.nan_to_num((predictions.truth - predictions.decisions) ** 2)
    base = np.nan_to_num((predictions.truth - predictions.reference) ** 2)

    def score(weights: Floats) -> Floats:
        return np.asarray(np.mean(1 - divide(weights @ error.T, weights @ base.T), axis=1))

    return score


def _build_mae(predictions: Predictions) -> Scorer:
    error = np.nan_to_num(np.abs(predictions.truth - predictions.decisions)).sum(axis=0)
    n_tests = (predictions.fold >= 0).sum(axis=0).astype(np.float64)
    return lambda weights: divide(weights @ error, weights @ n_tests)


def count_decisions(predictions: Predictions) -> Floats:
    """Compute the confusion matrix, true by predicted class: (K, K), mean over repetitions."""
    tested = predictions.fold >= 0
    counts = np.zeros((len(predictions.classes), len(predictions.classes)))
    np.add.at(counts, (predictions.truth[tested].astype(int), predictions.decisions[tested].astype(int)), 1)
    return np.asarray(counts / len(predictions.fold))


def compute_roc(predictions: Predictions) -> tuple[Floats, Floats]:
    """Compute the ROC curve of the second of two classes: false and true positive rate, each ascending from 0 to 1.
    Each member is ranked among the others of its test fold and weighted by its pairs, so the area below the steps is
    the AUROC. Pooled over folds, the curve of noise would fall below chance: a fold rich in a class is predicted from a
    training part poor in it. Returns one point each where no fold holds both classes."""
    places, weights = [np.zeros(0)], [np.zeros(0)]
    for fold, truth, scores in zip(predictions.fold, predictions.truth, predictions.scores[:, :, 1], strict=True):
        for number in np.unique(fold[fold >= 0]):
            inside = fold == number
            members, others = scores[inside & (truth == 1)], np.sort(scores[inside & (truth == 0)])
            if len(others):
                below, upto = (np.searchsorted(others, members, side) for side in ("left", "right"))
                places.append((len(others) - 0.5 * (below + upto)) / len(others))
                weights.append(np.full(len(members), float(len(others))))
    place, weight = np.concatenate(places), np.concatenate(weights)
    if not len(place):
        return np.zeros(1), np.zeros(1)
    false = np.unique(np.concatenate([[0.0, 1.0], place]))
    if len(false) > _MOST_POINTS:
        false = np.linspace(0, 1, _MOST_POINTS)
    order = np.argsort(place)
    below = np.concatenate([[0.0], np.cumsum(weight[order])])
    return false, below[np.searchsorted(place[order], false, side="right")] / below[-1]


@dataclass(frozen=True, kw_only=True, slots=True)
class MeanScore:
    """Mean score over participants."""

    value: float  # NaN without participants
    ci_low: float  # 95 % interval; NaN for fewer than two participants
    ci_high: float
    p_value: float  # two-sided, against the reference; NaN for fewer than two participants
    n: int  # participants


def score_participants(predictions: Predictions, participants: Labels, metric: str) -> Floats:
    """Score the rows of each tested participant separately, sorted by label; NaN where the metric is undefined."""
    rows = np.flatnonzero(predictions.tested)
    labels, codes = np.unique(participants[rows], return_inverse=True)
    scorer, step = build_scorer(predictions, metric), max(1, _MOST_WEIGHTS // len(participants))
    found = []
    for start in range(0, len(labels), step):
        own = (codes >= start) & (codes < start + step)
        weights = np.zeros((min(step, len(labels) - start), len(participants)))
        weights[codes[own] - start, rows[own]] = 1.0
        found.append(scorer(weights))
    return np.concatenate(found) if found else np.zeros(0)


def average_participants(
    scores: Floats, *, reference: float, widening: float = 1.0, limits: tuple[float, float] = (-np.inf, np.inf)
) -> MeanScore:
    """Average one score per participant, skipping NaN, and test the mean against `reference` by Student's t.

    `widening` multiplies the standard error: models share most training rows, for which sqrt(1 + n_test_all /
    n_train) corrects with one round of folds (Nadeau and Bengio, Machine Learning 52, 2003). Where all scores are
    equal, p is that of a sign test and, at one of the scale's `limits`, the interval is exact (Clopper and Pearson,
    Biometrika 26, 1934). Intervals are cut to `limits`.
    """
    known = scores[~np.isnan(scores)]
    n = len(known)
    value = float(known.mean()) if n else np.nan
    if n < 2:
        return MeanScore(value=value, ci_low=np.nan, ci_high=np.nan, p_value=np.nan, n=n)
    error = widening * float(known.std(ddof=1)) / np.sqrt(n)
    if error == 0:
        low, high = bound_equal(value, limits, n)
        p_value = 1.0 if value == reference else min(1.0, 2 * 0.5**n)
        return MeanScore(value=value, ci_low=low, ci_high=high, p_value=p_value, n=n)
    reach = error * float(student.ppf(0.975, n - 1))
    p_value = float(2 * student.sf(abs(value - reference) / error, n - 1))
    low, high = max(value - reach, limits[0]), min(value + reach, limits[1])
    return MeanScore(value=value, ci_low=low, ci_high=high, p_value=p_value, n=n)


def bound_equal(value: float, limits: tuple[float, float], n: int) -> tuple[float, float]:
    """Bound a score that all n participants or bootstrap samples share: exactly at one of the limits of its scale
    (Clopper and Pearson, Biometrika 26, 1934), else by itself."""
    first, last = limits
    if value == last:
        return first + (last - first) * 0.025 ** (1 / n), last
    if value == first:
        return first, last - (last - first) * 0.025 ** (1 / n)
    return value, value


def name_main_metric(*, is_class: bool) -> str:
    """Return the metric by which models are ordered and compared."""
    return "auroc" if is_class else "r"
