"""Everything one call asks of embeddings (phenotypes, task blocks, scaling): checked first, then done."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence

from bids_semantoks.config import AppConfig
from bids_semantoks.embedding import RunEncoder
from bids_semantoks.outputs.store import StoredRun
from bids_semantoks.probes.block_scores import probe_blocks
from bids_semantoks.probes.clips import BlockPlan, plan_blocks
from bids_semantoks.probes.designs import plan_probes
from bids_semantoks.probes.plans import ProbePlan
from bids_semantoks.probes.report import report_probes
from bids_semantoks.probes.scaling import measure_scaling
from bids_semantoks.probes.scaling_plans import ScalingPlan, plan_scaling
from bids_semantoks.reports.group_extras import build_block_section
from bids_semantoks.reports.group_page import draw_group_page
from bids_semantoks.reports.group_report import GroupPage, write_group_page

LOGGER = logging.getLogger("bids_semantoks")

Atlas = tuple[tuple[str, ...], tuple[str, ...]]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CallPlan:
    """Plans of a call, None where not asked for."""

    probes: ProbePlan | None
    blocks: BlockPlan | None
    scaling: ScalingPlan | None


def plan_call(config: AppConfig, chosen: Sequence[StoredRun], task_runs: Sequence[StoredRun], atlas: Atlas) -> CallPlan:
    """Check everything before any work; features come from `chosen`, events from `task_runs`. Raises SemantoksError."""
    asked = config.probing
    return CallPlan(
        probes=plan_probes(config, chosen) if asked.probe else None,
        blocks=plan_blocks(config, task_runs) if asked.task_blocks else None,
        scaling=plan_scaling(config, chosen, atlas) if asked.scaling else None,
    )


def run_call(plan: CallPlan, config: AppConfig, encoder: RunEncoder, stored: Sequence[StoredRun], atlas: Atlas) -> None:
    """Probe, write all tables and draw the group page; `config` names the encoder pretrained on the way, if any."""
    # Phenotypes first: their tables are there when a long training is stopped.
    if plan.probes is not None:
        report_probes(plan.probes, config, encoder, stored, atlas)
    if plan.blocks is not None:
        LOGGER.info("Blocks: %s", probe_blocks(config, plan.blocks, encoder))
    if plan.scaling is not None and plan.probes is not None:
        own = dataclasses.replace(plan.probes, config=config)
        LOGGER.info("Scaling: %s", measure_scaling(own, plan.scaling, stored, atlas))
    if plan.probes is None:
        _draw_block_page(config, encoder)
    elif plan.blocks is not None or plan.scaling is not None:
        draw_group_page(config.out_dir)


def _draw_block_page(config: AppConfig, encoder: RunEncoder) -> None:
    """Draw a page of blocks alone, or add them to that of phenotypes probed earlier."""
    if (config.out_dir / "group_probe.tsv").is_file():
        draw_group_page(config.out_dir)
        return
    section = build_block_section(config.out_dir)
    page = GroupPage(
        title=encoder.loaded.name,
        overview=[("encoder", encoder.loaded.description)],
        pretraining="",
        warns=False,
        phenotypes=[],
        sections=[section] if section else [],
        warnings=[],
    )
    write_group_page(config.out_dir, page)
