"""Build the group report from the tables in the output dataset alone."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from pandas import DataFrame

from bids_semantoks.config import AppConfig
from bids_semantoks.files import read_json, read_rows
from bids_semantoks.inputs.names import find_roots
from bids_semantoks.outputs.group_tables import ProbeTables, read_probes
from bids_semantoks.outputs.group_words import (
    METRIC_NAMES,
    MODEL_NAMES,
    describe_row_test,
    describe_verdict,
    format_interval,
    format_number,
    format_score,
)
from bids_semantoks.quality.cohort import CallFacts, find_excluded, read_excluded
from bids_semantoks.reports.charts import Bar, Colouring, Column, build_map, build_pair, name_people
from bids_semantoks.reports.cohort_page import report_cohort
from bids_semantoks.reports.figures_probes import draw_map, draw_pair
from bids_semantoks.reports.group_extras import build_audit_section, build_block_section, build_scaling_section
from bids_semantoks.reports.group_phenotype import build_part
from bids_semantoks.reports.group_report import (
    Graphic,
    GroupPage,
    Section,
    name_figure,
    read_training_picture,
    show_bars,
    write_group_page,
)
from bids_semantoks.reports.predictor_section import build_predictor_section

#: Tables that need no probes, and their sections.
_ALONE: Final = {
    "group_audit": build_audit_section,
    "group_task_blocks": build_block_section,
    "group_predictor": build_predictor_section,
}

_MAP_NAMES: Final = {"mean_fd": "motion: mean FD (mm)", "kept_seconds": "kept data (s)"}


def redraw_group_page(config: AppConfig) -> int:
    """Regenerate the group pages from the output directory alone and return their number: the quality page, and the
    probe page if there are probes; InputError if there is neither."""
    out_dir = config.out_dir
    left_out = find_excluded(out_dir, config.selection) or read_excluded(out_dir)
    rows = report_cohort(out_dir, CallFacts(roots=find_roots(config.bids_dir), left_out=left_out))
    if not rows or any((out_dir / f"{name}.json").is_file() for name in ("group_probe", *_ALONE)):
        draw_group_page(config)
        return 1 + bool(rows)
    return 1


def draw_group_page(config: AppConfig, stored: ProbeTables | None = None) -> Path:
    """Write ``OUT_DIR/group.html``, with --figures also the publication figures, from the tables of probes (`stored`,
    or those in the output dataset) and of what goes with them, or from the latter alone: audit, blocks, predictor.
    InputError if there is none of these."""
    out_dir, figures = config.out_dir, config.running.figures
    found = [path for name in _ALONE if (path := out_dir / f"{name}.json").is_file()]
    if stored is None and found and not (out_dir / "group_probe.json").is_file():
        encoder = read_json(found[0])["Facts"]["Encoder"]
        overview = [("encoder", encoder["Description"]), *describe_left_out(out_dir, encoder["Name"])]
        sections = [section for build in _ALONE.values() if (section := build(out_dir))]
        page = GroupPage(title=encoder["Name"], overview=overview, sections=sections)
        return write_group_page(out_dir, lambda: page, figures=figures)
    tables = stored or read_probes(out_dir)
    return write_group_page(out_dir, lambda: build_group_page(tables, out_dir), figures=figures)


def build_group_page(stored: ProbeTables, out_dir: Path) -> GroupPage:
    """Build the group report from tables of probes, and those of the rest in the output dataset."""
    sections = [
        build_leakage_section(stored),
        build_retest_section(stored),
        build_audit_section(out_dir),
        build_block_section(out_dir),
        build_scaling_section(out_dir),
        build_predictor_section(out_dir),
        build_map_section(stored),
        build_training_section(stored, out_dir),
    ]
    encoders = stored.scores[stored.scores["role"] == "encoder"]
    return GroupPage(
        title=stored.model,
        overview=[*stored.facts["Overview"].items(), *describe_left_out(out_dir, stored.model)],
        pretraining=stored.facts["Pretraining"],
        warns=bool((encoders["n_pretrained"].fillna(1) != 0).any()),
        phenotypes=[build_part(stored, name) for name in stored.phenotypes],
        sections=[section for section in sections if section],
        warnings=stored.facts["Warnings"],
    )


def describe_left_out(out_dir: Path, model: str) -> list[tuple[str, str]]:
    """Count the runs without an embedding by reason (from ``group_status.tsv``): one overview line, or none."""
    path = out_dir / "group_status.tsv"
    rows = read_rows(path) if path.is_file() else []
    # A status without an encoder is that of the signals, the only one of runs that were never embedded.
    own = [row for row in rows if "_desc-" not in row["run"] or row["run"].endswith(f"_desc-{model}")]
    counts = Counter((row["status"], row["reason"]) for row in own if row["status"] != "ok")
    if not counts:
        return []
    reasons = ", ".join(
        f"{count} {status} ({'no reason' if reason in ('', 'n/a') else reason.replace('_', ' ')})"
        for (status, reason), count in sorted(counts.items())
    )
    return [("excluded runs", f"{reasons}; see the status of all runs")]


def build_leakage_section(stored: ProbeTables) -> Section:
    """Describe how well motion and site can be predicted from the embeddings, or why this is unknown."""
    scores = stored.scores
    rows: list[Any] = list(scores[(scores["role"] == "leakage") & scores["metric"].isin(["r", "auroc"])].itertuples())
    sentences, bars = [], []
    for row in rows:
        removed = f" with {row.covariates} removed" if row.covariates else ""
        harmonised = " after harmonisation" if row.harmonized else ""
        what = "motion (mean framewise displacement)" if row.phenotype == "mean_fd" else row.phenotype
        test = f" ({describe_row_test(row)})" if row.p_statistic else ""
        sentences.append(
            f"{what[:1].upper()}{what[1:]} from the embeddings{harmonised}{removed}, {METRIC_NAMES[row.metric]} "
            f"{format_score(row)}: {describe_verdict(row)}{test}."
        )
        # Both metrics are rescaled to 0 (chance) to 1 (perfect) to share one axis.
        factor, shift = (2, -1) if row.metric == "auroc" else (1, 0)
        value, low, high = (factor * one + shift for one in (row.value, row.ci_low, row.ci_high))
        changes = [*(["harmonised"] if harmonised else []), *(["covariates removed"] if removed else [])]
        name = f"{row.phenotype} ({', '.join(changes)})" if changes else str(row.phenotype)
        note = f"{METRIC_NAMES[row.metric]} {format_number(row.value)}"
        bars.append(Bar(name=name, value=value, low=low, high=high, note=note, is_encoder=not changes))
    sentences += _compare_sites(scores)
    if not any(row.phenotype == "mean_fd" for row in rows):
        sentences.append("Motion was not predicted: framewise displacement is missing or constant in the sidecars.")
    if all(row.phenotype == "mean_fd" for row in rows):
        sentences.append("Site was not predicted: no column has two sites with at least five participants each.")
    caption = (
        "How well motion and site can be predicted from the embeddings, from 0 (chance) to 1 (perfect): r for motion, "
        "2 AUROC - 1 for site. A phenotype that correlates with them can be predicted through them."
    )
    how: dict[str, Any] = {"label": "predictability", "chance": 0.0, "name": "leakage"}
    return Section(
        anchor="leakage",
        title="Leakage of motion and site",
        short="Leakage",
        sentences=sentences,
        graphics=[show_bars("Leakage", caption, bars, **how)] if bars else [],
    )


def _compare_sites(scores: DataFrame) -> list[str]:
    """Compare how well sites are told apart before and after harmonisation, in a sentence, if there was any."""
    own = scores[(scores["role"] == "leakage") & (scores["metric"] == "balanced_accuracy")]
    rows: list[Any] = list(own[own["covariates"] == ""].itertuples())
    before = {row.phenotype: row for row in rows if not row.harmonized}
    return [
        f"A classifier of {row.phenotype}, trained in one half of the rows and tested in the other, has a balanced "
        f"accuracy of {format_score(before[row.phenotype])} before and {format_score(row)} after harmonisation by "
        f"{row.harmonized}, each half by itself (chance: {format_number(row.chance)}). Removing differences between "
        "sites also removes what they explain of a phenotype: only effects within sites remain to be predicted."
        for row in rows
        if row.harmonized and row.phenotype in before
    ]


def build_map_section(stored: ProbeTables) -> Section | None:
    """Show the embedding in two dimensions; None if there are no points, or nothing to colour them by."""
    table, axes = stored.points, ["axis1", "axis2"]
    columns = table.drop(columns=["participant_id", "session_id", *axes])
    colourings = choose_colourings([build_colouring(str(name), columns[name]) for name in columns])
    if table.empty or not colourings:
        return None
    has_sessions = bool((table["session_id"] != "").any())
    points, people = table[axes].to_numpy(), name_people(table["participant_id"], table["session_id"])
    n_charts = 1 + len(stored.phenotypes)
    chart = build_map(points, people, shares=stored.shares, colourings=colourings, n_charts=n_charts)
    caption = (
        f"Mean embedding of each {'session of a participant' if has_sessions else 'participant'} on the first two "
        "principal components (scaled dimensions). Variables whose colours separate dominate the embeddings; site and "
        f"motion should not. {chart.note}"
    )
    graphic = Graphic(
        title="Sessions" if has_sessions else "Participants",
        caption=caption.strip(),
        body=chart.picture,
        data=chart.data,
        size="map",
        name="map",
        draw=lambda: draw_map(points, stored.shares, colourings),
    )
    return Section(anchor="map", title="The embedding in two dimensions", short="Embedding", graphics=[graphic])


def choose_colourings(colourings: Sequence[Colouring]) -> list[Colouring]:
    """Keep the variables that vary (or all with any value, if none does) and rename them for display. Kept data are
    shown only if motion is unknown."""
    levels = {one.name: len(set(one.labels) - {None}) for one in colourings}
    known = {name for name, count in levels.items() if count > 1} or {name for name, count in levels.items() if count}
    hidden = "kept_seconds" if "mean_fd" in known else "mean_fd"
    return [
        dataclasses.replace(one, name=_MAP_NAMES.get(one.name, one.name))
        for one in colourings
        if one.name in known and one.name != hidden
    ]


def build_colouring(name: str, cells: Iterable[str]) -> Colouring:
    """Classify a column, empty text where missing, as a quantity (more than ten different numbers) or as categories."""
    labels = [cell or None for cell in cells]
    try:
        numbers = np.array([math.nan if label is None else float(label) for label in labels])
    except ValueError:
        return Colouring(name=name, labels=tuple(labels), numbers=None)
    is_quantity = len(set(labels)) > 10
    return Colouring(name=name, labels=tuple(labels), numbers=numbers if is_quantity else None)


def build_retest_section(stored: ProbeTables) -> Section | None:
    """Describe test-retest reliability; None if no participant was scanned twice."""
    sentences, graphics = [], []
    for between, table in stored.retest.groupby("between", sort=False):
        rows: list[Any] = list(table.itertuples())
        own = next(row for row in rows if row.features == stored.model)
        others = "; ".join(
            f"{MODEL_NAMES.get(row.features, row.features)} {format_number(row.identification)} and "
            f"{format_number(row.icc_median)}"
            for row in rows
            if row is not own
        )
        sentences.append(
            f"Of {own.n_participants} participants with two {between}, {stored.model} identifies "
            f"{format_interval(own.identification, own.ci_low, own.ci_high)} of the scans; the median intraclass "
            f"correlation of its dimensions is {format_number(own.icc_median)} ({others})."
        )
        graphics.append(_show_retest(rows, str(between), stored.model))
    if not sentences:
        return None
    title, short = "Test-retest reliability", "Test-retest"
    return Section(anchor="retest", title=title, short=short, sentences=sentences, graphics=graphics)


def _show_retest(rows: Sequence[Any], between: str, encoder: str) -> Graphic:
    names = [MODEL_NAMES.get(row.features, row.features) for row in rows]
    columns = [
        Column(
            title="Recognised",
            label="share of scans (dashed: chance)",
            intervals=[(row.identification, row.ci_low, row.ci_high) for row in rows],
            reference=rows[0].chance,
        ),
        Column(
            title="Intraclass correlation",
            label="median and quartiles over features",
            intervals=[(row.icc_median, row.icc_low, row.icc_high) for row in rows],
            reference=0.0,
        ),
    ]
    return Graphic(
        title=f"Two {between}",
        caption="Left: share of scans whose most similar scan at the other time is from the same participant. Right: "
        "intraclass correlation of features, the share of variance between participants.",
        body=build_pair(names, columns, encoder=encoder),
        name=name_figure("retest", between),
        draw=lambda: draw_pair(names, columns, encoder=encoder),
    )


def build_training_section(stored: ProbeTables, out_dir: Path) -> Section | None:
    """Show the pretraining curves of an encoder trained here; None if there is no figure."""
    source = Path(stored.facts["Encoder"].get("Source", ""))
    found = (read_training_picture(place) for place in (source, out_dir / "encoders" / source.name))
    graphic = next((one for one in found if one), None)
    return Section(anchor="training", title="Pretraining", short="Pretraining", graphics=[graphic]) if graphic else None
