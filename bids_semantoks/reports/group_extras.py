"""The sections of the group report about task blocks and scaling, from their tables."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from bids_semantoks.outputs import group_tables
from bids_semantoks.outputs.group_tables import read_text_rows
from bids_semantoks.reports.figures_probes import Bar, draw_models, render_figure
from bids_semantoks.reports.figures_scaling import ScalingPanel, draw_scaling
from bids_semantoks.reports.group_report import Picture, Section
from bids_semantoks.reports.group_wording import METRIC_NAMES, describe_p, format_interval, format_number, format_p

_BLOCK_MODELS: Final = {"random": "random weights", "parcel_means": "parcel means"}


def build_block_section(out_dir: Path) -> Section | None:
    """Describe how well types of task blocks can be told apart; None if no blocks were probed."""
    path = out_dir / f"{group_tables.BLOCKS_NAME}.tsv"
    rows = read_text_rows(path)
    if not rows:
        return None
    facts = json.loads(path.with_suffix(".json").read_bytes())["Facts"]
    types = ", ".join(f"{label} ({count})" for label, count in facts["Types"].items())
    sentences = [
        f"Blocks of {rows[0]['column']}, of {facts['LongestBlock']:g} s at most, each embedded by "
        f"{facts['Encoder']['Name']} as one patch while all other patches were masked: {types}."
    ]
    if facts["Out"]:
        sentences.append(f"Out: {'; '.join(facts['Out'])}.")
    pictures, lines = [], []
    for design in dict.fromkeys(row["design"] for row in rows):
        own = [row for row in rows if row["design"] == design]
        sentences.append(_describe_design(own))
        pictures.append(_draw_design(own))
        lines += [[_name_block_model(row), design, *_describe_block_row(row)] for row in own]
    return Section(
        anchor="blocks",
        title="Blocks of a task",
        short="Blocks",
        sentences=sentences,
        pictures=pictures,
        columns=["model", "trained", "balanced accuracy", "p", "encoder less this", "its p"],
        lines=lines,
    )


def _describe_design(rows: Sequence[dict[str, str]]) -> str:
    """Describe the score of the encoder, the first row, in one design."""
    first = rows[0]
    value, low, high = (_number(first[key]) for key in ("value", "ci_low", "ci_high"))
    whom = "other participants" if first["design"] == "across" else "other blocks of the same participant"
    return (
        f"Trained on {whom}, {first['model']} (block in the first patch) reaches balanced accuracy "
        f"{format_interval(value, low, high)} in {first['n_participants']} participants, "
        f"{describe_p(_number(first['p_value']))} against chance ({format_number(_number(first['chance']))}); "
        f"a fold leaves out {first['folds']}."
    )


def _draw_design(rows: Sequence[dict[str, str]]) -> Picture:
    design, chance = rows[0]["design"], _number(rows[0]["chance"])
    bars = [
        Bar(
            name=_name_block_model(row),
            value=_number(row["value"]),
            low=_number(row["ci_low"]),
            high=_number(row["ci_high"]),
            note=f"{format_number(_number(row['value']))}  p {format_p(_number(row['p_value']))}",
            is_encoder=row is rows[0],
        )
        for row in sorted(rows, key=lambda row: -_number(row["value"]))
    ]
    return Picture(
        title=f"{design.title()} participants",
        caption="Mean over participants of their balanced accuracy, on the same blocks and folds. Parcel means are "
        "those of the same block.",
        data=render_figure(f"blocks {design}", lambda: draw_models(bars, label="balanced accuracy", chance=chance)),
    )


def _describe_block_row(row: dict[str, str]) -> list[str]:
    value, low, high = (_number(row[key]) for key in ("value", "ci_low", "ci_high"))
    found = [_number(row[key]) for key in ("difference", "difference_low", "difference_high")]
    difference = "" if math.isnan(found[0]) else f"{found[0]:+.2f} [{found[1]:+.2f}, {found[2]:+.2f}]"
    return [
        format_interval(value, low, high),
        format_p(_number(row["p_value"])),
        difference,
        format_p(_number(row["difference_p"])),
    ]


def _name_block_model(row: dict[str, str]) -> str:
    name = _BLOCK_MODELS.get(row["model"], row["model"])
    return f"{name}, {row['position']} patch" if row["position"] else name


def build_scaling_section(out_dir: Path) -> Section | None:
    """Describe what encoders gain from more pretraining data; None if no scaling was run."""
    path = out_dir / f"{group_tables.SCALING_NAME}.tsv"
    rows = read_text_rows(path)
    if not rows:
        return None
    facts = json.loads(path.with_suffix(".json").read_bytes())["Facts"]
    # Balanced accuracy follows AUROC in the table; one picture a phenotype is enough.
    fits = [fit for fit in facts["Fits"] if fit["Metric"] != "balanced_accuracy"]
    picture = Picture(
        title="Gain over random weights",
        caption="Each dot is an encoder less the random weights that its training started from; thin lines join the "
        "encoders of a seed. Diamonds are means of a share with their 95 % interval over the participants tested; the "
        "blue line is fitted over the logarithm of participants.",
        data=render_figure("scaling", lambda: draw_scaling([_build_panel(rows, fit) for fit in fits])),
    )
    return Section(
        anchor="scaling",
        title="More data to pretrain on",
        short="Scaling",
        sentences=_describe_scaling(facts),
        pictures=[picture],
        columns=[
            "phenotype",
            "participants",
            "encoders",
            "score",
            "gain [over people]",
            "[over seeds]",
        ],
        lines=_list_scaling(rows, facts["Fits"]),
    )


def _describe_scaling(facts: dict[str, Any]) -> list[str]:
    sentences = [
        "The same participants are pretrained and probed on: encoders saw signals of those whom they are tested on, "
        "though never their phenotypes. Gains may be smaller for people they never saw."
        if facts["Source"] == "own"
        else f"Pretrained on shares of the {facts['ParticipantsThere']} participants of {facts['Source']}, probed on "
        "this study's."
    ]
    for fit in facts["Fits"]:
        if fit["Slope"] is None:
            verdict = "one share, so no slope"
        else:
            interval = "" if fit["Low"] is None else f" [{_sign(fit['Low'], 3)}, {_sign(fit['High'], 3)}]"
            verdict = f"ten times the participants change it by {_sign(fit['Slope'], 3)}{interval}"
        metric = METRIC_NAMES[fit["Metric"]]
        sentences.append(f"{fit['Phenotype']}, gain in {metric} of {fit['Encoders']} encoders: {verdict}.")
    sentences.append(
        "A gain is the score of an encoder less that of the random weights which its own training started from, on the "
        "same people and splits. Intervals of slopes are over encoders, which are all probed on the same people."
    )
    return sentences


def _build_panel(rows: list[dict[str, str]], fit: dict[str, Any]) -> ScalingPanel:
    own = [row for row in rows if (row["phenotype"], row["metric"]) == (fit["Phenotype"], fit["Metric"])]
    shares = [[_nan(share[key]) for key in ("Participants", "Gain", "Low", "High")] for share in fit["Shares"]]
    return ScalingPanel(
        title=fit["Phenotype"],
        label=METRIC_NAMES[fit["Metric"]],
        n_participants=np.array([float(row["n_pretraining"]) for row in own]),
        gains=np.array([_number(row["gain"]) for row in own]),
        seeds=np.array([float(row["seed"]) for row in own]),
        shares=np.array(shares),
        intercept=_nan(fit["Intercept"]),
        slope=_nan(fit["Slope"]),
    )


def _list_scaling(rows: list[dict[str, str]], fits: list[dict[str, Any]]) -> list[list[str]]:
    lines = []
    for fit in fits:
        for share in fit["Shares"]:
            key = fit["Phenotype"], fit["Metric"], str(share["Participants"])
            own = [row for row in rows if (row["phenotype"], row["metric"], row["n_pretraining"]) == key]
            value = float(np.mean([_number(row["value"]) for row in own]))
            gain, low, high, first, last = (
                _nan(share[name]) for name in ("Gain", "Low", "High", "LowOverSeeds", "HighOverSeeds")
            )
            lines.append(
                [
                    f"{key[0]}, {METRIC_NAMES[key[1]]}",
                    key[2],
                    str(share["Encoders"]),
                    format_number(value),
                    f"{_sign(gain)} [{_sign(low)}, {_sign(high)}]",
                    "" if math.isnan(first) else f"[{_sign(first)}, {_sign(last)}]",
                ]
            )
    return lines


def _sign(value: float, digits: int = 2) -> str:
    """Format with a sign, but never as -0."""
    return f"{round(value, digits) + 0.0:+.{digits}f}"


def _nan(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _number(text: str) -> float:
    return float(text) if text else math.nan
