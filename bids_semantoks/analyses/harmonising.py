"""Harmonisation of the features of a probe, and what is left of sites, motion and age in its predictions. n rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.analyses.columns import HARMONISERS, convert_covariates
from bids_semantoks.analyses.design import COLOUR_NAMES, ProbePlan
from bids_semantoks.analyses.results import PhenotypeResult
from bids_semantoks.analyses.rows import Rows
from bids_semantoks.bids_names import sorted_naturally
from bids_semantoks.config import ProbingConfig
from bids_semantoks.inputs.people_tables import parse_number
from bids_semantoks.outputs.group_words import CONFOUNDER_SHARE, split_prepared
from bids_semantoks.statistics.confounding import compute_confounder_test
from bids_semantoks.statistics.harmonise import HarmonisedFeatures, Rotatable
from bids_semantoks.statistics.spans import Features

#: Models that are about sites, motion or nothing at all stay as they are.
_LEFT: Final = ("motion", "site", "covariates", "chance")

#: Participants with a value that a test of confounders needs.
_MIN_TESTED: Final = 10


def harmonise_models(
    plan: ProbePlan, rows: Rows, models: Mapping[str, tuple[Features, ...]]
) -> dict[str, tuple[Features, ...]]:
    """Harmonise the features of embeddings, connectivity and parcel moments within folds, if asked for."""
    if plan.config.probing.harmonize is None:
        return dict(models)
    # The same for all phenotypes; rows that lack a site or a column to keep are in no split.
    labels, *cells = list_sites(plan, rows)
    known = np.array([None not in own for own in zip(labels, *cells, strict=True)])
    columns = dict(zip(plan.config.probing.harmonize_keep, cells, strict=True))
    how: Any = {
        "sites": np.array([label or "" for label in labels]),
        "kept": convert_covariates(columns, known, plan.categories) if cells and known.any() else None,
        "method": plan.config.probing.harmonize_method,
    }
    return {
        name: parts
        if split_prepared(name)[0] in _LEFT
        else tuple(HarmonisedFeatures(name=one.name, features=cast("Rotatable", one), **how) for one in parts)
        for name, parts in models.items()
    }


def list_sites(plan: ProbePlan, rows: Rows) -> list[tuple[str | None, ...]]:
    """List the cells (n,) of --harmonize and of each column of --harmonize-keep, None where missing."""
    asked = plan.config.probing
    return [plan.find_labels(rows, name, "a phenotype") for name in (asked.harmonize, *asked.harmonize_keep) if name]


def describe_harmonisation(asked: ProbingConfig) -> str:
    """Describe which models are harmonised and how, for the overview of a call."""
    if asked.harmonize is None:
        return "no"
    kept = f", keeping {', '.join(asked.harmonize_keep)}" if asked.harmonize_keep else ""
    return (
        f"{asked.harmonize} by {HARMONISERS[asked.harmonize_method]}{kept}, fitted to training folds: embeddings, "
        "connectivity and parcel moments; not motion, site, covariates and chance"
    )


def describe_harmonised(features: Features, column: str | None) -> str:
    """Describe how features are harmonised, for a cell of a table: ``site (combat)``; empty if they are not."""
    return f"{column} ({features.method})" if isinstance(features, HarmonisedFeatures) else ""


def measure_confounders(plan: ProbePlan, model: str, one: PhenotypeResult, *, seed: int) -> list[dict[str, object]]:
    """Test whether the encoder's predictions of harmonised features ride on site, motion or age beyond what the
    phenotype explains, one row of a participant each. Returns rows of group_strata.tsv."""
    asked, rows, predictions = plan.config.probing, one.design.rows, one.models[model].predictions
    if asked.harmonize is None or not asked.n_permutations:
        return []
    truth, scores, _ = predictions.average()
    scores = scores[:, 1:] if len(predictions.classes) == 2 else scores
    first = np.zeros(len(rows.keys), dtype=bool)
    first[np.unique(rows.participants, return_index=True)[1]] = True
    found = []
    for name in dict.fromkeys(("mean_fd", asked.harmonize, plan.site, *COLOUR_NAMES)):
        if not _is_confounder(plan, rows, name, one.phenotype.name):
            continue
        cells = plan.find_labels(rows, name, one.phenotype.name)
        inside = predictions.tested & np.array([cell is not None for cell in cells]) & first
        values, is_category = _number_cells([cell for cell, use in zip(cells, inside, strict=True) if use], plan, name)
        if int(inside.sum()) < _MIN_TESTED or np.ptp(values) == 0:
            continue
        test = compute_confounder_test(
            *(scores[inside], truth[inside], values),
            truth_is_class=bool(predictions.classes),
            is_category=is_category,
            n_permutations=asked.n_permutations,
            seed=seed,
        )
        found.append(
            {
                "phenotype": one.phenotype.name,
                "model": model,
                "metric": CONFOUNDER_SHARE,
                "by": name,
                "level": "all",
                "value": test.value,
                "ci_low": None,
                "ci_high": None,
                "n_participants": int(inside.sum()),
                "n_least": int(inside.sum()),
                "expected": test.expected,
                "p_value": test.p_value,
            }
        )
    return found


def _is_confounder(plan: ProbePlan, rows: Rows, name: str, phenotype: str) -> bool:
    """Return whether a name is that of motion, or of a column of sites or age that has a value for each row."""
    if name == phenotype or name.lower() in ("sex", "gender", ""):
        return False
    if name not in plan.columns:
        return name == "mean_fd"
    return rows.has_sessions or not plan.columns[name].has_sessions


def _number_cells(cells: list[str | None], plan: ProbePlan, name: str) -> tuple[NDArray[np.float64], bool]:
    """Convert cells to numbers, or to those of their levels, and say which."""
    numbers = [parse_number(cell or "") for cell in cells]
    is_category = None in numbers or name in (plan.site, plan.config.probing.harmonize)
    if not is_category:
        return np.array(numbers, dtype=np.float64), False
    levels = sorted_naturally(set(filter(None, cells)))
    return np.array([levels.index(cell or "") for cell in cells], dtype=np.float64), True
