"""Records of an atlas on surfaces: one per label file, and the whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bids_semantoks.records import Atlas, AtlasVolume
from bids_semantoks.runtime.downloads import check_recorded
from bids_semantoks.signals.labels import LabelTable


def build_surface_volume(path: Path, values: Sequence[int], parcels: Sequence[int], licence: str) -> AtlasVolume:
    """Build the record of one label file, with checksum; `parcels` are positions in the atlas of `values`.
    Raises AtlasError if a fetched file has changed since."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    check_recorded(path, digest)
    return AtlasVolume(
        path=path,
        sha256=digest,
        values=np.asarray(values, dtype=np.int64),
        parcels=np.asarray(parcels, dtype=np.int64),
        licence=licence or f"{path.name}: n/a",
    )


def build_surface_atlas(name: str, space: str, table: LabelTable, volumes: tuple[AtlasVolume, ...]) -> Atlas:
    """Build the record of an atlas on surfaces, with a joint checksum of names, networks and files."""
    content = {
        "parcels": table.parcels,
        "networks": table.networks,
        "volumes": [[v.sha256, v.values.tolist(), v.parcels.tolist()] for v in volumes],
    }
    return Atlas(
        name=name,
        space=space,
        parcels=table.parcels,
        networks=table.networks,
        volumes=volumes,
        sha256=hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest(),
    )
