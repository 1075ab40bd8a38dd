"""What was taken for what, and the ROC curve, as the scores count them: by repetition, and within test folds.

Predictions that are averaged over repetitions and pooled over folds show something else: on noise such a curve lies
below chance, because a fold that holds many of a class is predicted from a training part that holds few.

Shape letters: n rows, R repetitions, K classes.
"""

from __future__ import annotations

import numpy as np

from bids_semantoks.probing.predictions import Predictions
from bids_semantoks.probing.targets import Floats

_MOST_POINTS = 401


def count_decisions(predictions: Predictions) -> Floats:
    """Count which class was taken for which; the mean of the diagonal's shares is the balanced accuracy.

    Parameters
    ----------
    predictions : Predictions
        Of classes.

    Returns
    -------
    NDArray, float64, shape (K, K)
        Rows by true class and class decided for, mean over repetitions.
    """
    tested = predictions.fold >= 0
    counts = np.zeros((len(predictions.classes), len(predictions.classes)))
    np.add.at(counts, (predictions.truth[tested].astype(int), predictions.decisions[tested].astype(int)), 1)
    return np.asarray(counts / len(predictions.fold))


def compute_roc(predictions: Predictions) -> tuple[Floats, Floats]:
    """Compute the ROC curve of the second of two classes; the area below its steps is the AUROC.

    Each member is placed among the others of the same test fold: the curve is the distribution of these places, with
    the weight of the pairs that they stand for.

    Parameters
    ----------
    predictions : Predictions
        Of two classes.

    Returns
    -------
    false, hit : NDArray, float64
        Share of others taken for the class, ascending from 0 to 1, and share of the class found up to there; one point
        each where no fold holds both classes.
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
