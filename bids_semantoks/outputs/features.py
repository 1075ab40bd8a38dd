"""Group-level tables: one row of features per participant, and the status of every run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.files import write_json, write_records
from bids_semantoks.outputs.store import OutputPaths
from bids_semantoks.outputs.stored_runs import read_embedding, read_statuses


def build_mean_reader() -> Callable[[OutputPaths], tuple[int, NDArray[np.float64]]]:
    """Build a function that reads the number of windows and the mean embedding (dims,) of a run; worker processes
    import
    it
    by name."""

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
    table = [(f"sub-{label}", n_runs, n_windows, *mean.tolist()) for label, n_runs, n_windows, mean in rows]
    write_records(path, ("participant_id", "n_runs", "n_windows", *names), table)
    columns: dict[str, Any] = {
        "Description": f"Mean embedding of each participant. {description}",
        "participant_id": {"Description": "Participant label, with sub-."},
        "MeasurementToolMetadata": {"Description": f"Mean embedding of each participant. {description}"},
        "n_runs": {"Description": "Runs averaged; each counts the same."},
        "n_windows": {"Description": "Windows of these runs."},
    }
    columns.update({name: {"Description": f"Dimension {name[3:].lstrip('0')} of the embedding."} for name in names})
    write_json(path.with_suffix(".json"), columns, only_if_changed=True)
    return path


_STATUS_COLUMNS: dict[str, Any] = {
    "run": {"Description": "Name of the run's outputs: its entities, space, atlas and encoder (desc)."},
    "status": {
        "Description": "What became of the run.",
        "Levels": {"ok": "written", "skipped": "left out for a stated reason", "failed": "could not be processed"},
    },
    "reason": {"Description": "Code of why a run was skipped or failed; already_done where it was complete before."},
    "seconds": {"Description": "Time that the run took.", "Units": "s"},
    "peak_rss_mb": {"Description": "Largest memory of the process so far, in mebibytes."},
    "device": {"Description": "Where the encoder ran."},
    "message": {"Description": "The reason in words."},
}


def write_group_status(out_dir: Path) -> None:
    """Write ``group_status.tsv``: the status of every run that any call found."""
    columns = ("status", "reason", "seconds", "peak_rss_mb", "device", "message")
    rows = [(stem, *(status.get(column) for column in columns)) for stem, status in read_statuses(out_dir)]
    path = out_dir / "group_status.tsv"
    write_records(path, ("run", *columns), rows)
    write_json(path.with_suffix(".json"), _STATUS_COLUMNS, only_if_changed=True)
