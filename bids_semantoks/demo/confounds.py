"""The confounds table that fMRIPrep 24 would write, computed from the simulated voxels."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.demo.motion import MOTION, compute_framewise_displacement, compute_rmsd, expand
from bids_semantoks.demo.participants import RunPlan
from bids_semantoks.demo.voxels import Scan, find_voxels

HIGH_PASS_SECONDS: Final = 128.0
FD_OUTLIER_MM: Final = 0.5
DVARS_OUTLIER: Final = 1.5
_AXES: Final = {
    "x": ("left-right", "pitch"),
    "y": ("anterior-posterior", "roll"),
    "z": ("superior-inferior", "yaw"),
}


class Components(NamedTuple):
    """Principal components of a group of voxels."""

    series: NDArray[np.float64]  # (T, C), zero before the steady state
    singular_values: NDArray[np.float64]  # (C,)
    variance: NDArray[np.float64]  # (C,) share of variance explained


def compute_confounds(scan: Scan, plan: RunPlan) -> tuple[dict[str, NDArray[np.float64]], dict[str, Any]]:
    """Compute the confounds columns (T,), in the order of fMRIPrep's table with NaN for n/a, and their sidecar."""
    voxels = find_voxels()
    white, csf, edge = (voxels.brain & (voxels.tissue == 1)), (voxels.brain & (voxels.tissue == 2)), ~voxels.brain
    data = scan.voxels
    columns: dict[str, NDArray[np.float64]] = {}
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


def compute_cosines(n_volumes: int, repetition_time: float, n_dummy: int) -> NDArray[np.float64]:
    """Compute 128 s high-pass cosines (T, C) of unit norm, 0 in dummy volumes; C = 0 for a run under 128 s."""
    n = n_volumes - n_dummy
    order = max(int(2 * n * repetition_time / HIGH_PASS_SECONDS), 1)
    angle = np.pi * np.arange(1, order) * (2 * np.arange(n)[:, None] + 1) / (2 * n)
    return np.concatenate([np.zeros((n_dummy, order - 1)), np.sqrt(2 / n) * np.cos(angle)])


def compute_dvars(voxels: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute DVARS (Power et al. 2012, NeuroImage 59) and standardized DVARS (Nichols 2017, arXiv:1704.01469).

    Voxels (V, T) -> two (T,), in input units and relative to a stationary AR(1) series; NaN in the first volume.
    """
    change = np.diff(voxels, axis=1)
    dvars = np.sqrt(np.mean(change.astype(np.float64) ** 2, axis=0))
    low, high = np.quantile(voxels[:, ::2], [0.25, 0.75], axis=1)
    centred = voxels - voxels.mean(axis=1, keepdims=True)
    auto = (centred[:, 1:] * centred[:, :-1]).sum(axis=1) / (centred**2).sum(axis=1)
    expected = np.mean(np.sqrt(np.maximum(2 * (1 - auto), 0)) * (high - low) / 1.349)
    return np.concatenate([[np.nan], dvars]), np.concatenate([[np.nan], dvars / expected])


def compute_components(voxels: NDArray[np.float32], cosines: NDArray[np.float64], n_dummy: int) -> Components:
    """Compute the CompCor components that explain half the variance of voxels (V, T), cosines (T, C) removed.

    Unit norm, largest value positive, zero in dummy volumes (Behzadi et al. 2007, NeuroImage 37, 90-101).
    """
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


def _mean(voxels: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.asarray(voxels[mask].mean(axis=0, dtype=np.float64))


def _remove_drift(voxels: NDArray[np.float32], cosines: NDArray[np.float64], n_dummy: int) -> NDArray[np.float32]:
    """Remove mean and cosines, which are orthonormal: (V, T) -> (V, T - n_dummy)."""
    steady = voxels[:, n_dummy:] - voxels[:, n_dummy:].mean(axis=1, keepdims=True)
    basis = cosines[n_dummy:].astype(np.float32)
    return np.asarray(steady - (steady @ basis) @ basis.T)


def _is_most_variable(voxels: NDArray[np.float32], cosines: NDArray[np.float64], n_dummy: int) -> NDArray[np.bool_]:
    """Mark the voxels in the top 2 % of variance, as in tCompCor."""
    spread = _remove_drift(voxels, cosines, n_dummy).std(axis=1)
    return np.asarray(spread >= np.quantile(spread, 0.98))


def _flag_volumes(
    displacement: NDArray[np.float64], std_dvars: NDArray[np.float64], n_dummy: int
) -> dict[str, NDArray[np.float64]]:
    """Build one indicator column per dummy volume and per motion outlier."""
    outlier = (np.nan_to_num(displacement) > FD_OUTLIER_MM) | (np.nan_to_num(std_dvars) > DVARS_OUTLIER)
    outlier[:n_dummy] = False
    unit = np.eye(len(outlier))
    columns = {f"non_steady_state_outlier{i:02d}": unit[i] for i in range(n_dummy)}
    return columns | {f"motion_outlier{i:02d}": unit[t] for i, t in enumerate(np.flatnonzero(outlier))}


def _describe_components(prefix: str, about: dict[str, str], components: Components) -> dict[str, Any]:
    cumulative = np.cumsum(components.variance)
    return {
        f"{prefix}_{i:02d}": {
            "CumulativeVarianceExplained": round(float(cumulative[i]), 10),
            **about,
            "Retained": True,
            "SingularValue": round(float(components.singular_values[i]), 10),
            "VarianceExplained": round(float(components.variance[i]), 10),
        }
        for i in range(len(cumulative))
    }


def _describe_motion() -> dict[str, Any]:
    described: dict[str, Any] = {"framewise_displacement": {"Units": "mm"}}
    for axis, (name, turn) in _AXES.items():
        described[f"trans_{axis}"] = {"Description": f"Translation along {name} axis.", "Units": "mm"}
        described[f"rot_{axis}"] = {
            "Description": f'Rotation about {name} axis. Also known as "{turn}".',
            "Units": "rad",
        }
    return described
