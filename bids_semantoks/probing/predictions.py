"""What was predicted, out of fold: the records that models, scores and tables share.

Shape letters: n rows, R repetitions, F folds of a repetition, K classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.probing.splits import Indices
from bids_semantoks.probing.targets import Floats, Target


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
