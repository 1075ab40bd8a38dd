"""Folds within each participant: the blocks of one run, or of one stretch of time, are tested by the others.

Shape letters: n rows (blocks).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.probing.splits import Indices, Split

_MOST_FOLDS = 5


def build_within_splits(
    labels: NDArray[np.int64], participants: NDArray[Any], runs: NDArray[Any], onsets: NDArray[np.float64]
) -> tuple[tuple[Split, ...], dict[str, str]]:
    """Divide the rows of each participant, who trains for nobody else.

    With two runs or more, each is left out once. A single run is cut into stretches of time with about as many blocks
    each: five, or fewer where only that leaves every class in all training parts. Neighbours in time are alike, which
    random folds would take for knowledge.

    Parameters
    ----------
    labels : NDArray, int64, shape (n,)
        Class index.
    participants, runs : NDArray, shape (n,)
        To whom, and to which run, a row belongs.
    onsets : NDArray, float64, shape (n,)
        Seconds in the run.

    Returns
    -------
    splits : tuple of Split
        One repetition; folds are numbered on from participant to participant.
    kinds : dict of str to str
        ``runs`` or ``time`` for each participant with folds; others lack a class, or have it only in one part.
    """
    n_classes = len(np.unique(labels))
    splits: list[Split] = []
    kinds: dict[str, str] = {}
    empty = np.zeros(0, dtype=np.int64)
    for participant in np.unique(participants):
        rows = np.flatnonzero(participants == participant)
        if len(np.unique(labels[rows])) < n_classes:
            continue
        kind, folds = _divide(rows, labels, runs, onsets)
        for fold in folds:
            train = np.setdiff1d(rows, fold)
            splits.append(Split(repetition=0, fold=len(splits), train=train, test=np.sort(fold), validation=empty))
        if folds:
            kinds[str(participant)] = kind
    return tuple(splits), kinds


def _divide(
    rows: Indices, labels: Indices, runs: NDArray[Any], onsets: NDArray[np.float64]
) -> tuple[str, list[Indices]]:
    names = np.unique(runs[rows])
    if len(names) > 1:
        folds = [rows[runs[rows] == name] for name in names]
        return "runs", folds if _trains_all(rows, folds, labels) else []
    ordered = rows[np.argsort(onsets[rows], kind="stable")]
    for n_folds in range(min(_MOST_FOLDS, len(rows)), 1, -1):
        folds = np.array_split(ordered, n_folds)
        if _trains_all(rows, folds, labels):
            return "time", folds
    return "time", []


def _trains_all(rows: Indices, folds: list[Indices], labels: Indices) -> bool:
    """Tell whether every training part has two members of every class, without which no penalty can be chosen."""
    wanted = len(np.unique(labels[rows]))
    for fold in folds:
        counts = np.bincount(labels[np.setdiff1d(rows, fold)])
        if (counts >= 2).sum() < wanted:
            return False
    return True
