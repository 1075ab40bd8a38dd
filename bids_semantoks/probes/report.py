"""From the plan of probes to the group page."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence

from bids_semantoks.config import AppConfig
from bids_semantoks.embedding import RunEncoder
from bids_semantoks.outputs.store import StoredRun
from bids_semantoks.probes.plans import ProbePlan
from bids_semantoks.probes.study import run_probes
from bids_semantoks.reports.group_page import draw_group_page

LOGGER = logging.getLogger("bids_semantoks")


def report_probes(
    plan: ProbePlan,
    config: AppConfig,
    encoder: RunEncoder,
    stored: Sequence[StoredRun],
    atlas: tuple[tuple[str, ...], tuple[str, ...]],
) -> None:
    """Run probes, write their tables and the group page; `config` names the encoder pretrained on the way, if any."""
    run_probes(dataclasses.replace(plan, config=config), encoder, stored, atlas)
    path = draw_group_page(config.out_dir)
    LOGGER.info("Probes: %s", path)
