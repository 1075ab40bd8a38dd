"""The encoder with random weights that every encoder is compared with."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Sequence
from typing import Any, Final

from bids_semantoks.embedding import RunEncoder, embed_run, find_embedding_state
from bids_semantoks.models.build import build_encoder
from bids_semantoks.models.encode import FrozenEncoder
from bids_semantoks.models.matching import match_parcels
from bids_semantoks.outputs.dataset import write_descriptions
from bids_semantoks.outputs.store import StoredRun, read_signals

LOGGER = logging.getLogger("bids_semantoks")

#: Far from the seeds that people choose, so that random weights are compared with others than themselves.
_TWIN_SEED: Final = 1_000_003


def name_twin(model: str) -> str:
    """Name the encoder of the same architecture with random weights.

    Parameters
    ----------
    model : str
        Encoder label.

    Returns
    -------
    str
        Label in output names.
    """
    return f"{model}Untrained"


def embed_by_twin(
    encoder: RunEncoder, stored: Sequence[StoredRun], parcels: tuple[str, ...], networks: tuple[str, ...]
) -> None:
    """Embed runs by an encoder of the same architecture with random weights, where that was not done before.

    Parameters
    ----------
    encoder : RunEncoder
        What it is compared with.
    stored : sequence of StoredRun
        Runs with complete signals.
    parcels, networks : tuple of str, length P
        Their atlas.
    """
    loaded, seed = encoder.loaded, encoder.seed + _TWIN_SEED
    name = name_twin(loaded.name)
    twin = dataclasses.replace(
        loaded,
        encoder=build_encoder(loaded.config, loaded.layout, seed).eval(),
        name=name,
        sha256=hashlib.sha256(f"untrained {seed} {loaded.sha256}".encode()).hexdigest(),
        description=f"Random weights (seed {seed}) in the architecture of {loaded.name}, never trained: a baseline.",
        is_random=True,
        head=None,
        details={},
    )
    config = encoder.config
    frozen = FrozenEncoder(
        twin,
        match_parcels(parcels, networks, loaded.layout),
        device=encoder.frozen.device,
        precision=config.precision,
        batch_size=config.batch_size,
        pooling=config.pooling,
    )
    random = RunEncoder(
        loaded=twin, frozen=frozen, config=dataclasses.replace(config, save_tokens=False), seed=seed, warnings=()
    )
    missing = []
    for run in stored:
        paths = dataclasses.replace(run.paths, model=name)
        known: dict[str, Any] = {"settings": random.settings, "signals_sha256": run.sidecar["TableSHA256"]}
        if not find_embedding_state(paths, needs_tokens=False, **known)[0]:
            missing.append((paths, run.sidecar))
    if missing:
        LOGGER.info("Embedding %d runs by random weights, to compare with.", len(missing))
        write_descriptions(stored[0].paths.out_dir, {name: f"Embedding by the encoder {name}: {twin.description}"})
    for paths, sidecar in missing:
        embed_run(random, paths, read_signals(paths)[1], sidecar)
