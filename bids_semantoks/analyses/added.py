"""Added value of an encoder over connectivity and covariates: the mean of the predictions of both models."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from bids_semantoks.analyses.results import ModelResult
from bids_semantoks.outputs.group_words import name_added
from bids_semantoks.statistics.baselines import CONNECTIVITY
from bids_semantoks.statistics.metrics import Score, compute_seed_scores
from bids_semantoks.statistics.predictions import Predictions, average_models, stack_seeds
from bids_semantoks.statistics.significance import compare_models


def find_bases(results: Mapping[str, ModelResult]) -> list[str]:
    """Find the baselines that each encoder is added to: the first available kind of connectivity, and covariates. Not
    the kind that scored best, since selection by test scores would favour the baseline."""
    kinds = [kind for kind in CONNECTIVITY if kind in results]
    return [*kinds[:1], *(name for name in ("covariates",) if name in results)]


def add_encoders(
    results: Mapping[str, ModelResult], score: Callable[[Predictions], tuple[Score, ...]]
) -> dict[str, ModelResult]:
    """Join each encoder with each baseline of `find_bases`, scored and compared with the baseline alone."""
    encoders = {name: one for name, one in results.items() if one.role == "encoder"}
    return {
        name_added(base, name): _add(results[base], encoder, score)
        for base in find_bases(results)
        for name, encoder in encoders.items()
    }


def _add(base: ModelResult, encoder: ModelResult, score: Callable[[Predictions], tuple[Score, ...]]) -> ModelResult:
    name = name_added(base.predictions.model, encoder.predictions.model)
    parts = tuple(average_models([base.parts[0], one], name) for one in encoder.parts)
    predictions = stack_seeds(parts)
    scores = score(predictions)
    added = ModelResult(
        role="added",
        protocol=encoder.protocol,
        covariates=encoder.covariates,
        predictions=predictions,
        scores=scores,
        permutation=None,
        seed_scores={
            one.metric: tuple(compute_seed_scores(predictions, one.metric).tolist()) for one in scores if len(parts) > 1
        },
        parts=parts,
    )
    comparison = compare_models(predictions, base.predictions, added.main.metric)
    return dataclasses.replace(added, comparison=comparison)
