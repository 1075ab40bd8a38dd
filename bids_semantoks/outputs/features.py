"""Features of the group: mean embeddings of participants, and the status of all runs they could come from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.files import write_json, write_records, write_text
from bids_semantoks.outputs.sidecars import read_column_descriptions
from bids_semantoks.outputs.store import OutputPaths, read_embedding, read_statuses

LOGGER = logging.getLogger("bids_semantoks")


def build_mean_reader() -> Callable[[OutputPaths], tuple[int, NDArray[np.float64]]]:
    """Build a function that reads the number of windows and the mean embedding (dims,) of a
    run; worker processes import it by name."""

    def read(paths: OutputPaths) -> tuple[int, NDArray[np.float64]]:
        """Read the number of windows and the mean embedding."""
        vectors = read_embedding(paths)
        return len(vectors), vectors.mean(axis=0, dtype=np.float64)

    return read


def write_features(
    out_dir: Path,
    *,
    atlas: str,
    model: str,
    description: str,
    rows: Sequence[tuple[str, int, int, np.ndarray[Any, Any]]],
) -> Path:
    """Write mean embeddings as ``OUT_DIR/phenotype/<atlas><model>.tsv`` and return its path.

    `rows` are (participant label, n_runs, n_windows, mean (dims,)).
    """
    path = out_dir / "phenotype" / f"{atlas}{model}.tsv"
    n_dims = len(rows[0][3]) if rows else 0
    names = [f"dim{d:04d}" for d in range(1, n_dims + 1)]
    described = read_column_descriptions("features")
    table = [(f"sub-{label}", n_runs, n_windows, *mean.tolist()) for label, n_runs, n_windows, mean in rows]
    write_records(path, (*described, *names), table)
    text = f"Mean embedding of each participant. {description}"
    sidecar = {
        "Description": text,
        "participant_id": described.pop("participant_id"),
        "MeasurementToolMetadata": {"Description": text},
        **described,
        **{name: {"Description": f"Dimension {name[3:].lstrip('0')} of the embedding."} for name in names},
    }
    write_json(path.with_suffix(".json"), sidecar, only_if_changed=True)
    return path


def remove_features(out_dir: Path, *, atlas: str, model: str, participants: Collection[str]) -> None:
    """Remove participants (labels without ``sub-``) from the features of an encoder, or the table if nobody is left."""
    path = out_dir / "phenotype" / f"{atlas}{model}.tsv"
    if not path.is_file():
        return
    header, *lines = path.read_text(encoding="utf-8").splitlines()
    gone = {f"sub-{label}" for label in participants}
    left = [line for line in lines if line.partition("\t")[0] not in gone]
    if len(left) == len(lines):
        return
    LOGGER.warning(
        "%d participants were removed from %s, since embeddings that it averaged are gone; run the group level again.",
        len(lines) - len(left),
        path,
    )
    if left:
        write_text(path, "\n".join([header, *left]) + "\n")
    else:
        path.with_suffix(".json").unlink(missing_ok=True)
        path.unlink(missing_ok=True)


def write_group_status(
    out_dir: Path, *, used: Collection[str] = (), left_out: Mapping[str, tuple[str, str]] | None = None
) -> None:
    """Write ``group_status.tsv``: the status of every run that any call found, by the limits of this one.

    `used` are the stems of runs in the features, `left_out` reason and message of those it left out.
    """
    columns = read_column_descriptions("group_status")
    rows, out, chosen = [], left_out or {}, set(used)
    for name, status in read_statuses(out_dir):
        stem, now = name.partition("_desc-")[0], {}
        if stem in out:
            now = {"status": "skipped", "reason": out[stem][0], "message": out[stem][1]}
        elif stem in chosen and status.get("reason") == "too_few_kept":
            now = {"status": "ok", "reason": "", "message": ""}
        rows.append({**status, **now, "run": name})
    known = {row["run"].partition("_desc-")[0] for row in rows}
    rows += [
        {"run": stem, "status": "skipped", "reason": reason, "message": message}
        for stem, (reason, message) in out.items()
        if stem not in known
    ]
    path = out_dir / "group_status.tsv"
    write_records(path, tuple(columns), [[row.get(name) for name in columns] for row in rows])
    write_json(path.with_suffix(".json"), columns, only_if_changed=True)
