"""Find and read back the signals, embedding and status of each run."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.bids_names import parse_entities
from bids_semantoks.files import read_table
from bids_semantoks.outputs.provenance import read_sidecar
from bids_semantoks.outputs.store import OutputPaths

LOGGER = logging.getLogger("bids_semantoks")
_SIGNALS_ENDING = "_stat-mean_timeseries.json"


def _find_sidecars(out_dir: Path) -> list[Path]:
    patterns = (f"sub-*/func/*{_SIGNALS_ENDING}", f"sub-*/ses-*/func/*{_SIGNALS_ENDING}")
    return sorted(path for pattern in patterns for path in out_dir.glob(pattern))


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredRun:
    """A run whose signals are on disk."""

    entities: dict[str, str]  # of the source and ours
    paths: OutputPaths
    sidecar: dict[str, Any]  # of the signals


def find_stored_runs(out_dir: Path, *, atlas: str, model: str) -> Iterator[StoredRun]:
    """Yield the runs with complete signals of an atlas, sorted by name; their paths carry the encoder label `model`."""
    for path in _find_sidecars(out_dir):
        entities = parse_entities(path.name)
        if entities.get("atlas") != atlas:
            continue
        sidecar = read_sidecar(path)
        if sidecar is None:
            LOGGER.warning("The run of %s is left out: that file is damaged or not of this program.", path)
            continue
        stem = path.name.removesuffix(_SIGNALS_ENDING)
        paths = OutputPaths(out_dir=out_dir, directory=path.parent, stem=stem, model=model)
        yield StoredRun(entities=entities, paths=paths, sidecar=sidecar)


def find_stored_kinds(out_dir: Path) -> list[tuple[str, str]]:
    """List the (atlas, space) labels of the stored signals, sorted; the space is empty for series that name none."""
    names = [parse_entities(path.name) for path in _find_sidecars(out_dir)]
    return sorted({(name["atlas"], name.get("space", "")) for name in names if "atlas" in name})


def read_signals(paths: OutputPaths) -> tuple[tuple[str, ...], NDArray[np.float32]]:
    """Read parcel names (P,) and cleaned signals (T, P), exactly as written: 9 digits hold every float32."""
    parcels, values = read_table(paths.signals)
    return parcels, values.astype(np.float32)


def read_embedding(paths: OutputPaths) -> NDArray[np.float32]:
    """Read the window embeddings of a run, (B, dims)."""
    columns, values = read_table(paths.embedding)
    first = columns.index("dim0001")
    return values[:, first:].astype(np.float32)


def read_statuses(out_dir: Path) -> list[tuple[str, dict[str, Any]]]:
    """Read the name stem and status record of every run, sorted by name."""
    found = sorted((out_dir / "logs" / "runs").glob("*_status.json"))
    return [(path.name.removesuffix("_status.json"), json.loads(path.read_bytes())) for path in found]
