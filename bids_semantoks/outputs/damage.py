"""Sizes and checksums of tables in the sidecar that vouches for them: planning compares sizes, at once; who reads a
table compares its checksum."""

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
    """Tell whether each output has the size recorded in its sidecar, each table its own sidecar, and nothing was found
    damaged since; with `out_dir`, also whether all that shows the run is there. Correlations, which earlier versions
    recorded as well, do not count: `has_connectivity`."""
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
    """Compare an output with the SHA-256 in the sidecar that vouches for it: RunFailed damaged_table. One written by a
    version that recorded none passes."""
    recorded = _find_recorded(path, sidecar)
    if recorded and (found := hash_file(path)) != recorded:
        raise RunFailed(
            "damaged_table",
            f"{path} is damaged or was edited: its SHA-256 is {found[:12]}, but {recorded[:12]} in the sidecar.",
            hint="Run the participant level again, which makes it anew.",
        )


def _find_recorded(path: Path, sidecar: Mapping[str, Any]) -> str:
    # Earlier versions recorded that of the signals only.
    is_signals = path.name.endswith("_stat-mean_timeseries.tsv")
    recorded = sidecar.get("FilesSHA256", {}).get(path.name) or (sidecar.get("TableSHA256") if is_signals else "")
    return recorded if isinstance(recorded, str) else ""


def note_damage(path: Path) -> None:
    """Note in the sidecar of a table that it is damaged, so that the participant level, which compares sizes only,
    makes it again. Where it cannot be written, the next reader finds out by itself."""
    there = path.with_suffix(".json")
    # Another process may just have replaced both.
    with contextlib.suppress(OSError):
        try:
            check_table(path, sidecar := read_object(there))
        except RunFailed:
            write_json(there, {**sidecar, "Damaged": [path.name]})
