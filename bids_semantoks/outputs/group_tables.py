"""Smaller group tables: scores by site, the embedding in two dimensions, and test-retest reliability."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.files import write_json, write_records


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StratumRow:
    """One line of ``group_strata.tsv``: the encoder's score in a subgroup; the columns are explained in `STRATA`."""

    phenotype: str
    model: str
    metric: str
    by: str  # column that divides participants, or repetition_time
    level: str
    value: float  # mean over repetitions; NaN if it cannot be computed
    ci_low: float
    ci_high: float
    n_participants: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RetestRow:
    """One line of ``group_retest.tsv``: how well features identify participants at a second scan; columns as in
    `RETEST`."""

    between: str  # sessions or runs
    features: str  # encoder name or baseline
    identification: float
    ci_low: float
    ci_high: float
    chance: float
    icc_median: float  # over features; NaN if nothing varies
    icc_low: float
    icc_high: float
    n_participants: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PointTable:
    """The embedding in two dimensions, with columns to colour its points by."""

    # (n,) participant and session label; the session is empty if points are participants
    keys: tuple[tuple[str, str], ...]
    points: NDArray[np.float64]  # (n, 2)
    shares: tuple[float, float]  # of the variance, per axis
    columns: dict[str, tuple[str | None, ...]]  # (n,) text by column; None if missing


STRATA: Final[dict[str, Any]] = {
    "phenotype": {"Description": "What was predicted."},
    "model": {"Description": "What predicted it."},
    "metric": {"Description": "How it is scored, as in group_probe.tsv, among the participants of this line only."},
    "by": {"Description": "What participants are divided by: a column, or the repetition time of their runs."},
    "level": {"Description": "Value of that column."},
    "value": {"Description": "Mean over repetitions; n/a where there are too few to be scored."},
    "ci_low": {"Description": "Lower end of the 95 % interval: bootstrap over the participants of the line, widened."},
    "ci_high": {"Description": "Upper end of the 95 % interval."},
    "n_participants": {"Description": "Participants of this line who were tested."},
}
RETEST: Final[dict[str, Any]] = {
    "between": {
        "Description": "What is compared.",
        "Levels": {
            "sessions": "the first two sessions of a participant, runs averaged",
            "runs": "the first two runs of a session",
        },
    },
    "features": {"Description": "The encoder's name, or a baseline."},
    "identification": {
        "Description": "Share of scans whose most similar scan of the other time is the same participant's; features "
        "are centred over participants, similarity is correlation, both directions are averaged."
    },
    "ci_low": {"Description": "Lower end of the 95 % interval (bootstrap over participants)."},
    "ci_high": {"Description": "Upper end of the 95 % interval."},
    "chance": {"Description": "One over the number of participants."},
    "icc_median": {"Description": "Median over features of the intraclass correlation ICC(2,1)."},
    "icc_low": {"Description": "Lower quartile over features."},
    "icc_high": {"Description": "Upper quartile over features."},
    "n_participants": {"Description": "Participants with two scans."},
}
_MAP: Final[dict[str, Any]] = {
    "participant_id": {"Description": "Participant label, with sub-."},
    "session_id": {"Description": "Session label, with ses-, where a point is a session."},
    "axis1": {"Description": "First principal axis of the mean embeddings, each dimension scaled."},
    "axis2": {"Description": "Second principal axis, in units of the first's deviation."},
}


def write_described(path: Path, dictionary: Mapping[str, Any], lines: Sequence[Sequence[object]]) -> None:
    """Write a table and its data dictionary; without lines, remove both so that nothing stale is left."""
    if not lines:
        for old in (path, path.with_suffix(".json")):
            old.unlink(missing_ok=True)
        return
    columns = [name for name in dictionary if name != "Facts"]
    write_records(path, columns, lines)
    write_json(path.with_suffix(".json"), dict(dictionary), only_if_changed=True)


def write_strata(out_dir: Path, rows: Sequence[StratumRow]) -> None:
    """Write ``group_strata.tsv``, or remove it if there are no rows."""
    write_described(out_dir / "group_strata.tsv", STRATA, [dataclasses.astuple(row) for row in rows])


def write_retest(out_dir: Path, rows: Sequence[RetestRow]) -> None:
    """Write ``group_retest.tsv``, or remove it if there are no rows."""
    write_described(out_dir / "group_retest.tsv", RETEST, [dataclasses.astuple(row) for row in rows])


def write_points(out_dir: Path, table: PointTable) -> None:
    """Write ``group_map.tsv``."""
    columns = {name: {"Description": "As in the tables of the dataset, or its sidecars."} for name in table.columns}
    shares = {"VarianceShares": list(table.shares)}
    lines = [
        (f"sub-{subject}", f"ses-{session}" if session else "", *point, *(cells[i] for cells in table.columns.values()))
        for i, ((subject, session), point) in enumerate(zip(table.keys, table.points.tolist(), strict=True))
    ]
    write_described(out_dir / "group_map.tsv", {**_MAP, **columns, "Facts": shares}, lines)
