"""The section of the group report about a predictor from another study, from its tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from bids_semantoks.files import read_json, read_rows
from bids_semantoks.outputs.group_tables import read_group_table
from bids_semantoks.outputs.group_words import METRIC_NAMES, format_interval, format_number, format_share
from bids_semantoks.outputs.predictor_files import PREDICTED, RESEARCH_ONLY
from bids_semantoks.reports.charts import Bar, build_calibration, build_predictions
from bids_semantoks.reports.figures_probes import draw_values
from bids_semantoks.reports.group_report import Graphic, Section, name_figure, show_bars

_ENDS: Final = ("value", "ci_low", "ci_high")


def build_predictor_section(out_dir: Path) -> Section | None:
    """Describe what a predictor predicts here and how well; None if none was applied."""
    table = read_group_table(out_dir / f"{PREDICTED}.tsv")
    if table.empty:
        return None
    facts = read_json(out_dir / f"{PREDICTED}.json")["Facts"]
    rows: list[Any] = list(table.itertuples())
    is_scored, columns = facts["Coverage"] is not None, {"home_": "at home (cross-validated)"}
    columns |= {"": "here"} if is_scored else {}
    columns |= {"recalibrated_": "here, corrected"} if facts["Recalibration"] is not None else {}
    graphics = [_show_bias(facts)] if facts["Bias"] else []
    if is_scored:
        graphics.insert(0, _show_calibration(facts) if facts["Classes"] else _show_values(facts, out_dir))
    return Section(
        anchor="predictor",
        title=f"Predictor {facts['Predictor']}",
        short="Predictor",
        sentences=_describe(facts),
        graphics=graphics,
        columns=["score", *columns.values()],
        lines=[
            [
                METRIC_NAMES[row.metric],
                *(format_interval(*(getattr(row, f"{prefix}{end}") for end in _ENDS)) for prefix in columns),
            ]
            for row in rows
        ],
    )


def _describe(facts: Mapping[str, Any]) -> list[str]:
    what = "sets" if facts["Classes"] else "intervals"
    sentences = [
        RESEARCH_ONLY,
        f"Predictions of {facts['Phenotype']} for {facts['Predicted']} of {facts['Participants']} participants by a "
        f"linear model of {facts['Encoder']['Name']} from another study ({facts['ParticipantsAtHome']} participants): "
        f"{facts['Table']}.",
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
            f"The {what} hold the truth for {format_share(found['Found'])} of the {found['Participants']} participants "
            "with true values (nominal 90 %)."
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
        f"Mean of {what}, with 95 % intervals. Sites with fewer than five true values are not shown.",
        bars,
        label=what,
        chance=0.0,
        line="no bias",
        name=name_figure("predictor", "bias"),
    )
