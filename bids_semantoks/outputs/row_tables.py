"""Small group-level tables: one record per row, with a data dictionary beside them."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bids_semantoks.files import write_json, write_records


def write_rows(
    path: Path, kind: type, rows: Sequence[Any], *, meanings: Mapping[str, Any], facts: Mapping[str, Any]
) -> Path:
    """Write records of dataclass `kind` as a TSV and return its path; the JSON beside it holds `meanings` of columns
    and
    `facts`."""
    columns = [field.name for field in dataclasses.fields(kind)]
    write_records(path, columns, [[getattr(row, column) for column in columns] for row in rows])
    write_json(path.with_suffix(".json"), {**meanings, "Facts": dict(facts)}, only_if_changed=True)
    return path


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read a table as text by column, empty for ``n/a``; no lines if the file is absent."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return [{key: "" if value == "n/a" else value for key, value in row.items()} for row in rows]
