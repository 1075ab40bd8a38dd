"""Scorers of classes: weights of rows to scores. Shape letters: n rows, K classes, B bootstrap samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from bids_semantoks.records import Floats, Indices
from bids_semantoks.statistics.predictions import Predictions

#: Weights (B, n) -> scores (B,), NaN where a class is absent.
Scorer = Callable[[Floats], Floats]

_MOST_CELLS = 2_000_000


def divide(numerator: Floats, denominator: Floats) -> Floats:
    """Divide; NaN where the denominator is not above 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(denominator > 0, numerator / denominator, np.nan))


def average(values: Sequence[Floats]) -> Floats:
    """Average scores (B,) over repetitions and classes, skipping NaN."""
    known = ~np.isnan(values)
    return divide(np.nansum(values, axis=0), known.sum(axis=0))


def build_balanced_accuracy(predictions: Predictions) -> Scorer:
    """Mean over classes of the share of members decided for their class."""
    classes = np.arange(len(predictions.classes))[:, None, None]
    member = predictions.truth == classes  # (K, R, n)
    hit = member & (predictions.decisions == classes)
    tested = predictions.fold >= 0
    # Repetitions that test the same rows can be counted together, which is faster.
    is_same = bool((tested == tested[0]).all())
    parts = [slice(None)] if is_same else [slice(number, number + 1) for number in range(len(tested))]
    counts = [(hit[:, part].sum(axis=1) * 1.0, member[:, part].sum(axis=1) * 1.0) for part in parts]

    def score(weights: Floats) -> Floats:
        """Score samples of rows, weights (B, n) -> (B,)."""
        values = []
        for hits, members in counts:
            recalls = divide(weights @ hits.T, weights @ members.T)
            n_known = (~np.isnan(recalls)).sum(axis=1)
            values.append(divide(np.nansum(recalls, axis=1), n_known * (n_known >= 2)))
        return average(values)

    return score


def build_accuracy(predictions: Predictions) -> Scorer:
    """Share of decisions that are right, mean over repetitions."""
    right = (predictions.truth == predictions.decisions).astype(np.float64)
    tested = (predictions.fold >= 0).astype(np.float64)
    return lambda weights: average(
        [divide(weights @ one, weights @ every) for one, every in zip(right, tested, strict=True)]
    )


def build_auroc(predictions: Predictions) -> Scorer:
    """Share of pairs, one of the class and one of the rest in the same test fold, that are in the right order."""
    n_classes = len(predictions.classes)
    ranked = [_rank_members(predictions, k) for k in (range(n_classes) if n_classes > 2 else (1,))]

    def score(weights: Floats) -> Floats:
        """Score samples of rows, weights (B, n) -> (B,)."""
        columns = np.ascontiguousarray(weights.T)
        return average([divide(*_sum_pairs(columns, folds)) for folds in ranked])

    return score


_RankedFold = tuple[Indices, Indices, Indices, Indices]


def _rank_members(predictions: Predictions, k: int) -> list[_RankedFold]:
    """Rank the members of class k in each test fold among the others there: rows of the members, rows of the others by
    ascending score, how many of these score below each member, and how many no higher."""
    found = []
    for fold, truth, scores in zip(predictions.fold, predictions.truth, predictions.scores[:, :, k], strict=True):
        for number in np.unique(fold[fold >= 0]):
            inside = np.flatnonzero(fold == number)
            members, others = inside[truth[inside] == k], inside[truth[inside] != k]
            others = others[np.argsort(scores[others], kind="stable")]
            below, upto = (np.searchsorted(scores[others], scores[members], side) for side in ("left", "right"))
            found.append((members, others, below, upto))
    return found


def _sum_pairs(columns: Floats, folds: Sequence[_RankedFold]) -> tuple[Floats, Floats]:
    """Sum the weights (n, B) of pairs in the right order, ties by half, and of all pairs: (B,) each. Cumulative weights
    take B n steps, where a table of pairs would take B n^2."""
    right, every = np.zeros(columns.shape[1]), np.zeros(columns.shape[1])
    for members, others, below, upto in folds:
        total = np.zeros((len(others) + 1, columns.shape[1]))
        np.cumsum(columns[others], axis=0, out=total[1:])
        own = columns[members]
        right += 0.5 * (np.einsum("mb,mb->b", own, total[below]) + np.einsum("mb,mb->b", own, total[upto]))
        every += own.sum(axis=0) * total[-1]
    return right, every


def build_calibration_error(predictions: Predictions, n_bins: int = 10) -> Scorer:
    """Expected calibration error: mean gap between confidence and hits over ten bins of equal size."""
    tested = predictions.fold >= 0
    confidence = np.where(tested, predictions.scores.max(axis=2), np.nan)
    hit = (predictions.scores.argmax(axis=2) == predictions.truth).astype(np.float64)
    edges = np.unique(np.quantile(confidence[tested], np.arange(1, n_bins) / n_bins))
    bins = np.where(tested, np.searchsorted(edges, confidence, side="right"), -1)
    gaps = np.where(tested, confidence - hit, 0.0)
    gap = np.stack([np.where(bins == number, gaps, 0).sum(axis=0) for number in range(len(edges) + 1)])
    n_tests = tested.sum(axis=0).astype(np.float64)
    return lambda weights: divide(np.abs(weights @ gap.T).sum(axis=1), weights @ n_tests)


def compute_calibration(predictions: Predictions, n_bins: int = 10) -> tuple[Floats, Floats, Indices]:
    """Compute mean predicted probability, observed share and number of predictions (bins,), in bins of equal size, of
    the second of two classes, or of the most probable of several."""
    tested = predictions.fold >= 0
    if len(predictions.classes) == 2:
        predicted, hit = predictions.scores[:, :, 1][tested], predictions.truth[tested] == 1
    else:
        scores = predictions.scores[tested]
        predicted, hit = scores.max(axis=1), scores.argmax(axis=1) == predictions.truth[tested]
    edges = np.unique(np.quantile(predicted, np.arange(1, n_bins) / n_bins))
    bins = np.searchsorted(edges, predicted, side="right")
    counts = np.bincount(bins, minlength=len(edges) + 1)
    sums = [np.bincount(bins, weights=values, minlength=len(counts)) for values in (predicted, hit.astype(np.float64))]
    known = counts > 0
    return sums[0][known] / counts[known], sums[1][known] / counts[known], counts[known]


def build_average_precision(predictions: Predictions) -> Scorer:
    """Average precision of the second of two classes, or the mean over several, each against the rest. Rows of all test
    folds are ranked together within a repetition: within small folds it exceeds the prevalence by chance."""
    n_classes = len(predictions.classes)
    shown = range(n_classes) if n_classes > 2 else (1,)
    ranked = [_rank(predictions, repetition, k) for repetition in range(len(predictions.fold)) for k in shown]

    def score(weights: Floats) -> Floats:
        """Score samples of rows, weights (B, n) -> (B,)."""
        step = max(1, _MOST_CELLS // weights.shape[1])
        parts = [weights[start : start + step] for start in range(0, len(weights), step)]
        return np.concatenate([average([_compute_precision(part, *one) for one in ranked]) for part in parts])

    return score


def _rank(predictions: Predictions, repetition: int, k: int) -> tuple[Indices, Indices, Floats]:
    """Sort tested rows by falling score: rows, last place among those of the same score, membership of class k."""
    rows = np.flatnonzero(predictions.fold[repetition] >= 0)
    scores = -predictions.scores[repetition, rows, k]
    order = np.argsort(scores, kind="stable")
    last = np.searchsorted(scores[order], scores[order], side="right") - 1
    return rows[order], last, (predictions.truth[repetition, rows[order]] == k).astype(np.float64)


def _compute_precision(weights: Floats, rows: Indices, last: Indices, member: Floats) -> Floats:
    every = weights[:, rows]
    hits = every * member
    precision = divide(np.cumsum(hits, axis=1)[:, last], np.cumsum(every, axis=1)[:, last])
    # Rows before the first that was drawn have weight 0 and no precision.
    return divide((hits * np.nan_to_num(precision)).sum(axis=1), hits.sum(axis=1))


def build_brier_score(predictions: Predictions) -> Scorer:
    """Mean squared error of the probability of the second of two classes, or summed over several classes."""
    n_classes = len(predictions.classes)
    member = (predictions.truth[:, :, None] == np.arange(n_classes)).astype(np.float64)
    squared = np.nan_to_num((predictions.scores - member) ** 2).sum(axis=2) / (2 if n_classes == 2 else 1)
    error, n_tests = squared.sum(axis=0), (predictions.fold >= 0).sum(axis=0).astype(np.float64)
    return lambda weights: divide(weights @ error, weights @ n_tests)


def build_macro_f1(predictions: Predictions) -> Scorer:
    """Mean over classes of the harmonic mean of precision and recall, of the decisions of each repetition."""
    classes = np.arange(len(predictions.classes))[:, None]

    def score(weights: Floats) -> Floats:
        """Score samples of rows, weights (B, n) -> (B,)."""
        values = []
        for truth, decisions in zip(predictions.truth, predictions.decisions, strict=True):
            member, decided = (truth == classes).astype(np.float64), (decisions == classes).astype(np.float64)
            n_member, n_decided, hit = (weights @ one.T for one in (member, decided, member * decided))
            # A class without members or decisions in the sample has no score.
            f1 = divide(2 * hit, n_member + n_decided)
            known = n_member > 0
            n_known = known.sum(axis=1)
            values.append(divide(np.where(known, f1, 0).sum(axis=1), n_known * (n_known >= 2)))
        return average(values)

    return score
