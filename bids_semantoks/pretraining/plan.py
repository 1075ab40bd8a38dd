"""Plan the training of an encoder (architecture, recipe, data) before anything is written."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bids_semantoks.config import AppConfig, EncoderConfig, PretrainingConfig, TrainingConfig, from_json, to_json
from bids_semantoks.embedding import AtlasNames
from bids_semantoks.errors import ConfigurationError
from bids_semantoks.files import hash_text, hash_values, read_json
from bids_semantoks.inputs.hdf5 import SignalsFile, open_signals
from bids_semantoks.models.encoder import Encoder, read_encoder_config
from bids_semantoks.models.parcels import NetworkLayout, build_layout
from bids_semantoks.models.tokenizer import StructuredBranch, join_scales
from bids_semantoks.outputs.sidecars import find_versions
from bids_semantoks.outputs.store import StoredRun
from bids_semantoks.quality.fit import describe_cleaning
from bids_semantoks.training.batches import check_participants, choose_batch_size
from bids_semantoks.training.loop import TrainingPlan
from bids_semantoks.training.packed import SignalView

LOGGER = logging.getLogger("bids_semantoks")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Blueprint(TrainingPlan):
    """Everything a training depends on."""

    directory: Path  # OUT_DIR/encoders/<name>
    encoder: EncoderConfig
    layout: NetworkLayout
    data: TrainingData


def read_training_config(config: PretrainingConfig) -> TrainingConfig:
    """Read the training recipe: the file of --training-config, overridden by options. Raises ConfigurationError
    if the file is unreadable or invalid."""
    values: Any = {}
    path = config.training_config
    if path is not None:
        try:
            values = read_json(path)
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"The training configuration {path} cannot be read: {error}.") from error
        if not isinstance(values, dict):
            raise ConfigurationError(f"The training configuration {path} must be a JSON object, found {values!r:.60}.")
    given = {"epochs": config.epochs, "batch_size": config.train_batch_size, "learning_rate": config.learning_rate}
    values |= {key: value for key, value in given.items() if value is not None}
    return from_json(TrainingConfig, values, where=f"training configuration {path or ''}".rstrip())


def describe_data(
    config: AppConfig, stored: Sequence[StoredRun], atlas: AtlasNames
) -> tuple[EncoderConfig, TrainingData]:
    """Describe the encoder and its training data without reading any signals. The data are the `stored` runs with their
    `atlas` (parcels and networks, P each) or, with --pretrain-data, an HDF5 file. Raises SemantoksError if anything
    cannot be read."""
    encoder = read_encoder_config(config.pretraining.encoder_config)
    path = config.pretraining.pretrain_data
    if path is not None:
        return encoder, describe_file(path, target=encoder.repetition_time)
    return encoder, describe_stored(stored, *atlas, target=encoder.repetition_time)


def draw_blueprint(config: AppConfig, encoder: EncoderConfig, data: TrainingData, *, n_parts: int) -> Blueprint:
    """Determine everything a training depends on, including the size of batches that are split into `n_parts`. Raises
    SemantoksError if data and options do not allow a training."""
    asked = config.pretraining
    recipe = read_training_config(asked)
    participants = {source.participant for source in data.sources}
    check_participants(participants)
    n_participants = len(participants)
    layout = build_layout(data.parcels, data.networks)
    size = choose_batch_size(n_participants, recipe.batch_size, n_parts=n_parts)
    if recipe.batch_size is None:
        LOGGER.info("Batches of %d participants, %d steps per epoch.", size, n_participants // size)
    recipe = dataclasses.replace(recipe, batch_size=size)
    keys = sorted(source.key for source in data.sources)
    settings = {
        "encoder": to_json(encoder),
        "recipe": to_json(recipe),
        "layout": hash_values(to_json(layout)),
        "data": {"participants": n_participants, "runs": len(keys), "sha256": hash_values(keys)},
        "seed": config.running.random_seed,
        "precision": config.embedding.precision,
    }
    directory = config.out_dir / "encoders" / (asked.encoder_name or Path(asked.encoder_config).stem)
    return Blueprint(
        directory=directory,
        encoder=encoder,
        layout=layout,
        data=data,
        recipe=recipe,
        settings=settings,
        checkpoints=directory / "checkpoints",
        seed=config.running.random_seed,
        precision=config.embedding.precision,
        n_slices=asked.accumulate,
        max_seconds=math.inf if asked.max_hours is None else 3600 * asked.max_hours,
        checkpoint_every=asked.checkpoint_every,
    )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SignalSource:
    """A run that can be packed, before it is read."""

    key: str  # checksum over everything that determines the packed values
    participant: str
    where: Any  # for its reader: a StoredRun, or a row of an HDF5 file


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TrainingData:
    """Runs to train on and their atlas."""

    sources: tuple[SignalSource, ...]
    parcels: tuple[str, ...]  # (P,)
    networks: tuple[str, ...]  # (P,) label of each parcel
    facts: dict[str, Any]  # description of the data in the model card
    cleaning: dict[str, Any]  # how they were cleaned, for comparison with later runs
    file: SignalsFile | None = None  # the HDF5 file of the sources; None if they are stored tables


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
        sources.append(SignalSource(key=hash_values(decisive), participant=run.entities["sub"], where=run))
    facts = {
        "source": "signals written by the participant level",
        "band": _describe_bands([run.sidecar["Settings"] for run in stored]),
        "tasks": sorted({run.entities.get("task", "n/a") for run in stored}),
        "atlas": stored[0].entities["atlas"],
    }
    cleaning = describe_cleaning([run.sidecar for run in stored])
    return TrainingData(sources=tuple(sources), parcels=parcels, networks=networks, facts=facts, cleaning=cleaning)


def _describe_bands(settings: Sequence[Mapping[str, Any]]) -> Any:
    """Describe the pass bands of runs: low and high (Hz) if all share one, else words."""
    found = {json.dumps(one.get("band_pass")) if one.get("denoising") else "" for one in settings}
    if len(found) == 1 and (band := json.loads(next(iter(found)) or "null")):
        return band
    names = {"": "not known", "null": "no filter"}
    return " or ".join(sorted(names.get(one) or "{:g} to {:g} Hz".format(*json.loads(one)) for one in found))


def describe_file(path: Path, *, target: float) -> TrainingData:
    """Describe the participants of an HDF5 file as training data, one source per row. The signals are assumed to have
    the encoder's repetition time, `target` seconds: the layout does not store any."""
    file, status = open_signals(path), path.stat()
    stem = hash_values([path.name, status.st_size, status.st_mtime_ns, target])
    sources = tuple(
        SignalSource(key=f"{stem}-{row}", participant=label, where=row) for row, label in enumerate(file.ids)
    )
    facts = {"source": f"HDF5 file {path.name}", "band": "not known", "atlas": "Schaefer400, Tian3, Buckner7"}
    return TrainingData(
        sources=sources,
        parcels=file.parcels,
        networks=file.networks,
        facts=facts,
        cleaning=describe_cleaning([]),
        file=file,
    )


def build_details(
    data: TrainingData, view: SignalView, settings: Mapping[str, Any], encoder: EncoderConfig
) -> dict[str, Any]:
    """Build ``details`` of config.json: settings, data, recipe, limits,
    participants (salted SHA-256) and software versions."""
    labels = sorted(set(view.participants))
    # A known salt that differs between encoders: single labels can be looked up, but lists cannot be joined.
    salt = settings["data"]["sha256"][:32]
    seconds = view.lengths * encoder.repetition_time
    return {
        "settings": dict(settings),
        "data": {
            **data.facts,
            "participants": len(labels),
            "runs": len(view),
            "hours": round(float(seconds.sum()) / 3600, 2),
            "sha256": settings["data"]["sha256"],
        },
        "recipe": {**settings["recipe"], "seed": settings["seed"], "precision": settings["precision"]},
        "limits": {
            "repetition_time_of_the_sources_in_s": [min(view.repetition_times), max(view.repetition_times)],
            "length_of_the_runs_in_s": [float(seconds.min()), float(seconds.max())],
            "band": data.facts.get("band", "not known"),
            **data.cleaning,
            "smallest_share_of_parcels_with_signal": round(float(view.present.mean(axis=1).min()), 4),
            "window_in_s": encoder.window * encoder.repetition_time,
        },
        "participants": {"salt": salt, "sha256": [hash_text(f"{salt}{label}") for label in labels]},
        "software": find_versions(),
    }


def find_kernels(encoder: Encoder) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """Extract the long kernels of an encoder on the CPU: taps (n_kernels, L) by network; empty if it has none."""
    branches = [module for module in encoder.modules() if isinstance(module, StructuredBranch)]
    names = encoder.layout.network_names if len(branches) == len(encoder.layout.network_names) else ("all parcels",)
    kernels = {}
    for name, branch in zip(names, branches, strict=False):
        taps = join_scales(branch.kernels.detach(), branch.decay) / branch.kernel_norm
        kernels[name] = taps.flatten(0, -2).numpy()
    return kernels
