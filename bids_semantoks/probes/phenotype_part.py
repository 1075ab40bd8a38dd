"""What the page of the group says about one phenotype."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from bids_semantoks.outputs.figures_probes import Bar, draw_classes, draw_models, draw_values, render_figure
from bids_semantoks.outputs.group_report import METRIC_NAMES, MODEL_NAMES, PhenotypePart, Picture
from bids_semantoks.outputs.store import StoredRun
from bids_semantoks.probes.findings import ModelResult, PhenotypeResult, ProbeResults, find_main_metric, find_score
from bids_semantoks.probes.wording import format_difference, format_number, format_p, format_score
from bids_semantoks.probing.scorers import build_scorer


def build_part(results: ProbeResults, one: PhenotypeResult) -> PhenotypePart:
    """Build what the page says about one phenotype.

    Parameters
    ----------
    results : ProbeResults
        All that was found.
    one : PhenotypeResult
        Of this phenotype.

    Returns
    -------
    PhenotypePart
        Sentence, facts, pictures and table.
    """
    first = one.models[results.model]
    metric = find_main_metric(first.predictions)
    ordered = sorted(one.models.items(), key=lambda item: -np.nan_to_num(find_score(item[1], metric).value, nan=-9))
    others = [score.metric for score in first.scores if score.metric != metric]
    return PhenotypePart(
        name=one.phenotype.name,
        lead=describe_result(results.model, one),
        facts=_describe_rows(one),
        pictures=[_draw_models(results.model, ordered, metric), _draw_predictions(one, first)],
        columns=[
            "model",
            METRIC_NAMES[metric],
            "p",
            "encoder minus this",
            "p (Holm)",
            *(METRIC_NAMES[name] for name in others),
        ],
        lines=[
            [
                MODEL_NAMES.get(name, name),
                format_score(find_score(result, metric)),
                format_p(result.p_value),
                format_difference(result),
                format_p(result.p_holm),
                *(format_score(find_score(result, each)) for each in others),
            ]
            for name, result in ordered
        ],
        strata=_score_strata(results, one, metric),
    )


def describe_result(model: str, one: PhenotypeResult) -> str:
    """Say in a few sentences what was found, and whether baselines did as well.

    Parameters
    ----------
    model : str
        Encoder label.
    one : PhenotypeResult
        Of a phenotype.

    Returns
    -------
    str
        For the top of the page.
    """
    first = one.models[model]
    metric = find_main_metric(first.predictions)
    score = find_score(first, metric)
    p = f", p = {format_p(first.p_value)}" if first.permutation else ""
    text = f"{model} reaches {METRIC_NAMES[metric]} {format_score(score)}{p}"
    is_found = score.ci_low > score.chance and not first.p_value > 0.05
    text += "." if is_found else ", which chance explains as well."
    others = [(name, result) for name, result in one.models.items() if name not in (model, "chance")]
    others = [item for item in others if not math.isnan(find_score(item[1], metric).value)]
    if not others:
        return text
    name, best = max(others, key=lambda item: find_score(item[1], metric).value)
    value = find_score(best, metric).value
    verb = "scores lower" if value < score.value else "scores higher"
    text += f" The best baseline, {MODEL_NAMES.get(name, name)}, {verb} with {format_number(value)}"
    if best.comparison and not math.isnan(best.p_holm):
        text += f" (difference {best.comparison.difference:+.2f}, p = {format_p(best.p_holm)} after Holm)"
    return f"{text}."


def _describe_rows(one: PhenotypeResult) -> list[tuple[str, str]]:
    design, target = one.design, one.design.target
    known = ~np.isnan(target.values)
    rows = "sessions" if design.rows.has_sessions else "participants"
    n_people = len(set(design.rows.participants[known]))
    facts = [
        ("in", f"{int(known.sum())} {rows}" + (f" of {n_people} participants" if design.rows.has_sessions else "")),
        ("out", "; ".join(design.notes) or "nobody"),
        ("from", one.phenotype.table),
    ]
    if target.classes:
        counts = Counter(target.values[known].astype(int).tolist())
        facts.append(("classes", ", ".join(f"{name}: {counts[i]}" for i, name in enumerate(target.classes))))
    else:
        values = target.values[known]
        facts.append(("values", f"{values.min():g} to {values.max():g}, mean {values.mean():.3g}"))
        if target.n_bins:
            facts.append(("classes", f"{target.n_bins} bins of equal size, cut at quantiles of the training rows"))
    folds = len({split.fold for split in design.splits})
    repeats = len({split.repetition for split in design.splits})
    facts.append(("splits", f"{repeats} × {folds} folds" if folds > 1 else f"{repeats} repetitions"))
    facts.append(("covariates removed", ", ".join(design.covariate_names) or "none"))
    return facts


def _draw_models(model: str, ordered: Sequence[tuple[str, ModelResult]], metric: str) -> Picture:
    bars = []
    for name, result in ordered:
        score = find_score(result, metric)
        p = f"  p {format_p(result.p_value)}" if result.permutation else ""
        bars.append(
            Bar(
                name=MODEL_NAMES.get(name, name),
                value=score.value,
                low=score.ci_low,
                high=score.ci_high,
                note=f"{format_number(score.value)}{p}",
                is_encoder=name == model,
            )
        )
    chance = find_score(ordered[0][1], metric).chance
    return Picture(
        title="Models on the same people and splits",
        caption="Best first. Intervals come from a bootstrap over participants, widened because folds share their "
        "training rows; p is that of a permutation test of the model itself, not of differences, which the table has.",
        data=render_figure("models", lambda: draw_models(bars, label=METRIC_NAMES[metric], chance=chance)),
    )


def _draw_predictions(one: PhenotypeResult, result: ModelResult) -> Picture:
    predictions, name = result.predictions, one.phenotype.name
    truth, scores, _ = predictions.average()
    tested = predictions.tested
    if predictions.classes:
        data = render_figure(
            name, lambda: draw_classes(truth[tested].astype(np.int64), scores[tested], predictions.classes)
        )
        return Picture(
            title="Predicted and true classes",
            caption="Out of fold, probabilities averaged over repetitions; shares of each true class.",
            data=data,
        )
    return Picture(
        title="Predicted and true values",
        caption="Out of fold, averaged over repetitions. Predictions shrink towards the mean the less the embeddings "
        "know.",
        data=render_figure(name, lambda: draw_values(truth[tested], scores[tested, 0], name=name)),
    )


def _score_strata(
    results: ProbeResults, one: PhenotypeResult, metric: str
) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Score the encoder within sites and within repetition times."""
    rows, predictions = one.design.rows, one.models[results.model].predictions
    scorer = build_scorer(predictions, metric)
    labels = {"repetition time": tuple(_name_times(runs) for runs in rows.runs)}
    site = results.plan.site
    if site and (not results.plan.columns[site].has_sessions or rows.has_sessions):
        labels[site] = tuple(label or "n/a" for label in results.plan.columns[site].find(rows.keys))
    found = []
    for name, values in labels.items():
        lines = []
        for label in sorted(set(values)):
            inside = np.array([value == label for value in values]) & predictions.tested
            score = float(scorer(inside[None].astype(np.float64))[0]) if inside.any() else math.nan
            lines.append((label, str(int(inside.sum())), "n/a" if math.isnan(score) else f"{score:.2f}"))
        if len(lines) > 1:
            found.append((name, lines))
    return found


def _name_times(runs: Sequence[StoredRun]) -> str:
    return " and ".join(sorted({f"{run.sidecar['RepetitionTime']:g} s" for run in runs}))
