"""Encoders beside the one asked for: random weights to compare with, and other seeds to average over."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Sequence
from typing import Any, Final

from bids_semantoks.config import AppConfig
from bids_semantoks.embedding import RunEncoder, build_run_encoder, encode_run, find_embedding_state
from bids_semantoks.errors import ConfigurationError
from bids_semantoks.models.frozen import FrozenEncoder
from bids_semantoks.models.initialise import build_encoder
from bids_semantoks.outputs.dataset import write_descriptions
from bids_semantoks.outputs.store import StoredRun, read_signals

LOGGER = logging.getLogger("bids_semantoks")

#: Far from the seeds that people choose, so that random weights are compared with others than themselves.
_TWIN_SEED: Final = 1_000_003


def name_twin(model: str, number: int = 0) -> str:
    """Name the encoder of the same architecture with random weights, draw `number` (from 0)."""
    return f"{model}Untrained{number + 1 if number else ''}"


def build_untrained(encoder: RunEncoder, seed: int, name: str) -> RunEncoder:
    """Build an encoder like another one, but with the random weights that training with `seed` starts from."""
    loaded, config = encoder.loaded, dataclasses.replace(encoder.config, save_tokens=False)
    untrained = dataclasses.replace(
        loaded,
        encoder=build_encoder(loaded.config, loaded.layout, seed).eval(),
        name=name,
        sha256=hashlib.sha256(f"untrained {seed} {loaded.sha256}".encode()).hexdigest(),
        description=f"Random weights (seed {seed}) in the architecture of {loaded.name}, never trained: a baseline.",
        is_random=True,
        head=None,
        details={},
    )
    frozen = FrozenEncoder(
        untrained,
        encoder.frozen.match,
        device=encoder.frozen.device,
        precision=config.precision,
        batch_size=config.batch_size,
        pooling=config.pooling,
    )
    return RunEncoder(loaded=untrained, frozen=frozen, config=config, seed=seed, warnings=())


def build_twin(encoder: RunEncoder, number: int = 0) -> RunEncoder:
    """Build the encoder with random weights that probes compare with, draw `number` (from 0)."""
    return build_untrained(encoder, encoder.seed + _TWIN_SEED + number, name_twin(encoder.loaded.name, number))


def embed_by_twin(encoder: RunEncoder, stored: Sequence[StoredRun], number: int = 0) -> None:
    """Embed runs by random weights, draw `number` (from 0), where that was not done before."""
    embed_missing(build_twin(encoder, number), stored, why="by random weights, to compare with")


def embed_missing(encoder: RunEncoder, stored: Sequence[StoredRun], *, why: str, overwrite: bool = True) -> None:
    """Embed the runs that lack an embedding of an encoder; `why` is for the log.
    Raises ConfigurationError where some were made with other settings and `overwrite` is off."""
    name, missing = encoder.loaded.name, []
    for run in stored:
        paths = dataclasses.replace(run.paths, model=name)
        known: dict[str, Any] = {"settings": encoder.settings, "signals_sha256": run.sidecar["TableSHA256"]}
        is_complete, differences = find_embedding_state(paths, needs_tokens=False, **known)
        if differences and not overwrite:
            raise ConfigurationError(
                f"{paths.embedding} was made with other settings: {'; '.join(differences)}.",
                hint="Give the encoder another name, use the former settings or --overwrite.",
            )
        if not is_complete:
            missing.append((paths, run.sidecar))
    if missing:
        LOGGER.info("Embedding %d runs %s.", len(missing), why)
        label = {name: f"Embedding by the encoder {name}: {encoder.loaded.description}"}
        write_descriptions(stored[0].paths.out_dir, label)
    for paths, sidecar in missing:
        encode_run(encoder, paths, read_signals(paths)[1], sidecar)


def load_replicates(
    config: AppConfig, encoder: RunEncoder, atlas: tuple[tuple[str, ...], tuple[str, ...]]
) -> list[RunEncoder]:
    """Load the encoders whose scores are averaged with those of the first, none where not asked for. Raises
    ConfigurationError for two encoders with one label, or for another architecture."""
    found = [encoder]
    for model in config.probing.replicates:
        asked = dataclasses.replace(config.embedding, model=model, save_tokens=False)
        one = build_run_encoder(asked, *atlas, seed=config.running.random_seed)
        if one.loaded.name in [other.loaded.name for other in found]:
            raise ConfigurationError(
                f"Two encoders have the label {one.loaded.name}, the second is --replicates {model}.",
                hint="Give their folders different names.",
            )
        if one.loaded.config != encoder.loaded.config:
            raise ConfigurationError(
                f"--replicates {model} has another architecture than {encoder.loaded.name}.",
                hint="Scores of seeds are averaged only over encoders that are otherwise alike.",
            )
        found.append(one)
    return found[1:]
