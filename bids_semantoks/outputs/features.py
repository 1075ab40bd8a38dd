"""Embeddings as stored: those of a run, and the features of the group with the status of all runs behind them."""

from __future__ import annotations

import itertools
import json
import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.bids_names import natural_key, parse_entities
from bids_semantoks.disk import read_array
from bids_semantoks.errors import name_count, name_some
from bids_semantoks.files import read_table, write_array, write_json, write_records, write_table, write_text
from bids_semantoks.outputs.credits import read_packaged
from bids_semantoks.outputs.sidecars import check_table, describe_differences, describe_files, read_column_descriptions
from bids_semantoks.outputs.store import OutputPaths, StoredRun, read_sidecar, read_statuses
from bids_semantoks.records import Embedding, Floats, Windows
from bids_semantoks.statistics.series import weigh_runs, weigh_windows

LOGGER = logging.getLogger("bids_semantoks")


def write_embedding(
    paths: OutputPaths, windows: Windows, embedding: Embedding, sidecar: dict[str, Any], *, as_array: bool = False
) -> None:
    """Write the embedding of a run, the sidecar last; `sidecar` must have ``Settings`` and ``SignalsSHA256``. With
    `as_array` the vectors go into a float32 array next to the table of windows."""
    remove_embedding(paths, settings=sidecar["Settings"], signals_sha256=sidecar["SignalsSHA256"])
    n_windows, n_dims = embedding.vectors.shape
    duration = np.full(n_windows, windows.duration)
    table = np.stack([np.arange(1.0, n_windows + 1), windows.onset, duration, windows.kept], axis=1)
    columns = ["window", "onset", "duration", "kept"]
    arrays = {paths.vectors: embedding.vectors.astype(np.float32) if as_array else None, paths.tokens: embedding.tokens}
    if not as_array:
        columns += [f"dim{d:04d}" for d in range(1, n_dims + 1)]
        table = np.concatenate([table, embedding.vectors.astype(np.float64)], axis=1)
    write_table(paths.embedding, columns, table)
    for path, values in arrays.items():
        if values is None:
            # Old files may belong to other windows.
            path.unlink(missing_ok=True)
        else:
            write_array(path, values)
    files = [paths.embedding, *(path for path, values in arrays.items() if values is not None)]
    write_json(paths.embedding_sidecar, {**sidecar, **describe_files(files)})


def remove_embedding(paths: OutputPaths, *, settings: Mapping[str, Any], signals_sha256: str) -> None:
    """Remove an embedding of other signals or settings, sidecar first: it must not be mistaken for a current one.
    One with the same settings is kept, since another process may have written it for the same run."""
    there = read_sidecar(paths.embedding_sidecar)
    if there and (there.get("SignalsSHA256") != signals_sha256 or describe_differences(there["Settings"], settings)):
        for path in (paths.embedding_sidecar, paths.embedding, paths.vectors, paths.tokens):
            path.unlink(missing_ok=True)


def read_embedding(paths: OutputPaths) -> NDArray[np.float32]:
    """Read the window embeddings of a run, (B, dims); RunFailed damaged_table."""
    return read_window_table(paths)[1]


def read_mean_embedding(paths: OutputPaths, min_kept: float | None) -> tuple[int, Floats]:
    """Read the mean embedding (dims,) of a run over the windows that are used (`weigh_windows`), and their number;
    RunFailed damaged_table."""
    columns, vectors = read_window_table(paths)
    weights = weigh_windows(columns["kept"], min_kept)
    return int((weights > 0).sum()), weights @ vectors


def read_window_table(paths: OutputPaths) -> tuple[dict[str, Floats], NDArray[np.float32]]:
    """Read what is known of the windows of a run, (B,) by column, and their embeddings (B, dims); RunFailed
    damaged_table."""
    sidecar = read_sidecar(paths.embedding_sidecar) or {}
    check_table(paths.embedding, sidecar)
    names, values = read_table(paths.embedding)
    n_meta = names.index("dim0001") if "dim0001" in names else len(names)
    columns = {name: values[:, place] for place, name in enumerate(names[:n_meta])}
    if n_meta < len(names):
        return columns, values[:, n_meta:].astype(np.float32)
    check_table(paths.vectors, sidecar)
    return columns, read_array(paths.vectors).astype(np.float32)


#: Participant label, n_runs, n_windows, mean (dims,), session label (empty for all of the participant's)
FeatureRow = tuple[str, int, int, Floats, str]
RunMean = tuple[int, Floats]  # number of windows of a run and their mean (dims,)
_UNNAMED = "unnamed"  # session of runs without one in tables indexed by session, where nipoppy has it so


def build_mean_reader(min_kept: float | None) -> Callable[[OutputPaths], RunMean]:
    """Build a function that reads the mean embedding of a run; worker processes import it by name."""
    return partial(read_mean_embedding, min_kept=min_kept)


def describe_weights(min_kept: float | None) -> str:
    """Describe in a sentence how windows and runs are weighted in means."""
    if min_kept is None:
        return "All windows of a run, and all runs, are weighted equally."
    left_out = f"; windows with less than {min_kept:.0%} are excluded if a run has better ones" if min_kept else ""
    return f"Windows and runs are weighted by their seconds of kept data{left_out}."


def keep_first_sessions(stored: Sequence[StoredRun]) -> list[StoredRun]:
    """Keep the runs of the first session of each participant, in natural order of labels."""
    first = {label: min(sessions, key=natural_key) for label, sessions in _find_sessions(stored).items()}
    return [run for run in stored if run.entities.get("ses", "") == first[run.entities["sub"]]]


def _find_sessions(stored: Sequence[StoredRun]) -> dict[str, set[str]]:
    """Find the sessions of each participant."""
    found: dict[str, set[str]] = {}
    for run in stored:
        found.setdefault(run.entities["sub"], set()).add(run.entities.get("ses", ""))
    return found


def describe_sessions(stored: Sequence[StoredRun], how: str) -> str:
    """Describe what --sessions does to participants with several sessions; empty if there are none."""
    found = _find_sessions(stored)
    several = [sessions for sessions in found.values() if len(sessions) > 1]
    if not several:
        return ""
    first = Counter(min(sessions, key=natural_key) for sessions in several)
    listed = name_some([f"ses-{label} of {count}" for label, count in first.most_common()])
    done = {"first": f"using only the first ({listed})", "mean": "averaging embeddings", "each": "one row each"}
    return (
        f"{len(several)} of {len(found)} participants have several sessions ({sum(map(len, several))} in all): "
        f"{done[how]} (--sessions {how})"
    )


def average_runs(
    stored: Sequence[StoredRun], means: Mapping[Path, RunMean], *, min_kept: float | None, by_session: bool = False
) -> list[FeatureRow]:
    """Average the means of runs, by path of the embedding, over the runs of each participant or session; rows are
    sorted by label."""
    by_row: dict[tuple[str, str], list[StoredRun]] = {}
    for run in stored:
        session = run.entities.get("ses", "") if by_session else ""
        by_row.setdefault((run.entities["sub"], session), []).append(run)
    rows: list[FeatureRow] = []
    for (participant, session), own in sorted(by_row.items(), key=lambda item: item[0]):
        read = [means[run.paths.embedding] for run in own]
        weights = weigh_runs([run.kept_seconds for run in own], is_weighted=min_kept is not None)
        mean = weights @ np.stack([values for _, values in read])
        rows.append((participant, len(own), sum(n for n, _ in read), mean, session))
    return rows


def write_features(
    out_dir: Path, *, atlas: str, model: str, description: str, rows: Sequence[FeatureRow], as_array: bool = False
) -> Path:
    """Write mean embeddings as ``OUT_DIR/phenotype/<atlas><model>.tsv``, with ``session_id`` where rows are sessions,
    and return its path. With `as_array` the embeddings go into a float32 array next to it with the same rows."""
    path = out_dir / "phenotype" / f"{atlas}{model}.tsv"
    has_sessions = any(session for *_, session in rows)
    text = f"Mean embedding of each {'session' if has_sessions else 'participant'}. {description}"
    if as_array:
        write_array(path.with_suffix(".npy"), np.array([row[3] for row in rows], dtype=np.float32))
        text += f" The embeddings are in the rows of {path.stem}.npy."
    else:
        path.with_suffix(".npy").unlink(missing_ok=True)
    _write_means(path, rows, text, has_sessions=has_sessions, n_dims=len(rows[0][3]) if rows and not as_array else 0)
    return path


def write_session_features(
    out_dir: Path, *, atlas: str, model: str, description: str, rows: Sequence[FeatureRow]
) -> Path:
    """Write mean embeddings of sessions as ``OUT_DIR/phenotype/<atlas><model>Sessions.tsv``, for programs that join
    tables by ``participant_id`` and ``session_id``: no other column has the name of one of another encoder's table.
    Returns its path."""
    path = out_dir / "phenotype" / f"{atlas}{model}Sessions.tsv"
    rows = [(*row[:4], row[4] or _UNNAMED) for row in rows]
    text, n_dims = f"Mean embedding of each session. {description}", len(rows[0][3]) if rows else 0
    _write_means(path, rows, text, has_sessions=True, n_dims=n_dims, prefix=f"{atlas}{model}_")
    return path


def _write_means(
    path: Path, rows: Sequence[FeatureRow], text: str, *, has_sessions: bool, n_dims: int, prefix: str = ""
) -> None:
    """Write rows with the first `n_dims` dimensions of their means, and a sidecar that describes the table by `text`.
    Columns other than those of the index get the `prefix`."""
    described = read_column_descriptions("features")
    index = ["participant_id", *(["session_id"] if has_sessions else [])]
    columns = {f"{prefix}{name}": described[name] for name in ("n_runs", "n_windows")} | {
        f"{prefix}dim{d:04d}": {"Description": f"Dimension {d} of the embedding."} for d in range(1, n_dims + 1)
    }
    # Row by row, since lists of numbers take four times the memory of arrays.
    table = (
        (
            f"sub-{label}",
            *([f"ses-{session}" if session else ""] if has_sessions else []),
            *counts,
            *mean[:n_dims].tolist(),
        )
        for label, *counts, mean, session in rows
    )
    write_records(path, (*index, *columns), table)
    sidecar = {
        "Description": text,
        **({"IndexColumns": index} if has_sessions else {}),
        "participant_id": described["participant_id"],
        "MeasurementToolMetadata": {"Description": text},
        **({"session_id": described["session_id"]} if has_sessions else {}),
        **columns,
    }
    write_json(path.with_suffix(".json"), sidecar, only_if_changed=True)


def remove_features(out_dir: Path, *, atlas: str, model: str, participants: Collection[str]) -> None:
    """Remove participants (labels without ``sub-``) from the features of an encoder, or tables if none are left."""
    for name in (f"{atlas}{model}.tsv", f"{atlas}{model}Sessions.tsv"):
        if (path := out_dir / "phenotype" / name).is_file():
            _remove_rows(path, participants)


def _remove_rows(path: Path, participants: Collection[str]) -> None:
    header, *lines = path.read_text(encoding="utf-8").splitlines()
    gone, array = {f"sub-{label}" for label in participants}, path.with_suffix(".npy")
    stays = np.array([line.partition("\t")[0] not in gone for line in lines], dtype=np.bool_)
    if stays.all():
        return
    LOGGER.warning(
        "Removed from %s: %s whose embeddings no longer exist; rerun the group level.",
        *(path, name_count(int((~stays).sum()), "participant")),
    )
    if array.is_file():
        values = read_array(array)
        if stays.any() and len(values) == len(lines):
            write_array(array, values[stays])
        else:
            array.unlink()
    if stays.any():
        write_text(path, "\n".join([header, *itertools.compress(lines, stays)]) + "\n")
    else:
        path.with_suffix(".json").unlink(missing_ok=True)
        path.unlink(missing_ok=True)


def write_group_status(
    out_dir: Path, *, used: Collection[str] = (), left_out: Mapping[str, tuple[str, str]] | None = None
) -> None:
    """Write ``group_status.tsv``: the status of every run that any call found, by the limits of this one. `used` are
    the stems of runs in the features, `left_out` reason and message of those it left out."""
    columns = read_column_descriptions("group_status")
    chosen, rows = set(used), []
    out = {
        stem: {"status": "skipped", "reason": reason, "message": message}
        for stem, (reason, message) in (left_out or {}).items()
    }
    unknown = dict(out)
    for name, status in read_statuses(out_dir):
        stem = name.partition("_desc-")[0]
        now = out.get(stem, {})
        if not now and stem in chosen and status.get("reason") == "too_few_kept":
            now = {"status": "ok", "reason": "", "message": ""}
        rows.append({**status, **now, "run": name})
        unknown.pop(stem, None)
    rows += [{"run": stem, **status} for stem, status in unknown.items()]
    path = out_dir / "group_status.tsv"
    write_records(path, tuple(columns), [[row.get(name) for name in columns] for row in rows])
    write_json(path.with_suffix(".json"), columns, only_if_changed=True)


def count_cohort(
    out_dir: Path,
    used: Collection[str],
    *,
    is_wanted: Callable[[str], bool],
    left_out: Mapping[str, tuple[str, str]] | None = None,
) -> dict[str, Any]:
    """Count participants and runs that are used and that are not, by the statuses of all calls. `used` are stems of
    runs, `left_out` gives reason and message by stem where this call decides, and `is_wanted` tells by its stem whether
    a run would have been used if it could. Returns ``participants``, ``runs``, ``participants_out`` (who have no run in
    use), ``runs_out`` and ``reasons`` (phrases)."""
    inside = set(used)
    out = {stem: reason for stem, (reason, _) in (left_out or {}).items()}
    for name, status in read_statuses(out_dir):
        stem = name.partition("_desc-")[0]
        if status["status"] != "ok" and is_wanted(stem):
            out.setdefault(stem, str(status.get("reason", "")))
    out = {stem: reason for stem, reason in out.items() if stem not in inside}
    people, others = ({parse_entities(stem)["sub"] for stem in stems} for stems in (inside, out))
    counts = Counter(out.values()).most_common()
    # Others are shown as they are.
    named: dict[str, str] = json.loads(read_packaged("data", "reasons.json"))
    return {
        "participants": len(people),
        "runs": len(inside),
        "participants_out": len(others - people),
        "runs_out": len(out),
        "reasons": [f"{count} {named.get(reason, reason.replace('_', ' '))}" for reason, count in counts],
    }


def count_planned(paths: Sequence[OutputPaths]) -> dict[str, Any] | None:
    """Count the runs of a participant call, as `count_cohort`; None while none is complete."""
    used = [one.stem for one in paths if (one.embedding_sidecar if one.model else one.signals_sidecar).is_file()]
    stems = {one.stem for one in paths}
    return count_cohort(paths[0].out_dir, used, is_wanted=stems.__contains__) if used else None
