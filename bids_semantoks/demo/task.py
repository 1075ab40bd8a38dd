"""A task run with blocks of two types, each driving one network."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.demo.atlas import build_table
from bids_semantoks.demo.files import write_tsv
from bids_semantoks.demo.participants import Participant, RunPlan
from bids_semantoks.signals.windows import compute_response

#: Network that each type of block drives.
DRIVEN: Final = {"looking": "Vis", "moving": "SomMot"}
BLOCK_SECONDS: Final = 20.0
_REST_SECONDS: Final = 10.0
#: Response over the standard deviation of a parcel's signal.
_STRENGTH: Final = 0.6


def draw_blocks(participant: Participant, plan: RunPlan) -> list[tuple[float, float, str]]:
    """Draw a run's blocks (onset s, duration s, type): pairs of both types, in random order within each pair."""
    rng = participant.rng(6, plan.number)
    step = BLOCK_SECONDS + _REST_SECONDS
    n_pairs = int((plan.n_volumes * plan.repetition_time - _REST_SECONDS) // (2 * step))
    types = [name for _ in range(n_pairs) for name in rng.permutation(sorted(DRIVEN)).tolist()]
    return [(_REST_SECONDS + number * step, BLOCK_SECONDS, name) for number, name in enumerate(types)]


def compute_activity(blocks: list[tuple[float, float, str]], plan: RunPlan) -> NDArray[np.float64]:
    """Compute the activity (T, P) that blocks add to each parcel, in standard deviations of the signal."""
    networks = np.array(build_table()[1])
    times: NDArray[np.float64] = np.arange(plan.n_volumes, dtype=np.float64) * plan.repetition_time
    activity = np.zeros((plan.n_volumes, len(networks)))
    for onset, duration, name in blocks:
        response = _STRENGTH * compute_response(times - onset, duration)
        activity[:, networks == DRIVEN[name]] += response[:, None]
    return activity


def write_events(path: Path, blocks: list[tuple[float, float, str]]) -> None:
    """Write a run's ``*_events.tsv``."""
    write_tsv(path, ("onset", "duration", "trial_type"), [(f"{on:g}", f"{last:g}", name) for on, last, name in blocks])
