"""All phenotypes by all models, and the tables of their results."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

from bids_semantoks.embedding import RunEncoder
from bids_semantoks.outputs.store import StoredRun
from bids_semantoks.probes.findings import ModelResult, PhenotypeResult, ProbeResults
from bids_semantoks.probes.leakage import measure_leakage
from bids_semantoks.probes.plans import ProbePlan
from bids_semantoks.probes.points import build_points
from bids_semantoks.probes.pretrained import count_pretrained, describe_pretraining
from bids_semantoks.probes.prober import Prober
from bids_semantoks.probes.reliability import measure_retest
from bids_semantoks.probes.rows import build_rows
from bids_semantoks.probes.strata import score_strata
from bids_semantoks.probes.tables import write_results
from bids_semantoks.probes.twins import embed_by_twin, embed_missing, load_replicates, name_twin
from bids_semantoks.statistics.significance import adjust_holm

_FEW: Final = 50


def run_probes(
    plan: ProbePlan,
    encoder: RunEncoder,
    stored: Sequence[StoredRun],
    atlas: tuple[tuple[str, ...], tuple[str, ...]],
) -> ProbeResults:
    """Predict all phenotypes by all models, and write the tables; `stored` runs have complete embeddings."""
    config = plan.config
    replicates = load_replicates(config, encoder, atlas)
    for one in replicates:
        embed_missing(one, stored, why=f"by {one.loaded.name}", overwrite=config.running.overwrite)
    prober = Prober(plan, encoder, stored, replicates=replicates)
    if "random" in prober.baselines:
        for number in range(len(prober.encoders)):
            embed_by_twin(encoder, stored, number)
    phenotypes = adjust_comparisons([prober.probe(name) for name in config.probing.probe])
    rows = next((one.design.rows for one in phenotypes if not one.design.rows.has_sessions), None)
    if rows is None:
        rows = build_rows(stored, by_session=False)
    n_people = len(set(rows.participants))
    known = count_pretrained(set(map(str, rows.participants)), *prober.encoders)
    seed = config.running.random_seed
    twins = {"random": name_twin(prober.model)} if "random" in prober.baselines else {}
    found = ProbeResults(
        plan=plan,
        model=prober.model,
        phenotypes=tuple(phenotypes),
        leakage=measure_leakage(prober, rows),
        rows=rows,
        points=build_points(plan, stored, prober.model),
        strata=tuple(row for one in phenotypes for row in score_strata(plan, prober.model, one, seed=seed)),
        retest=tuple(measure_retest(stored, {prober.model: prober.model, **twins}, seed=seed)),
        networks=prober.masker.networks if config.probing.network_importance else (),
        pretraining=describe_pretraining(encoder, known, n_people),
        warnings=_list_warnings(phenotypes, n_people),
    )
    write_results(found, encoder, replicates)
    return found


def _list_warnings(phenotypes: Sequence[PhenotypeResult], n_people: int) -> tuple[str, ...]:
    results = [result for one in phenotypes for result in one.models.values() if result.role != "importance"]
    warnings = [warning for result in results for warning in result.predictions.warnings]
    if n_people < _FEW:
        warnings.insert(0, f"{n_people} participants are few: intervals are wide, and a single person can move scores.")
    return tuple(warnings)


def adjust_comparisons(results: Sequence[PhenotypeResult]) -> list[PhenotypeResult]:
    """Adjust p values of comparisons (Holm): with each baseline over phenotypes, with masks over networks as well."""
    adjusted = [dict(one.models) for one in results]
    families: dict[str, list[tuple[dict[str, ModelResult], str, float]]] = {}
    for models in adjusted:
        for name, result in models.items():
            if result.comparison is not None:
                is_masked = result.role == "importance"
                # What is lost without a network, and what one knows alone, are two questions.
                family = f"masked{' only ' in name}" if is_masked else name
                families.setdefault(family, []).append((models, name, result.comparison.p_value))
    for members in families.values():
        p_values = adjust_holm([p_value for _, _, p_value in members])
        for (models, name, _), p_value in zip(members, p_values, strict=True):
            models[name] = dataclasses.replace(models[name], p_holm=float(p_value))
    return [dataclasses.replace(one, models=models) for one, models in zip(results, adjusted, strict=True)]
