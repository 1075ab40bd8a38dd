"""Table of a training, written while it runs and read back."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.files import write_json, write_text

if TYPE_CHECKING:
    pass


LOG_FILE: Final = "training_log.tsv"


LOG_MEANINGS: Final = {
    "step": {"Description": "Optimiser step, from 1."},
    "epoch": {"Description": "Pass over the participants, from 1."},
    "loss": {"Description": "Sum of the weighted losses."},
    "cls": {"Description": "Loss on class tokens, weighted."},
    "ttr": {"Description": "Regulariser on time-averaged network tokens, weighted; 0 once it has faded out."},
    "token": {"Description": "Loss on masked tokens, weighted; 0 in a batch without masks."},
    "rank": {"Description": "Effective rank of the teacher's projections of class tokens."},
    "spread": {"Description": "Root mean square over dimensions of the standard deviation of these projections."},
    "cosine": {"Description": "Mean cosine between one view's teacher and the other's student, on class tokens."},
    "gradient_norm": {"Description": "Norm of the gradient before it was clipped."},
    "learning_rate": {"Description": "Learning rate of the step."},
    "weight_decay": {"Description": "Weight decay of the step."},
    "momentum": {"Description": "Momentum of the teacher's moving average."},
    "ttr_weight": {"Description": "Weight of the regulariser on time-averaged network tokens."},
    "is_masked": {"Description": "Whether the batch was masked.", "Levels": {"0": "no", "1": "yes"}},
    "participants_per_second": {"Description": "Speed since the row before."},
}


class TrainingLog:
    """Table of a training, one row every few steps; the first column is ``step``. Resuming drops rows after the
    checkpoint."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path = path
        self.columns = tuple(columns)

    def start(self, step: int) -> None:
        """Start the table, or keep its rows up to `step`, from which the training resumes; 0 for a new one."""
        header = "\t".join(self.columns)
        kept = [header]
        if step and self.path.is_file():
            lines = self.path.read_text(encoding="utf-8").splitlines()
            if lines[:1] == [header]:
                kept += [line for line in lines[1:] if line.partition("\t")[0].isdecimal() and _step(line) <= step]
        write_text(self.path, "\n".join(kept) + "\n")
        meanings = {column: LOG_MEANINGS[column] for column in self.columns if column in LOG_MEANINGS}
        write_json(self.path.with_suffix(".json"), meanings, only_if_changed=True)

    def append(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Append rows (values by column) and sync them to disk; missing values become ``n/a``."""
        lines = ["\t".join(_format(row.get(column)) for column in self.columns) + "\n" for row in rows]
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(lines))
            file.flush()
            os.fsync(file.fileno())


def _step(line: str) -> int:
    return int(line.partition("\t")[0])


def _format(value: float | None) -> str:
    return "n/a" if value is None or math.isnan(value) else f"{value:.7g}"


def read_training_log(path: Path) -> dict[str, NDArray[np.float64]]:
    """Read the table of a training as arrays by column; ``n/a`` becomes NaN."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    names = list(rows[0]) if rows else []
    return {
        name: np.array([float("nan") if row[name] == "n/a" else float(row[name]) for row in rows]) for name in names
    }
