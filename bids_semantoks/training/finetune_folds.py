"""Fine-tuning over all folds: validation rows, choice of the learning rate and predictions for tested rows."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.statistics.predictions import Predictions, PredictionTable
from bids_semantoks.statistics.splits import Split, build_inner_folds
from bids_semantoks.statistics.targets import Floats, Target
from bids_semantoks.training.batches import compute_seed
from bids_semantoks.training.finetune import Finetuning, Tuned

LOGGER = logging.getLogger("bids_semantoks")

_INNER_FOLDS = 5
_PROGRESS_SECONDS = 30.0


def add_validation(split: Split, target: Target, *, groups: NDArray[Any] | None, seed: int) -> Split:
    """Set aside a fifth of the training rows, stratified and by group, for validation if the split has none."""
    if len(split.validation):
        return split
    # Strata of the training rows alone: quantiles over all rows would let tested ones choose who validates.
    own = dataclasses.replace(target, values=target.values[split.train])
    fold_of = build_inner_folds(
        np.arange(len(split.train)),
        strata=own.compute_strata(n_folds=_INNER_FOLDS),
        groups=None if groups is None else groups[split.train],
        n_folds=_INNER_FOLDS,
        seed=seed,
    )
    return Split(
        repetition=split.repetition,
        fold=split.fold,
        train=split.train[fold_of != 0],
        test=split.test,
        validation=split.train[fold_of == 0],
    )


def cross_validate_finetuned(
    tuning: Finetuning,
    splits: Sequence[Split],
    *,
    name: str = "finetuned",
    groups: NDArray[Any] | None = None,
    seed: int = 0,
) -> Predictions:
    """Predict tested rows with encoders fine-tuned without them, on the same splits as other models.

    Where a split lacks validation rows, a fifth of its training rows validates; rows with the same entry in `groups`
    (n,) stay together. `penalty` holds the chosen learning rate; decisions weigh classes as the linear model on the
    same splits does. Raises ValueError where a row with a known target has no run.
    """
    target = tuning.target
    lacking = [row for row in np.flatnonzero(~np.isnan(target.values)) if not len(tuning.runs_of[row])]
    if lacking:
        raise ValueError(f"row {lacking[0]} has no run")
    table = PredictionTable(target, (max(s.repetition for s in splits) + 1, max(s.fold for s in splits) + 1))
    started = said = time.monotonic()
    for number, split in enumerate(splits, start=1):
        own = compute_seed(seed, split.repetition, split.fold)
        inner = add_validation(split, target, groups=groups, seed=seed + split.repetition)
        # All rates draw alike, so that they are compared on the same windows.
        trained: list[tuple[float, Tuned]] = []
        for rate in sorted(tuning.recipe.rates, reverse=True):
            found = tuning.train(inner, rate=rate, seed=own, reference=split.train)
            if not trained or found.loss < trained[0][1].loss:
                trained = [(rate, found)]
        rate, best = trained[0]
        scores = finish_outputs(tuning, best, split)
        is_published = len(split.validation) > 0
        rows = (split.train, split.test)
        table.add((split.repetition, split.fold), rows, scores, rate, weighs_classes_alike=not is_published)
        now = time.monotonic()
        if now - said > _PROGRESS_SECONDS or number == 1:
            said, left = now, (now - started) / number * (len(splits) - number)
            LOGGER.info("Fine-tuned for %d of %d folds, about %.0f s left.", number, len(splits), left)
    return table.build(name)


def finish_outputs(tuning: Finetuning, tuned: Tuned, split: Split) -> Floats:
    """Turn the outputs of tested rows into class probabilities, or into values in their own units: (n_test, C)."""
    outputs = tuning.predict(tuned.model, split.test)
    if not tuning.target.is_class:
        _, (centre, deviation) = tuning.compute_targets(split.train)
        return np.asarray(outputs * deviation + centre)
    odds = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))
