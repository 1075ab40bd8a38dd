"""From what probes found to the page of the group."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

from bids_semantoks.config import AppConfig
from bids_semantoks.embedding import RunEncoder
from bids_semantoks.outputs.figures_probes import draw_map, render_figure
from bids_semantoks.outputs.group_report import GroupPage, Picture, read_training_picture, write_group_page
from bids_semantoks.outputs.store import StoredRun
from bids_semantoks.probes.colourings import build_colourings
from bids_semantoks.probes.findings import ProbeResults
from bids_semantoks.probes.leakage_part import describe_leakage, draw_leakage
from bids_semantoks.probes.phenotype_part import build_part
from bids_semantoks.probes.plans import ProbePlan
from bids_semantoks.probes.study import run_probes

LOGGER = logging.getLogger("bids_semantoks")


def report_probes(
    plan: ProbePlan,
    config: AppConfig,
    encoder: RunEncoder,
    stored: Sequence[StoredRun],
    atlas: tuple[tuple[str, ...], tuple[str, ...]],
) -> None:
    """Run probes, write their tables and the page of the group.

    Parameters
    ----------
    plan : ProbePlan
        From `plan_probes`.
    config : AppConfig
        What was asked, with the encoder that was pretrained on the way.
    encoder : RunEncoder
        What embedded.
    stored : sequence of StoredRun
        Runs with complete embeddings.
    atlas : tuple of (parcels, networks)
        Of the signals.
    """
    results = run_probes(dataclasses.replace(plan, config=config), encoder, stored, atlas)
    path = write_group_page(config.out_dir, build_group_page(results, encoder))
    LOGGER.info("Probes: %s", path)


def build_group_page(results: ProbeResults, encoder: RunEncoder) -> GroupPage:
    """Build the page of the group.

    Parameters
    ----------
    results : ProbeResults
        What was found.
    encoder : RunEncoder
        What embedded.

    Returns
    -------
    GroupPage
        With all pictures drawn.
    """
    caption = (
        "Mean embedding of each participant on the two axes along which they differ most (principal components, each "
        "dimension scaled). Colours that separate show what embeddings are mostly about; site and motion should not."
    )
    colourings = build_colourings(results)
    return GroupPage(
        title=results.model,
        overview=_describe_call(results, encoder),
        pretraining=results.pretraining,
        warns=any(one.n_pretrained != 0 for one in results.phenotypes),
        phenotypes=[build_part(results, one) for one in results.phenotypes],
        leakage=describe_leakage(results),
        leakage_picture=draw_leakage(results),
        embedding_map=Picture(
            title="Participants",
            caption=caption,
            data=render_figure("map", lambda: draw_map(results.features, colourings)),
        ),
        training=read_training_picture(Path(results.plan.config.embedding.model)),
        warnings=list(results.warnings),
    )


def _describe_call(results: ProbeResults, encoder: RunEncoder) -> list[tuple[str, str]]:
    asked, rows = results.plan.config.probing, results.rows
    n_runs = sum(map(len, rows.runs))
    splits = f"leave one {asked.leave_out} out" if asked.leave_out else f"{asked.n_repeats} repetitions of 5 folds"
    if asked.protocol == "paper":
        splits = f"{asked.n_repeats} repetitions of train, validation and test (60, 20, 20 %)"
    if asked.splits:
        splits = f"given by {asked.splits.name}"
    return [
        ("people", f"{len(set(rows.participants))} participants, {n_runs} runs with embeddings"),
        ("encoder", encoder.loaded.description),
        ("protocol", {"nested": "nested cross-validation", "paper": "published evaluation"}[asked.protocol]),
        ("splits", splits),
        ("kept together", asked.group_by or "runs and windows of a participant"),
        ("covariates removed", ", ".join(asked.covariate) or "none"),
        ("permutations", str(asked.n_permutations)),
        ("seed", str(results.plan.config.running.random_seed)),
    ]
