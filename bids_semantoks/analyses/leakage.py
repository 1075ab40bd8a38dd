"""Leakage of motion and site into embeddings, scores within subgroups, and test-retest reliability."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.analyses.columns import convert_covariates, name_groups
from bids_semantoks.analyses.design import Design, ProbePlan
from bids_semantoks.analyses.probe import Prober
from bids_semantoks.analyses.results import ModelResult, PhenotypeResult
from bids_semantoks.analyses.rows import Rows, compute_motion, iterate_signals, read_embeddings
from bids_semantoks.bids_names import sorted_naturally
from bids_semantoks.config import AppConfig
from bids_semantoks.errors import InputError
from bids_semantoks.inputs.people_tables import parse_number
from bids_semantoks.inputs.phenotypes import MIN_CLASS
from bids_semantoks.outputs.store import StoredRun
from bids_semantoks.records import Bools, Floats, Labels, Reals
from bids_semantoks.statistics.baselines import compute_correlations, compute_covariance
from bids_semantoks.statistics.harmonise import HarmonisedFeatures
from bids_semantoks.statistics.metrics import compute_scores, name_main_metric
from bids_semantoks.statistics.predictions import Target, build_class_target
from bids_semantoks.statistics.reliability import RetestScore, compute_retest
from bids_semantoks.statistics.splits import build_splits

LOGGER = logging.getLogger("bids_semantoks")
_MIN_LEAKAGE: Final = 10
MIN_PAIRS: Final = 5  # identification and intraclass correlations of fewer participants say nothing
_CONNECTIVITY: Final = ("pearson", "ledoit_wolf")


def measure_leakage(prober: Prober, rows: Rows) -> tuple[tuple[str, ModelResult], ...]:
    """Predict motion and site from embeddings as they are, harmonised, and with covariates removed. Of harmonised ones
    site is predicted from one half to the other, each harmonised by itself."""
    columns, site = prober.plan.columns, prober.plan.site
    targets: list[Target | None] = [Target(name="mean_fd", values=compute_motion(rows)[0])]
    if site and not columns[site].has_sessions:
        targets.append(_build_large_classes(site, columns[site].find(rows.keys)))
    features = prober.find_features(rows)
    plain = tuple(one.features if isinstance(one, HarmonisedFeatures) else one for one in features)
    apart = tuple(
        dataclasses.replace(one, apart=True) if isinstance(one, HarmonisedFeatures) else one for one in features
    )
    found = []
    for target in filter(None, targets):
        own = apart if target.classes else features
        for used, names in dict.fromkeys(((plain, ()), (own, ()), (own, prober.asked.covariate))):
            design = _design_leakage(prober, rows, target, names)
            if design is not None:
                found.append((target.name, prober.run(used, design, role="leakage")))
    return tuple(found)


def _find_families(plan: ProbePlan, rows: Rows, target: Target) -> Labels | None:
    """Find groups to keep together: relatives are similar and live at the same site."""
    name = plan.config.probing.group_by
    if name is None or name == target.name or plan.columns[name].has_sessions:
        return None
    return name_groups(plan.columns[name].find(rows.keys), rows)


def _keep_rows(target: Target, usable: Bools) -> Target | None:
    """Keep only usable rows, and the classes that are large enough in them; None if they cannot be predicted in five
    folds."""
    values = np.where(usable, target.values, np.nan)
    if target.classes:
        labels = [None if np.isnan(value) else target.classes[int(value)] for value in values]
        return _build_large_classes(target.name, labels)
    known = values[~np.isnan(values)]
    is_varied = len(known) >= _MIN_LEAKAGE and np.ptp(known) > 0
    return dataclasses.replace(target, values=values) if is_varied else None


def _build_large_classes(name: str, labels: Sequence[str | None]) -> Target | None:
    """Build a target of the classes with enough members for five folds; None if they are fewer than two."""
    counts = Counter(labels)
    large = {label for label, count in counts.items() if label is not None and count >= MIN_CLASS}
    if len(large) < 2:
        return None
    return build_class_target(name, [label if label in large else None for label in labels])


def _design_leakage(prober: Prober, rows: Rows, whole: Target, names: Sequence[str]) -> Design | None:
    columns, asked = prober.plan.columns, prober.asked
    needed = dict.fromkeys((*names, *filter(None, (asked.harmonize, *asked.harmonize_keep))))
    if any(columns[name].has_sessions for name in needed if name in columns):
        return None
    found = {name: prober.plan.find_labels(rows, name, whole.name) for name in needed}
    usable = np.array([all(texts[i] is not None for texts in found.values()) for i in range(len(rows.keys))])
    cells = {name: found[name] for name in names}
    target = _keep_rows(whole, usable)
    if target is None:
        return None
    known: dict[str, Any] = {"n_repeats": asked.n_repeats, "seed": prober.seed}
    if asked.harmonize is not None and target.classes:
        known["n_folds"] = 2
    groups = _find_families(prober.plan, rows, target)
    try:
        splits = build_splits(target.compute_strata(), groups=groups, **known)
    except InputError:
        # Too few families per site: folds that may split families are better than no measurement.
        groups = None
        splits = build_splits(target.compute_strata(), **known)
    return Design(
        target=target,
        rows=rows,
        splits=splits,
        covariates=convert_covariates(cells, usable, prober.plan.categories) if names else None,
        covariate_names=tuple(names),
        groups=groups,
        unit_groups=groups,
    )


def find_pairs(stored: Sequence[StoredRun], config: AppConfig) -> dict[str, tuple[Rows, Rows]]:
    """Pair two scans of each participant who has two: ``sessions`` pairs the first two sessions with all their runs,
    ``runs`` the first two runs of one task in the first session that has two."""
    people: dict[str, dict[str, list[StoredRun]]] = {}
    for run in stored:
        people.setdefault(run.entities["sub"], {}).setdefault(run.entities.get("ses", ""), []).append(run)
    pairs: dict[str, dict[str, list[list[StoredRun]]]] = {"sessions": {}, "runs": {}}
    for label, sessions in sorted(people.items()):
        named = [runs for session, runs in sorted(sessions.items()) if session]
        if len(named) > 1:
            pairs["sessions"][label] = named[:2]
        tasks: dict[tuple[str, str], list[StoredRun]] = {}
        for session, runs in sorted(sessions.items()):
            for run in sorted(runs, key=lambda one: one.paths.stem):
                tasks.setdefault((session, run.entities.get("task", "")), []).append(run)
        twice = next((runs for runs in tasks.values() if len(runs) > 1), None)
        if twice:
            pairs["runs"][label] = [twice[:1], twice[1:2]]
    return {between: (_pick_rows(found, 0, config), _pick_rows(found, 1, config)) for between, found in pairs.items()}


def _pick_rows(pairs: Mapping[str, Sequence[Sequence[StoredRun]]], side: int, config: AppConfig) -> Rows:
    runs = tuple(tuple(two[side]) for two in pairs.values())
    keys = tuple((label, "") for label in pairs)
    return Rows(keys=keys, runs=runs, min_kept=config.min_kept, running=config.running)


def measure_retest(
    stored: Sequence[StoredRun], models: Mapping[str, str], config: AppConfig, baselines: Collection[str] = ()
) -> list[tuple[str, RetestScore]]:
    """Measure test-retest reliability of models (name to label in file names), and of connectivity among `baselines`,
    each between ``sessions`` or ``runs``. Empty where fewer than five participants were scanned twice."""
    readers: dict[str, Callable[[Rows], Reals]] = {
        name: partial(read_embeddings, model=label) for name, label in models.items()
    }
    readers |= {kind: partial(_read_connectivity, estimator=kind) for kind in _CONNECTIVITY if kind in baselines}
    found = []
    for between, (first, second) in find_pairs(stored, config).items():
        if len(first.keys) < MIN_PAIRS:
            continue
        LOGGER.info("Comparing two %s of %d participants.", between, len(first.keys))
        for name, read in readers.items():
            found.append((between, compute_retest(name, read(first), read(second), seed=config.running.random_seed)))
    return found


def _read_connectivity(rows: Rows, estimator: str) -> NDArray[np.float32]:
    found = zip(iterate_signals(rows), rows.weights, strict=True)
    return np.stack([compute_correlations(compute_covariance(one, estimator, own)) for one, own in found])


#: People of each class, or of a continuous phenotype at all, that a subgroup must have to be scored: only pairs within
#: one test fold count, and with fewer, five folds would hold one each.
MIN_STRATUM: Final = 10
_MOST_LEVELS: Final = 10  # numeric columns with more distinct values are split at their tertiles


def score_strata(plan: ProbePlan, model: str, one: PhenotypeResult, *, seed: int) -> list[dict[str, object]]:
    """Score the encoder within subgroups, by each column that divides the tested rows into two or more. Returns rows of
    group_strata.tsv."""
    predictions = one.models[model].predictions
    truth, found = predictions.average()[0], []
    for by, (labels, names) in _find_divisions(plan, one).items():
        here = set(labels[predictions.tested].tolist())
        for level in [name for name in names if name in here] if len(here) > 1 else ():
            inside = (labels == level) & predictions.tested
            found.append({"by": by, "level": level, **_score(one, model, inside, truth, seed=seed)})
    return found


def _find_divisions(plan: ProbePlan, one: PhenotypeResult) -> dict[str, tuple[NDArray[np.str_], Sequence[str]]]:
    """Find the level (n,) of each row, and the levels in order, by what divides them."""
    rows, name = one.design.rows, one.phenotype.name
    times = [" and ".join(sorted({f"{run.repetition_time:g} s" for run in runs})) for runs in rows.runs]
    divisions: dict[str, tuple[NDArray[np.str_], Sequence[str]]] = {
        "repetition_time": (np.array(times), sorted_naturally(times))
    }
    asked = [by for by in plan.config.probing.strata if by != name]
    if plan.site and (not plan.columns[plan.site].has_sessions or rows.has_sessions):
        asked.insert(0, plan.site)
    for by in dict.fromkeys(asked):
        divisions[by] = name_levels(plan.find_labels(rows, by, name))
    return divisions


def name_levels(cells: Sequence[str | None]) -> tuple[NDArray[np.str_], Sequence[str]]:
    """Name the level (n,) of each cell, and the levels in order: its text, ``n/a`` where missing, or the third that a
    number falls into where more than ten differ."""
    known = {cell for cell in cells if cell is not None}
    numbers = [parse_number(cell) for cell in known]
    if len(known) <= _MOST_LEVELS or None in numbers:
        labels = [cell or "n/a" for cell in cells]
        return np.array(labels), sorted_naturally(labels)
    values = np.array([math.nan if cell is None else float(cell) for cell in cells])
    low, high = np.quantile(values[~np.isnan(values)], (1 / 3, 2 / 3))
    names = [f"up to {low:.4g}", f"{low:.4g} to {high:.4g}", f"above {high:.4g}"]
    thirds = np.array(names)[np.searchsorted([low, high], values, side="left").clip(max=2)]
    return np.where(np.isnan(values), "n/a", thirds), [*names, "n/a"]


def _score(one: PhenotypeResult, model: str, inside: Bools, truth: Floats, *, seed: int) -> dict[str, object]:
    predictions, people = one.models[model].predictions, one.design.rows.participants
    metric, n_people = name_main_metric(is_class=bool(predictions.classes)), len(set(people[inside]))
    counts = [len(set(people[inside & (truth == k)])) for k in range(len(predictions.classes))]
    value, low, high = math.nan, math.nan, math.nan
    if min(counts, default=n_people) >= MIN_STRATUM:
        names = ("fold", "truth", "scores", "decisions", "reference")
        part = dataclasses.replace(predictions, **{name: getattr(predictions, name)[:, inside] for name in names})
        (score,) = compute_scores(part, participants=people[inside], n_bootstrap=1000, seed=seed, metrics=(metric,))
        value, low, high = score.value, score.ci_low, score.ci_high
    return {
        "phenotype": one.phenotype.name,
        "model": model,
        "metric": metric,
        "value": value,
        "ci_low": low,
        "ci_high": high,
        "n_participants": n_people,
        "n_least": min(counts, default=n_people),
    }
