"""Read back what probes wrote, so that the page can be redrawn without computing anything."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from bids_semantoks.errors import InputError
from bids_semantoks.outputs.group_tables import PointTable, RetestRow, StratumRow
from bids_semantoks.outputs.probes import ScoreRow
from bids_semantoks.statistics.metrics import name_main_metric

RowT = TypeVar("RowT", ScoreRow, StratumRow, RetestRow)
#: Roles of the models that are compared with each other.
COMPARED = ("encoder", "finetuned", "baseline")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StoredProbes:
    """Tables of the last call that probed."""

    scores: tuple[ScoreRow, ...]  # group_probe.tsv
    predictions: tuple[dict[str, str], ...]  # lines of group_predictions.tsv
    strata: tuple[StratumRow, ...]
    retest: tuple[RetestRow, ...]
    points: PointTable | None
    facts: dict[str, Any]  # from group_probe.json

    @property
    def model(self) -> str:
        """Encoder label."""
        return str(self.facts["Encoder"]["Name"])

    @property
    def phenotypes(self) -> tuple[str, ...]:
        """Probed phenotypes, in the order requested."""
        return tuple(self.facts["Phenotypes"])

    def find_scores(self, phenotype: str, *roles: str) -> list[ScoreRow]:
        """Return the main score of each model with one of these roles, in the order of the table."""
        return [
            row
            for row in self.scores
            if row.phenotype == phenotype and row.role in roles and row.metric == name_main_metric(row.kind)
        ]


def read_records(path: Path) -> list[dict[str, str]]:
    """Read a TSV as text by column, ``n/a`` as empty text; no lines if the file is absent."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [{key: "" if cell == "n/a" else cell or "" for key, cell in row.items()} for row in rows]


def read_rows(path: Path, kind: type[RowT]) -> tuple[RowT, ...]:
    """Read a TSV as records of `kind`; empty if the file is absent. Raises InputError if a column is missing or
    invalid."""
    hints = typing.get_type_hints(kind)
    try:
        return tuple(
            kind(**{name: _convert(hint, row[name]) for name, hint in hints.items()}) for row in read_records(path)
        )
    except (KeyError, ValueError) as error:
        raise InputError(
            f"{path} is not as this version writes it: {error}.", hint="Probe again with --probe COLUMN."
        ) from error


def _convert(hint: Any, cell: str) -> Any:
    if hint is float:
        return float(cell) if cell else math.nan
    if hint is int:
        return int(cell)
    if hint is str:
        return cell
    return int(cell) if cell else None


def read_probes(out_dir: Path) -> StoredProbes:
    """Read the results of the last call that probed. Raises InputError if there are none or another version wrote
    them."""
    path = out_dir / "group_probe.json"
    if not path.is_file():
        raise InputError(f"No probes in {out_dir}: no group_probe.json.", hint="Probe first with --probe COLUMN.")
    facts = json.loads(path.read_bytes()).get("Facts", {})
    missing = [name for name in ("Encoder", "Overview", "Phenotypes", "Pretraining", "Warnings") if name not in facts]
    # What the page draws of classes.
    missing += [
        f"who of {name} was taken for whom"
        for name, found in facts.get("Phenotypes", {}).items()
        if found["Classes"] and "Confusion" not in found
    ]
    if missing:
        raise InputError(f"{path} does not say {', '.join(missing)}.", hint="Probe again with --probe COLUMN.")
    return StoredProbes(
        scores=read_rows(out_dir / "group_probe.tsv", ScoreRow),
        predictions=tuple(read_records(out_dir / "group_predictions.tsv")),
        strata=read_rows(out_dir / "group_strata.tsv", StratumRow),
        retest=read_rows(out_dir / "group_retest.tsv", RetestRow),
        points=_read_points(out_dir / "group_map.tsv"),
        facts=facts,
    )


def _read_points(path: Path) -> PointTable | None:
    rows = read_records(path)
    if not rows:
        return None
    shares = json.loads(path.with_suffix(".json").read_bytes())["Facts"]["VarianceShares"]
    names = [name for name in rows[0] if name not in ("participant_id", "session_id", "axis1", "axis2")]
    pick: Callable[[str], Sequence[str]] = lambda name: [row[name] for row in rows]  # noqa: E731 - used four times
    keys = zip(pick("participant_id"), pick("session_id"), strict=True)
    return PointTable(
        keys=tuple((subject.removeprefix("sub-"), session.removeprefix("ses-")) for subject, session in keys),
        points=np.array([list(map(float, pick("axis1"))), list(map(float, pick("axis2")))]).T,
        shares=(float(shares[0]), float(shares[1])),
        columns={name: tuple(cell or None for cell in pick(name)) for name in names},
    )
