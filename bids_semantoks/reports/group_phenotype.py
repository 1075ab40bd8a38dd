"""The part of the group report about one phenotype."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from markupsafe import Markup
from pandas import DataFrame

from bids_semantoks.outputs.group_tables import COMPARED, ProbeTables
from bids_semantoks.outputs.group_words import (
    CONFOUNDER_SHARE,
    METRIC_NAMES,
    MODEL_NAMES,
    describe_p,
    describe_row_test,
    describe_verdict,
    format_difference,
    format_number,
    format_p,
    format_score,
    show_model,
)
from bids_semantoks.records import Floats
from bids_semantoks.reports.charts import Column, build_pair, build_predictions, build_roc, name_people
from bids_semantoks.reports.figures_probes import draw_classes, draw_pair, draw_values
from bids_semantoks.reports.group_extras import build_added
from bids_semantoks.reports.group_report import (
    Graphic,
    PhenotypePart,
    Section,
    build_bar,
    name_figure,
    show_bars,
    show_calibration,
)
from bids_semantoks.statistics.metrics import name_main_metric
from bids_semantoks.statistics.significance import SIGNIFICANT

_MOST_LISTED: Final = 8


def name_masked(model: str, network: str, *, is_alone: bool) -> str:
    """Name an encoder with networks masked, as in the tables: ``RandomTiny only Vis``, ``RandomTiny without Vis``."""
    return f"{model} {'only' if is_alone else 'without'} {network}"


def name_whole(model: str) -> str:
    """Name an encoder with all networks (``RandomTiny all networks``), if another protocol made its main score."""
    return f"{model} all networks"


def build_part(stored: ProbeTables, phenotype: str) -> PhenotypePart:
    """Build the sentences, facts, figures and tables of one phenotype."""
    rows = stored.find_scores(phenotype, *COMPARED)
    ordered = sorted(rows, key=lambda row: -np.nan_to_num(row.value, nan=-9))
    encoder = next(row for row in rows if row.role == "encoder")
    others = [row.metric for row in _select(stored.scores, phenotype=phenotype, role="encoder")]
    # Pooled correlation is below chance on noise, so it is only in the table, whose sidecar explains it.
    others = [metric for metric in others if metric not in (encoder.metric, "r_pooled")]
    strata = _select(stored.strata, phenotype=phenotype)
    divisions: dict[str, list[Any]] = {}
    for row in strata:
        if row.metric != CONFOUNDER_SHARE:
            divisions.setdefault(row.by, []).append(row)
    details = [build_added(stored, encoder), _build_confounders(strata), _build_importance(stored, encoder)]
    details += [_build_strata(stored, encoder, by, own) for by, own in divisions.items()]
    header = ["model", METRIC_NAMES[encoder.metric], "permutation test", "verdict", "encoder minus this", "p (Holm)"]
    facts = stored.facts["Phenotypes"][phenotype]
    return PhenotypePart(
        name=phenotype,
        lead=describe_result(rows),
        facts=list(facts["Facts"].items()),
        graphics=[_show_models(ordered), *_show_predictions(stored, phenotype)],
        columns=[*header, *(METRIC_NAMES[name] for name in others)],
        lines=[_build_line(stored, row, others) for row in ordered],
        people=(facts["People"]["Columns"], facts["People"]["Lines"]),
        details=[one for one in details if one is not None],
    )


def _select(table: DataFrame, **cells: str) -> list[Any]:
    """Select the rows of a table with these cells, by column."""
    return list(table[(table[list(cells)] == list(cells.values())).all(axis=1)].itertuples())


def _build_line(stored: ProbeTables, row: Any, metrics: Sequence[str]) -> list[str]:
    found = _select(stored.scores, phenotype=row.phenotype, model=row.model, role=row.role)
    own = {one.metric: one for one in found}
    # Models of further preparations are compared with their own of the main one.
    has_other = row.compared_with not in ("", stored.model)
    return [
        show_model(row.model),
        format_score(row),
        describe_row_test(row).partition(": ")[2],
        row.verdict,
        format_difference(row) + (f" ({show_model(row.compared_with)} minus this)" if has_other else ""),
        format_p(row.difference_p_holm),
        *(format_score(own[metric]) for metric in metrics),
    ]


def describe_result(rows: Sequence[Any]) -> str:
    """Summarise the main scores of all models of a phenotype in a few sentences: encoder, best baseline, site."""
    first = next(row for row in rows if row.role == "encoder")
    if math.isnan(first.value):
        what = "two classes" if first.kind == "classification" else "two values"
        return (
            f"{METRIC_NAMES[first.metric]} is unknown: no test part has {what} to compare. See all scores for metrics "
            "that are defined for single participants."
        )
    text = f"{first.model} reaches {METRIC_NAMES[first.metric]} {format_score(first)}"
    if first.n_seeds > 1:
        text += f", mean of {first.n_seeds} encoders (standard deviation {first.seed_sd:.3f} between them)"
    text += f": {describe_verdict(first)}."
    if test := describe_row_test(first):
        text += f" {test[0].upper()}{test[1:]}."
    others = [row for row in rows if row.role == "baseline" and row.model != "chance" and not math.isnan(row.value)]
    if not others:
        return text
    best = max(others, key=lambda row: row.value)
    shown = format_number(best.value)
    verb = "scores lower" if best.value < first.value else "scores higher"
    verb = "scores the same" if shown == format_number(first.value) else verb
    text += f" The best baseline, {MODEL_NAMES.get(best.model, best.model)}, {verb} with {shown}"
    if not math.isnan(best.difference_p_holm):
        text += f" (difference {best.difference:+.2f}, {describe_p(best.difference_p_holm)} after Holm)"
    text += "."
    site = next((row for row in others if row.model == "site"), None)
    if site is not None and site.ci_low > site.chance:
        text += (
            f" Site alone reaches {format_score(site)}: models may partly predict the site; see the scores "
            "within sites, or use --leave-out."
        )
    return text


def _show_models(ordered: Sequence[Any]) -> Graphic:
    bars = [
        build_bar(
            row, show_model(row.model), is_encoder=row.role != "baseline" and row.compared_with not in MODEL_NAMES
        )
        for row in ordered
    ]
    return show_bars(
        "Models on the same participants and splits",
        "Best first. Intervals are from a bootstrap over participants, widened because folds share training rows. "
        "The table has the permutation test of each model and the differences.",
        bars,
        label=METRIC_NAMES[ordered[0].metric],
        chance=ordered[0].chance,
        name=name_figure(ordered[0].phenotype, "models"),
    )


def _show_predictions(stored: ProbeTables, phenotype: str) -> list[Graphic]:
    facts = stored.facts["Phenotypes"][phenotype]
    if facts["Classes"]:
        return _show_classes(facts, phenotype)
    rows = stored.predictions[stored.predictions["phenotype"] == phenotype]
    truth, predicted = rows["truth"].to_numpy(dtype=np.float64), rows["score"].to_numpy(dtype=np.float64)
    people = name_people(rows["participant_id"], rows["session_id"])
    chart = build_predictions(truth, predicted, people, name=phenotype, n_charts=1 + len(stored.phenotypes))
    return [
        Graphic(
            title="Predicted and true values",
            caption="Out of fold, averaged over repetitions. The weaker the association, the closer predictions are "
            f"to the mean. {chart.note}".strip(),
            body=chart.picture,
            data=chart.data,
            size="narrow",
            name=name_figure(phenotype, "predictions"),
            draw=lambda: draw_values(truth, predicted, name=phenotype),
        )
    ]


def _show_classes(facts: Mapping[str, Any], phenotype: str) -> list[Graphic]:
    """Show the confusion matrix with the publication figure, the ROC curve of two classes, and the calibration."""
    classes, counts = facts["Classes"], np.array(facts["Confusion"])
    roc = (facts["Roc"]["False"], facts["Roc"]["Hit"]) if len(classes) == 2 else None
    confusion = Graphic(
        title="Confusion matrix",
        caption="Out of fold: shares of each true class (the mean of the diagonal is the balanced accuracy) and "
        "numbers in brackets, averaged over repetitions.",
        body=_tabulate_confusion(counts, classes),
        name=name_figure(phenotype, "predictions"),
        draw=lambda: draw_classes(counts, classes, roc),
    )
    calibration = show_calibration(facts, "Calibration")
    if roc is None:
        return [confusion, calibration]
    caption = "Only pairs within a test fold are compared, so that the area is the AUROC."
    curve = Graphic(title="ROC curve", caption=caption, body=build_roc(*roc, classes[1]), size="small")
    return [confusion, curve, calibration]


def _tabulate_confusion(counts: Floats, classes: Sequence[str]) -> Markup:
    """Tabulate a confusion matrix (K, K), true classes in rows; darker cells have a larger share of the row."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1e-12)
    cell = Markup('<td class="shade{}">{:.0%}<span> ({:.0f})</span></td>')
    lines = [
        Markup('<tr><th scope="row">{}</th>{}</tr>').format(
            name, Markup().join(cell.format(round(10 * s), s, n) for s, n in zip(row, own, strict=True))
        )
        for name, row, own in zip(classes, shares.tolist(), counts.tolist(), strict=True)
    ]
    head = Markup().join(Markup('<th scope="col">{}</th>').format(name) for name in classes)
    return Markup(
        '<table class="confusion"><thead><tr><th scope="col">true, predicted</th>{}</tr></thead>'
        "<tbody>{}</tbody></table>"
    ).format(head, Markup().join(lines))


def _build_importance(stored: ProbeTables, encoder: Any) -> Section | None:
    """Show the importance of each network; model names in the tables say which networks are masked."""
    rows = {row.model: row for row in stored.find_scores(encoder.phenotype, "importance")}
    networks, alone, lost = [], [], []
    for network in stored.facts.get("Networks", []):
        only = rows.get(name_masked(stored.model, network, is_alone=True))
        without = rows.get(name_masked(stored.model, network, is_alone=False))
        if only is not None and without is not None:
            networks.append(network)
            alone.append((only.value, only.ci_low, only.ci_high))
            lost.append((without.difference, without.difference_low, without.difference_high))
    if not networks:
        return None
    label, whole = METRIC_NAMES[encoder.metric], rows.get(name_whole(stored.model), encoder).value
    columns = [
        Column(
            title="This network only",
            label=f"{label} (dashed: chance, line: all)",
            intervals=alone,
            reference=encoder.chance,
            whole=whole,
        ),
        Column(title="Loss without it", label=f"{label} of all minus without it", intervals=lost, reference=0.0),
    ]
    graphic = Graphic(
        title="Network importance",
        caption="The same encoder and splits, with all networks but one masked (left) or one masked (right). "
        "Intervals on the right are of the difference on the same folds (corrected resampled t test, not "
        "adjusted for the number of comparisons; adjusted p values are in group_probe.tsv). Networks share "
        "information: a network without loss may still be predictive.",
        body=build_pair(networks, columns),
        name=name_figure(encoder.phenotype, "networks"),
        draw=lambda: draw_pair(networks, columns),
    )
    return Section(title="By network", graphics=[graphic])


def _build_confounders(strata: Sequence[Any]) -> Section | None:
    """Say of each possible confounder whether the encoder's predictions depend on it; None without such tests."""
    rows = [row for row in strata if row.metric == CONFOUNDER_SHARE]
    if not rows:
        return None
    return Section(
        title="Do predictions ride on confounders?",
        sentences=[
            *map(describe_confounder, rows),
            "The partial confounder test permutes a confounder while it keeps its relation to the phenotype. Shares "
            "that are not larger than expected are no proof of independence.",
        ],
        columns=["confounder", "share of the predictions' variance", "expected", "p", "participants"],
        lines=[
            [row.by, f"{row.value:.1%}", f"{row.expected:.1%}", format_p(row.p_value), str(row.n_participants)]
            for row in rows
        ],
    )


def describe_confounder(row: Any) -> str:
    """Describe a partial confounder test in a sentence."""
    name = "motion (mean framewise displacement)" if row.by == "mean_fd" else row.by
    found = f"{row.value:.1%} of their variance against {row.expected:.1%} expected, {describe_p(row.p_value)}"
    if row.p_value < SIGNIFICANT:
        return f"Predictions of {row.phenotype} ride on {name} beyond what {row.phenotype} explains: {found}."
    return f"Predictions of {row.phenotype} were not found to ride on {name}: {found}."


def _build_strata(stored: ProbeTables, encoder: Any, by: str, rows: Sequence[Any]) -> Section:
    """Show the scores of the encoder within the subgroups of a column, `rows`."""
    name, is_class = by.replace("_", " "), encoder.kind == "classification"
    named = [(f"{row.level} ({row.n_participants})", row) for row in rows]
    bars = [build_bar(row, shown) for shown, row in named if not math.isnan(row.value)]
    unknown = [shown for shown, row in named if math.isnan(row.value)]
    more = f" and {len(unknown) - _MOST_LISTED} more" if len(unknown) > _MOST_LISTED else ""
    few = "fewer than ten participants" + (" of a class" if is_class else "")
    caption = (
        "Numbers of test participants are in brackets; only pairs within a test fold and subgroup are compared, so "
        f"that differences between subgroups do not contribute. Overall: {format_score(encoder)}."
    )
    label = METRIC_NAMES[name_main_metric(is_class=is_class)]
    how: dict[str, Any] = {"label": label, "chance": encoder.chance, "name": name_figure(encoder.phenotype, "by", by)}
    return Section(
        title=f"By {name}",
        sentences=[f"Not scored ({few}): {', '.join(unknown[:_MOST_LISTED])}{more}."] if unknown else [],
        graphics=[show_bars(f"{stored.model} within each {name}", caption, bars, **how)] if bars else [],
    )
