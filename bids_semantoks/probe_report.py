"""From what probes found to the page of the group.

Shape letters: n rows (participants or sessions).
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bids_semantoks.config import AppConfig
from bids_semantoks.designs import COLOUR_NAMES, ProbePlan
from bids_semantoks.embedding import RunEncoder
from bids_semantoks.inputs.phenotypes import parse_number
from bids_semantoks.outputs.figures_probes import (
    Bar,
    Colouring,
    draw_classes,
    draw_map,
    draw_models,
    draw_values,
    render_figure,
)
from bids_semantoks.outputs.group_report import (
    METRIC_NAMES,
    MODEL_NAMES,
    GroupPage,
    PhenotypePart,
    Picture,
    read_training_picture,
    write_group_page,
)
from bids_semantoks.outputs.store import StoredRun
from bids_semantoks.probes import (
    ModelResult,
    PhenotypeResult,
    ProbeResults,
    find_main_metric,
    find_score,
    run_probes,
)
from bids_semantoks.probing.metrics import Score
from bids_semantoks.probing.scorers import build_scorer
from bids_semantoks.rows import Rows, compute_motion

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
        leakage_picture=_draw_leakage(results),
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
                _format_p(result.p_value),
                _format_difference(result),
                _format_p(result.p_holm),
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
    p = f", p = {_format_p(first.p_value)}" if first.permutation else ""
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
        text += f" (difference {best.comparison.difference:+.2f}, p = {_format_p(best.p_holm)} after Holm)"
    return f"{text}."


def format_score(score: Score) -> str:
    """Write a score with its interval.

    Parameters
    ----------
    score : Score
        Of any metric.

    Returns
    -------
    str
        Such as ``0.71 [0.64, 0.77]``.
    """
    if math.isnan(score.value):
        return "n/a"
    if math.isnan(score.ci_low):
        return format_number(score.value)
    return f"{format_number(score.value)} [{format_number(score.ci_low)}, {format_number(score.ci_high)}]"


def format_number(value: float) -> str:
    """Write a number with two decimals.

    Parameters
    ----------
    value : float
        Any.

    Returns
    -------
    str
        Zero has no sign.
    """
    return f"{round(value, 2) + 0.0:.2f}"


def _format_p(value: float) -> str:
    return "" if math.isnan(value) else "<0.001" if value < 0.001 else f"{value:.3f}"


def _format_difference(result: ModelResult) -> str:
    found = result.comparison
    if found is None or math.isnan(found.difference):
        return ""
    return f"{found.difference:+.2f} [{found.ci_low:+.2f}, {found.ci_high:+.2f}]"


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
        p = f"  p {_format_p(result.p_value)}" if result.permutation else ""
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


def describe_leakage(results: ProbeResults) -> list[str]:
    """Say how well embeddings know motion and site.

    Parameters
    ----------
    results : ProbeResults
        What was found.

    Returns
    -------
    list of str
        One sentence each, also on what could not be measured.
    """
    sentences = []
    known = {name for name, _ in results.leakage}
    for name, result in results.leakage:
        metric = find_main_metric(result.predictions)
        score = find_score(result, metric)
        removed = f" with {', '.join(result.covariates)} removed" if result.covariates else ""
        what = "motion (mean framewise displacement)" if name == "mean_fd" else name
        verdict = "is visible in" if score.ci_low > score.chance and not result.p_value > 0.05 else "is not seen in"
        p = f", p = {_format_p(result.p_value)}" if result.permutation else ""
        sentences.append(
            f"{what[:1].upper()}{what[1:]} {verdict} the embeddings{removed}: {METRIC_NAMES[metric]} "
            f"{format_score(score)}{p}."
        )
    if "mean_fd" not in known:
        sentences.append("Motion could not be predicted: its sidecars give no framewise displacement that varies.")
    if not known - {"mean_fd"}:
        sentences.append("Site could not be predicted: no column names two sites with five participants each.")
    return sentences


def _draw_leakage(results: ProbeResults) -> Picture | None:
    bars: dict[str, list[Bar]] = {}
    for name, result in results.leakage:
        metric = find_main_metric(result.predictions)
        score = find_score(result, metric)
        removed = " (covariates removed)" if result.covariates else ""
        p = f"  p {_format_p(result.p_value)}" if result.permutation else ""
        # Both scales are brought to 0 for chance and 1 for perfect, so that one axis serves.
        factor, shift = (2, -1) if metric == "auroc" else (1, 0)
        bars.setdefault("all", []).append(
            Bar(
                name=f"{name}{removed}",
                value=factor * score.value + shift,
                low=factor * score.ci_low + shift,
                high=factor * score.ci_high + shift,
                note=f"{METRIC_NAMES[metric]} {format_number(score.value)}{p}",
                is_encoder=not result.covariates,
            )
        )
    if not bars:
        return None
    return Picture(
        title="Leakage",
        caption="How well motion and site are predicted from the embeddings, from 0 (chance) to 1 (perfect): r for "
        "motion, 2 AUROC - 1 for site. What embeddings know of these can stand in for a phenotype that goes with them.",
        data=render_figure("leakage", lambda: draw_models(bars["all"], label="predictability", chance=0)),
    )


def build_colourings(results: ProbeResults) -> list[Colouring]:
    """Choose what the map of participants is coloured by.

    Parameters
    ----------
    results : ProbeResults
        What was found.

    Returns
    -------
    list of Colouring
        Site, sex, age and what was probed, where they are there, motion, and sessions.
    """
    plan, rows = results.plan, results.rows
    names = [plan.site, *(name for name in COLOUR_NAMES if name in plan.columns), *plan.config.probing.probe]
    found = [
        build_colouring(name, plan.columns[name].find(rows.keys))
        for name in dict.fromkeys(filter(None, names))
        if not plan.columns[name].has_sessions
    ]
    motion, seconds = compute_motion(rows)
    if not np.isnan(motion).all():
        found.append(_colour_by_numbers("motion: mean FD (mm)", motion))
    else:
        found.append(_colour_by_numbers("kept data (s)", seconds))
    counts = _count_sessions(rows)
    if counts.max() > 1:
        found.append(build_colouring("sessions", [str(count) for count in counts.tolist()]))
    return found


def _count_sessions(rows: Rows) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array([len({run.entities.get("ses", "") for run in runs}) for runs in rows.runs])


def _colour_by_numbers(name: str, values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Colouring:
    labels = tuple(None if math.isnan(value) else f"{value:g}" for value in values.tolist())
    return Colouring(name=name, labels=labels, numbers=values)


def build_colouring(name: str, labels: Sequence[str | None]) -> Colouring:
    """Decide whether a column is a quantity or names.

    Parameters
    ----------
    name : str
        Of the column.
    labels : sequence of (str or None), length n
        Text.

    Returns
    -------
    Colouring
        A quantity where there are more than ten different numbers.
    """
    numbers = [math.nan if label is None else parse_number(label) for label in labels]
    if None in numbers or len(set(labels)) <= 10:
        return Colouring(name=name, labels=tuple(labels), numbers=None)
    return Colouring(name=name, labels=tuple(labels), numbers=np.array(numbers, dtype=np.float64))
