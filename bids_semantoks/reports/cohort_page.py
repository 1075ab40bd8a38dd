"""The table of the quality of all runs, and its page."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from bids_semantoks.config import AppConfig
from bids_semantoks.inputs.datasets import Dataset
from bids_semantoks.quality.cohort import CallFacts, Row, build_rows, describe_others, describe_versions, write_rows

LOGGER = logging.getLogger("bids_semantoks")


def report_all(config: AppConfig, dataset: Dataset, model: str | None, versions: Iterable[str]) -> None:
    """Report on the cohort at the end of a participant call, unless participants were selected: then other calls may be
    at work on the others, whose files are not for this one. `model` is the encoder's label, None for signals only, and
    `versions` made the runs that this call kept."""
    if config.selection.participant_label or config.selection.exclude_participant_label:
        if others := describe_others(versions):
            LOGGER.warning("%s", others)
        return
    roots = () if dataset.kind == "layout" else (dataset.root, dataset.raw_root)
    report_cohort(config.out_dir, CallFacts(model=model, roots=roots))


def report_cohort(out_dir: Path, facts: CallFacts) -> list[Row]:
    """Write ``group_qc.tsv`` about all runs in the output directory, and return its rows; nothing without rows."""
    rows = build_rows(out_dir, facts)
    if rows:
        path = write_rows(out_dir, rows)
        LOGGER.info("Quality of %d runs: %s", len(rows), path)
    if others := describe_versions(rows):
        LOGGER.warning("%s", others)
    return rows
