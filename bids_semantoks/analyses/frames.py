"""Tables of the group, built once from the results of probes."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from bids_semantoks.analyses.design import COLOUR_NAMES, ProbePlan
from bids_semantoks.analyses.harmonising import describe_harmonisation
from bids_semantoks.analyses.preparations import describe_preparations
from bids_semantoks.analyses.results import ModelResult, People, PhenotypeResult, ProbeResults, list_described
from bids_semantoks.analyses.rows import Rows, build_rows, compute_motion, read_embeddings
from bids_semantoks.config import to_json
from bids_semantoks.embedding import RunEncoder
from bids_semantoks.outputs.features import describe_weights
from bids_semantoks.outputs.group_tables import ProbeTables, build_group_table, keep_earlier_tables, write_probes
from bids_semantoks.outputs.group_words import (
    METRIC_NAMES,
    describe_row_test,
    describe_test,
    describe_verdict,
    format_score,
)
from bids_semantoks.outputs.sidecars import find_versions, read_column_descriptions
from bids_semantoks.outputs.store import StoredRun
from bids_semantoks.records import Floats
from bids_semantoks.statistics.class_metrics import compute_calibration
from bids_semantoks.statistics.metrics import compute_roc, count_decisions
from bids_semantoks.statistics.predictions import Predictions
from bids_semantoks.statistics.significance import PermutationTest
from bids_semantoks.statistics.splits import build_split_table, tabulate_splits

LOGGER = logging.getLogger("bids_semantoks")

_PROTOCOLS: Final = {
    "nested": "nested cross-validation",
    "paper": "published evaluation",
    "brainmarks": "evaluation of Brainmarks",
}

_OF_SCORES: Final = ("model", "metric", "value", "ci_low", "ci_high", "bound", "chance", "n_rows")

#: Columns that the table of points and its sidecar already have.
_TAKEN: Final = ("axis1", "axis2", "mean_fd", "kept_seconds", "session", "Facts")


def write_results(results: ProbeResults, stored: Sequence[StoredRun], encoder: RunEncoder) -> ProbeTables:
    """Write all tables and return them; those of a different earlier call are kept as copies."""
    config = results.plan.config
    prepared = describe_preparations(stored, results.plan.preparations)
    scores = [
        *(
            row
            for one in results.phenotypes
            for model in one.models.values()
            for row in build_score_rows(one.phenotype.name, model, one.design.rows, one.n_pretrained)
        ),
        *(
            row
            for name, model in results.leakage
            for row in build_score_rows(name, model, results.rows, results.n_pretrained)
        ),
    ]
    facts = {
        "Encoder": {
            "Name": results.model,
            "SHA256": encoder.loaded.sha256,
            "Description": encoder.loaded.description,
            "Source": config.embedding.model,
        },
        "Pretraining": results.pretraining,
        "Overview": describe_call(results, encoder)
        | {f"preparation {name}": prepared[name]["Text"] for name in prepared},
        "Preparations": prepared,
        "Phenotypes": {
            one.phenotype.name: describe_phenotype(one, own)
            for one, own in zip(results.phenotypes, results.people, strict=True)
        },
        "Site": results.plan.site,
        "Networks": list(results.networks),
        "Seeds": {one.phenotype.name: _list_seeds(one) for one in results.phenotypes},
        "Settings": to_json(config)["probing"],
        "Weights": describe_weights(config.min_kept),
        "RandomSeed": config.running.random_seed,
        "Warnings": list(results.warnings),
        "SoftwareVersions": find_versions(),
    }
    columns = tuple(read_column_descriptions("group_predictions"))
    own = (dict(zip(columns, row, strict=True)) for row in _list_predictions(results.phenotypes, model=results.model))
    retest = [{"between": between, **dataclasses.asdict(one)} for between, one in results.retest]
    points, shares = build_points(results.plan, stored, results.model)
    tables = ProbeTables(
        facts=facts,
        scores=build_group_table("group_probe", scores),
        predictions=build_group_table("group_predictions", own),
        strata=build_group_table("group_strata", results.strata),
        retest=build_group_table("group_retest", retest),
        points=points,
        shares=shares,
    )
    kept = keep_earlier_tables(config.out_dir, facts)
    if kept is not None:
        LOGGER.warning("Replacing the probes of an earlier call with other settings; copies are in %s.", kept)
    n_repetitions, splits = _list_splits(results.phenotypes)
    write_probes(
        config.out_dir,
        tables,
        predictions=_list_predictions(results.phenotypes),
        splits=splits,
        people=(row for own in results.people for row in own.iterate_rows()),
        described=list_described(results.plan),
        n_repetitions=n_repetitions,
    )
    return tables


def _list_splits(results: Sequence[PhenotypeResult]) -> tuple[int, Iterator[tuple[object, ...]]]:
    """List the splits by participant, and count the repetitions; by role, with 0, where one phenotype needs it."""
    people = [one.design.rows.participants.tolist() for one in results]
    tables = [tabulate_splits(one.design.splits, own) for one, own in zip(results, people, strict=True)]
    wide = [table for table in tables if table is not None]
    if len(wide) < len(tables):
        return 0, (
            (one.phenotype.name, row.repetition, row.fold, f"sub-{row.participant}", row.role)
            for one, own in zip(results, people, strict=True)
            for row in build_split_table(one.design.splits, own)
        )
    n_repetitions = max(len(table[0]) - 1 for table in wide)
    return n_repetitions, (
        (one.phenotype.name, f"sub-{name}", *cells, *[""] * (n_repetitions - len(cells)))
        for one, table in zip(results, wide, strict=True)
        for name, *cells in table
    )


def _list_seeds(one: PhenotypeResult) -> dict[str, dict[str, list[float]]]:
    """List the score of each encoder where several were averaged, by model and metric."""
    return {
        name: {metric: list(values) for metric, values in model.seed_scores.items() if not np.isnan(values).any()}
        for name, model in one.models.items()
        if model.seed_scores
    }


def build_score_rows(
    name: str, result: ModelResult, rows: Rows, n_pretrained: int | None
) -> Iterator[dict[str, object]]:
    """Build the rows of group_probe.tsv of one model, one a score; `name` is that of what is predicted."""
    predictions, compared, test = result.predictions, result.comparison, result.permutation
    n_participants = len(set(rows.participants[predictions.tested]))
    for score in result.scores:
        is_main = score is result.main
        own, seeds = test if is_main else None, result.seed_scores.get(score.metric, ())
        difference = compared if compared is not None and compared.metric == score.metric else None
        yield {
            "phenotype": name,
            "kind": "classification" if predictions.classes else "regression",
            "protocol": result.protocol,
            **{column: getattr(score, column) for column in _OF_SCORES},
            "p_value": own and own.p_value,
            "n_participants": n_participants,
            "role": result.role,
            "covariates": ", ".join(result.covariates),
            "harmonized": result.harmonised,
            "n_repeats": predictions.n_repeats,
            "n_folds": predictions.n_train.shape[1],
            "difference": difference and difference.difference,
            "difference_low": difference and difference.ci_low,
            "difference_high": difference and difference.ci_high,
            "difference_p": difference and difference.p_value,
            "difference_p_holm": difference and result.p_holm,
            "compared_with": result.compared_with if difference else "",
            "n_pretrained": n_pretrained,
            "n_seeds": predictions.n_seeds,
            "seed_sd": float(np.std(seeds, ddof=1)) if len(seeds) > 1 else None,
            "p_statistic": own and own.name,
            "p_statistic_value": own and own.value,
            "p_smallest": own and own.smallest,
            "verdict": result.verdict if is_main else "",
        }


def _list_predictions(results: Sequence[PhenotypeResult], *, model: str = "") -> Iterator[tuple[object, ...]]:
    """List the rows of all models, or of one `model`."""
    for one in results:
        for name, result in one.models.items():
            predictions = result.predictions
            if result.role in ("added", "importance") or model not in ("", name):
                continue
            truth, scores, n_tests = predictions.average()
            decided = predictions.decide()
            classes = predictions.classes
            shown = [(1, classes[1])] if len(classes) == 2 else list(enumerate(classes or [""]))
            for row in np.flatnonzero(predictions.tested):
                names = _name_row(*one.design.rows.keys[row])
                for index, label in shown:
                    what: tuple[object, object] = (float(truth[row]), float(decided[row]))
                    if classes:
                        what = classes[int(truth[row])], classes[int(decided[row])]
                    yield (
                        one.phenotype.name,
                        name,
                        *names.values(),
                        *what,
                        label,
                        float(scores[row, index]),
                        int(n_tests[row]) // predictions.n_seeds,
                    )


def describe_call(results: ProbeResults, encoder: RunEncoder) -> dict[str, str]:
    """Describe what was run, as text by topic."""
    asked, rows, site = results.plan.config.probing, results.rows, results.plan.site
    n_runs = sum(map(len, rows.runs))
    repeats = f"{asked.n_repeats} repetition{'s' if asked.n_repeats > 1 else ''}"
    splits = f"leave-one-{asked.leave_out}-out" if asked.leave_out else f"{repeats} of 5 folds"
    if asked.protocol == "paper":
        splits = f"{repeats} of train, validation and test (60, 20, 20 %)"
    if asked.protocol == "brainmarks":
        splits = f"{repeats} of train and test (80, 20 %)"
    splits = f"given by {asked.splits.name}" if asked.splits else splits
    splits += ", the same for all phenotypes of the same participants, not stratified" if asked.same_splits else ""
    facts = [
        ("people", f"{len(set(rows.participants))} participants, {n_runs} runs with embeddings"),
        ("encoder", encoder.loaded.description),
        ("protocol", _PROTOCOLS[asked.protocol]),
        ("splits", splits),
        ("site", f"column {site} of {results.plan.columns[site].table}" if site else "no site column"),
        ("kept together", asked.group_by or "runs and windows of a participant"),
        ("covariates removed", ", ".join(asked.covariate) or "none"),
        ("harmonised", describe_harmonisation(asked)),
        ("permutations", str(asked.n_permutations)),
        ("seed", str(results.plan.config.running.random_seed)),
    ]
    named = (("averaged with", asked.replicates), ("compared with", results.plan.config.embedding.more_models))
    facts[2:2] = [(what, ", ".join(Path(name).name for name in models)) for what, models in named if models]
    return dict(facts)


def describe_phenotype(one: PhenotypeResult, people: People) -> dict[str, Any]:
    """Describe who was in, who was out and how they were split, the encoder's test and verdict; for classes also what
    the page draws of them."""
    design, target, known, rows = one.design, one.design.target, one.design.known, one.design.rows.kind
    n_people = len(set(design.rows.participants[known]))
    facts = [
        ("in", f"{int(known.sum())} {rows}" + (f" of {n_people} participants" if design.rows.has_sessions else "")),
        ("out", "; ".join(design.notes) or "nobody"),
        ("from", one.phenotype.table),
        ("used as", design.kinds[one.phenotype.name]),
    ]
    if target.classes:
        counts = Counter(target.values[known].astype(int).tolist())
        facts.append(("classes", ", ".join(f"{name}: {counts[i]}" for i, name in enumerate(target.classes))))
    else:
        values = target.values[known]
        facts.append(("values", f"{values.min():g} to {values.max():g}, mean {values.mean():.3g}"))
        if target.n_bins:
            facts.append(("classes", f"{target.n_bins} bins of equal size, at quantiles of the training rows"))
    folds, repeats = (len({getattr(split, what) for split in design.splits}) for what in ("fold", "repetition"))
    splits = f"{repeats} × {folds} folds" if folds > 1 else f"{repeats} repetition{'s' if repeats > 1 else ''}"
    facts += [
        ("splits", splits),
        ("covariates removed", design.covariate_kinds),
        ("harmonised", design.harmonised or "no"),
    ]
    own = (one.phenotype.name, *design.covariate_names)
    facts += [(f"kept together by {name}", kind) for name, kind in design.kinds.items() if name not in own]
    encoder = next(iter(one.models.values()))
    return {
        "Classes": list(encoder.predictions.classes),
        "Facts": dict(facts),
        "Verdict": encoder.verdict,
        "PermutationTest": _describe_test(encoder.permutation),
        "People": people.summarise(),
        "Motion": people.describe_motion(),
        "N": {"Used": int(known.sum()), "What": rows, "Participants": n_people},
        **_describe_decisions(encoder.predictions),
    }


def _describe_test(test: PermutationTest | None) -> dict[str, Any] | None:
    if test is None:
        return None
    numbers = {"Value": test.value, "P": test.p_value, "SmallestP": test.smallest}
    return {
        "Text": describe_test(test),
        "Statistic": test.name,
        **{name: round(value, 6) for name, value in numbers.items()},
        "Permutations": len(test.null),
    }


def _describe_decisions(predictions: Predictions) -> dict[str, Any]:
    """Collect what the page draws of classes, counted as the scores are."""
    if not predictions.classes:
        return {}
    predicted, observed, counts = compute_calibration(predictions)
    found: dict[str, Any] = {
        "Confusion": np.round(count_decisions(predictions), 6).tolist(),
        "Calibration": {
            "Predicted": np.round(predicted, 6).tolist(),
            "Observed": np.round(observed, 6).tolist(),
            "Predictions": counts.tolist(),
        },
    }
    if len(predictions.classes) == 2:
        false, hit = (np.round(values, 6).tolist() for values in compute_roc(predictions))
        found["Roc"] = {"False": false, "Hit": hit}
    return found


def describe_results(stored: ProbeTables) -> list[dict[str, Any]]:
    """Describe each phenotype for the methods text: who was in and out, and how the encoder did."""
    found = []
    for name, facts in stored.facts["Phenotypes"].items():
        row = stored.find_scores(name, "encoder")[0]
        out = [line for line in facts["People"]["Lines"] if line[0] != "in"]
        found.append(
            {
                "phenotype": name,
                "used": facts["N"]["Used"],
                "what": facts["N"]["What"],
                "out": [f"{line[1]} with {line[0].removeprefix('out: ')}" for line in out],
                "motion": facts["Motion"],
                "score": f"{METRIC_NAMES[row.metric]} {format_score(row)}",
                "verdict": describe_verdict(row) or "unknown",
                "test": describe_row_test(row),
            }
        )
    return found


def build_points(plan: ProbePlan, stored: Sequence[StoredRun], model: str) -> tuple[pd.DataFrame, tuple[float, float]]:
    """Project mean embeddings onto two axes, one point per session if anyone has several, else per participant;
    the second value is the share of variance of each axis. Colours are site, sex, age and probed columns, where
    present, motion, scan length and session."""
    how: Any = {"min_kept": plan.config.min_kept, "running": plan.config.running}
    sessions = build_rows(stored, by_session=True, **how)
    has_several = len(set(sessions.participants)) < len(sessions.keys)
    rows = sessions if has_several else build_rows(stored, by_session=False, **how)
    points, shares = compute_axes(read_embeddings(rows, model))
    colours = _find_colours(plan, rows)
    found = [
        {**_name_row(*key), "axis1": first, "axis2": second, **{name: cells[i] for name, cells in colours.items()}}
        for i, (key, (first, second)) in enumerate(zip(rows.keys, points.tolist(), strict=True))
    ]
    return build_group_table("group_map", found), (float(shares[0]), float(shares[1]))


def _name_row(label: str, session: str) -> dict[str, str]:
    return {"participant_id": f"sub-{label}", "session_id": f"ses-{session}" if session else ""}


def compute_axes(values: Floats) -> tuple[Floats, Floats]:
    """Project rows onto their first two principal axes, features scaled to unit variance: (n, D) -> (n, 2), (2,).
    Coordinates are in standard deviations of the first axis; the second array holds the shares of variance."""
    centred = values - values.mean(axis=0)
    deviation = centred.std(axis=0)
    centred = centred[:, deviation > 0] / deviation[deviation > 0]
    # With fewer than two varying columns, only the rows give two axes.
    is_wide = centred.shape[1] > len(centred) or centred.shape[1] < 2
    power, axes = np.linalg.eigh(centred @ centred.T if is_wide else centred.T @ centred)
    first, axes = np.maximum(power[::-1][:2], 0), axes[:, ::-1][:, :2]
    points = axes * np.sqrt(first) if is_wide else centred @ axes
    total = max(float(np.maximum(power, 0).sum()), 1e-300)
    return points / max(float(points[:, 0].std()), 1e-300), first / total


def _find_colours(plan: ProbePlan, rows: Rows) -> dict[str, tuple[str | None, ...]]:
    names = [plan.site, *(name for name in COLOUR_NAMES if name in plan.columns), *plan.config.probing.probe]
    found: dict[str, tuple[str | None, ...]] = {
        (f"{name} (phenotype)" if name in _TAKEN else name): plan.columns[name].find(rows.keys)
        for name in dict.fromkeys(filter(None, names))
        if rows.has_sessions or not plan.columns[name].has_sessions
    }
    motion, seconds = compute_motion(rows)
    found["mean_fd"] = tuple(None if math.isnan(value) else f"{value:.4g}" for value in motion.tolist())
    found["kept_seconds"] = tuple(f"{value:g}" for value in seconds.tolist())
    if rows.has_sessions:
        found["session"] = tuple(session or None for _, session in rows.keys)
    return found
