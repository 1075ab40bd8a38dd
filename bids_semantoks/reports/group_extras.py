"""The sections of the group report about added value, audit, task blocks and scaling, from their tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from markupsafe import Markup
from pandas import DataFrame

from bids_semantoks.files import read_json
from bids_semantoks.outputs.group_tables import ProbeTables, read_group_table
from bids_semantoks.outputs.group_words import (
    METRIC_NAMES,
    MODEL_NAMES,
    describe_p,
    format_difference,
    format_number,
    format_p,
    format_score,
)
from bids_semantoks.reports.charts import ScalingPanel, build_scaling
from bids_semantoks.reports.figures_probes import draw_scaling
from bids_semantoks.reports.group_report import Graphic, Section, build_bar, name_figure, show_bars

_BLOCK_MODELS: Final = {"random": "random weights", "parcel_means": "parcel means"}


def _read_extra(out_dir: Path, name: str) -> tuple[DataFrame, dict[str, Any]]:
    """Read a table, which is empty if it was not requested, and the facts in its sidecar."""
    table = read_group_table(out_dir / f"{name}.tsv")
    return table, {} if table.empty else read_json(out_dir / f"{name}.json")["Facts"]


def build_audit_section(out_dir: Path) -> Section | None:
    """Give the verdicts of the audit, what they rest on, and what it cannot know; None if nothing was audited."""
    table, facts = _read_extra(out_dir, "group_audit")
    if table.empty:
        return None
    rows: list[Any] = list(table.itertuples())
    return Section(
        anchor="audit",
        title="Before sharing: what these embeddings give away",
        short="Audit",
        # What could not be measured is the same for all encoders.
        sentences=[*dict.fromkeys(row.verdict for row in rows), f"What this cannot know: {' '.join(facts['Limits'])}"],
        columns=["question", "model", "column", "measured by", "value", "chance", "participants"],
        lines=[
            [
                f"{row.question}{f' across {row.between}' if row.between else ''}",
                row.model,
                row.column,
                METRIC_NAMES.get(row.metric, "share of scans" if row.between else row.metric),
                format_score(row),
                format_number(row.chance),
                str(row.n_participants),
            ]
            for row in rows
        ],
    )


def build_block_section(out_dir: Path) -> Section | None:
    """Describe how well types of task blocks can be classified; None if no blocks were probed."""
    table, facts = _read_extra(out_dir, "group_task_blocks")
    if table.empty:
        return None
    types = ", ".join(f"{label} ({count})" for label, count in facts["Types"].items())
    sentences = [
        f"Blocks of {table['column'].iloc[0]} (up to {facts['LongestBlock']:g} s), each embedded by "
        f"{facts['Encoder']['Name']} as one patch with all other patches masked: {types}."
    ]
    if facts["Out"]:
        sentences.append(f"Out: {'; '.join(facts['Out'])}.")
    graphics, lines = [], []
    for _, design in table.groupby("design", sort=False):
        rows: list[Any] = list(design.itertuples())
        first = rows[0]
        whom = "other participants" if first.design == "across" else "other blocks of the same participant"
        sentences.append(
            f"Trained on {whom}, {first.model} (block in the first patch) reaches a balanced accuracy of "
            f"{format_score(first)} in {first.n_participants} participants, "
            f"{describe_p(first.p_value)} against chance ({format_number(first.chance)}); "
            f"each fold holds out {first.folds}."
        )
        graphics.append(_show_design(rows))
        for row in rows:
            scores = (format_score(row), format_p(row.p_value), format_difference(row), format_p(row.difference_p_holm))
            lines.append([_name_block_model(row), row.design, *scores])
    return Section(
        anchor="blocks",
        title="Task blocks",
        short="Blocks",
        sentences=sentences,
        graphics=graphics,
        columns=["model", "trained", "balanced accuracy", "p", "encoder minus this", "p (Holm)"],
        lines=lines,
    )


def _show_design(rows: Sequence[Any]) -> Graphic:
    bars = [
        build_bar(
            row,
            _name_block_model(row),
            note=f"{format_number(row.value)}, {describe_p(row.p_value)}",
            is_encoder=row is rows[0],
        )
        for row in sorted(rows, key=lambda row: -row.value)
    ]
    return show_bars(
        f"{rows[0].design.title()} participants",
        "Balanced accuracy, averaged over participants, on the same blocks and folds. Parcel means are from the same "
        "block.",
        bars,
        label="balanced accuracy",
        chance=rows[0].chance,
        name=name_figure("blocks", rows[0].design),
    )


def _name_block_model(row: Any) -> str:
    name = _BLOCK_MODELS.get(row.model, row.model)
    return f"{name}, {row.position} patch" if row.position else name


def build_scaling_section(out_dir: Path) -> Section | None:
    """Describe the gain of encoders from more pretraining data; None without --scaling."""
    table, facts = _read_extra(out_dir, "group_scaling")
    if table.empty:
        return None
    # Balanced accuracy follows AUROC in the table; one figure per phenotype is enough.
    fits = [fit for fit in facts["Fits"] if fit["Metric"] != "balanced_accuracy"]
    panels = [_build_panel(table, fit) for fit in fits]
    graphic = Graphic(
        title="Gain over random weights",
        caption="Dots are encoders minus the random weights from which their training started; thin lines connect the "
        "encoders of a seed. Diamonds are means per share with their 95 % interval over test participants; the "
        "blue line is a fit over the logarithm of the number of participants.",
        body=Markup('<div class="panels">{}</div>').format(Markup("").join(map(build_scaling, panels))),
        name="scaling",
        draw=lambda: draw_scaling(panels),
    )
    return Section(
        anchor="scaling",
        title="Scaling of pretraining data",
        short="Scaling",
        sentences=_describe_scaling(facts),
        graphics=[graphic],
        columns=["phenotype", "participants", "encoders", "score", "gain [over participants]", "[over seeds]"],
        lines=_list_scaling(table, facts["Fits"]),
    )


def _describe_scaling(facts: dict[str, Any]) -> list[str]:
    sentences = [
        "The same participants are used for pretraining and probing: encoders have seen the signals of the test "
        "participants, though not their phenotypes. Gains may be smaller in other participants."
        if facts["Source"] == "own"
        else f"Pretrained on shares of the {facts['ParticipantsThere']} participants of {facts['Source']}, probed on "
        "those of this study."
    ]
    for fit in facts["Fits"]:
        if fit["Slope"] is None:
            verdict = "no slope (only one share)"
        else:
            interval = "" if fit["Low"] is None else f" [{_sign(fit['Low'], 3)}, {_sign(fit['High'], 3)}]"
            verdict = f"ten times as many participants change it by {_sign(fit['Slope'], 3)}{interval}"
        metric = METRIC_NAMES[fit["Metric"]]
        sentences.append(f"{fit['Phenotype']}, gain in {metric} ({fit['Encoders']} encoders): {verdict}.")
    sentences.append(
        "The gain is the score of an encoder minus that of the random weights from which its training started, on the "
        "same participants and splits. Intervals of slopes are over encoders, all probed on the same participants."
    )
    return sentences


def _build_panel(table: DataFrame, fit: dict[str, Any]) -> ScalingPanel:
    own = table[(table["phenotype"] == fit["Phenotype"]) & (table["metric"] == fit["Metric"])]
    shares = [[_nan(share[key]) for key in ("Participants", "Gain", "Low", "High")] for share in fit["Shares"]]
    return ScalingPanel(
        title=fit["Phenotype"],
        label=METRIC_NAMES[fit["Metric"]],
        n_participants=own["n_pretraining"].to_numpy(dtype=np.float64),
        gains=own["gain"].to_numpy(dtype=np.float64),
        seeds=own["seed"].to_numpy(dtype=np.float64),
        shares=np.array(shares),
        intercept=_nan(fit["Intercept"]),
        slope=_nan(fit["Slope"]),
    )


def _list_scaling(table: DataFrame, fits: list[dict[str, Any]]) -> list[list[str]]:
    lines = []
    for fit in fits:
        for share in fit["Shares"]:
            key = [fit["Phenotype"], fit["Metric"], share["Participants"]]
            is_own = (table[["phenotype", "metric", "n_pretraining"]] == key).all(axis=1)
            value = format_number(float(table["value"][is_own].to_numpy().mean()))
            gain, low, high, first, last = (
                _nan(share[name]) for name in ("Gain", "Low", "High", "LowOverSeeds", "HighOverSeeds")
            )
            over_people = f"{_sign(gain)} [{_sign(low)}, {_sign(high)}]"
            over_seeds = "" if math.isnan(first) else f"[{_sign(first)}, {_sign(last)}]"
            name = f"{key[0]}, {METRIC_NAMES[key[1]]}"
            lines.append([name, str(key[2]), str(share["Encoders"]), value, over_people, over_seeds])
    return lines


def _sign(value: float, digits: int = 2) -> str:
    """Format with a sign, but never as -0."""
    return f"{round(value, digits) + 0.0:+.{digits}f}"


def _nan(value: float | None) -> float:
    return math.nan if value is None else float(value)


def build_added(stored: ProbeTables, encoder: Any) -> Section | None:
    """Tabulate what encoders add to connectivity and covariates; None if there is neither."""
    if not (rows := stored.find_scores(encoder.phenotype, "added")):
        return None
    alone = {row.model: row for row in stored.find_scores(encoder.phenotype, "baseline")}
    label, sentences, lines = METRIC_NAMES[encoder.metric], [], []
    for row in rows:
        base = MODEL_NAMES.get(row.compared_with, row.compared_with)
        own, added = row.model.removeprefix(f"{row.compared_with} + "), format_difference(row)
        if not math.isnan(row.difference_p_holm):
            sentences.append(
                f"{own} adds {added} to {label} of {base} ({describe_p(row.difference_p_holm)} after Holm)."
            )
        if row.compared_with in alone:
            scores = (format_score(row), format_score(alone[row.compared_with]))
            lines.append([f"{base} + {own}", *scores, added, format_p(row.difference_p_holm)])
    return Section(
        title="Added value of the encoder",
        sentences=[
            *sentences,
            "The predictions of both models are averaged and scored on the same folds: values as they are, classes as "
            "log odds in units of their standard deviation in the training part. The test is a corrected resampled t "
            "test.",
        ],
        columns=["models", label, f"{label} without the encoder", "added", "p (Holm)"],
        lines=lines,
    )
