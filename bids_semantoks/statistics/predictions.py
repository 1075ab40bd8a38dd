"""Out-of-fold predictions: the records that models, scores and tables share. Shape letters: n rows, R
repetitions, F folds of a repetition, K classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit, softmax

from bids_semantoks.records import Bools, Floats, Indices
from bids_semantoks.statistics.splits import compute_strata

#: Arrays of `Predictions` with one entry for each repetition.
ARRAYS = ("fold", "truth", "scores", "decisions", "reference", "n_train", "penalty")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Target:
    """A phenotype as numbers."""

    name: str
    values: Floats  # (n,) index into `classes`, or value; NaN where missing
    classes: tuple[str, ...] = ()  # two or more names; empty for a continuous phenotype
    # classes of equal size to cut a continuous phenotype into at quantiles of the training rows; 0 for none
    n_bins: int = 0

    @property
    def is_class(self) -> bool:
        """Whether classes are predicted, either given ones or bins."""
        return bool(self.classes) or self.n_bins > 0

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the K predicted classes; of bins, their numbers from low to high."""
        return self.classes or tuple(f"bin{number}" for number in range(1, self.n_bins + 1))

    def compute_strata(self, *, n_folds: int = 5) -> Indices:
        """Compute strata (n,) for `build_splits`: classes, the requested bins, or bins with at least two rows per
        fold."""
        labels = self.compute_labels(~np.isnan(self.values))
        return compute_strata(labels, is_class=self.is_class, n_folds=n_folds)

    def compute_labels(self, train: Bools | Indices) -> Floats:
        """Compute the class index or value (n,) of all rows, bins cut at quantiles of the training rows."""
        if not self.n_bins:
            return self.values
        edges = np.quantile(self.values[train], np.arange(1, self.n_bins) / self.n_bins)
        labels = np.searchsorted(edges, self.values, side="right").astype(np.float64)
        return np.where(np.isnan(self.values), np.nan, labels)


def build_class_target(name: str, labels: Sequence[str | None]) -> Target:
    """Number classes in the order of their sorted names; None is missing."""
    classes = tuple(sorted({label for label in labels if label is not None}))
    values = np.array([np.nan if label is None else classes.index(label) for label in labels], dtype=np.float64)
    return Target(name=name, values=values, classes=classes)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DecisionValues:
    """What a classifier computes before probabilities: log odds, (m = 1) of the second of two classes, else of each."""

    values: Floats  # (R, n, m) of tested rows; NaN where not tested
    mean: Floats  # (R, F, m) over the fold's training rows; NaN where there is no such fold
    deviation: Floats  # (R, F, m) SD over the same
    shares: Floats  # (R, F, K) that decisions weigh probabilities by: of classes in the training rows, or 1
    is_softmax: bool = False  # whether several classes compete; else one-vs-rest


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Predictions:
    """Out-of-fold predictions of one model for one phenotype."""

    model: str
    target: str
    classes: tuple[str, ...]  # K names; empty for a continuous phenotype
    fold: Indices  # (R, n) in which a row was tested; -1 where it was not
    truth: Floats  # (R, n) class index or value; NaN where not tested; bins are cut anew in each fold
    scores: Floats  # (R, n, K or 1) class probabilities or predicted value; NaN where not tested
    decisions: Floats  # (R, n) class index decided for or predicted value; NaN where not tested
    reference: Floats  # (R, n) mean of the fold's training rows, the prediction without features; NaN for classes
    n_train: Floats  # (R, F) training rows; NaN where there is no such fold
    penalty: Floats  # (R, F) penalty or learning rate chosen; NaN where there is no such fold
    warnings: tuple[str, ...] = ()
    n_seeds: int = 1  # encoders whose repetitions on the same splits follow one another, see `stack_seeds`
    decision_values: DecisionValues | None = None  # of classes, before `stack_seeds`; None for values

    @property
    def n_repeats(self) -> int:
        """Repetitions of the cross-validation of each encoder."""
        return len(self.fold) // self.n_seeds

    @property
    def tested(self) -> Bools:
        """Rows (n,) tested at least once."""
        return np.asarray((self.fold >= 0).any(axis=0))

    def average(self) -> tuple[Floats, Floats, Indices]:
        """Average rows over repetitions: truth (n,), scores (n, K or 1), number of tests (n,) over all encoders. Truth
        is NaN where never tested; of bins the most frequent, the lowest of ties."""
        tests = self.fold >= 0
        n_tests = tests.sum(axis=0)
        total = np.where(tests[:, :, None], self.scores, 0).sum(axis=0)
        with np.errstate(invalid="ignore"):
            scores = total / n_tests[:, None]
        if self.classes:
            votes = np.stack([(self.truth == k).sum(axis=0) for k in range(len(self.classes))])
            truth = votes.argmax(axis=0).astype(np.float64)
        else:
            truth = np.where(tests, self.truth, -np.inf).max(axis=0)
        return np.where(n_tests > 0, truth, np.nan), scores, n_tests

    def decide(self) -> Floats:
        """Find the class (n,) decided for in most repetitions, of ties the one with the highest mean score; of values
        their mean. NaN where never tested."""
        _, scores, n_tests = self.average()
        if not self.classes:
            return scores[:, 0]
        votes = np.stack([(self.decisions == k).sum(axis=0) for k in range(len(self.classes))], axis=1)
        tied = np.where(votes == votes.max(axis=1, keepdims=True), scores, -1.0)
        return np.where(n_tests > 0, tied.argmax(axis=1), np.nan)


def stack_seeds(parts: Sequence[Predictions]) -> Predictions:
    """Stack predictions of several encoders as repetitions of one model, so that scores become means over encoders.
    Raises ValueError if the splits differ."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if any(one.target != first.target or not np.array_equal(one.fold, first.fold) for one in parts):
        raise ValueError(f"the other encoders were not tested on the same folds of {first.target} as {first.model}")
    stacked: dict[str, Any] = {name: np.concatenate([getattr(one, name) for one in parts]) for name in ARRAYS}
    warnings = dict.fromkeys(warning for one in parts for warning in one.warnings)
    return dataclasses.replace(first, **stacked, warnings=tuple(warnings), n_seeds=len(parts), decision_values=None)


def average_models(parts: Sequence[Predictions], name: str) -> Predictions:
    """Average the predictions of several models on the same folds into those of one, their ensemble.

    Values are averaged as they are. Of classes the decision values are averaged, each in units of its SD over the
    training rows of the fold, and moved back to the average scale and level of the models, so that they are log odds
    again: a more confident model does not dominate the others. Raises ValueError if folds differ or classes
    come without decision values.
    """
    first = parts[0]
    if any(one.target != first.target or not np.array_equal(one.fold, first.fold) for one in parts):
        raise ValueError(f"the other models were not tested on the same folds of {first.target} as {first.model}")
    blank: dict[str, Any] = {"model": name, "penalty": np.full_like(first.penalty, np.nan), "warnings": ()}
    if not first.classes:
        scores = np.mean([one.scores for one in parts], axis=0)
        return dataclasses.replace(first, **blank, scores=scores, decisions=scores[:, :, 0])
    found = [one.decision_values for one in parts if one.decision_values is not None]
    if len(found) < len(parts):
        raise ValueError(f"{first.target}: {len(parts) - len(found)} of {len(parts)} models have no decision values")
    joined = _average_decision_values(found, first.fold)
    scores = compute_probabilities(joined.values, is_softmax=joined.is_softmax)
    decisions = np.full_like(first.decisions, np.nan)
    for repetition, fold in np.ndindex(first.n_train.shape):
        rows = first.fold[repetition] == fold
        decisions[repetition, rows] = _decide(scores[repetition, rows], joined.shares[repetition, fold])
    return dataclasses.replace(first, **blank, scores=scores, decisions=decisions, decision_values=joined)


def _average_decision_values(parts: Sequence[DecisionValues], fold: Indices) -> DecisionValues:
    """Average decision values in units of their SD over training rows; those of a model that is constant there add
    nothing but their level."""
    mean = np.mean([one.mean for one in parts], axis=0)
    deviation = np.mean([one.deviation for one in parts], axis=0)
    which = np.arange(len(fold))[:, None], np.maximum(fold, 0)  # of rows that are not tested the values are NaN
    total = np.zeros_like(parts[0].values)
    for one in parts:
        unit = np.where(one.deviation > 0, one.deviation, np.inf)
        total += (one.values - one.mean[which]) / unit[which]
    return dataclasses.replace(
        parts[0],
        values=total / len(parts) * deviation[which] + mean[which],
        mean=mean,
        deviation=deviation,
        is_softmax=all(one.is_softmax for one in parts),
    )


def compute_probabilities(logits: Floats, *, is_softmax: bool = False) -> Floats:
    """Convert decision values (..., m) to probabilities (..., K); those of several one-against-rest models are scaled
    to sum to 1."""
    if is_softmax and logits.shape[-1] > 1:
        return np.asarray(softmax(logits, axis=-1))
    odds = expit(logits)
    if logits.shape[-1] == 1:
        return np.concatenate([1 - odds, odds], axis=-1)
    return np.asarray(odds / odds.sum(axis=-1, keepdims=True))


def _decide(scores: Floats, shares: Floats) -> Indices:
    """Decide for the class (n,) with the highest probability (n, K) relative to its share (K,)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(shares > 0, scores / shares, -1.0).argmax(axis=1))


class PredictionTable:
    """Collector of predictions fold by fold; `shape` is repetitions R and folds F."""

    def __init__(self, target: Target, shape: tuple[int, int], *, is_softmax: bool = False) -> None:
        n_repeats, n_rows = shape[0], len(target.values)
        width = len(target.class_names) if target.is_class else 1
        self.target, self.is_softmax = target, is_softmax
        self.fold = np.full((n_repeats, n_rows), -1, dtype=np.int64)
        self.truth, self.decisions, self.reference = (np.full((n_repeats, n_rows), np.nan) for _ in range(3))
        self.scores = np.full((n_repeats, n_rows, width), np.nan)
        self.n_train, self.penalty = np.full(shape, np.nan), np.full(shape, np.nan)
        n_logits = 1 if width == 2 else width
        self.logits = np.full((n_repeats, n_rows, n_logits), np.nan)
        self.mean, self.deviation = (np.full((*shape, n_logits), np.nan) for _ in range(2))
        self.shares = np.full((*shape, width), np.nan)

    def add(
        self,
        where: tuple[int, int],
        rows: tuple[Indices, Indices],
        scores: Floats,
        penalty: float,
        *,
        logits: tuple[Floats, Floats] | None = None,
        weighs_classes_alike: bool = True,
    ) -> None:
        """Add a fold: `where` (repetition, fold), `rows` (training, tested), scores (n_test, K or 1), and of classes
        the decision values (n_train, m) and (n_test, m) behind them. The decision is the class with the highest
        probability relative to its share in the training rows, which maximises balanced accuracy; without
        `weighs_classes_alike` the most probable class."""
        repetition, fold = where
        train, test = rows
        labels = self.target.compute_labels(train)
        self.fold[repetition, test] = fold
        self.truth[repetition, test] = labels[test]
        self.scores[repetition, test] = scores
        self.n_train[where], self.penalty[where] = len(train), penalty
        if self.target.is_class:
            shares = np.ones(scores.shape[1])
            if weighs_classes_alike:
                shares = np.bincount(labels[train].astype(np.int64), minlength=scores.shape[1]) / len(train)
            self.decisions[repetition, test], self.shares[where] = _decide(scores, shares), shares
            if logits is not None:
                self.mean[where], self.deviation[where] = logits[0].mean(axis=0), logits[0].std(axis=0)
                self.logits[repetition, test] = logits[1]
        else:
            self.decisions[repetition, test] = scores[:, 0]
            self.reference[repetition, test] = labels[train].mean()

    def build(self, model: str, warnings: tuple[str, ...] = ()) -> Predictions:
        """Build the predictions of all folds."""
        made = DecisionValues(
            values=self.logits, mean=self.mean, deviation=self.deviation, shares=self.shares, is_softmax=self.is_softmax
        )
        return Predictions(
            model=model,
            target=self.target.name,
            classes=self.target.class_names if self.target.is_class else (),
            **{name: getattr(self, name) for name in ARRAYS},
            warnings=warnings,
            decision_values=made if self.target.is_class and not np.isnan(self.mean).all() else None,
        )
