"""Scores of the encoder among the participants of each site and of each repetition time."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.bids_names import sorted_naturally
from bids_semantoks.outputs.group_tables import StratumRow
from bids_semantoks.outputs.store import StoredRun
from bids_semantoks.probes.findings import PhenotypeResult, find_main_metric
from bids_semantoks.probes.plans import ProbePlan
from bids_semantoks.statistics.metrics import compute_scores
from bids_semantoks.statistics.predictions import Predictions

#: Only pairs of one test fold count, and five folds leave fewer people one each.
_MIN_PEOPLE: Final = 10


def score_strata(plan: ProbePlan, model: str, one: PhenotypeResult, *, seed: int) -> list[StratumRow]:
    """Score the encoder within sites and within repetition times, each only where there are two or more."""
    rows, predictions = one.design.rows, one.models[model].predictions
    divisions = {"repetition_time": tuple(_name_times(runs) for runs in rows.runs)}
    if plan.site and (not plan.columns[plan.site].has_sessions or rows.has_sessions):
        divisions[plan.site] = tuple(label or "n/a" for label in plan.columns[plan.site].find(rows.keys))
    found = []
    for by, labels in divisions.items():
        tested = [label for label, is_tested in zip(labels, predictions.tested, strict=True) if is_tested]
        if len(set(tested)) > 1:
            for level in sorted_naturally(set(tested)):
                inside = np.array([label == level for label in labels]) & predictions.tested
                found.append(_score(one, model, inside, by=by, level=level, seed=seed))
    return found


def _score(
    one: PhenotypeResult, model: str, inside: NDArray[np.bool_], *, by: str, level: str, seed: int
) -> StratumRow:
    predictions, people = one.models[model].predictions, one.design.rows.participants[inside]
    metric, n_people = find_main_metric(predictions), len(set(people))
    value, low, high = math.nan, math.nan, math.nan
    if n_people >= _MIN_PEOPLE:
        part = select_rows(predictions, inside)
        (score,) = compute_scores(part, participants=people, n_bootstrap=1000, seed=seed, metrics=(metric,))
        value, low, high = score.value, score.ci_low, score.ci_high
    return StratumRow(
        phenotype=one.phenotype.name,
        model=model,
        metric=metric,
        by=by,
        level=level,
        value=value,
        ci_low=low,
        ci_high=high,
        n_participants=n_people,
    )


def select_rows(predictions: Predictions, inside: NDArray[np.bool_]) -> Predictions:
    """Select rows (n,) with the folds they were tested in."""
    names = ("fold", "truth", "scores", "decisions", "reference")
    return dataclasses.replace(predictions, **{name: getattr(predictions, name)[:, inside] for name in names})


def _name_times(runs: Sequence[StoredRun]) -> str:
    return " and ".join(sorted({f"{run.sidecar['RepetitionTime']:g} s" for run in runs}))
