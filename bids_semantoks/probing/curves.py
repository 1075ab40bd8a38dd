"""Confusion counts and ROC curves, counted as the scores are: by repetition and within test folds."""

from __future__ import annotations

import numpy as np

from bids_semantoks.probing.predictions import Predictions
from bids_semantoks.probing.targets import Floats

_MOST_POINTS = 401


def count_decisions(predictions: Predictions) -> Floats:
    """Count true class by class decided for, (K, K) for K classes, mean over repetitions."""
    tested = predictions.fold >= 0
    counts = np.zeros((len(predictions.classes), len(predictions.classes)))
    np.add.at(counts, (predictions.truth[tested].astype(int), predictions.decisions[tested].astype(int)), 1)
    return np.asarray(counts / len(predictions.fold))


def compute_roc(predictions: Predictions) -> tuple[Floats, Floats]:
    """Compute the ROC curve of the second of two classes: false and true positive rate, each ascending from 0 to 1.

    Each member is ranked among the others of its test fold and weighted by its pairs, so the area below the steps is
    the AUROC. Pooled over folds, the curve of noise would fall below chance: a fold rich in a class is predicted from a
    training part poor in it. Returns one point each where no fold holds both classes.
    """
    places, weights = [np.zeros(0)], [np.zeros(0)]
    for fold, truth, scores in zip(predictions.fold, predictions.truth, predictions.scores[:, :, 1], strict=True):
        for number in np.unique(fold[fold >= 0]):
            inside = fold == number
            members, others = scores[inside & (truth == 1)][:, None], scores[inside & (truth == 0)]
            if len(others):
                places.append(((others > members) + 0.5 * (others == members)).mean(axis=1))
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
