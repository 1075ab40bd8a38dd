"""Rows of the tables that probes work on, participants or sessions, and what is known of each: embeddings, baselines.

Shape letters: n rows, D dimensions of an embedding, m windows.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.embedding import RunEncoder, embed_run, find_embedding_state
from bids_semantoks.models.build import build_encoder
from bids_semantoks.models.encode import FrozenEncoder
from bids_semantoks.models.matching import match_parcels
from bids_semantoks.outputs.dataset import write_descriptions
from bids_semantoks.outputs.store import StoredRun, read_embedding, read_signals
from bids_semantoks.probing.baselines import (
    CONNECTIVITY,
    build_chance,
    build_column_features,
    build_connectivity_features,
    build_parcel_features,
)
from bids_semantoks.probing.spans import Features, TableFeatures

LOGGER = logging.getLogger("bids_semantoks")

#: Far from the seeds that people choose, so that random weights are compared with others than themselves.
_TWIN_SEED: Final = 1_000_003
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


def build_motion_features(rows: Rows) -> TableFeatures:
    """Build the baseline that knows motion and scan length only.

    Parameters
    ----------
    rows : Rows
        Participants or sessions.

    Returns
    -------
    TableFeatures
        Mean framewise displacement and whether it is unknown, seconds of kept data.
    """
    motion, seconds = compute_motion(rows)
    unknown = np.isnan(motion)
    columns = np.where(unknown, 0.0, motion), unknown.astype(float), seconds
    return build_column_features("motion", *(column.tolist() for column in columns))


def build_models(rows: Rows, model: str, baselines: Sequence[str], *, n_components: int = 100) -> dict[str, Features]:
    """Build what is compared on the same splits, but for covariates, which depend on the phenotype.

    Parameters
    ----------
    rows : Rows
        Participants or sessions.
    model : str
        Encoder label.
    baselines : sequence of str
        Names as in the configuration.
    n_components : int
        Of the tangent space.

    Returns
    -------
    dict of str to Features
        By name, the encoder first.
    """
    models: dict[str, Features] = {model: TableFeatures(name=model, values=read_embeddings(rows, model))}
    kinds = [kind for kind in CONNECTIVITY if kind in baselines]
    for one in build_connectivity_features(iterate_signals(rows), kinds, n_components=n_components) if kinds else ():
        models[one.name] = one
    if "parcel_moments" in baselines:
        models["parcel_moments"] = build_parcel_features(iterate_signals(rows))
    if "motion" in baselines:
        models["motion"] = build_motion_features(rows)
    if "random" in baselines:
        models["random"] = TableFeatures(name="random", values=read_embeddings(rows, name_twin(model)))
    if "chance" in baselines:
        models["chance"] = build_chance(len(rows.keys))
    return models


def name_twin(model: str) -> str:
    """Name the encoder of the same architecture with random weights.

    Parameters
    ----------
    model : str
        Encoder label.

    Returns
    -------
    str
        Label in output names.
    """
    return f"{model}Untrained"


def embed_by_twin(
    encoder: RunEncoder, stored: Sequence[StoredRun], parcels: tuple[str, ...], networks: tuple[str, ...]
) -> None:
    """Embed runs by an encoder of the same architecture with random weights, where that was not done before.

    Parameters
    ----------
    encoder : RunEncoder
        What it is compared with.
    stored : sequence of StoredRun
        Runs with complete signals.
    parcels, networks : tuple of str, length P
        Their atlas.
    """
    loaded, seed = encoder.loaded, encoder.seed + _TWIN_SEED
    name = name_twin(loaded.name)
    twin = dataclasses.replace(
        loaded,
        encoder=build_encoder(loaded.config, loaded.layout, seed).eval(),
        name=name,
        sha256=hashlib.sha256(f"untrained {seed} {loaded.sha256}".encode()).hexdigest(),
        description=f"Random weights (seed {seed}) in the architecture of {loaded.name}, never trained: a baseline.",
        is_random=True,
        head=None,
        details={},
    )
    config = encoder.config
    frozen = FrozenEncoder(
        twin,
        match_parcels(parcels, networks, loaded.layout),
        device=encoder.frozen.device,
        precision=config.precision,
        batch_size=config.batch_size,
        pooling=config.pooling,
    )
    random = RunEncoder(
        loaded=twin, frozen=frozen, config=dataclasses.replace(config, save_tokens=False), seed=seed, warnings=()
    )
    missing = []
    for run in stored:
        paths = dataclasses.replace(run.paths, model=name)
        known: dict[str, Any] = {"settings": random.settings, "signals_sha256": run.sidecar["TableSHA256"]}
        if not find_embedding_state(paths, needs_tokens=False, **known)[0]:
            missing.append((paths, run.sidecar))
    if missing:
        LOGGER.info("Embedding %d runs by random weights, to compare with.", len(missing))
        write_descriptions(stored[0].paths.out_dir, {name: f"Embedding by the encoder {name}: {twin.description}"})
    for paths, sidecar in missing:
        embed_run(random, paths, read_signals(paths)[1], sidecar)
