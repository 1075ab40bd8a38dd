"""Splits within each participant: each run, or stretch of time in a single run, is tested by a model of the rest.
Shape letters: n rows (blocks)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.probing.splits import Indices, Split

_MOST_FOLDS = 5


def build_within_splits(
    labels: NDArray[np.int64], participants: NDArray[Any], runs: NDArray[Any], onsets: NDArray[np.float64]
) -> tuple[tuple[Split, ...], dict[str, str]]:
    """Split the blocks of each participant into folds, with nobody else's blocks to train on.

    With two or more runs, each run is left out once. A single run is cut into stretches of time with about as many
    blocks each: five, or the most that leave two blocks of each class in every training part. Neighbours in time are
    alike, which random folds would mistake for knowledge. Arguments are (n,), onsets in seconds. Returns one
    repetition, folds numbered on across participants, and ``runs`` or ``time`` for each participant with folds.
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
    """Check that every training part has two rows of every class, the least for choosing a penalty."""
    wanted = len(np.unique(labels[rows]))
    for fold in folds:
        counts = np.bincount(labels[np.setdiff1d(rows, fold)])
        if (counts >= 2).sum() < wanted:
            return False
    return True
