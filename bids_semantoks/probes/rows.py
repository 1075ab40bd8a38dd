"""Rows of the tables that probes work on, participants or sessions, and what is stored of each.

Shape letters: n rows, D dimensions of an embedding, m windows.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.outputs.stored_runs import StoredRun, read_embedding, read_signals

LOGGER = logging.getLogger("bids_semantoks")

_MIN_VOLUMES: Final = 3


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """Participants, or sessions of participants, with their runs.

    Parameters
    ----------
    keys : tuple of (str, str), length n
        Participant and session label; the session is empty where rows are participants.
    runs : tuple of tuple of StoredRun, length n
        Runs of each row.
    """

    keys: tuple[tuple[str, str], ...]
    runs: tuple[tuple[StoredRun, ...], ...]

    @property
    def participants(self) -> NDArray[np.str_]:
        """Participant label (n,) of each row."""
        return np.array([participant for participant, _ in self.keys])

    @property
    def has_sessions(self) -> bool:
        """Whether rows are sessions."""
        return any(session for _, session in self.keys)


def build_rows(stored: Sequence[StoredRun], *, by_session: bool) -> Rows:
    """Collect runs by participant or session.

    Parameters
    ----------
    stored : sequence of StoredRun
        All runs.
    by_session : bool
        Whether each session of a participant is a row of its own.

    Returns
    -------
    Rows
        Sorted by their labels.
    """
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
    """Average embeddings over the windows of a run, then over the runs of a row.

    Parameters
    ----------
    rows : Rows
        Participants or sessions.
    model : str
        Encoder label.

    Returns
    -------
    NDArray, float64, shape (n, D)
        One vector a row.
    """
    return np.stack(
        [
            np.mean([vectors.mean(axis=0, dtype=np.float64) for vectors in _iterate_vectors(runs, model)], axis=0)
            for runs in rows.runs
        ]
    )


def read_windows(rows: Rows, model: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Read the embeddings of all windows.

    Parameters
    ----------
    rows : Rows
        Participants or sessions.
    model : str
        Encoder label.

    Returns
    -------
    values : NDArray, float32, shape (m, D)
        One vector a window.
    row_of : NDArray, int64, shape (m,)
        Row of each window.
    """
    parts = [list(_iterate_vectors(runs, model)) for runs in rows.runs]
    counts = [sum(map(len, part)) for part in parts]
    values = np.concatenate([vectors for part in parts for vectors in part])
    return values, np.repeat(np.arange(len(counts)), counts)


def _iterate_vectors(runs: Sequence[StoredRun], model: str) -> Iterator[NDArray[np.float32]]:
    for run in runs:
        yield read_embedding(dataclasses.replace(run.paths, model=model))


def iterate_signals(rows: Rows) -> Iterator[list[NDArray[np.float32]]]:
    """Read the signals of each row, one row after the other.

    Parameters
    ----------
    rows : Rows
        Participants or sessions.

    Yields
    ------
    list of NDArray, float32, shape (T, P)
        Cleaned signals of each run; dropped rows and absent columns are NaN.
    """
    for runs in rows.runs:
        yield [read_signals(run.paths)[1] for run in runs]


def compute_motion(rows: Rows) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Read how much each moved and how long each was scanned.

    Parameters
    ----------
    rows : Rows
        Participants or sessions.

    Returns
    -------
    motion : NDArray, float64, shape (n,)
        Mean framewise displacement in mm over the runs for which it is known; NaN for none.
    seconds : NDArray, float64, shape (n,)
        Kept data of all runs.
    """
    motion, seconds = [], []
    for runs in rows.runs:
        known = [run.sidecar["MeanFramewiseDisplacement"] for run in runs]
        known = [value for value in known if value is not None]
        motion.append(float(np.mean(known)) if known else np.nan)
        seconds.append(sum(run.sidecar["VolumesKept"] * run.sidecar["RepetitionTime"] for run in runs))
    return np.array(motion), np.array(seconds, dtype=np.float64)
