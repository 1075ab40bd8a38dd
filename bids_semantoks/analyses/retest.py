"""Identification of people who are scanned again, by embeddings and by connectivity."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.analyses.rows import Rows, read_embeddings
from bids_semantoks.outputs.group_tables import RetestRow
from bids_semantoks.outputs.store import StoredRun
from bids_semantoks.statistics.baselines import compute_correlations, compute_covariance
from bids_semantoks.statistics.reliability import compute_retest

LOGGER = logging.getLogger("bids_semantoks")


_MIN_PEOPLE: Final = 5


_CONNECTIVITY: Final = ("pearson", "ledoit_wolf")


def find_pairs(stored: Sequence[StoredRun]) -> dict[str, tuple[Rows, Rows]]:
    """Pair two scans of each participant, where five or more participants have two.

    ``sessions`` pairs the first two sessions with all their runs, ``runs`` the first two runs of one task in the first
    session that has two.
    """
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
        between: (_build_rows(found, 0), _build_rows(found, 1))
        for between, found in pairs.items()
        if len(found) >= _MIN_PEOPLE
    }


def _find_twice(runs: Sequence[StoredRun]) -> tuple[StoredRun, StoredRun] | None:
    tasks: dict[str, list[StoredRun]] = {}
    for run in sorted(runs, key=lambda one: one.paths.stem):
        tasks.setdefault(run.entities.get("task", ""), []).append(run)
    return next(((found[0], found[1]) for found in tasks.values() if len(found) > 1), None)


def _build_rows(found: Mapping[str, tuple[list[StoredRun], list[StoredRun]]], side: int) -> Rows:
    return Rows(keys=tuple((label, "") for label in found), runs=tuple(tuple(two[side]) for two in found.values()))


def measure_retest(stored: Sequence[StoredRun], models: Mapping[str, str], *, seed: int) -> list[RetestRow]:
    """Measure test-retest reliability of models (name to label in file names) and of connectivity.
    Empty where fewer than five participants were scanned twice."""
    found = []
    for between, (first, second) in find_pairs(stored).items():
        LOGGER.info("Comparing two %s of %d participants.", between, len(first.keys))
        for name, label in models.items():
            tables = read_embeddings(first, label), read_embeddings(second, label)
            found.append(_measure(name, tables, between=between, seed=seed))
        for kind in _CONNECTIVITY:
            edges = _read_connectivity(first, kind), _read_connectivity(second, kind)
            found.append(_measure(kind, edges, between=between, seed=seed))
    return found


def _read_connectivity(rows: Rows, estimator: str) -> NDArray[np.float32]:
    vectors = []
    for runs in rows.runs:
        signals = [run.read_signals() for run in runs]
        vectors.append(compute_correlations(compute_covariance(signals, estimator)))
    return np.stack(vectors)


def _measure(
    name: str,
    tables: tuple[NDArray[np.float32] | NDArray[np.float64], NDArray[np.float32] | NDArray[np.float64]],
    *,
    between: str,
    seed: int,
) -> RetestRow:
    score = compute_retest(name, *tables, seed=seed)
    return RetestRow(
        between=between,
        features=name,
        identification=score.identification,
        ci_low=score.ci_low,
        ci_high=score.ci_high,
        chance=score.chance,
        icc_median=score.icc_median,
        icc_low=score.icc_low,
        icc_high=score.icc_high,
        n_participants=score.n_participants,
    )
