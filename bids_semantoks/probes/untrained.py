"""Encoders with random weights, in the architecture of another one."""

from __future__ import annotations

import dataclasses
import hashlib

from bids_semantoks.embedding import RunEncoder
from bids_semantoks.models.build import build_encoder
from bids_semantoks.models.encode import FrozenEncoder
from bids_semantoks.probes.twins import name_twin

#: Far from the seeds that people choose.
_SEED = 2_000_003


def build_untrained(encoder: RunEncoder, number: int = 0) -> RunEncoder:
    """Build an encoder with random weights.

    Parameters
    ----------
    encoder : RunEncoder
        Gives architecture, device, windows and pooling.
    number : int
        Which of several draws, counted from 0.

    Returns
    -------
    RunEncoder
        Fitted to the same atlas.
    """
    loaded, config, seed = encoder.loaded, encoder.config, encoder.seed + _SEED + number
    twin = dataclasses.replace(
        loaded,
        encoder=build_encoder(loaded.config, loaded.layout, seed).eval(),
        name=name_twin(loaded.name),
        sha256=hashlib.sha256(f"untrained {seed} {loaded.sha256}".encode()).hexdigest(),
        description=f"Random weights (seed {seed}) in the architecture of {loaded.name}, never trained: a baseline.",
        is_random=True,
        head=None,
        details={},
    )
    frozen = FrozenEncoder(
        twin,
        encoder.frozen.match,
        device=encoder.frozen.device,
        precision=config.precision,
        batch_size=config.batch_size,
        pooling=config.pooling,
    )
    return RunEncoder(loaded=twin, frozen=frozen, config=config, seed=seed, warnings=())
