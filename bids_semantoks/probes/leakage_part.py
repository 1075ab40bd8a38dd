"""What the page of the group says about motion and site."""

from __future__ import annotations

from bids_semantoks.outputs.figures_probes import Bar, draw_models, render_figure
from bids_semantoks.outputs.group_report import METRIC_NAMES, Picture
from bids_semantoks.probes.findings import ProbeResults, find_main_metric, find_score
from bids_semantoks.probes.wording import format_number, format_p, format_score


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
        p = f", p = {format_p(result.p_value)}" if result.permutation else ""
        sentences.append(
            f"{what[:1].upper()}{what[1:]} {verdict} the embeddings{removed}: {METRIC_NAMES[metric]} "
            f"{format_score(score)}{p}."
        )
    if "mean_fd" not in known:
        sentences.append("Motion could not be predicted: its sidecars give no framewise displacement that varies.")
    if not known - {"mean_fd"}:
        sentences.append("Site could not be predicted: no column names two sites with five participants each.")
    return sentences


def draw_leakage(results: ProbeResults) -> Picture | None:
    """Draw how well embeddings know motion and site.

    Parameters
    ----------
    results : ProbeResults
        What was found.

    Returns
    -------
    Picture or None
        None where nothing could be measured.
    """
    bars: dict[str, list[Bar]] = {}
    for name, result in results.leakage:
        metric = find_main_metric(result.predictions)
        score = find_score(result, metric)
        removed = " (covariates removed)" if result.covariates else ""
        p = f"  p {format_p(result.p_value)}" if result.permutation else ""
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
