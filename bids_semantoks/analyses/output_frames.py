"""Stored embeddings as one table (one row per participant, session, run or window), and probes of such tables."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from bids_semantoks.analyses.choose import name_twin
from bids_semantoks.analyses.columns import check_columns
from bids_semantoks.analyses.design import SITE_NAMES, ProbePlan, build_design
from bids_semantoks.analyses.frames import build_score_rows
from bids_semantoks.analyses.harmonising import harmonise_models
from bids_semantoks.analyses.probe import Prober
from bids_semantoks.analyses.results import adjust_comparisons
from bids_semantoks.analyses.rows import (
    MEASURES,
    EmbeddingFeatures,
    Models,
    Rows,
    build_baselines,
    build_rows,
    compute_measure,
)
from bids_semantoks.config import AppConfig, ProbingConfig, RunningConfig
from bids_semantoks.errors import InputError
from bids_semantoks.files import hash_values, is_missing
from bids_semantoks.inputs.people_tables import Table, read_phenotype_table
from bids_semantoks.inputs.phenotypes import Column, build_columns, build_phenotype, is_category
from bids_semantoks.inputs.selection import describe_labels, describe_nearest
from bids_semantoks.outputs.features import read_window_table
from bids_semantoks.outputs.group_tables import build_group_table
from bids_semantoks.outputs.sidecars import read_column_descriptions
from bids_semantoks.outputs.store import StoredRun, find_encoders, find_stored_runs, read_sidecar
from bids_semantoks.quality.cohort import CallFacts
from bids_semantoks.quality.cohort import build_rows as build_quality_rows
from bids_semantoks.statistics.series import weigh_windows
from bids_semantoks.version import __version__

LOGGER = logging.getLogger("bids_semantoks")
LEVELS: Final = ("participant", "session", "run", "window")
ORIGIN: Final = "bids_semantoks"  # key of the table attribute with the source of its values


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


def _build_people(stored: Sequence[StoredRun], level: str, min_kept: float | None) -> pd.DataFrame:
    rows = build_rows(stored, by_session=level == "session", min_kept=min_kept, least=0)
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
    quality = {
        row["name"]: row for row in build_quality_rows(stored[0].paths.out_dir, CallFacts(model=stored[0].paths.model))
    }
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
        own = build_rows(chosen, by_session=any(ses for _, ses in keys), min_kept=min_kept, least=0)
        stored = dict(zip(own.keys, own.runs, strict=True))
    return Rows(keys=tuple(keys), runs=tuple(stored.get(key, ()) for key in keys), min_kept=min_kept)


def list_keys(frame: pd.DataFrame) -> list[tuple[str, str]]:
    """List participant and session of each row, without sub- and ses-; the session is empty where there is none."""
    subs = frame["participant_id"].astype(str) if "participant_id" in frame else pd.Series(map(str, range(len(frame))))
    found = frame["session_id"] if "session_id" in frame else pd.Series([""] * len(frame))
    sessions = ["" if pd.isna(one) else str(one).removeprefix("ses-") for one in found]
    return list(zip((one.removeprefix("sub-") for one in subs), sessions, strict=True))


_FROM_TABLE: Final = frozenset({"none", "covariates", "site", "chance"})  # baselines that need no stored signals


def probe_frame(frame: pd.DataFrame, asked: ProbingConfig, *, seed: int, min_kept: float | None) -> pd.DataFrame:
    """Predict a column of a table of embeddings (n, dims) from the others: the rows of group_probe.tsv. Rows are sorted
    by label first, as at the group level. Raises InputError for columns that are missing or cannot be probed, for
    several rows a participant or session, and for baselines whose signals are unknown."""
    dims = [name for name in frame.columns if isinstance(name, str) and name.startswith("dim")]
    if not dims:
        raise InputError("The table has no columns dim0001 etc.", hint="Use a table of load_outputs or Embedder.")
    frame, rows = _sort(frame, min_kept)
    origin = frame.attrs.get(ORIGIN, {})
    if missing := sorted({*asked.baselines} - _FROM_TABLE) if not any(rows.runs) else []:
        raise InputError(
            f"The baselines {', '.join(missing)} need the signals of these participants, but their location is "
            "unknown.",
            hint="Use a table of load_outputs with its attrs: {'out_dir': ...} under bids_semantoks.",
        )
    plan = _plan(frame, rows, asked, seed)
    phenotype = build_phenotype(plan.columns[asked.probe[0]], rows.keys, kind=asked.probe_kind, n_bins=asked.n_bins)
    design = build_design(plan, rows, phenotype)
    model, values = str(origin.get("model", "embedding")), frame[dims].to_numpy(dtype=np.float64)
    prober = Prober(plan, model)
    models: Models = {model: (EmbeddingFeatures(name=model, values=values, label=model, rows=rows),)}
    models |= build_baselines(rows, [name_twin(model)], prober.baselines, keeps_tables=asked.harmonize is not None)
    prober.models[rows.keys] = harmonise_models(plan, rows, models)
    (result,) = adjust_comparisons([prober.probe(phenotype, design)])
    scores = [row for one in result.models.values() for row in build_score_rows(phenotype.name, one, rows, None)]
    return build_group_table("group_probe", scores)


def _sort(frame: pd.DataFrame, min_kept: float | None) -> tuple[pd.DataFrame, Rows]:
    """Sort the table by label, and find the stored runs of its rows where it says where they are."""
    keys = list_keys(frame)
    if twice := sorted({key for key in keys if keys.count(key) > 1}) if len(set(keys)) < len(keys) else []:
        sub, ses = twice[0]
        raise InputError(
            f"The table has {len(twice)} participants or sessions with several rows, such as sub-{sub}"
            f"{f' ses-{ses}' if ses else ''}.",
            hint="Use level='participant' or 'session', or average the rows of each.",
        )
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return frame.iloc[order], find_rows(frame.iloc[order], min_kept)


def _plan(frame: pd.DataFrame, rows: Rows, asked: ProbingConfig, seed: int) -> ProbePlan:
    """Read the requested columns as cells of a phenotype table, and check them as the group level does."""
    extra = asked.beside
    wanted = dict.fromkeys((*asked.probe, *extra))
    if unknown := [name for name in wanted if name not in frame.columns]:
        there = [str(name) for name in frame.columns if not str(name).startswith("dim")]
        raise InputError(
            f"Column {', '.join(unknown)} not found in the table: found {describe_labels(there)}.",
            hint=describe_nearest(unknown, there) or "Add it, e.g. with load_outputs(phenotypes=...).",
        )
    site = asked.leave_out or asked.harmonize or next((name for name in SITE_NAMES if name in frame.columns), "")
    names = [*wanted, *([site] if site and site not in wanted else [])]
    cells = {name: tuple(_spell(name, cell) for cell in frame[name]) for name in names}
    # In pandas tables missing values are NaN, so a site NA is a label.
    words = {name: {cell for cell in own if cell is not None and is_missing(cell)} for name, own in cells.items()}
    table = Table(
        path=Path("the table"),
        name="the table",
        has_sessions=rows.has_sessions,
        keys=rows.keys,
        columns=cells,
        described={name: {"Levels": dict.fromkeys(own - {"", "n/a"}, "")} for name, own in words.items()},
    )
    columns: Mapping[str, Column] = build_columns(table, names, list(wanted), rows.keys)
    numbers = (*asked.covariate, *asked.harmonize_keep)
    categories = [name for name in extra if name not in numbers or is_category(columns[name], rows.keys)]
    running = RunningConfig(random_seed=seed)
    return ProbePlan(
        config=AppConfig(bids_dir=Path(), out_dir=Path(), level="group", probing=asked, running=running),
        columns=dict(columns),
        site=site,
        categories=frozenset(categories),
        warnings=check_columns(columns, rows.keys, asked, site=site),
    )


def _spell(name: str, cell: Any) -> str | None:
    """Format a cell as in a phenotype table: integers without decimals, measures of runs with 9 digits."""
    if pd.isna(cell):
        return None
    if isinstance(cell, float | np.floating):
        return f"{cell:.9g}" if name in MEASURES or float(cell).is_integer() else repr(float(cell))
    return str(cell)
