"""All phenotypes by all models, and the tables of what was found."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

import numpy as np

from bids_semantoks.embedding import RunEncoder
from bids_semantoks.outputs.store import StoredRun
from bids_semantoks.probes.findings import PhenotypeResult, ProbeResults
from bids_semantoks.probes.leakage import measure_leakage
from bids_semantoks.probes.plans import ProbePlan
from bids_semantoks.probes.pretrained import count_pretrained, describe_pretraining
from bids_semantoks.probes.prober import Prober
from bids_semantoks.probes.rows import build_rows
from bids_semantoks.probes.tables import write_results
from bids_semantoks.probes.twins import embed_by_twin
from bids_semantoks.probing.comparison import adjust_holm
from bids_semantoks.probing.spans import TableFeatures

_FEW: Final = 50


def run_probes(
    plan: ProbePlan,
    encoder: RunEncoder,
    stored: Sequence[StoredRun],
    atlas: tuple[tuple[str, ...], tuple[str, ...]],
) -> ProbeResults:
    """Predict all phenotypes by all models, and write the tables.

    Parameters
    ----------
    plan : ProbePlan
        From `plan_probes`.
    encoder : RunEncoder
        What embedded.
    stored : sequence of StoredRun
        Runs with complete embeddings.
    atlas : tuple of (parcels, networks)
        Of the signals.

    Returns
    -------
    ProbeResults
        For the page.
    """
    prober = Prober(plan, encoder, stored)
    if "random" in prober.baselines:
        embed_by_twin(encoder, stored, *atlas)
    results = adjust_comparisons([prober.probe(name) for name in plan.config.probing.probe])
    rows = next((one.design.rows for one in results if not one.design.rows.has_sessions), None)
    if rows is None:
        rows = build_rows(stored, by_session=False)
    leakage = measure_leakage(prober, rows)
    features = prober.find_models(rows)[prober.model]
    assert isinstance(features, TableFeatures)
    warnings = [warning for one in results for model in one.models.values() for warning in model.predictions.warnings]
    n_people = len(set(rows.participants))
    if n_people < _FEW:
        warnings.insert(0, f"{n_people} participants are few: intervals are wide, and a single person can move scores.")
    known = count_pretrained(set(map(str, rows.participants)), encoder)
    found = ProbeResults(
        plan=plan,
        model=prober.model,
        phenotypes=tuple(results),
        leakage=leakage,
        rows=rows,
        features=np.asarray(features.values, dtype=np.float64),
        pretraining=describe_pretraining(encoder, known, n_people),
        warnings=tuple(warnings),
    )
    write_results(found, encoder)
    return found


def adjust_comparisons(results: Sequence[PhenotypeResult]) -> list[PhenotypeResult]:
    """Adjust the p values of comparisons with each baseline over phenotypes.

    Parameters
    ----------
    results : sequence of PhenotypeResult
        All of a call.

    Returns
    -------
    list of PhenotypeResult
        With ``p_holm``.
    """
    adjusted = [dict(one.models) for one in results]
    for name in dict.fromkeys(name for models in adjusted for name in models):
        having = [(models, models[name].comparison) for models in adjusted if name in models]
        compared = [(models, comparison) for models, comparison in having if comparison is not None]
        p_values = adjust_holm([comparison.p_value for _, comparison in compared])
        for (models, _), p_value in zip(compared, p_values, strict=True):
            models[name] = dataclasses.replace(models[name], p_holm=float(p_value))
    return [dataclasses.replace(one, models=models) for one, models in zip(results, adjusted, strict=True)]
