"""The default protocol: nested cross-validation of ridge or logistic regression, with the penalty chosen inside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from bids_semantoks.probing.predictions import Predictions, PredictionTable
from bids_semantoks.probing.solvers import PENALTIES, compute_fold_errors, fit_logistic, fit_ridge
from bids_semantoks.probing.spans import Features, Span
from bids_semantoks.probing.splits import Indices, Split, build_inner_folds
from bids_semantoks.probing.targets import Floats, Target

N_INNER_FOLDS = 5


def cross_validate(
    features: Features,
    target: Target,
    splits: Sequence[Split],
    *,
    covariates: Floats | None = None,
    groups: NDArray[Any] | None = None,
    seed: int = 0,
) -> Predictions:
    """Predict every tested row by a model that never saw it: ridge for values, one-against-rest logistic for classes.

    The penalty is chosen in inner folds of the training rows, which include the validation rows of a split. Rows of one
    of `groups` (n,) stay together there, as they must in `splits`. Covariates (n, c) are removed from the features by
    regression fitted to the training rows. The result warns of penalties chosen at the edge of the grid.
    """
    shape = max(s.repetition for s in splits) + 1, max(s.fold for s in splits) + 1
    table = PredictionTable(target, shape)
    for split in splits:
        train = np.sort(np.concatenate([split.train, split.validation]))
        span = features.compute_span(train, split.test, covariates)
        labels = target.compute_labels(train)[train]
        fold_of = build_inner_folds(
            np.arange(len(train)),
            strata=labels.astype(np.int64) if target.is_class else None,
            groups=None if groups is None else groups[train],
            n_folds=N_INNER_FOLDS,
            seed=seed + split.repetition,
        )
        predict = _predict_classes if target.is_class else _predict_values
        scores, penalty = predict(span, labels, fold_of, table.scores.shape[2])
        table.add((split.repetition, split.fold), (train, split.test), scores, penalty)
    return table.build(features.name, _describe_edges(features.name, target.name, table.penalty))


def _predict_values(span: Span, labels: Floats, fold_of: Indices, _: int) -> tuple[Floats, float]:
    """Predict test rows by ridge regression, also returning the penalty."""
    if not len(span.eigenvalues):
        return np.full((len(span.test), 1), labels.mean()), np.nan
    penalty = _choose(compute_fold_errors(span, labels, fold_of))
    return fit_ridge(span, labels[:, None], np.array([penalty])).predict(span.test), penalty


def _predict_classes(span: Span, labels: Floats, fold_of: Indices, n_classes: int) -> tuple[Floats, float]:
    """Predict class probabilities of test rows by logistic regression, also returning the penalty."""
    is_class = (labels[:, None] == np.arange(n_classes)).astype(np.float64)  # (n, K)
    codes = is_class[:, 1:] if n_classes == 2 else is_class
    if not len(span.eigenvalues):
        return np.tile(is_class.mean(axis=0), (len(span.test), 1)), np.nan
    penalty = _choose(_compute_log_losses(span, codes, labels.astype(np.int64), fold_of))
    fit = fit_logistic(span, codes, np.full(codes.shape[1], penalty))
    return _compute_probabilities(fit.predict(span.test)), penalty


def _compute_log_losses(span: Span, codes: Floats, labels: Indices, fold_of: Indices) -> Floats:
    """Compute the log loss of each penalty over inner folds; all folds, penalties and classes are fitted together."""
    folds, width = np.unique(fold_of), codes.shape[1]
    n_fits = len(folds) * len(PENALTIES)
    weights = np.repeat(fold_of[:, None] != folds, len(PENALTIES) * width, axis=1).astype(np.float64)
    penalties = np.tile(np.repeat(PENALTIES, width), len(folds))
    fit = fit_logistic(span, np.tile(codes, n_fits), penalties, weights=weights, tolerance=1e-4)
    logits = fit.predict(span.train).reshape(len(labels), len(folds), len(PENALTIES), width)
    own = logits[np.arange(len(labels)), np.searchsorted(folds, fold_of)]  # (n, penalties, width)
    odds = _compute_probabilities(own)
    chosen = np.take_along_axis(odds, labels[:, None, None], axis=2)[:, :, 0]
    return np.asarray(-np.log(np.clip(chosen, 1e-15, None)).mean(axis=0))


def _compute_probabilities(logits: Floats) -> Floats:
    """Convert log odds to probabilities; those of several one-against-rest models are scaled to sum to 1."""
    odds = expit(logits)
    if logits.shape[-1] == 1:
        return np.concatenate([1 - odds, odds], axis=-1)
    return np.asarray(odds / odds.sum(axis=-1, keepdims=True))


def _choose(losses: Floats) -> float:
    """Choose the best penalty, the largest of ties."""
    return float(PENALTIES[::-1][losses[::-1].argmin()])


def _describe_edges(model: str, target: str, penalty: Floats) -> tuple[str, ...]:
    """Warn where the best penalty may lie outside the grid."""
    known = penalty[~np.isnan(penalty)]
    if not len(known):
        return ()
    messages = []
    lowest, highest = (known == PENALTIES[0]).mean(), (known == PENALTIES[-1]).mean()
    if lowest > 0:
        messages.append(f"{model} for {target}: the smallest penalty was chosen in {lowest:.0%} of the folds.")
    if highest > 0:
        messages.append(
            f"{model} for {target}: the largest penalty was chosen in {highest:.0%} of the folds, where the features "
            "help next to nothing."
        )
    return tuple(messages)
