"""Scores of the encoder within subgroups: sites, repetition times, the columns of --strata. Shape letters: n rows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.analyses.design import ProbePlan
from bids_semantoks.analyses.results import PhenotypeResult
from bids_semantoks.bids_names import sorted_naturally
from bids_semantoks.inputs.missing_codes import parse_number
from bids_semantoks.statistics.metrics import compute_scores, name_main_metric

#: People of each class, or of a continuous phenotype at all, that a subgroup must have to be scored: only pairs within
#: one test fold count, and with fewer, five folds would hold one each.
MIN_STRATUM: Final = 10

#: Numeric columns with more distinct values are split at their tertiles.
_MOST_LEVELS: Final = 10


def score_strata(plan: ProbePlan, model: str, one: PhenotypeResult, *, seed: int) -> list[dict[str, object]]:
    """Score the encoder within subgroups, by each column that divides the tested rows into two or more. Returns rows of
    group_strata.tsv."""
    predictions = one.models[model].predictions
    truth, found = predictions.average()[0], []
    for by, (labels, names) in _find_divisions(plan, one).items():
        here = set(labels[predictions.tested].tolist())
        for level in [name for name in names if name in here] if len(here) > 1 else ():
            inside = (labels == level) & predictions.tested
            found.append(_score(one, model, inside, truth, seed=seed) | {"by": by, "level": level})
    return found


def _find_divisions(plan: ProbePlan, one: PhenotypeResult) -> dict[str, tuple[NDArray[np.str_], Sequence[str]]]:
    """Find the level (n,) of each row, and the levels in order, by what divides them."""
    rows, name = one.design.rows, one.phenotype.name
    times = [" and ".join(sorted({f"{run.repetition_time:g} s" for run in runs})) for runs in rows.runs]
    divisions: dict[str, tuple[NDArray[np.str_], Sequence[str]]] = {
        "repetition_time": (np.array(times), sorted_naturally(times))
    }
    asked = [by for by in plan.config.probing.strata if by != name]
    if plan.site and (not plan.columns[plan.site].has_sessions or rows.has_sessions):
        asked.insert(0, plan.site)
    for by in dict.fromkeys(asked):
        divisions[by] = name_levels(plan.find_labels(rows, by, name))
    return divisions


def name_levels(cells: Sequence[str | None]) -> tuple[NDArray[np.str_], Sequence[str]]:
    """Name the level (n,) of each cell, and the levels in order: its text, ``n/a`` where missing, or the third that a
    number falls into where more than ten differ."""
    known = {cell for cell in cells if cell is not None}
    numbers = [parse_number(cell) for cell in known]
    if len(known) <= _MOST_LEVELS or None in numbers:
        labels = [cell or "n/a" for cell in cells]
        return np.array(labels), sorted_naturally(labels)
    values = np.array([math.nan if cell is None else float(cell) for cell in cells])
    low, high = np.quantile(values[~np.isnan(values)], (1 / 3, 2 / 3))
    names = [f"up to {low:.4g}", f"{low:.4g} to {high:.4g}", f"above {high:.4g}"]
    thirds = np.array(names)[np.searchsorted([low, high], values, side="left").clip(max=2)]
    return np.where(np.isnan(values), "n/a", thirds), [*names, "n/a"]


def _score(
    one: PhenotypeResult, model: str, inside: NDArray[np.bool_], truth: NDArray[np.float64], *, seed: int
) -> dict[str, object]:
    predictions, people = one.models[model].predictions, one.design.rows.participants
    metric, n_people = name_main_metric(is_class=bool(predictions.classes)), len(set(people[inside]))
    counts = [len(set(people[inside & (truth == k)])) for k in range(len(predictions.classes))]
    value, low, high = math.nan, math.nan, math.nan
    if min(counts, default=n_people) >= MIN_STRATUM:
        names = ("fold", "truth", "scores", "decisions", "reference")
        part = dataclasses.replace(predictions, **{name: getattr(predictions, name)[:, inside] for name in names})
        (score,) = compute_scores(part, participants=people[inside], n_bootstrap=1000, seed=seed, metrics=(metric,))
        value, low, high = score.value, score.ci_low, score.ci_high
    return {
        "phenotype": one.phenotype.name,
        "model": model,
        "metric": metric,
        "by": "",
        "level": "",
        "value": value,
        "ci_low": low,
        "ci_high": high,
        "n_participants": n_people,
        "n_least": min(counts, default=n_people),
    }
