"""The part of a phenotype on the group page on the added value of encoders over baselines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from bids_semantoks.outputs.group_tables import ProbeTables
from bids_semantoks.outputs.group_words import (
    METRIC_NAMES,
    MODEL_NAMES,
    describe_p,
    format_difference,
    format_p,
    format_score,
)
from bids_semantoks.reports.group_report import Section


def build_added(stored: ProbeTables, encoder: Any) -> Section | None:
    """Tabulate what encoders add to connectivity and covariates; None if there is neither."""
    rows = stored.find_scores(encoder.phenotype, "added")
    if not rows:
        return None
    alone = {row.model: row for row in stored.find_scores(encoder.phenotype, "baseline")}
    label = METRIC_NAMES[encoder.metric]
    return Section(
        anchor="",
        title="Added value of the encoder",
        short="",
        sentences=[
            *describe_added(rows),
            "The predictions of both models are averaged and scored on the same folds: values as they are, classes as "
            "log odds in units of their standard deviation in the training part. The test is a corrected resampled t "
            "test.",
        ],
        graphics=[],
        columns=["models", label, f"{label} without the encoder", "added", "p (Holm)"],
        lines=[_build_line(row, alone[row.compared_with]) for row in rows if row.compared_with in alone],
    )


def describe_added(rows: Sequence[Any]) -> list[str]:
    """Describe in one sentence each what encoders add to a baseline."""
    return [
        f"{name_parts(row).partition(' + ')[2]} adds {format_difference(row)} to {METRIC_NAMES[row.metric]} of "
        f"{name_base(row)} ({describe_p(row.difference_p_holm)} after Holm)."
        for row in rows
        if not math.isnan(row.difference_p_holm)
    ]


def name_base(row: Any) -> str:
    """Return the display name of a row's baseline."""
    return str(MODEL_NAMES.get(row.compared_with, row.compared_with))


def name_parts(row: Any) -> str:
    """Return the display names of both models of a row: ``Pearson connectivity + RandomTiny``."""
    return f"{name_base(row)} + {row.model.removeprefix(f'{row.compared_with} + ')}"


def _build_line(row: Any, alone: Any) -> list[str]:
    return [
        name_parts(row),
        format_score(row),
        format_score(alone),
        format_difference(row),
        format_p(row.difference_p_holm),
    ]
