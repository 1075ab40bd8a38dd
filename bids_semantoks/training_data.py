"""Training data (runs and atlas), described without reading any signals."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bids_semantoks.inputs.hdf5 import SignalsFile, open_signals
from bids_semantoks.outputs.store import StoredRun


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SignalSource:
    """A run that can be packed, before it is read."""

    key: str  # checksum over everything that decides the packed values
    participant: str
    where: Any  # for its reader: a StoredRun, or a row of an HDF5 file


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TrainingData:
    """Runs to train on and their atlas."""

    sources: tuple[SignalSource, ...]
    parcels: tuple[str, ...]  # (P,)
    networks: tuple[str, ...]  # (P,) label of each parcel
    facts: dict[str, Any]  # what the model card says about the data


def describe_stored(
    stored: Sequence[StoredRun], parcels: tuple[str, ...], networks: tuple[str, ...], *, target: float
) -> TrainingData:
    """Describe stored signals as training data; `target` is the encoder's repetition time in seconds."""
    sources = []
    for run in stored:
        sidecar = run.sidecar
        decisive = [
            sidecar["TableSHA256"],
            sidecar["RepetitionTime"],
            sidecar["VolumesDropped"]["Dummy"]["Count"],
            target,
            parcels,
            networks,
        ]
        key = hashlib.sha256(json.dumps(decisive).encode()).hexdigest()
        sources.append(SignalSource(key=key, participant=run.entities["sub"], where=run))
    facts = {
        "source": "signals written by the participant level",
        "band": _describe_bands([run.sidecar["Settings"] for run in stored]),
        "tasks": sorted({run.entities.get("task", "n/a") for run in stored}),
        "atlas": stored[0].entities["atlas"],
    }
    return TrainingData(sources=tuple(sources), parcels=parcels, networks=networks, facts=facts)


def _describe_bands(settings: Sequence[Mapping[str, Any]]) -> Any:
    """Describe the pass bands of runs: low and high (Hz) if all share one, else words."""
    found = {json.dumps(one.get("band_pass")) if one.get("denoising") else "" for one in settings}
    if len(found) == 1 and (band := json.loads(next(iter(found)) or "null")):
        return band
    names = {"": "not known", "null": "no filter"}
    return " or ".join(sorted(names.get(one) or "{:g} to {:g} Hz".format(*json.loads(one)) for one in found))


def describe_file(path: Path, *, target: float) -> tuple[TrainingData, SignalsFile]:
    """Describe the participants of an HDF5 file as training data, one source per row.

    The signals are assumed to have the encoder's repetition time, `target` seconds: the layout does not store any.
    """
    file, status = open_signals(path), path.stat()
    decisive = [path.name, status.st_size, status.st_mtime_ns, target]
    stem = hashlib.sha256(json.dumps(decisive).encode()).hexdigest()
    sources = tuple(
        SignalSource(key=f"{stem}-{row}", participant=label, where=row) for row, label in enumerate(file.ids)
    )
    facts = {"source": f"HDF5 file {path.name}", "band": "not known", "atlas": "Schaefer400, Tian3, Buckner7"}
    return TrainingData(sources=sources, parcels=file.parcels, networks=file.networks, facts=facts), file
