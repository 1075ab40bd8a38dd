"""The analyses that one call requests (phenotypes, task blocks, scaling): all checked first, then run."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Final

from bids_semantoks.analyses.audit import audit, plan_audit
from bids_semantoks.analyses.choose import build_twin, embed_others, embed_stored, load_replicates, name_twin
from bids_semantoks.analyses.design import ProbePlan, plan_probes, revise_plan
from bids_semantoks.analyses.estimate import check_resources, choose_fold_threads, list_widths
from bids_semantoks.analyses.frames import describe_results, write_results
from bids_semantoks.analyses.harmonising import measure_confounders
from bids_semantoks.analyses.leakage import measure_leakage, measure_retest, score_strata
from bids_semantoks.analyses.parts import keep_parts, probe_all, remove_parts
from bids_semantoks.analyses.preparations import (
    describe_preparations,
    find_unshared,
    keep_shared,
    load_encoders,
    open_preparations,
)
from bids_semantoks.analyses.probe import Prober
from bids_semantoks.analyses.results import People, PhenotypeResult, ProbeResults, adjust_comparisons, find_lost
from bids_semantoks.analyses.rows import build_rows, count_pretrained, describe_pretraining
from bids_semantoks.analyses.saving import save_predictors
from bids_semantoks.analyses.scaling import ScalingPlan, measure_scaling, plan_scaling
from bids_semantoks.analyses.task_blocks import BlockPlan, plan_blocks, probe_blocks
from bids_semantoks.config import AppConfig
from bids_semantoks.embedding import AtlasNames, RunEncoder
from bids_semantoks.outputs.group_tables import ProbeTables
from bids_semantoks.outputs.store import StoredRun
from bids_semantoks.reports.group_page import draw_group_page
from bids_semantoks.reports.reporting import write_stored_methods
from bids_semantoks.statistics.splits import use_threads

LOGGER = logging.getLogger("bids_semantoks")
_FEW: Final = 50  # below this number of participants the page warns of wide intervals


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CallPlan:
    """Plans of a call, None if not requested."""

    probes: ProbePlan | None
    blocks: BlockPlan | None
    scaling: ScalingPlan | None
    audit: ProbePlan | None

    @property
    def n_refused(self) -> int:
        """Phenotypes that cannot be probed."""
        return len(self.probes.refused) if self.probes is not None else 0

    def check_resources(self, atlas: AtlasNames, encoder: RunEncoder | None, others: Sequence[RunEncoder] = ()) -> None:
        """Log what the probes take, before hours of embedding or training: ResourceError for what cannot fit. An
        encoder that is still to be trained (None) is taken to be as wide as the published one."""
        if self.probes is not None:
            check_resources(self.probes, len(atlas[0]), list_widths(encoder, others))


def plan_call(
    config: AppConfig, chosen: Sequence[StoredRun], task_runs: Sequence[StoredRun], atlas: AtlasNames
) -> CallPlan:
    """Check everything in advance; features come from `chosen`, events from `task_runs`. Raises SemantoksError."""
    asked = config.probing
    preparations = open_preparations(config, chosen) if asked.probe or asked.task_blocks else ()
    probes = plan_probes(config, keep_shared(chosen, preparations)) if asked.probe else None
    if probes is not None:
        preparations = tuple(load_encoders(config, one) for one in preparations)
        probes = dataclasses.replace(probes, preparations=preparations)
    plan = CallPlan(
        probes=probes,
        blocks=plan_blocks(config, task_runs) if asked.task_blocks else None,
        scaling=plan_scaling(config, chosen, atlas) if asked.scaling else None,
        audit=plan_audit(config, chosen) if asked.audit else None,
    )
    if config.pretraining.pretrain:
        plan.check_resources(atlas, None)
    return plan


def run_call(
    plan: CallPlan,
    config: AppConfig,
    encoder: RunEncoder,
    stored: Sequence[StoredRun],
    atlas: AtlasNames,
    *,
    left_out: Mapping[str, tuple[str, str]],
    others: Sequence[RunEncoder] = (),
) -> int:
    """Probe, write all tables and draw the group page; `config` names the encoder pretrained on the way, if any;
    `left_out` are runs that the limits of the call leave out, reason and message by stem.
    Returns how many phenotypes were refused."""
    further = plan.probes.preparations if plan.probes is not None else ()
    whole = stored
    left_out = {**left_out, **find_unshared(stored, further)}
    stored = keep_shared(stored, further)
    # Phenotypes first: their tables are kept if a long training is stopped.
    probes = revise_plan(plan.probes, config, stored) if plan.probes is not None else None
    tables = None
    if probes is not None:
        prober = prepare_probes(probes, encoder, stored, atlas, others=others)
        n_threads = choose_fold_threads(prober.plan, len(atlas[0]), list_widths(encoder, others))
        if config.probing.probe_part is not None:
            with use_threads(n_threads):
                keep_parts(prober)
            return 0
        tables = run_probes(prober, encoder, stored, n_threads=n_threads)
        write_stored_methods(
            *(config, (encoder, *others), stored, left_out),
            results=describe_results(tables),
            preparations=describe_preparations(stored, further),
        )
        LOGGER.info("Probes: %s", draw_group_page(config, tables))
    if plan.audit is not None:
        LOGGER.info("Audit: %s", audit(plan.audit, (encoder, *others), whole))
    if plan.blocks is not None:
        LOGGER.info("Blocks: %s", probe_blocks(config, plan.blocks, encoder))
    if plan.scaling is not None and probes is not None:
        LOGGER.info("Scaling: %s", measure_scaling(probes, plan.scaling, atlas))
    if tables is None or (plan.audit, plan.blocks, plan.scaling) != (None, None, None):
        draw_group_page(config, tables)
    return len(probes.refused) if probes is not None else 0


def prepare_probes(
    plan: ProbePlan,
    encoder: RunEncoder,
    stored: Sequence[StoredRun],
    atlas: AtlasNames,
    *,
    others: Sequence[RunEncoder] = (),
) -> Prober:
    """Embed `stored` runs by all other encoders that probes need, where they have complete embeddings by the encoder
    and by the `others` that are compared with it. With --probe-part, only one phenotype is left to probe."""
    config, plan = plan.config, plan.choose_part()
    replicates = load_replicates(config, encoder, atlas)
    embed_others(stored, replicates, config.running)
    prober = Prober(plan, encoder.loaded.name, (encoder, *replicates), others)
    if "random" in prober.baselines:
        for number in range(len(prober.encoders)):
            twin = build_twin(encoder, number)
            embed_stored(stored, twin, why="with random weights for comparison", running=config.running)
    return prober


def run_probes(prober: Prober, encoder: RunEncoder, stored: Sequence[StoredRun], *, n_threads: int) -> ProbeTables:
    """Predict all phenotypes by all models, `n_threads` folds at a time, and write the tables."""
    plan, config = prober.plan, prober.plan.config
    with use_threads(n_threads):
        phenotypes = adjust_comparisons(probe_all(prober))
    rows = next((one.design.rows for one in phenotypes if not one.design.rows.has_sessions), None)
    if rows is None:
        rows = build_rows(stored, by_session=False, min_kept=config.min_kept, running=config.running)
    with use_threads(n_threads):
        leakage = measure_leakage(prober, rows)
    n_people = len(set(rows.participants))
    known = count_pretrained(set(map(str, rows.participants)), *prober.encoders, *prober.others)
    seed, lost = config.running.random_seed, find_lost(config.out_dir)
    for one in plan.preparations:
        lost |= dict.fromkeys(one.absent, f"no signals in the preparation {one.name}")
    compared = {one.loaded.name: one.loaded.name for one in prober.others}
    compared |= {"random": name_twin(prober.model)} if "random" in prober.baselines else {}
    found = ProbeResults(
        plan=plan,
        model=prober.model,
        phenotypes=tuple(phenotypes),
        people=tuple(People(plan, phenotype, design, lost) for phenotype, design in plan.designs),
        leakage=leakage,
        rows=rows,
        strata=tuple(
            row
            for one in phenotypes
            for find in (score_strata, measure_confounders)
            for row in find(plan, prober.model, one, seed=seed)
        ),
        retest=tuple(measure_retest(stored, {prober.model: prober.model, **compared}, config, prober.baselines)),
        networks=prober.masker.networks if config.probing.network_importance else (),
        n_pretrained=known,
        pretraining=describe_pretraining(encoder, known, n_people),
        warnings=(
            *_list_warnings(phenotypes, n_people),
            *(f"{name} was not probed: {why}" for name, why in plan.refused.items()),
            *plan.warnings,
        ),
    )
    tables = write_results(found, stored, encoder)
    if config.probing.save_predictor is not None:
        save_predictors(prober, (encoder, *prober.others), phenotypes)
    remove_parts(prober, phenotypes)
    return tables


def _list_warnings(phenotypes: Sequence[PhenotypeResult], n_people: int) -> tuple[str, ...]:
    results = [result for one in phenotypes for result in one.models.values() if result.role != "importance"]
    warnings = [warning for result in results for warning in result.predictions.warnings]
    few = f"{n_people} participants are few: intervals are wide, and single participants can affect scores."
    return (few, *warnings) if n_people < _FEW else tuple(warnings)
