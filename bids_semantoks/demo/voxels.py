"""From the neural signal to the voxels of a scan, with every confound mixed in by known weights."""

from __future__ import annotations

from functools import cache
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.demo.atlas import GRID_SHAPE, build_affine, build_anatomy
from bids_semantoks.demo.motion import (
    DRIFT,
    MOTION,
    PHYSIOLOGY,
    build_sources,
    compute_framewise_displacement,
    simulate_motion,
    simulate_physiology,
)
from bids_semantoks.demo.neural import NeuralSignals, simulate_signals
from bids_semantoks.demo.participants import SITE_NOISE, Participant, RunPlan

# Percent of the voxel's mean intensity.
NEURAL_PERCENT: Final = 1.0
NOISE_PERCENT: Final = (0.2, 0.8, 1.8)
# Weights of respiration, pulsation, vasomotion and receiver in grey matter, white matter and cerebrospinal fluid.
_PHYSIOLOGY: Final = ((0.75, 0.2, 0.5, 0.4), (0.6, 0.1, 0.9, 0.1), (0.3, 1.4, 0.3, 0.1))
_INTENSITY: Final = (9000.0, 8000.0, 13000.0)
# Spread over voxels of the weights of motion, its derivatives and their squares.
_MOTION_SPREAD: Final = (0.6, 0.12, 0.04, 0.02)
_DRIFT_SPREAD: Final = 0.6


class Scan(NamedTuple):
    """One simulated run."""

    voxels: NDArray[np.float32]  # (V, T) intensities, voxels as in `find_voxels`
    motion: NDArray[np.float64]  # (T, 6) mm, then rad
    neural: NeuralSignals
    source_names: tuple[str, ...]  # (C,)
    sources: NDArray[np.float64]  # (T, C) confounds mixed in
    weights: NDArray[np.float64]  # (C, P) mean over a parcel's voxels, in percent of mean intensity


class Voxels(NamedTuple):
    """Voxels that hold a signal: the brain and a shell of one voxel around it."""

    where: tuple[NDArray[np.int64], ...]  # indices into an image of the demo grid
    position: NDArray[np.float64]  # (V, 4) coordinates scaled to about -1..1, then 1
    parcel: NDArray[np.int64]  # (V,) from 0; -1 for none
    tissue: NDArray[np.int64]  # (V,) 0 grey matter, 1 white matter, 2 cerebrospinal fluid
    brain: NDArray[np.bool_]  # (V,) False in the shell


@cache
def find_voxels() -> Voxels:
    """List the voxels that hold a signal, in grid order."""
    anatomy = build_anatomy()
    where = np.nonzero(anatomy.brain | anatomy.edge)
    affine = build_affine()
    position: NDArray[np.float64] = np.stack([*where, np.ones(len(where[0]))], axis=1).astype(np.float64) @ affine.T
    position[:, :3] = (position[:, :3] - [0, -18, 0]) / [70, 88, 70]
    tissue = anatomy.white_matter[where] * 1 + anatomy.csf[where] * 2 + anatomy.edge[where] * 2
    parcel = anatomy.labels[where].astype(np.int64) - 1
    return Voxels(where, position, parcel, tissue.astype(np.int64), anatomy.brain[where])


def simulate_scan(participant: Participant, plan: RunPlan) -> Scan:
    """Simulate one run's voxels and the truth about them."""
    rng = participant.rng(3, plan.number)
    voxels = find_voxels()
    neural = simulate_signals(participant, plan.n_volumes, plan.repetition_time, rng)
    motion = simulate_motion(plan, rng)
    names, sources = build_sources(motion, simulate_physiology(plan, rng))
    weights = _draw_weights(voxels, len(names), rng)
    n_voxels, n_volumes = len(voxels.parcel), plan.n_volumes
    mixed = weights.astype(np.float32) @ sources.T.astype(np.float32)
    grey = voxels.parcel >= 0
    gain = rng.uniform(0.8, 1.2, n_voxels).astype(np.float32)
    signals = neural.signals.T.astype(np.float32) * np.float32(NEURAL_PERCENT)
    mixed[grey] += gain[grey, None] * signals[voxels.parcel[grey]]
    # Fast movement also blurs the volume itself, which no regressor undoes and scrubbing does.
    blur = 1 + np.nan_to_num(compute_framewise_displacement(motion))
    noise = rng.standard_normal((n_voxels, n_volumes), dtype=np.float32)
    level = np.array(NOISE_PERCENT, np.float32)[voxels.tissue] * np.float32(SITE_NOISE[participant.site])
    mixed += noise * level[:, None] * blur.astype(np.float32)
    saturation = np.zeros(n_volumes, np.float32)
    saturation[: plan.n_dummy] = 20.0 * np.exp(-np.arange(plan.n_dummy))
    intensity = np.array(_INTENSITY)[voxels.tissue] * (1 + 0.1 * voxels.position[:, 1])
    scanned = intensity[:, None].astype(np.float32) * (1 + 0.01 * (mixed + saturation))
    return Scan(scanned, motion, neural, names, sources, _parcel_means(weights, voxels.parcel).T)


def fill_image(values: NDArray[np.int16]) -> NDArray[np.int16]:
    """Place values (V, T) of the voxels of `find_voxels` in an image (X, Y, Z, T), 0 elsewhere."""
    # Filled in Fortran order because that is how NIfTI stores it.
    image = np.zeros((*GRID_SHAPE, values.shape[1]), values.dtype, order="F")
    image[find_voxels().where] = values
    return image


def _draw_weights(voxels: Voxels, n_sources: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw weights (V, C) that vary smoothly over the head, in percent of the mean intensity."""
    smooth = voxels.position @ rng.normal(0, 1, (4, n_sources))
    smooth += 0.2 * rng.standard_normal(smooth.shape)
    spread = np.concatenate(
        [np.repeat(_MOTION_SPREAD, len(MOTION)), [0.12] * len(PHYSIOLOGY), [_DRIFT_SPREAD] * len(DRIFT)]
    )
    weights = smooth * spread
    # Motion shows most where tissue ends.
    weights[~voxels.brain, : 4 * len(MOTION)] *= 3.0
    physiology = slice(4 * len(MOTION), 4 * len(MOTION) + len(PHYSIOLOGY))
    weights[:, physiology] += np.array(_PHYSIOLOGY)[voxels.tissue]
    return np.asarray(weights)


def _parcel_means(values: NDArray[np.float64], parcel: NDArray[np.int64]) -> NDArray[np.float64]:
    """Average the voxels of each parcel: (V, C) -> (P, C)."""
    n_parcels = int(parcel.max()) + 1
    total = np.zeros((n_parcels, values.shape[1]))
    np.add.at(total, parcel[parcel >= 0], values[parcel >= 0])
    return np.asarray(total / np.bincount(parcel[parcel >= 0], minlength=n_parcels)[:, None])
