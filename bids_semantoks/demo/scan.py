"""From the neural signal to the voxels of a scan, every confound mixed in by known weights, and its confounds table."""

from __future__ import annotations

from functools import cache
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.demo.atlas import GRID_SHAPE, build_affine, build_anatomy
from bids_semantoks.demo.neural import (
    DRIFT,
    MOTION,
    PHYSIOLOGY,
    SITE_NOISE,
    NeuralSignals,
    Participant,
    RunPlan,
    build_sources,
    compute_framewise_displacement,
    compute_rmsd,
    expand,
    simulate_motion,
    simulate_physiology,
    simulate_signals,
)
from bids_semantoks.records import Bools, Floats, Indices

# Percent of the voxel's mean intensity.
NEURAL_PERCENT: Final = 1.0
NOISE_PERCENT: Final = (0.2, 0.8, 1.8)

# Weights of respiration, pulsation, vasomotion and receiver in grey matter, white matter and cerebrospinal fluid.
_PHYSIOLOGY: Final = ((0.75, 0.2, 0.5, 0.4), (0.6, 0.1, 0.9, 0.1), (0.3, 1.4, 0.3, 0.1))
_INTENSITY: Final = (9000.0, 8000.0, 13000.0)
# Spread over voxels of the weights of motion, its derivatives and their squares.
_MOTION_SPREAD: Final = (0.6, 0.12, 0.04, 0.02)
_DRIFT_SPREAD: Final = 0.6
HIGH_PASS_SECONDS: Final = 128.0
FD_OUTLIER_MM: Final = 0.5
DVARS_OUTLIER: Final = 1.5
_AXES: Final = {"x": ("left-right", "pitch"), "y": ("anterior-posterior", "roll"), "z": ("superior-inferior", "yaw")}


class Scan(NamedTuple):
    """One simulated run."""

    voxels: NDArray[np.float32]  # (V, T) intensities, voxels as in `find_voxels`
    motion: Floats  # (T, 6) mm, then rad
    neural: NeuralSignals
    source_names: tuple[str, ...]  # (C,)
    sources: Floats  # (T, C) confounds mixed in
    weights: Floats  # (C, P) mean over a parcel's voxels, in percent of mean intensity


class Voxels(NamedTuple):
    """Voxels that hold a signal: the brain and a shell of one voxel around it."""

    where: tuple[Indices, ...]  # indices into an image of the demo grid
    position: Floats  # (V, 4) coordinates scaled to about -1..1, then 1
    parcel: Indices  # (V,) from 0; -1 for none
    tissue: Indices  # (V,) 0 grey matter, 1 white matter, 2 cerebrospinal fluid
    brain: Bools  # (V,) False in the shell


@cache
def find_voxels() -> Voxels:
    """List the voxels that hold a signal, in grid order."""
    anatomy = build_anatomy()
    where = np.nonzero(anatomy.brain | anatomy.edge)
    affine = build_affine()
    position: Floats = np.stack([*where, np.ones(len(where[0]))], axis=1).astype(np.float64) @ affine.T
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


def _draw_weights(voxels: Voxels, n_sources: int, rng: np.random.Generator) -> Floats:
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


def _parcel_means(values: Floats, parcel: Indices) -> Floats:
    """Average the voxels of each parcel: (V, C) -> (P, C)."""
    inside, total = parcel >= 0, np.zeros((int(parcel.max()) + 1, values.shape[1]))
    np.add.at(total, parcel[inside], values[inside])
    return np.asarray(total / np.bincount(parcel[inside], minlength=len(total))[:, None])


class Components(NamedTuple):
    """Principal components of a group of voxels."""

    series: Floats  # (T, C), zero before the steady state
    singular_values: Floats  # (C,)
    variance: Floats  # (C,) share of variance explained


def compute_confounds(scan: Scan, plan: RunPlan) -> tuple[dict[str, Floats], dict[str, Any]]:
    """Compute the confounds columns (T,), in the order of fMRIPrep's table with NaN for n/a, and their sidecar."""
    voxels = find_voxels()
    white, csf, edge = (voxels.brain & (voxels.tissue == 1)), (voxels.brain & (voxels.tissue == 2)), ~voxels.brain
    data = scan.voxels
    columns: dict[str, Floats] = {}
    for name, mask in (("global_signal", voxels.brain), ("csf", csf), ("white_matter", white)):
        columns |= {name + suffix: values for suffix, values in expand(_mean(data, mask)).items()}
    cosines = compute_cosines(plan.n_volumes, plan.repetition_time, plan.n_dummy)
    variable = voxels.brain.copy()
    variable[voxels.brain] = _is_most_variable(data[voxels.brain], cosines, plan.n_dummy)
    columns["csf_wm"], columns["tcompcor"] = _mean(data, csf | white), _mean(data, variable)
    dvars, std_dvars = compute_dvars(data[voxels.brain])
    displacement = compute_framewise_displacement(scan.motion)
    columns |= {"std_dvars": std_dvars, "dvars": dvars, "framewise_displacement": displacement}
    columns["rmsd"] = compute_rmsd(scan.motion)
    sidecar: dict[str, Any] = {}
    for prefix, about, mask in (
        ("t_comp_cor", {"Method": "tCompCor"}, variable),
        ("c_comp_cor", {"Mask": "CSF", "Method": "aCompCor"}, csf),
        ("w_comp_cor", {"Mask": "WM", "Method": "aCompCor"}, white),
        ("a_comp_cor", {"Mask": "combined", "Method": "aCompCor"}, csf | white),
        ("edge_comp", {"Mask": "Edge", "Method": "EdgeRegressor"}, edge),
    ):
        components = compute_components(data[mask], cosines, plan.n_dummy)
        columns |= {f"{prefix}_{i:02d}": series for i, series in enumerate(components.series.T)}
        sidecar |= _describe_components(prefix, about, components)
    columns |= {f"cosine{i:02d}": series for i, series in enumerate(cosines.T)}
    for name, series in zip(MOTION, scan.motion.T, strict=True):
        columns |= {name + suffix: values for suffix, values in expand(series).items()}
    columns |= _flag_volumes(displacement, std_dvars, plan.n_dummy)
    return columns, dict(sorted((sidecar | _describe_motion()).items()))


def compute_cosines(n_volumes: int, repetition_time: float, n_dummy: int) -> Floats:
    """Compute 128 s high-pass cosines (T, C) of unit norm, 0 in dummy volumes; C = 0 for a run under 128 s."""
    n = n_volumes - n_dummy
    order = max(int(2 * n * repetition_time / HIGH_PASS_SECONDS), 1)
    angle = np.pi * np.arange(1, order) * (2 * np.arange(n)[:, None] + 1) / (2 * n)
    return np.concatenate([np.zeros((n_dummy, order - 1)), np.sqrt(2 / n) * np.cos(angle)])


def compute_dvars(voxels: NDArray[np.float32]) -> tuple[Floats, Floats]:
    """Compute DVARS (Power et al. 2012, NeuroImage 59) and standardized DVARS (Nichols 2017, arXiv:1704.01469). Voxels
    (V, T) -> two (T,), in input units and relative to a stationary AR(1) series; NaN in the first volume."""
    change = np.diff(voxels, axis=1)
    dvars = np.sqrt(np.mean(change.astype(np.float64) ** 2, axis=0))
    low, high = np.quantile(voxels[:, ::2], [0.25, 0.75], axis=1)
    centred = voxels - voxels.mean(axis=1, keepdims=True)
    auto = (centred[:, 1:] * centred[:, :-1]).sum(axis=1) / (centred**2).sum(axis=1)
    expected = np.mean(np.sqrt(np.maximum(2 * (1 - auto), 0)) * (high - low) / 1.349)
    return np.concatenate([[np.nan], dvars]), np.concatenate([[np.nan], dvars / expected])


def compute_components(voxels: NDArray[np.float32], cosines: Floats, n_dummy: int) -> Components:
    """Compute the CompCor components that explain half the variance of voxels (V, T), cosines (T, C) removed. Unit
    norm, largest value positive, zero in dummy volumes (Behzadi et al. 2007, NeuroImage 37, 90-101)."""
    cleaned = _remove_drift(voxels, cosines, n_dummy)
    cleaned /= cleaned.std(axis=1, keepdims=True)
    # Volumes are far fewer than voxels: their covariance gives the same components sooner.
    power, vectors = np.linalg.eigh((cleaned.T @ cleaned).astype(np.float64))
    power, vectors = np.maximum(power[::-1], 0), vectors[:, ::-1]
    variance = power / power.sum()
    n_kept = int(np.searchsorted(np.cumsum(variance), 0.5)) + 1
    series = vectors[:, :n_kept]
    series = series * np.sign(series[np.abs(series).argmax(axis=0), np.arange(n_kept)])
    padded = np.concatenate([np.zeros((n_dummy, n_kept)), series])
    return Components(padded, np.sqrt(power[:n_kept]), variance[:n_kept])


def _mean(voxels: NDArray[np.float32], mask: Bools) -> Floats:
    return np.asarray(voxels[mask].mean(axis=0, dtype=np.float64))


def _remove_drift(voxels: NDArray[np.float32], cosines: Floats, n_dummy: int) -> NDArray[np.float32]:
    """Remove mean and cosines, which are orthonormal: (V, T) -> (V, T - n_dummy)."""
    steady = voxels[:, n_dummy:] - voxels[:, n_dummy:].mean(axis=1, keepdims=True)
    basis = cosines[n_dummy:].astype(np.float32)
    return np.asarray(steady - (steady @ basis) @ basis.T)


def _is_most_variable(voxels: NDArray[np.float32], cosines: Floats, n_dummy: int) -> Bools:
    """Mark the voxels in the top 2 % of variance, as in tCompCor."""
    spread = _remove_drift(voxels, cosines, n_dummy).std(axis=1)
    return np.asarray(spread >= np.quantile(spread, 0.98))


def _flag_volumes(displacement: Floats, std_dvars: Floats, n_dummy: int) -> dict[str, Floats]:
    """Build one indicator column per dummy volume and per motion outlier."""
    outlier = (np.nan_to_num(displacement) > FD_OUTLIER_MM) | (np.nan_to_num(std_dvars) > DVARS_OUTLIER)
    unit, outliers = np.eye(len(outlier)), n_dummy + np.flatnonzero(outlier[n_dummy:])
    columns = {f"non_steady_state_outlier{i:02d}": unit[i] for i in range(n_dummy)}
    return columns | {f"motion_outlier{i:02d}": unit[t] for i, t in enumerate(outliers)}


def _describe_components(prefix: str, about: dict[str, str], components: Components) -> dict[str, Any]:
    numbers = (np.cumsum(components.variance), components.singular_values, components.variance)
    rounded = zip(*([round(value, 10) for value in values.tolist()] for values in numbers), strict=True)
    return {
        f"{prefix}_{i:02d}": {
            "CumulativeVarianceExplained": cumulative,
            **about,
            "Retained": True,
            "SingularValue": singular,
            "VarianceExplained": variance,
        }
        for i, (cumulative, singular, variance) in enumerate(rounded)
    }


def _describe_motion() -> dict[str, Any]:
    described: dict[str, Any] = {"framewise_displacement": {"Units": "mm"}}
    for axis, (name, turn) in _AXES.items():
        about = f'Rotation about {name} axis. Also known as "{turn}".'
        described[f"trans_{axis}"] = {"Description": f"Translation along {name} axis.", "Units": "mm"}
        described[f"rot_{axis}"] = {"Description": about, "Units": "rad"}
    return described
