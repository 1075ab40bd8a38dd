"""Rows of the tables that probes work on, participants or sessions, and the data stored for each. Shape letters: n
rows, T volumes, P parcels, D dimensions of an embedding, m windows."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.config import AppConfig, RunningConfig
from bids_semantoks.embedding import RunEncoder, read_means
from bids_semantoks.files import hash_text
from bids_semantoks.outputs.features import keep_first_sessions, read_embedding
from bids_semantoks.outputs.store import OutputPaths, StoredRun
from bids_semantoks.records import Floats, Indices
from bids_semantoks.runtime.logs import Progress
from bids_semantoks.statistics.baselines import CONNECTIVITY, build_connectivity_features, compute_moments
from bids_semantoks.statistics.series import weigh_runs
from bids_semantoks.statistics.spans import Features, TableFeatures
from bids_semantoks.training.packed import PackedRun, SignalStore

LOGGER = logging.getLogger("bids_semantoks")
_MIN_VOLUMES: Final = 3
_ALONE: Final = RunningConfig(n_procs=1)


#: Features of models by name, the encoder first; several where scores are averaged over seeds.
Models = dict[str, tuple[Features, ...]]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """Participants, or sessions of participants, with their runs."""

    # participant and session label of each row; the session is empty where rows are participants
    keys: tuple[tuple[str, str], ...]
    runs: tuple[tuple[StoredRun, ...], ...]  # of each row
    min_kept: float | None = None  # share of a window's time; None if windows and runs are weighted equally
    running: RunningConfig = _ALONE  # how what is stored is read

    @property
    def participants(self) -> NDArray[np.str_]:
        """Participant label (n,) of each row."""
        return np.array([participant for participant, _ in self.keys])

    @property
    def has_sessions(self) -> bool:
        """Whether rows are sessions."""
        return any(session for _, session in self.keys)

    @property
    def kind(self) -> str:
        """What rows are, in words."""
        return "sessions" if self.has_sessions else "participants"

    @property
    def weights(self) -> list[Floats]:
        """Weight of each run in the mean of its row: (runs,) for each row."""
        is_weighted = self.min_kept is not None
        return [weigh_runs([run.kept_seconds for run in runs], is_weighted=is_weighted) for runs in self.runs]

    @property
    def units(self) -> NDArray[np.str_] | None:
        """Participant label (n,) of rows that are sessions, which belong together; None if rows are free."""
        return self.participants if self.has_sessions else None


def build_rows(
    stored: Sequence[StoredRun],
    *,
    by_session: bool,
    min_kept: float | None,
    running: RunningConfig = _ALONE,
    least: int = _MIN_VOLUMES,
) -> Rows:
    """Collect runs by participant or session, sorted by label; runs with fewer than `least` volumes kept are
    skipped."""
    found: dict[tuple[str, str], list[StoredRun]] = {}
    for run in stored:
        if run.sidecar["VolumesKept"] < least:
            LOGGER.warning("Skipping %s: too few volumes to probe (%d).", run.paths.stem, run.sidecar["VolumesKept"])
            continue
        key = run.entities["sub"], run.entities.get("ses", "") if by_session else ""
        found.setdefault(key, []).append(run)
    keys = tuple(sorted(found))
    runs = tuple(tuple(found[key]) for key in keys)
    return Rows(keys=keys, runs=runs, min_kept=min_kept, running=running)


def build_probe_rows(config: AppConfig, stored: Sequence[StoredRun], *, has_sessions: bool) -> Rows:
    """Collect the rows that a column is predicted in, which may have values by session, as --sessions says."""
    how = config.selection.sessions
    chosen = keep_first_sessions(stored) if how == "first" else stored
    by_session = has_sessions or how == "each"
    return build_rows(chosen, by_session=by_session, min_kept=config.min_kept, running=config.running)


def read_embeddings(rows: Rows, model: str) -> Floats:
    """Average embeddings over the windows of a run, then over the runs of a row, weighted as in `rows`: (n, D)."""
    places = [[_name_model(run, model) for run in runs] for runs in rows.runs]
    means = read_means([paths for own in places for paths in own], rows.running, min_kept=rows.min_kept)
    return np.stack(
        [
            weights @ np.stack([means[paths.embedding][1] for paths in own])
            for own, weights in zip(places, rows.weights, strict=True)
        ]
    )


def read_window_embeddings(rows: Rows, model: str) -> tuple[NDArray[np.float32], Indices]:
    """Read the embeddings of all windows (m, D) and the row of each (m,)."""
    parts = [[read_embedding(_name_model(run, model)) for run in runs] for runs in rows.runs]
    counts = [sum(map(len, part)) for part in parts]
    values = np.concatenate([vectors for part in parts for vectors in part])
    return values, np.repeat(np.arange(len(counts)), counts)


def _name_model(run: StoredRun, model: str) -> OutputPaths:
    return dataclasses.replace(run.paths, model=model)


def iterate_signals(rows: Rows) -> Iterator[list[NDArray[np.float32]]]:
    """Yield the cleaned signals (T, P) of each row's runs; dropped volumes and absent parcels are NaN. With a work
    directory tables are parsed once, for all that read them in this call and in later ones."""
    work_dir = rows.running.work_dir
    if work_dir is None:
        for runs in rows.runs:
            yield [run.read_signals() for run in runs]
        return
    known = {_name_signals(run): run for runs in rows.runs for run in runs}
    first = next(iter(known.values()))
    n_parcels = first.read_signals().shape[1]
    store = SignalStore(work_dir / "signals" / f"{n_parcels}", n_parcels, "<f4")
    view = store.fill(list(known), lambda keys: _pack({key: known[key] for key in keys}))
    place = {key: i for i, key in enumerate(known)}
    for runs in rows.runs:
        yield [view.read(place[_name_signals(run)]) for run in runs]


def _name_signals(run: StoredRun) -> str:
    """Name the signals of a run by their bytes, and by what is not read of them."""
    return f"{run.sidecar['TableSHA256']} {run.n_padding}"


def _pack(runs: Mapping[str, StoredRun]) -> Iterator[PackedRun]:
    for key in Progress("Reading signals").each("run", runs):
        values = runs[key].read_signals()
        yield PackedRun(
            key=key,
            participant=runs[key].entities["sub"],
            repetition_time=runs[key].repetition_time,
            values=values,
            present=np.asarray(~np.isnan(values).all(axis=0)),
        )


#: Measures of quality that every run has without a table, by the name to ask for: how to find that of a run, None where
#: it is unknown, and how runs of a row are joined.
MEASURES: Final[dict[str, tuple[Callable[[StoredRun], float | None], str]]] = {
    "mean_fd": (lambda run: run.sidecar["MeanFramewiseDisplacement"], "mean"),
    "max_fd": (lambda run: run.sidecar.get("MaximumFramewiseDisplacement"), "max"),
    "kept_seconds": (lambda run: run.kept_seconds, "sum"),
    "kept_share": (lambda run: run.sidecar["VolumesKept"] / max(run.sidecar["VolumesTotal"], 1), "mean"),
    "scrubbed_share": (
        lambda run: run.sidecar["VolumesDropped"]["Scrubbed"]["Count"] / max(run.sidecar["VolumesTotal"], 1),
        "mean",
    ),
    "temporal_snr": (lambda run: run.sidecar.get("TemporalSNR", {}).get("Median"), "mean"),
}


def compute_measure(rows: Rows, name: str) -> Floats:
    """Compute one of `MEASURES` (n,) over the runs of each row that have it, means weighted as `rows` weigh runs; NaN
    where no run has it."""
    find, how = MEASURES[name]
    found = []
    for runs, weights in zip(rows.runs, rows.weights, strict=True):
        values = np.array([find(run) for run in runs], dtype=np.float64)
        known = ~np.isnan(values)
        if not known.any():
            found.append(np.nan)
        elif how == "mean":
            found.append(float(np.average(values[known], weights=weights[known])))
        else:
            found.append(float(values[known].sum() if how == "sum" else values[known].max()))
    return np.array(found)


def compute_motion(rows: Rows) -> tuple[Floats, Floats]:
    """Compute mean framewise displacement (n,) in mm, NaN where no run has it, and seconds of kept data (n,)."""
    return compute_measure(rows, "mean_fd"), compute_measure(rows, "kept_seconds")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EmbeddingFeatures(TableFeatures):
    """Mean embeddings, with the way to read those of single windows."""

    label: str  # of the encoder in names of files
    rows: Rows  # whose files they are


def read_features(rows: Rows, name: str, labels: Sequence[str]) -> tuple[EmbeddingFeatures, ...]:
    """Read the embeddings of one model by the labels of its encoders, which differ in their seeds."""
    return tuple(
        EmbeddingFeatures(name=name, values=read_embeddings(rows, label), label=label, rows=rows) for label in labels
    )


def read_readouts(rows: Rows, encoders: Sequence[RunEncoder], *, seed: int) -> Models:
    """Read the features of all readouts of encoders that differ in their seeds, by label, the encoder's own first. The
    wide readout ``networks`` is accompanied by its random projection to the width of ``cls_avg``, which shows how much
    of a gain is due to width."""
    models: Models = {}
    for alike in zip(*(encoder.readouts for encoder in encoders), strict=True):
        first, name = alike[0], alike[0].loaded.name
        models[name] = found = read_features(rows, name, [one.loaded.name for one in alike])
        width = 2 * first.loaded.config.width
        if first.frozen.pooling == "networks" and first.frozen.n_dims > width:
            drawn = np.random.default_rng(seed).normal(size=(first.frozen.n_dims, width)) / np.sqrt(width)
            tables = [one.values @ drawn for one in found]
            name = f"{name}Projected"
            models[name] = tuple(TableFeatures(name=name, values=table) for table in tables)
    return models


def build_baselines(
    rows: Rows, twins: Sequence[str], baselines: Sequence[str], *, keeps_tables: bool = False
) -> Models:
    """Build the features of the baselines that do not depend on the phenotype, by name. ``random`` has several, by the
    labels of `twins` (random weights). With `keeps_tables` connectivity can be harmonised."""
    models: Models = {}
    kinds, moments = [kind for kind in CONNECTIVITY if kind in baselines], list[Floats]()

    def read() -> Iterator[list[NDArray[np.float32]]]:
        """Read the signals once for all: parsing them takes longer than what is computed."""
        signals = zip(iterate_signals(rows), rows.weights, strict=True)
        for runs, own in Progress("Reading signals").each("row", signals, total=len(rows.keys)):
            if "parcel_moments" in baselines:
                moments.append(compute_moments(runs, own))
            yield runs

    if kinds:
        found = build_connectivity_features(read(), kinds, weights=rows.weights, keeps_tables=keeps_tables)
        models |= {one.name: (one,) for one in found}
    if "parcel_moments" in baselines:
        for _ in () if kinds else read():
            pass
        models["parcel_moments"] = (TableFeatures(name="parcel_moments", values=np.stack(moments)),)
    if "motion" in baselines:
        motion, seconds = compute_motion(rows)
        unknown = np.isnan(motion)
        columns = np.stack([np.where(unknown, 0.0, motion), unknown.astype(float), seconds], axis=1)
        models["motion"] = (TableFeatures(name="motion", values=columns),)
    if "random" in baselines:
        models["random"] = read_features(rows, "random", twins)
    if "chance" in baselines:
        # Without columns a model predicts the frequencies of classes, or the mean.
        models["chance"] = (TableFeatures(name="chance", values=np.zeros((len(rows.keys), 0))),)
    return models


def count_pretrained(participants: set[str], *encoders: RunEncoder) -> int | None:
    """Count participants (labels without ``sub-``) that any encoder was pretrained on, by the hashes in its weights.
    None where the weights of one encoder hold no hashes."""
    found: set[str] = set()
    for encoder in [one for one in encoders if not one.loaded.is_random]:
        known = encoder.loaded.details.get("participants")
        if not isinstance(known, Mapping) or not {"salt", "sha256"} <= set(known):
            return None
        hashes = set(known["sha256"])
        # A file of signals may label participants with ``sub-``, as folders do.
        starts = [f"{known['salt']}{start}" for start in ("", "sub-")]
        found |= {label for label in participants if any(hash_text(start + label) in hashes for start in starts)}
    return len(found)


def describe_pretraining(encoder: RunEncoder, n_pretrained: int | None, n_participants: int) -> str:
    """Describe the overlap between pretraining and probing participants."""
    if encoder.loaded.is_random:
        return "The encoder has random weights and was not pretrained."
    if n_pretrained is None:
        return (
            f"{encoder.loaded.description} The weights do not list their pretraining participants, so overlap cannot "
            "be checked."
        )
    if n_pretrained:
        return (
            f"{n_pretrained} of {n_participants} participants have labels in the pretraining data of the encoder. It "
            "has seen their signals, though not their phenotypes; scores may not generalise to other participants."
        )
    return f"None of the {n_participants} participants has a label in the pretraining data of the encoder."
