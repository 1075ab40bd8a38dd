"""What is predicted, and what was predicted: the records that models, scores and tables share.

Shape letters: n rows, R repetitions, F folds of a repetition, K classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.probing.splits import Indices, compute_strata

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Target:
    """A phenotype as numbers.

    Parameters
    ----------
    name : str
        Column it comes from.
    values : NDArray, float64, shape (n,)
        Index into `classes`, or value; NaN where missing.
    classes : tuple of str
        Names of classes, two or more; empty for a continuous phenotype.
    n_bins : int
        Cut a continuous phenotype into this many classes of equal size, at quantiles of the training rows; 0 to leave
        it as it is.
    """

    name: str
    values: Floats
    classes: tuple[str, ...] = ()
    n_bins: int = 0

    def __post_init__(self) -> None:
        if self.values.ndim != 1 or np.isinf(self.values).any():
            raise ValueError(f"{self.name}: values must be a vector without infinities, found {self.values.shape}")
        if self.classes and self.n_bins:
            raise ValueError(f"{self.name}: classes cannot be cut into {self.n_bins} bins")
        if self.n_bins == 1 or self.n_bins < 0 or len(self.classes) == 1:
            raise ValueError(f"{self.name}: two bins or classes are the least, found {self.n_bins or self.classes}")
        known = self.values[~np.isnan(self.values)]
        if self.classes and not np.isin(known, np.arange(len(self.classes))).all():
            raise ValueError(f"{self.name}: class indices must lie in 0..{len(self.classes) - 1}")

    @property
    def is_class(self) -> bool:
        """Whether classes are predicted, given ones or bins."""
        return bool(self.classes) or self.n_bins > 0

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes that are predicted; of bins, their numbers from low to high."""
        return self.classes or tuple(f"bin{number}" for number in range(1, self.n_bins + 1))

    def compute_strata(self, *, n_folds: int = 5) -> Indices:
        """Strata for `build_splits`: classes, the bins asked for, or bins of at least two rows a fold.

        Parameters
        ----------
        n_folds : int
            Folds that the strata will be divided into.

        Returns
        -------
        NDArray, int64, shape (n,)
            Stratum of each row; -1 where missing.
        """
        known = ~np.isnan(self.values)
        if self.n_bins:
            return compute_strata(np.where(known, self.compute_labels(known), np.nan), is_class=True)
        return compute_strata(self.values, is_class=bool(self.classes), n_folds=n_folds)

    def compute_labels(self, train: NDArray[np.bool_] | Indices) -> Floats:
        """Labels to predict, cut at what the training rows say when there are bins.

        Parameters
        ----------
        train : NDArray, int64 or bool
            Training rows.

        Returns
        -------
        NDArray, float64, shape (n,)
            Class index or value of all rows; NaN where missing.
        """
        if not self.n_bins:
            return self.values
        edges = np.quantile(self.values[train], np.arange(1, self.n_bins) / self.n_bins)
        labels = np.searchsorted(edges, self.values, side="right").astype(np.float64)
        return np.where(np.isnan(self.values), np.nan, labels)


def build_class_target(name: str, labels: Sequence[str | None]) -> Target:
    """Number classes in the order of their sorted names.

    Parameters
    ----------
    name : str
        Column they come from.
    labels : sequence of str or None, length n
        Class of each row; None where missing.

    Returns
    -------
    Target
        With the names found.
    """
    classes = tuple(sorted({label for label in labels if label is not None}))
    values = np.array([np.nan if label is None else classes.index(label) for label in labels], dtype=np.float64)
    return Target(name=name, values=values, classes=classes)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Predictions:
    """Out-of-fold predictions of one model for one phenotype.

    Parameters
    ----------
    model, target : str
        What predicted what.
    classes : tuple of str, length K
        Names of classes; empty for a continuous phenotype.
    fold : NDArray, int64, shape (R, n)
        Fold in which a row was tested; -1 where it was not.
    truth : NDArray, float64, shape (R, n)
        Class index or value; NaN where not tested. Bins are cut anew in each fold.
    scores : NDArray, float64, shape (R, n, K or 1)
        Probabilities of classes, or the value predicted; NaN where not tested.
    decisions : NDArray, float64, shape (R, n)
        Class index decided for, or the value predicted; NaN where not tested.
    reference : NDArray, float64, shape (R, n)
        What a model without features predicts: the mean of the fold's training rows; NaN for classes.
    n_train, penalty : NDArray, float64, shape (R, F)
        Training rows, and the penalty (or learning rate) chosen, of each fold; NaN where there is no such fold.
    warnings : tuple of str
        What the user should know.
    n_seeds : int
        Encoders whose repetitions on the same splits stand one after the other, see `stack_seeds`.
    """

    model: str
    target: str
    classes: tuple[str, ...]
    fold: Indices
    truth: Floats
    scores: Floats
    decisions: Floats
    reference: Floats
    n_train: Floats
    penalty: Floats
    warnings: tuple[str, ...] = ()
    n_seeds: int = 1

    @property
    def n_repeats(self) -> int:
        """Repetitions R of the cross-validation."""
        return len(self.fold) // self.n_seeds

    @property
    def tested(self) -> NDArray[np.bool_]:
        """Rows (n,) that were tested at least once."""
        return np.asarray((self.fold >= 0).any(axis=0))

    def average(self) -> tuple[Floats, Floats, Indices]:
        """Average the predictions of each row over repetitions, for tables and pictures.

        Returns
        -------
        truth : NDArray, float64, shape (n,)
            NaN where never tested; of bins, the most frequent (the lowest of several).
        scores : NDArray, float64, shape (n, K or 1)
            Mean over the repetitions in which a row was tested.
        n_tests : NDArray, int64, shape (n,)
            Number of these repetitions, over all encoders.
        """
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


def stack_seeds(parts: Sequence[Predictions]) -> Predictions:
    """Take the predictions of several encoders on the same splits for those of one model.

    All scores are means over repetitions, and so become means over encoders within each split.

    Parameters
    ----------
    parts : sequence of Predictions
        Of encoders that differ in their seed.

    Returns
    -------
    Predictions
        Named after the first; R times as many repetitions as there are encoders.

    Raises
    ------
    ValueError
        When the splits differ.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    if any(one.target != first.target or not np.array_equal(one.fold, first.fold) for one in parts):
        raise ValueError(f"encoders beside {first.model} were not tested on the same folds of {first.target}")
    stacked: dict[str, Any] = {
        name: np.concatenate([getattr(one, name) for one in parts])
        for name in ("fold", "truth", "scores", "decisions", "reference", "n_train", "penalty")
    }
    warnings = dict.fromkeys(warning for one in parts for warning in one.warnings)
    return dataclasses.replace(first, **stacked, warnings=tuple(warnings), n_seeds=len(parts))


class PredictionTable:
    """Collects predictions fold by fold.

    Parameters
    ----------
    target : Target
        What is predicted.
    shape : tuple of int
        Repetitions R and folds F.
    """

    def __init__(self, target: Target, shape: tuple[int, int]) -> None:
        n_repeats, n_rows = shape[0], len(target.values)
        width = len(target.class_names) if target.is_class else 1
        self.target = target
        self.fold = np.full((n_repeats, n_rows), -1, dtype=np.int64)
        self.truth, self.decisions, self.reference = (np.full((n_repeats, n_rows), np.nan) for _ in range(3))
        self.scores = np.full((n_repeats, n_rows, width), np.nan)
        self.n_train, self.penalty = np.full(shape, np.nan), np.full(shape, np.nan)

    def add(
        self,
        where: tuple[int, int],
        rows: tuple[Indices, Indices],
        scores: Floats,
        penalty: float,
        *,
        weighs_classes_alike: bool = True,
    ) -> None:
        """Enter one fold.

        Parameters
        ----------
        where : tuple of int
            Repetition and fold.
        rows : tuple of NDArray
            Training rows and tested rows.
        scores : NDArray, float64, shape (n_test, K or 1)
            Probabilities, or values.
        penalty : float
            What was chosen.
        weighs_classes_alike : bool
            Decide for the class whose probability is highest relative to its share in the training rows, which is what
            balanced accuracy asks for; else for the most probable class.
        """
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
            with np.errstate(divide="ignore", invalid="ignore"):
                lift = np.where(shares > 0, scores / shares, -1.0)
            self.decisions[repetition, test] = lift.argmax(axis=1)
        else:
            self.decisions[repetition, test] = scores[:, 0]
            self.reference[repetition, test] = labels[train].mean()

    def build(self, model: str, warnings: tuple[str, ...] = ()) -> Predictions:
        """Close the table.

        Parameters
        ----------
        model : str
            What predicted.
        warnings : tuple of str
            What the user should know.

        Returns
        -------
        Predictions
            All folds.
        """
        return Predictions(
            model=model,
            target=self.target.name,
            classes=self.target.class_names if self.target.is_class else (),
            fold=self.fold,
            truth=self.truth,
            scores=self.scores,
            decisions=self.decisions,
            reference=self.reference,
            n_train=self.n_train,
            penalty=self.penalty,
            warnings=warnings,
        )
