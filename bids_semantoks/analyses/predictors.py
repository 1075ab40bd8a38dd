"""Ways to predict a phenotype, by protocol; those that need torch import it when they are used."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.analyses.design import Design
from bids_semantoks.analyses.rows import EmbeddingFeatures, read_window_embeddings
from bids_semantoks.config import AppConfig
from bids_semantoks.embedding import RunEncoder
from bids_semantoks.runtime.logs import Progress
from bids_semantoks.statistics.benchmark import cross_validate_benchmark
from bids_semantoks.statistics.linear import cross_validate_all
from bids_semantoks.statistics.predictions import Predictions
from bids_semantoks.statistics.spans import Features

#: Predicts the tested rows of a design out of fold; the published probe accepts only `EmbeddingFeatures`.
Predict = Callable[[Any, Design], Predictions]

#: Yields items again, and may count them.
Each = Callable[[Any], Iterable[Any]]


def build_predictors(config: AppConfig, encoder: RunEncoder, progress: Progress) -> dict[str, Predict]:
    """Build the ways to predict by protocol, which count their folds: ``nested``, ``paper``,
    ``brainmarks`` and ``finetune``."""
    shared: dict[str, Any] = {"seed": config.running.random_seed, "each": partial(progress.each, "fold")}
    return {
        "nested": partial(predict_linear, **shared),
        "paper": partial(_predict_published, device=str(encoder.frozen.device), **shared),
        "brainmarks": partial(_predict_benchmark, **shared),
        "finetune": partial(_predict_finetuned, encoder=encoder, epochs=config.probing.finetune_epochs, **shared),
    }


def find_removed(features: Features, design: Design) -> NDArray[np.float64] | None:
    """Find the covariates (n, c) to remove from features: baselines of covariates or site alone keep them."""
    return None if features.name in ("covariates", "site") else design.covariates


def predict_linear(features: Features, design: Design, *, seed: int, each: Each = iter) -> Predictions:
    """Predict by the linear model, its penalty chosen in inner folds."""
    return predict_together(features, [design], seed=seed, each=each)[0]


def predict_together(
    features: Features, designs: Sequence[Design], *, seed: int, each: Each = iter
) -> list[Predictions]:
    """Predict by the linear model designs that have rows, splits, groups and covariates in common."""
    first, targets = designs[0], [design.target for design in designs]
    removed = find_removed(features, first)
    return cross_validate_all(
        features, targets, first.splits, covariates=removed, groups=first.groups, seed=seed, each=each
    )


def _predict_published(
    features: EmbeddingFeatures, design: Design, *, device: str, seed: int, each: Each
) -> Predictions:
    from bids_semantoks.analyses.published_probe import PublishedProbe, WindowTable, cross_validate_published  # noqa: PLC0415

    values, row_of = read_window_embeddings(features.rows, features.label)
    table = WindowTable(name=features.name, values=values, row_of=row_of)
    probe = PublishedProbe(table, design.target, device=device)
    return cross_validate_published(probe, design.splits, seed=seed, each=each)


def _predict_benchmark(features: EmbeddingFeatures, design: Design, *, seed: int, each: Each) -> Predictions:
    return cross_validate_benchmark(features, design.target, design.splits, seed=seed, each=each)


def _predict_finetuned(
    _: Features, design: Design, *, encoder: RunEncoder, epochs: int, seed: int, each: Each
) -> Predictions:
    from bids_semantoks.analyses.finetuning import finetune  # noqa: PLC0415 - most calls do not train

    return finetune(encoder, design, epochs=epochs, seed=seed, each=each)
