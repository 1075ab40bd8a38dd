"""Rows of the tables that probes work on, participants or sessions, and the data stored for each.
Shape letters: n rows, T volumes, P parcels, D dimensions of an embedding, m windows."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.outputs.store import StoredRun, read_embedding, read_signals

LOGGER = logging.getLogger("bids_semantoks")

_MIN_VOLUMES: Final = 3


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """Participants, or sessions of participants, with their runs."""

    # participant and session label of each row; the session is empty where rows are participants
    keys: tuple[tuple[str, str], ...]
    runs: tuple[tuple[StoredRun, ...], ...]  # of each row

    @property
    def participants(self) -> NDArray[np.str_]:
        """Participant label (n,) of each row."""
        return np.array([participant for participant, _ in self.keys])

    @property
    def has_sessions(self) -> bool:
        """Whether rows are sessions."""
        return any(session for _, session in self.keys)


def build_rows(stored: Sequence[StoredRun], *, by_session: bool) -> Rows:
    """Collect runs by participant or session, sorted by label; runs with fewer than 3 volumes kept are skipped."""
    found: dict[tuple[str, str], list[StoredRun]] = {}
    for run in stored:
        if run.sidecar["VolumesKept"] < _MIN_VOLUMES:
            LOGGER.warning("%s has %d volumes left, too few to probe.", run.paths.stem, run.sidecar["VolumesKept"])
            continue
        key = run.entities["sub"], run.entities.get("ses", "") if by_session else ""
        found.setdefault(key, []).append(run)
    keys = tuple(sorted(found))
    return Rows(keys=keys, runs=tuple(tuple(found[key]) for key in keys))


def read_embeddings(rows: Rows, model: str) -> NDArray[np.float64]:
    """Average embeddings over the windows of a run, then over the runs of a row: (n, D)."""
    return np.stack(
        [
            np.mean([vectors.mean(axis=0, dtype=np.float64) for vectors in _iterate_vectors(runs, model)], axis=0)
            for runs in rows.runs
        ]
    )


def read_windows(rows: Rows, model: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Read the embeddings of all windows (m, D) and the row of each (m,)."""
    parts = [list(_iterate_vectors(runs, model)) for runs in rows.runs]
    counts = [sum(map(len, part)) for part in parts]
    values = np.concatenate([vectors for part in parts for vectors in part])
    return values, np.repeat(np.arange(len(counts)), counts)


def _iterate_vectors(runs: Sequence[StoredRun], model: str) -> Iterator[NDArray[np.float32]]:
    for run in runs:
        yield read_embedding(dataclasses.replace(run.paths, model=model))


def iterate_signals(rows: Rows) -> Iterator[list[NDArray[np.float32]]]:
    """Yield the cleaned signals (T, P) of each row's runs; dropped volumes and absent parcels are NaN."""
    for runs in rows.runs:
        yield [read_signals(run.paths)[1] for run in runs]


def compute_motion(rows: Rows) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute mean framewise displacement (n,) in mm, NaN where no run has it, and seconds of kept data (n,)."""
    motion, seconds = [], []
    for runs in rows.runs:
        known = [run.sidecar["MeanFramewiseDisplacement"] for run in runs]
        known = [value for value in known if value is not None]
        motion.append(float(np.mean(known)) if known else np.nan)
        seconds.append(sum(run.sidecar["VolumesKept"] * run.sidecar["RepetitionTime"] for run in runs))
    return np.array(motion), np.array(seconds, dtype=np.float64)
