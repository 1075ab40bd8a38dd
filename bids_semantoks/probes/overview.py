"""What was run, in whom and how, in a few words."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from bids_semantoks.embedding import RunEncoder
from bids_semantoks.probes.findings import PhenotypeResult, ProbeResults
from bids_semantoks.statistics.metrics import compute_roc, count_decisions
from bids_semantoks.statistics.predictions import Predictions


def describe_call(results: ProbeResults, encoder: RunEncoder) -> dict[str, str]:
    """Describe what was run, as text by topic."""
    asked, rows = results.plan.config.probing, results.rows
    n_runs = sum(map(len, rows.runs))
    repeats = f"{asked.n_repeats} repetition{'s' if asked.n_repeats > 1 else ''}"
    splits = f"leave one {asked.leave_out} out" if asked.leave_out else f"{repeats} of 5 folds"
    if asked.protocol == "paper":
        splits = f"{repeats} of train, validation and test (60, 20, 20 %)"
    if asked.splits:
        splits = f"given by {asked.splits.name}"
    facts = [
        ("people", f"{len(set(rows.participants))} participants, {n_runs} runs with embeddings"),
        ("encoder", encoder.loaded.description),
        ("protocol", {"nested": "nested cross-validation", "paper": "published evaluation"}[asked.protocol]),
        ("splits", splits),
        ("kept together", asked.group_by or "runs and windows of a participant"),
        ("covariates removed", ", ".join(asked.covariate) or "none"),
        ("permutations", str(asked.n_permutations)),
        ("seed", str(results.plan.config.running.random_seed)),
    ]
    if asked.replicates:
        facts.insert(2, ("averaged with", ", ".join(Path(name).name for name in asked.replicates)))
    return dict(facts)


def describe_phenotype(one: PhenotypeResult) -> dict[str, Any]:
    """Describe who was in, who was out and how they were split; for classes also what the page draws of them."""
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
    facts.append(
        ("splits", f"{repeats} × {folds} folds" if folds > 1 else f"{repeats} repetition{'s' if repeats > 1 else ''}")
    )
    facts.append(("covariates removed", ", ".join(design.covariate_names) or "none"))
    predictions = next(iter(one.models.values())).predictions
    return {"Classes": list(predictions.classes), "Facts": dict(facts), **_describe_decisions(predictions)}


def _describe_decisions(predictions: Predictions) -> dict[str, Any]:
    """Collect what the page draws of classes, counted as the scores are."""
    if not predictions.classes:
        return {}
    found: dict[str, Any] = {"Confusion": np.round(count_decisions(predictions), 6).tolist()}
    if len(predictions.classes) == 2:
        false, hit = (np.round(values, 6).tolist() for values in compute_roc(predictions))
        found["Roc"] = {"False": false, "Hit": hit}
    return found
