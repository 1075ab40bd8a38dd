"""Recommendation for a run in one sentence: use, inspect or exclude it, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.quality.fit import AMBER, GREEN, RED, FitItem, find_worst
from bids_semantoks.quality.limits import LIMITS, REPETITION_TIMES, judge_measures

#: Name of a measure, how its values are written, and where its limits come from.
_WORDS: Final = {
    "mean_fd": ("mean FD", "{:.2f} mm", "convention; single volumes are scrubbed above 0.2 or 0.5 mm (Power et al.)"),
    "kept_seconds": ("kept data", "{:.0f} s", "connectivity stabilises after about 5 min (Van Dijk et al. 2010)"),
    "scrubbed_share": ("scrubbed volumes", "{:.0%}", "convention of bids_semantoks"),
    "coverage": ("coverage", "{:.2f}", "convention of bids_semantoks"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What to do with a run."""

    level: str  # green, amber or red
    action: str  # Use, Look or Leave out
    reason: str  # a sentence


def measure_run(signals: Mapping[str, Any], coverage: NDArray[np.float64]) -> dict[str, Any]:
    """Collect the measures of a run that `judge_measures` knows, from the sidecar of its signals; None if unknown.

    `coverage` (P,) is the share of each parcel that has data, NaN if unknown.
    """
    n_total, dropped = signals["VolumesTotal"], signals["VolumesDropped"]
    n_real = n_total - dropped["Dummy"]["Count"] - dropped.get("Padding", {}).get("Count", 0)
    return {
        "mean_fd": signals["MeanFramewiseDisplacement"],
        "kept_seconds": signals["VolumesKept"] * signals["RepetitionTime"],
        "scrubbed_share": dropped["Scrubbed"]["Count"] / n_real if n_real > 0 else None,
        "coverage": None if np.isnan(coverage).all() else float(np.nanmean(coverage)),
        "repetition_time": signals["RepetitionTime"],
    }


def judge_run(measures: Mapping[str, Any]) -> list[FitItem]:
    """Judge motion, kept data, scrubbing, coverage and repetition time of a run by limits that hold for any encoder."""
    levels = judge_measures(measures)
    items = []
    for column, (name, style, source) in _WORDS.items():
        limit, value = LIMITS[column], measures.get(column)
        side = "above" if limit.is_upper else "below"
        items.append(
            FitItem(
                name=name,
                value="not known" if value is None else style.format(value),
                level=levels.get(column, GREEN) if value is not None else "unknown",
                words=f"look {side} {style.format(limit.amber)}, leave out {side} {style.format(limit.red)}",
                source=source,
            )
        )
    low, high = REPETITION_TIMES
    items.append(
        FitItem(
            name="repetition time",
            value=f"{measures['repetition_time']:g} s",
            level=levels.get("repetition_time", GREEN),
            words=f"look outside {low:g} to {high:g} s",
            source="range in which encoders were evaluated",
        )
    )
    return items


def judge(items: Sequence[FitItem], problem: str = "") -> Verdict:
    """Sum up judged properties, at least one; `problem`, the reason why there is nothing to judge, takes precedence."""
    if problem:
        return Verdict(level=RED, action="Leave out", reason=problem)
    known = [item for item in items if item.level in (GREEN, AMBER, RED)]
    worst = find_worst(known)
    if worst == GREEN:
        return Verdict(level=GREEN, action="Use", reason="All measures are within their limits.")
    bad = sorted((item for item in known if item.level != GREEN), key=lambda item: item.level != RED)
    reason = "; ".join(dict.fromkeys(f"{item.name} {item.value} ({item.words})" for item in bad))
    return Verdict(
        level=worst, action="Leave out" if worst == RED else "Look", reason=f"{reason[:1].upper()}{reason[1:]}."
    )
