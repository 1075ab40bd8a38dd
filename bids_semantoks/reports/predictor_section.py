"""The section of the group report about a predictor from another study, from its tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bids_semantoks.files import read_json, read_rows
from bids_semantoks.outputs.group_tables import read_group_table
from bids_semantoks.outputs.group_words import METRIC_NAMES, format_interval, format_number
from bids_semantoks.outputs.predicted_table import PREDICTED
from bids_semantoks.outputs.predictor_files import RESEARCH_ONLY
from bids_semantoks.reports.charts import Bar, build_calibration, build_predictions
from bids_semantoks.reports.figures_probes import draw_values
from bids_semantoks.reports.group_report import Graphic, Section, name_figure, show_bars


def build_predictor_section(out_dir: Path) -> Section | None:
    """Describe what a predictor predicts here and how well; None if none was applied."""
    table = read_group_table(out_dir / f"{PREDICTED}.tsv")
    if table.empty:
        return None
    facts = read_json(out_dir / f"{PREDICTED}.json")["Facts"]
    rows: list[Any] = list(table.itertuples())
    is_scored = facts["Coverage"] is not None
    graphics = [_show_bias(facts)] if facts["Bias"] else []
    if is_scored:
        graphics.insert(0, _show_calibration(facts) if facts["Classes"] else _show_values(facts, out_dir))
    return Section(
        anchor="predictor",
        title=f"Predictor {facts['Predictor']}",
        short="Predictor",
        sentences=_describe(facts),
        graphics=graphics,
        columns=["score", "at home (cross-validated)", *(["here", "here, corrected"] if is_scored else [])],
        lines=[_build_line(row, is_scored=is_scored) for row in rows],
    )


def _build_line(row: Any, *, is_scored: bool) -> list[str]:
    line = [METRIC_NAMES[row.metric], format_interval(row.home_value, row.home_ci_low, row.home_ci_high)]
    if is_scored:
        line.append(format_interval(row.value, row.ci_low, row.ci_high))
        corrected = format_interval(row.recalibrated_value, row.recalibrated_ci_low, row.recalibrated_ci_high)
        line.append("" if corrected == "n/a" else corrected)
    return line


def _describe(facts: Mapping[str, Any]) -> list[str]:
    what = "sets" if facts["Classes"] else "intervals"
    sentences = [
        RESEARCH_ONLY,
        f"{facts['Phenotype']} of {facts['Predicted']} of {facts['Participants']} participants was predicted by a "
        f"linear model of {facts['Encoder']['Name']} from another study ({facts['ParticipantsAtHome']} participants); "
        f"see {facts['Table']}.",
        f"The {what} come from out-of-fold errors there (cross-conformal). They hold the truth in 90 % of people on "
        "average, not in each group, if people here are exchangeable with those there; they have no guarantee in "
        "finite samples and are void under any shift.",
    ]
    if facts["Shifts"]:
        sentences.append(
            f"These participants differ from those there: {', '.join(facts['Shifts'])}. The {what} cannot be relied on."
        )
    else:
        sentences.append("No difference from the participants there was detected, which does not prove there is none.")
    flags = "; ".join(f"{name} ({count})" for name, count in facts["Flags"])
    sentences.append(f"Outside the training range or missing, with numbers of participants: {flags or 'nothing'}.")
    if (found := facts["Coverage"]) is not None:
        sentences.append(
            f"Of {found['Participants']} participants with true values, {found['Found']:.0%} lie in their {what[:-1]} "
            f"(90 % are meant to)."
        )
    if (own := facts["Recalibration"]) is not None:
        gain = format_interval(own["Gain"], own["GainLow"], own["GainHigh"])
        sentences.append(
            f"Corrected by {own['Participants']} labelled participants, the {own['Loss']} changes from "
            f"{format_number(own['Before'])} to {format_number(own['After'])}, a gain of {gain} (nested: each was left "
            f"out of choice and fit); intercept {format_number(own['Intercept'])}, slope {format_number(own['Slope'])}."
        )
    return sentences


def _show_values(facts: Mapping[str, Any], out_dir: Path) -> Graphic:
    known = [row for row in read_rows(out_dir / facts["Table"]) if "n/a" not in (row["truth"], row["prediction"])]
    truth, predicted = (np.array([float(row[name]) for row in known]) for name in ("truth", "prediction"))
    people, name = [row["participant_id"].removeprefix("sub-") for row in known], facts["Phenotype"]
    chart = build_predictions(truth, predicted, people, name=name, n_charts=2, how="by the predictor")
    return Graphic(
        title="Predicted and true values here",
        caption=f"On the diagonal, predictions are right. {chart.note}".strip(),
        body=chart.picture,
        data=chart.data,
        size="narrow",
        name=name_figure("predictor", name),
        draw=lambda: draw_values(truth, predicted, name=name),
    )


def _show_calibration(facts: Mapping[str, Any]) -> Graphic:
    own, classes = facts["Calibration"], facts["Classes"]
    name = classes[1] if len(classes) == 2 else "the most probable class"
    return Graphic(
        title="Calibration here",
        caption="Observed share by predicted probability, in ten bins of equal size. The dashed line is perfect "
        "calibration.",
        body=build_calibration(own["Predicted"], own["Observed"], own["Predictions"], name),
        size="small",
    )


def _show_bias(facts: Mapping[str, Any]) -> Graphic:
    bars = [
        Bar(name=f"{name} ({n})", value=mean, low=low, high=high, note=format_number(mean), is_encoder=name == "all")
        for name, n, mean, low, high in facts["Bias"]
    ]
    what = "predicted probability minus share" if facts["Classes"] else "predicted minus true value"
    return show_bars(
        "Bias by site",
        f"Mean of {what}, with 95 % intervals; the dashed line is no bias. Sites with fewer than five true values are "
        "not shown.",
        bars,
        label=what,
        chance=0.0,
        name=name_figure("predictor", "bias"),
    )
