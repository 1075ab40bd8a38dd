"""The encoder a call would train, with its recipe and data, settled before anything is written."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bids_semantoks.config import AppConfig, EncoderConfig, PretrainingConfig, TrainingConfig, from_json, to_json
from bids_semantoks.errors import ConfigurationError
from bids_semantoks.inputs.hdf5 import SignalsFile
from bids_semantoks.models.initialise import read_encoder_config
from bids_semantoks.models.parcels import NetworkLayout, build_layout, layout_to_json
from bids_semantoks.outputs.store import StoredRun
from bids_semantoks.training.batches import check_participants, choose_batch_size
from bids_semantoks.training_data import TrainingData, describe_file, describe_stored

LOGGER = logging.getLogger("bids_semantoks")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Blueprint:
    """Everything a training depends on."""

    directory: Path  # OUT_DIR/encoders/<name>
    encoder: EncoderConfig
    layout: NetworkLayout
    recipe: TrainingConfig  # with the batch size resolved
    data: TrainingData
    file: SignalsFile | None  # None if the signals are stored tables
    settings: dict[str, Any]  # what must agree for a stopped training to resume


def read_training_config(config: PretrainingConfig) -> TrainingConfig:
    """Read the training recipe: the file of --training-config, overridden by options. Raises ConfigurationError if the
    file
    is unreadable or invalid."""
    values: Any = {}
    path = config.training_config
    if path is not None:
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"The training configuration {path} cannot be read: {error}.") from error
        if not isinstance(values, dict):
            raise ConfigurationError(f"The training configuration {path} must be a JSON object, found {values!r:.60}.")
    given = {
        "epochs": config.epochs,
        "batch_size": config.train_batch_size,
        "learning_rate": config.learning_rate,
    }
    values |= {key: value for key, value in given.items() if value is not None}
    return from_json(TrainingConfig, values, where=f"training configuration {path or ''}".rstrip())


def choose_directory(config: AppConfig) -> Path:
    """Return the encoder's directory, ``OUT_DIR/encoders/<name>``; the name defaults to the stem of the encoder
    configuration."""
    asked = config.pretraining
    name = asked.encoder_name or Path(asked.encoder_config).stem
    return config.out_dir / "encoders" / name


def describe_data(
    config: AppConfig, stored: Sequence[StoredRun], atlas: tuple[tuple[str, ...], tuple[str, ...]]
) -> tuple[EncoderConfig, TrainingData, SignalsFile | None]:
    """Describe the encoder and its training data without reading any signals.

    The data are the `stored` runs with their `atlas` (parcels and networks, P each) or, with --pretrain-data, an HDF5
    file,
    which is then returned as well. Raises SemantoksError if anything cannot be read.
    """
    encoder = read_encoder_config(config.pretraining.encoder_config)
    path = config.pretraining.pretrain_data
    if path is not None:
        return encoder, *describe_file(path, target=encoder.repetition_time)
    return encoder, describe_stored(stored, *atlas, target=encoder.repetition_time), None


def draw_blueprint(
    config: AppConfig, encoder: EncoderConfig, data: TrainingData, file: SignalsFile | None, *, n_parts: int
) -> Blueprint:
    """Settle everything a training depends on, including the size of batches that are cut into `n_parts`.

    Raises SemantoksError if data and options do not allow a training.
    """
    recipe = read_training_config(config.pretraining)
    participants = {source.participant for source in data.sources}
    check_participants(participants)
    n_participants = len(participants)
    layout = build_layout(data.parcels, data.networks)
    size = choose_batch_size(n_participants, recipe.batch_size, n_parts=n_parts)
    if recipe.batch_size is None:
        LOGGER.info("Batches of %d participants, %d steps an epoch.", size, n_participants // size)
    recipe = dataclasses.replace(recipe, batch_size=size)
    keys = sorted(source.key for source in data.sources)
    settings = {
        "encoder": to_json(encoder),
        "recipe": to_json(recipe),
        "layout": hash_values(layout_to_json(layout)),
        "data": {"participants": n_participants, "runs": len(keys), "sha256": hash_values(keys)},
        "seed": config.running.random_seed,
        "precision": config.embedding.precision,
    }
    return Blueprint(
        directory=choose_directory(config),
        encoder=encoder,
        layout=layout,
        recipe=recipe,
        data=data,
        file=file,
        settings=settings,
    )


def hash_values(values: Any) -> str:
    """Hash plain JSON values, ignoring the order of keys: SHA-256 in hexadecimal."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
