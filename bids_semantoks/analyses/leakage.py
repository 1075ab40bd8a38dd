"""Leakage of motion and site into embeddings, and test-retest reliability."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.analyses.columns import convert_covariates, name_groups
from bids_semantoks.analyses.design import Design, ProbePlan
from bids_semantoks.analyses.probe import Prober
from bids_semantoks.analyses.results import ModelResult
from bids_semantoks.analyses.rows import Rows, compute_motion, iterate_signals, read_embeddings
from bids_semantoks.config import AppConfig
from bids_semantoks.errors import InputError
from bids_semantoks.inputs.phenotypes import MIN_CLASS
from bids_semantoks.outputs.store import StoredRun
from bids_semantoks.statistics.baselines import compute_correlations, compute_covariance
from bids_semantoks.statistics.harmonise import HarmonisedFeatures
from bids_semantoks.statistics.reliability import RetestScore, compute_retest
from bids_semantoks.statistics.splits import build_splits
from bids_semantoks.statistics.targets import Target, build_class_target

LOGGER = logging.getLogger("bids_semantoks")
_MIN_LEAKAGE: Final = 10

#: Identification and intraclass correlations of fewer participants say nothing.
MIN_PAIRS: Final = 5
_CONNECTIVITY: Final = ("pearson", "ledoit_wolf")


def _is_splittable(values: NDArray[np.float64], *, is_class: bool) -> bool:
    """Check whether a target (n,) can be predicted in five folds: ten values that vary, or two or more classes
    of five members each, and none with fewer."""
    known = values[~np.isnan(values)]
    if len(known) < _MIN_LEAKAGE:
        return False
    if not is_class:
        return bool(np.ptp(known) > 0)
    counts = np.unique(known, return_counts=True)[1]
    return len(counts) >= 2 and int(counts.min()) >= MIN_CLASS


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


def _find_families(plan: ProbePlan, rows: Rows, target: Target) -> NDArray[Any] | None:
    """Find groups to keep together: relatives are similar and live at the same site."""
    name = plan.config.probing.group_by
    if name is None or name == target.name or plan.columns[name].has_sessions:
        return None
    return name_groups(plan.columns[name].find(rows.keys), rows)


def _drop_rows(target: Target, is_out: NDArray[np.bool_]) -> Target:
    """Drop rows, and the classes that become too small without them."""
    values = np.where(is_out, np.nan, target.values)
    if not target.classes:
        return dataclasses.replace(target, values=values)
    labels = [None if np.isnan(value) else target.classes[int(value)] for value in values]
    return _build_large_classes(target.name, labels) or dataclasses.replace(target, values=values)


def _build_large_classes(name: str, labels: Sequence[str | None]) -> Target | None:
    counts = Counter(labels)
    large = {label for label, count in counts.items() if label is not None and count >= MIN_CLASS}
    if len(large) < 2:
        return None
    return build_class_target(name, [label if label in large else None for label in labels])


def _design_leakage(prober: Prober, rows: Rows, target: Target, names: Sequence[str]) -> Design | None:
    columns, asked = prober.plan.columns, prober.asked
    needed = dict.fromkeys((*names, *filter(None, (asked.harmonize, *asked.harmonize_keep))))
    if any(columns[name].has_sessions for name in needed if name in columns):
        return None
    found = {name: prober.plan.find_labels(rows, name, target.name) for name in needed}
    usable = np.array([all(texts[i] is not None for texts in found.values()) for i in range(len(rows.keys))])
    cells = {name: found[name] for name in names}
    target = _drop_rows(target, ~usable)
    if not _is_splittable(target.values, is_class=bool(target.classes)):
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
        blocks=None,
        unit_groups=groups,
        notes=(),
    )


def find_pairs(stored: Sequence[StoredRun], min_kept: float | None) -> dict[str, tuple[Rows, Rows]]:
    """Pair two scans of each participant who has two: ``sessions`` pairs the first two sessions with all their runs,
    ``runs`` the first two runs of one task in the first session that has two."""
    people: dict[str, dict[str, list[StoredRun]]] = {}
    for run in stored:
        people.setdefault(run.entities["sub"], {}).setdefault(run.entities.get("ses", ""), []).append(run)
    pairs: dict[str, dict[str, tuple[list[StoredRun], list[StoredRun]]]] = {"sessions": {}, "runs": {}}
    for label, sessions in sorted(people.items()):
        named = [runs for session, runs in sorted(sessions.items()) if session]
        if len(named) > 1:
            pairs["sessions"][label] = named[0], named[1]
        twice = [two for _, runs in sorted(sessions.items()) if (two := _find_twice(runs)) is not None]
        if twice:
            pairs["runs"][label] = [twice[0][0]], [twice[0][1]]
    return {
        between: (_build_rows(found, 0, min_kept), _build_rows(found, 1, min_kept)) for between, found in pairs.items()
    }


def _find_twice(runs: Sequence[StoredRun]) -> tuple[StoredRun, StoredRun] | None:
    tasks: dict[str, list[StoredRun]] = {}
    for run in sorted(runs, key=lambda one: one.paths.stem):
        tasks.setdefault(run.entities.get("task", ""), []).append(run)
    return next(((found[0], found[1]) for found in tasks.values() if len(found) > 1), None)


def _build_rows(
    found: Mapping[str, tuple[list[StoredRun], list[StoredRun]]], side: int, min_kept: float | None
) -> Rows:
    runs = tuple(tuple(two[side]) for two in found.values())
    return Rows(keys=tuple((label, "") for label in found), runs=runs, min_kept=min_kept)


def measure_retest(
    stored: Sequence[StoredRun], models: Mapping[str, str], config: AppConfig, baselines: Collection[str] = ()
) -> list[tuple[str, RetestScore]]:
    """Measure test-retest reliability of models (name to label in file names), and of connectivity among `baselines`,
    each between ``sessions`` or ``runs``. Empty where fewer than five participants were scanned twice."""
    readers: dict[str, Callable[[Rows], NDArray[Any]]] = {
        name: partial(read_embeddings, model=label) for name, label in models.items()
    }
    readers |= {
        kind: partial(_read_connectivity, estimator=kind, work_dir=config.running.work_dir)
        for kind in _CONNECTIVITY
        if kind in baselines
    }
    found = []
    for between, (first, second) in find_pairs(stored, config.min_kept).items():
        if len(first.keys) < MIN_PAIRS:
            continue
        LOGGER.info("Comparing two %s of %d participants.", between, len(first.keys))
        for name, read in readers.items():
            found.append((between, compute_retest(name, read(first), read(second), seed=config.running.random_seed)))
    return found


def _read_connectivity(rows: Rows, estimator: str, work_dir: Path | None) -> NDArray[np.float32]:
    found = zip(iterate_signals(rows, work_dir), rows.weights, strict=True)
    return np.stack([compute_correlations(compute_covariance(one, estimator, own)) for one, own in found])
