"""Small tables of the group level: one record a row, and a dictionary beside them that says what columns mean."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bids_semantoks.outputs.files import write_json, write_records


def write_rows(
    path: Path, kind: type, rows: Sequence[Any], *, meanings: Mapping[str, Any], facts: Mapping[str, Any]
) -> Path:
    """Write a table and its dictionary.

    Parameters
    ----------
    path : Path
        The table, a TSV; the dictionary has its name.
    kind : type
        Dataclass whose fields are the columns.
    rows : sequence of `kind`
        The lines.
    meanings : mapping
        What each column means.
    facts : mapping
        What else is to be known; plain JSON values.

    Returns
    -------
    Path
        The table.
    """
    columns = [field.name for field in dataclasses.fields(kind)]
    write_records(path, columns, [[getattr(row, column) for column in columns] for row in rows])
    write_json(path.with_suffix(".json"), {**meanings, "Facts": dict(facts)}, only_if_changed=True)
    return path


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read such a table.

    Parameters
    ----------
    path : Path
        TSV.

    Returns
    -------
    list of dict
        Text by column, empty for n/a; no lines where there is no such file.
    """
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return [{key: "" if value == "n/a" else value for key, value in row.items()} for row in rows]
