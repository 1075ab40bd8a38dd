"""What encoder a call would train, by which recipe and on what, before any of it is made."""

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
from bids_semantoks.models.build import read_encoder_config
from bids_semantoks.models.layout import NetworkLayout, build_layout, layout_to_json
from bids_semantoks.outputs.stored_runs import StoredRun
from bids_semantoks.training.batches import check_participants, choose_batch_size
from bids_semantoks.training_data import TrainingData, describe_file, describe_stored

LOGGER = logging.getLogger("bids_semantoks")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Blueprint:
    """What is to be made, before any of it is.

    Parameters
    ----------
    directory : Path
        Of the encoder.
    encoder : EncoderConfig
        Its architecture.
    layout : NetworkLayout
        Its parcels and networks.
    recipe : TrainingConfig
        How it is trained; the batch size is chosen.
    data : TrainingData
        What it is trained on.
    file : SignalsFile or None
        Where the signals are, unless they are tables.
    settings : dict
        All that must agree when a training goes on.
    """

    directory: Path
    encoder: EncoderConfig
    layout: NetworkLayout
    recipe: TrainingConfig
    data: TrainingData
    file: SignalsFile | None
    settings: dict[str, Any]


def read_training_config(config: PretrainingConfig) -> TrainingConfig:
    """Read the recipe: its file, then what the command line says.

    Parameters
    ----------
    config : PretrainingConfig
        What was asked.

    Returns
    -------
    TrainingConfig
        The recipe.

    Raises
    ------
    ConfigurationError
        When the file cannot be read or holds something else.
    """
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
    """Choose where the encoder goes.

    Parameters
    ----------
    config : AppConfig
        What was asked.

    Returns
    -------
    Path
        ``OUT_DIR/encoders/<name>``.
    """
    asked = config.pretraining
    name = asked.encoder_name or Path(asked.encoder_config).stem
    return config.out_dir / "encoders" / name


def describe_data(
    config: AppConfig, stored: Sequence[StoredRun], atlas: tuple[tuple[str, ...], tuple[str, ...]]
) -> tuple[EncoderConfig, TrainingData, SignalsFile | None]:
    """Describe what would be trained, and on what, without reading any signals.

    Parameters
    ----------
    config : AppConfig
        What was asked.
    stored : sequence of StoredRun
        The runs to train on, unless ``--pretrain-data`` names others.
    atlas : (tuple of str, tuple of str), each of length P
        Their parcels and networks.

    Returns
    -------
    encoder : EncoderConfig
        Its architecture.
    data : TrainingData
        What it is trained on.
    file : SignalsFile or None
        Where the signals are, unless they are tables.

    Raises
    ------
    SemantoksError
        When one of them cannot be read.
    """
    encoder = read_encoder_config(config.pretraining.encoder_config)
    path = config.pretraining.pretrain_data
    if path is not None:
        return encoder, *describe_file(path, target=encoder.repetition_time)
    return encoder, describe_stored(stored, *atlas, target=encoder.repetition_time), None


def draw_blueprint(
    config: AppConfig, encoder: EncoderConfig, data: TrainingData, file: SignalsFile | None, *, n_parts: int
) -> Blueprint:
    """Settle all that a training depends on.

    Parameters
    ----------
    config : AppConfig
        What was asked.
    encoder : EncoderConfig
        Architecture.
    data : TrainingData
        What it is trained on.
    file : SignalsFile or None
        Where the signals are, unless they are tables.
    n_parts : int
        Parts that a batch is cut into.

    Returns
    -------
    Blueprint
        What is to be made.

    Raises
    ------
    SemantoksError
        When data and options do not allow a training.
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
    """Compute a checksum of plain values.

    Parameters
    ----------
    values : plain value
        What JSON can hold.

    Returns
    -------
    str
        SHA-256 in hexadecimal digits; the order of keys does not count.
    """
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
