"""Sizes and checksums of tables, recorded in their sidecar: planning compares sizes, which is fast; readers of a
table compare its checksum."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bids_semantoks.errors import RunFailed
from bids_semantoks.files import hash_file, read_object, write_json


def describe_files(paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Describe complete outputs for `has_files` and `check_table`: their sizes in bytes and SHA-256, by name."""
    paths = list(paths)
    return {
        "Files": {path.name: path.stat().st_size for path in paths},
        "FilesSHA256": {path.name: hash_file(path) for path in paths},
    }


def has_files(directory: Path, sidecar: Mapping[str, Any], *, out_dir: Path | None = None) -> bool:
    """Return whether each output has the size recorded in its sidecar, each table its own sidecar, and none was
    found damaged since; with `out_dir`, also whether the data of the report exist. Correlations, which earlier
    versions recorded as well, are ignored (see `has_connectivity`)."""
    described = {name: size for name, size in sidecar.get("Files", {}).items() if "_relmat." not in name}
    try:
        is_whole = all((directory / name).stat().st_size == size for name, size in described.items())
    except OSError:
        return False
    tables = [directory / name for name in described if name.endswith(".tsv")]
    shown = [] if out_dir is None else [out_dir / str(name) for name in sidecar.get("PageFiles", [])]
    is_here = all(path.is_file() for path in (*(table.with_suffix(".json") for table in tables), *shown))
    return is_whole and is_here and not sidecar.get("Damaged")


def check_table(path: Path, sidecar: Mapping[str, Any]) -> None:
    """Compare an output with the SHA-256 in its sidecar: RunFailed damaged_table. Outputs of versions that
    recorded none are not checked."""
    recorded = _find_recorded(path, sidecar)
    if recorded and (found := hash_file(path)) != recorded:
        raise RunFailed(
            "damaged_table",
            f"{path} is damaged or was modified: its SHA-256 is {found[:12]}, expected {recorded[:12]} (from its "
            "sidecar).",
            hint="Rerun the participant level to recreate it.",
        )


def _find_recorded(path: Path, sidecar: Mapping[str, Any]) -> str:
    # Earlier versions recorded that of the signals only.
    is_signals = path.name.endswith("_stat-mean_timeseries.tsv")
    recorded = sidecar.get("FilesSHA256", {}).get(path.name) or (sidecar.get("TableSHA256") if is_signals else "")
    return recorded if isinstance(recorded, str) else ""


def note_damage(path: Path) -> None:
    """Mark a table as damaged in its sidecar, so that the participant level, which compares only sizes,
    recreates it. If the sidecar cannot be written, the next reader detects the damage again."""
    there = path.with_suffix(".json")
    # Another process may have just replaced both.
    with contextlib.suppress(OSError):
        try:
            check_table(path, sidecar := read_object(there))
        except RunFailed:
            write_json(there, {**sidecar, "Damaged": [path.name]})
