"""Stored embeddings as one table: one row per participant, session, run or window."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from bids_semantoks.analyses.encoders import name_twin
from bids_semantoks.analyses.rows import MEASURES, Rows, compute_measure
from bids_semantoks.errors import InputError
from bids_semantoks.files import hash_values
from bids_semantoks.inputs.people_tables import read_phenotype_table
from bids_semantoks.inputs.phenotypes import build_columns
from bids_semantoks.inputs.selection import describe_labels, describe_nearest
from bids_semantoks.outputs.embeddings import read_window_table
from bids_semantoks.outputs.sidecars import read_column_descriptions
from bids_semantoks.outputs.store import StoredRun, find_encoders, find_stored_runs, read_sidecar
from bids_semantoks.quality.cohort import CallFacts, build_rows
from bids_semantoks.statistics.weights import weigh_windows
from bids_semantoks.version import __version__

LOGGER = logging.getLogger("bids_semantoks")

LEVELS: Final = ("participant", "session", "run", "window")

#: Key of the table attribute with the source of its values.
ORIGIN: Final = "bids_semantoks"


def choose_embedded(stored: Sequence[StoredRun], model: str | None) -> tuple[str, list[StoredRun]]:
    """Choose the encoder label `model`, or the only one, and the runs that it embedded. InputError if there is none
    or several."""
    found = sorted(set().union(*(find_encoders(run.paths) for run in stored)))
    trained = [label for label in found if not any(label.startswith(name_twin(other)) for other in found)]
    asked = re.sub(r"[^a-z0-9]", "", (model or "").rpartition("/")[2].lower())
    fitting = [label for label in found if label.lower() == asked] if model else trained
    if len(fitting) != 1:
        listed = ", ".join(found) or "none"
        raise InputError(
            f"{stored[0].paths.out_dir} has embeddings by {listed}"
            + (f"; expected those by {model}." if model else "; expected one encoder."),
            hint=describe_nearest([model], found) if model and found else "Choose one: model= or --model.",
        )
    named = [dataclasses.replace(run, paths=dataclasses.replace(run.paths, model=fitting[0])) for run in stored]
    embedded = [run for run in named if read_sidecar(run.paths.embedding_sidecar)]
    if len(embedded) < len(named):
        LOGGER.warning("%d of %d runs have no embedding by %s.", len(named) - len(embedded), len(named), fitting[0])
    return fitting[0], embedded


def build_output_frame(stored: Sequence[StoredRun], *, level: str, min_kept: float | None) -> pd.DataFrame:
    """Build the table of `LEVELS` from runs whose paths name an encoder: labels, quality, then dim0001 and on."""
    return _build_people(stored, level, min_kept) if level in LEVELS[:2] else _build_runs(stored, level, min_kept)


def group_runs(stored: Sequence[StoredRun], *, by_session: bool, min_kept: float | None) -> Rows:
    """Group runs by participant or session, sorted by label."""
    found: dict[tuple[str, str], list[StoredRun]] = {}
    for run in stored:
        found.setdefault((run.entities["sub"], run.entities.get("ses", "") if by_session else ""), []).append(run)
    keys = tuple(sorted(found))
    return Rows(keys=keys, runs=tuple(tuple(found[key]) for key in keys), min_kept=min_kept)


def _build_people(stored: Sequence[StoredRun], level: str, min_kept: float | None) -> pd.DataFrame:
    rows = group_runs(stored, by_session=level == "session", min_kept=min_kept)
    counts, vectors = [], []
    for runs, weights in zip(rows.runs, rows.weights, strict=True):
        read = [_average(run, min_kept) for run in runs]
        counts.append((len(runs), sum(number for number, _ in read)))
        vectors.append(weights @ np.stack([mean for _, mean in read]))
    labels = {"participant_id": [f"sub-{sub}" for sub, _ in rows.keys]}
    if level == "session":
        labels["session_id"] = [f"ses-{ses}" if ses else "" for _, ses in rows.keys]
    numbers = {name: [count[place] for count in counts] for place, name in enumerate(("n_runs", "n_windows"))}
    measures = {name: compute_measure(rows, name) for name in MEASURES}
    return _join(pd.DataFrame({**labels, **numbers, **measures}), np.stack(vectors))


def _average(run: StoredRun, min_kept: float | None) -> tuple[int, np.ndarray[Any, np.dtype[np.float64]]]:
    table, vectors = read_window_table(run.paths)
    weights = weigh_windows(table["kept"], min_kept)
    return int((weights > 0).sum()), weights @ vectors


def _build_runs(stored: Sequence[StoredRun], level: str, min_kept: float | None) -> pd.DataFrame:
    quality = {row["name"]: row for row in build_rows(stored[0].paths.out_dir, CallFacts(model=stored[0].paths.model))}
    columns = list(read_column_descriptions("group_qc"))
    rows, vectors = [], []
    for run in stored:
        own = {name: quality.get(run.paths.stem, {}).get(name) for name in columns}
        table, values = read_window_table(run.paths)
        if level == "run":
            rows.append(own)
            vectors.append(weigh_windows(table["kept"], min_kept) @ values)
            continue
        rows += [own | dict(zip(table, cells, strict=True)) for cells in zip(*table.values(), strict=True)]
        vectors += list(values)
    return _join(pd.DataFrame(rows), np.stack(vectors))


def _join(table: pd.DataFrame, vectors: np.ndarray[Any, Any]) -> pd.DataFrame:
    names = [f"dim{number:04d}" for number in range(1, vectors.shape[1] + 1)]
    return pd.concat([table, pd.DataFrame(vectors, columns=names)], axis=1)


def add_phenotypes(frame: pd.DataFrame, path: Path, columns: Sequence[str] = ()) -> pd.DataFrame:
    """Add columns of a phenotype table (default: all), before the dimensions: numbers where all cells are, else text;
    those that the frame has already are left out. Raises InputError as `read_phenotype_table`, and for other names."""
    path = path / "participants.tsv" if path.is_dir() else path
    keys = list_keys(frame)
    table = read_phenotype_table(path, participants={sub for sub, _ in keys})
    if unknown := [name for name in columns if name not in table.columns]:
        raise InputError(
            f"{path} has no column {', '.join(unknown)}: found {describe_labels(table.columns)}.",
            hint=describe_nearest(unknown, list(table.columns)),
        )
    names = [name for name in columns or table.columns if name not in frame.columns]
    built = build_columns(table, names, (), keys)
    added = pd.DataFrame({name: _convert(column.find(keys)) for name, column in built.items()}, index=frame.index)
    place = list(frame.columns).index("dim0001")
    joined = pd.concat([frame.iloc[:, :place], added, frame.iloc[:, place:]], axis=1)
    joined.attrs = frame.attrs  # pandas loses these here
    return joined


def _convert(cells: Sequence[str | None]) -> pd.Series[Any]:
    """Convert text to numbers if this is lossless: 01 stays text."""
    known = [cell for cell in cells if cell is not None]
    is_number = known and all(re.fullmatch(r"-?(0|[1-9]\d*)(\.\d+)?", cell) for cell in known)
    return pd.Series([np.nan if cell is None else float(cell) for cell in cells] if is_number else list(cells))


def describe_origin(stored: Sequence[StoredRun]) -> dict[str, Any]:
    """Describe how embeddings were made, for a table that leaves their folder: encoder, settings and versions. Settings
    and versions are lists where runs differ."""
    signals = [run.sidecar for run in stored]
    embeddings = [read_sidecar(run.paths.embedding_sidecar) or {} for run in stored]
    return {
        "version": __version__,
        "encoder": embeddings[0].get("Model"),
        "signals_settings": _list_different(sidecar.get("Settings") for sidecar in signals),
        "embedding_settings": _list_different(sidecar.get("Settings") for sidecar in embeddings),
        "software": _list_different(sidecar.get("SoftwareVersions") for sidecar in embeddings),
        "pipelines": _list_different(sidecar.get("Pipeline") for sidecar in signals),
    }


def _list_different(values: Iterable[Any]) -> list[Any]:
    return list({hash_values(value): value for value in values}.values())


def find_rows(frame: pd.DataFrame, min_kept: float | None) -> Rows:
    """Find the stored runs that each row of a table of `load_outputs` averages; none for other tables."""
    keys, origin, stored = list_keys(frame), frame.attrs.get(ORIGIN), {}
    if origin:
        found = find_stored_runs(Path(origin["out_dir"]), atlas=origin["atlas"], model=origin["model"])
        stems = set(origin["runs"])
        chosen = [run for run in found if run.paths.stem in stems]
        own = group_runs(chosen, by_session=any(ses for _, ses in keys), min_kept=min_kept)
        stored = dict(zip(own.keys, own.runs, strict=True))
    return Rows(keys=tuple(keys), runs=tuple(stored.get(key, ()) for key in keys), min_kept=min_kept)


def list_keys(frame: pd.DataFrame) -> list[tuple[str, str]]:
    """List participant and session of each row, without sub- and ses-; the session is empty where there is none."""
    subs = frame["participant_id"].astype(str) if "participant_id" in frame else pd.Series(map(str, range(len(frame))))
    found = frame["session_id"] if "session_id" in frame else pd.Series([""] * len(frame))
    sessions = ["" if pd.isna(one) else str(one).removeprefix("ses-") for one in found]
    return list(zip((one.removeprefix("sub-") for one in subs), sessions, strict=True))
