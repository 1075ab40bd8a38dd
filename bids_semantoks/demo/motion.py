"""Head motion, slow physiology and scanner drift: what the scanner adds to the neural signal."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.demo.participants import RunPlan

MOTION: Final = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")
EXPANSIONS: Final = ("", "_derivative1", "_power2", "_derivative1_power2")
PHYSIOLOGY: Final = ("respiration", "pulsation", "vasomotion", "receiver")
DRIFT: Final = ("drift_linear", "drift_quadratic")
# Aliased by a repetition time of 2 s to 0.17 and 0.16 Hz.
BREATHING_HZ: Final = 0.328
PULSE_HZ: Final = 0.837
VOLUME_HZ: Final = 0.0125
VASOMOTION_HZ: Final = 0.003
RECEIVER_HZ: Final = 0.13
_ORDERS: Final = 7
_HEAD_RADIUS: Final = 50.0
_RMS_RADIUS: Final = 80.0


def simulate_motion(plan: RunPlan, rng: np.random.Generator) -> NDArray[np.float64]:
    """Simulate motion parameters (T, 6), mm then rad, from drift, breathing and sudden movements."""
    n = plan.n_volumes
    cosines = _slow_cosines(n, _ORDERS)
    slow = cosines[:, 1:3] @ rng.normal(0, 0.1, (2, 6))
    # Breathing is a line of the spectrum, not a band, so that its 24 expansions leave the neural frequencies alone.
    phase = 2 * np.pi * BREATHING_HZ * plan.repetition_time * np.arange(n)[:, None]
    inhale, exhale = (1.0 + cosines @ rng.normal(0, 0.25, (_ORDERS, 6)) for _ in range(2))
    size = rng.uniform(0.008, 0.02, 6)
    breathing = size * (inhale * np.cos(phase) + rng.normal(0, 1, 6) * exhale * np.sin(phase))
    jitter = rng.normal(0, 0.0001, (n, 6))
    moves = np.zeros((n, 6))
    rate = 0.002 if plan.motion < 4 else 0.04
    for start in np.flatnonzero(rng.random(n) < rate * plan.repetition_time):
        # A quiet head comes back at once, a restless one over seconds and not all the way.
        back = 0.0 if plan.motion < 4 else 0.15
        seconds = 0.2 if plan.motion < 4 else 4.0
        shape = back + (1 - back) * np.exp(-np.arange(n - start) * plan.repetition_time / seconds)
        moves[start:] += np.outer(shape, rng.normal(0, 0.1 * plan.motion, 6))
    parameters = (slow * min(plan.motion, 3.0) + breathing + jitter + moves) * np.repeat([1.0, 0.01], 3)
    return np.asarray(parameters - parameters[n // 2])


def expand(series: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Compute derivative, square and squared derivative of series (T, ...) by fMRIPrep suffix; NaN in volume 0."""
    derivative = np.full_like(series, np.nan)
    derivative[1:] = np.diff(series, axis=0)
    return dict(zip(EXPANSIONS, (series, derivative, series**2, derivative**2), strict=True))


def compute_framewise_displacement(parameters: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute framewise displacement (T,) in mm from motion (T, 6), mm then rad; NaN in the first volume.

    Sum of absolute changes, rotations as arcs of 50 mm radius (Power et al. 2012, NeuroImage 59, 2142-2154).
    """
    displacement = np.full(len(parameters), np.nan)
    displacement[1:] = np.abs(np.diff(parameters, axis=0) * np.repeat([1.0, _HEAD_RADIUS], 3)).sum(axis=1)
    return displacement


def compute_rmsd(parameters: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the RMS deviation (T,) in mm between successive volumes from motion (T, 6), mm then rad; NaN at first.

    Jenkinson (1999), FMRIB report TR99MJ1: sqrt(R^2 / 5 trace(A'A) + t't), R = 80 mm; for small rotations
    trace(A'A) is twice the squared rotation.
    """
    change = np.diff(parameters, axis=0)
    deviation = np.full(len(parameters), np.nan)
    squares = 2 * _RMS_RADIUS**2 / 5 * (change[:, 3:] ** 2).sum(axis=1) + (change[:, :3] ** 2).sum(axis=1)
    deviation[1:] = np.sqrt(squares)
    return deviation


def simulate_physiology(plan: RunPlan, rng: np.random.Generator) -> NDArray[np.float64]:
    """Simulate respiratory volume, aliased pulsation, vasomotion and fast receiver noise: (T, 4), unit variance."""
    time = np.arange(plan.n_volumes) * plan.repetition_time
    cosines = _slow_cosines(plan.n_volumes, 3)
    series = []
    for frequency, spread in ((VOLUME_HZ, 0.001), (PULSE_HZ, 0.002), (VASOMOTION_HZ, 0.001)):
        phase = 2 * np.pi * (rng.uniform(frequency - spread, frequency + spread) * time + rng.uniform())
        series.append(np.sqrt(2) * np.sin(phase) * (1 + cosines[:, 1:] @ rng.normal(0, 0.15, 2)))
    spectrum = np.fft.rfft(rng.standard_normal(plan.n_volumes))
    spectrum[np.fft.rfftfreq(plan.n_volumes, plan.repetition_time) < RECEIVER_HZ] = 0
    fast = np.fft.irfft(spectrum, n=plan.n_volumes)
    return np.stack([*series, fast / fast.std()], axis=1)


def _slow_cosines(n_volumes: int, count: int) -> NDArray[np.float64]:
    """Compute discrete cosines (T, count) of the lowest orders, the constant first."""
    return np.asarray(np.cos(np.pi * np.arange(count) * (np.arange(n_volumes)[:, None] + 0.5) / n_volumes))


def build_sources(
    parameters: NDArray[np.float64], physiology: NDArray[np.float64]
) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """Stack 24 motion terms, physiology (T, 4) and drift, scaled to a quiet run: names (C,), sources (T, C)."""
    scaled = parameters * np.repeat([1 / 0.1, 1 / 0.001], 3)
    names = tuple(f"{name}{suffix}" for suffix in EXPANSIONS for name in MOTION)
    motion = np.concatenate([np.nan_to_num(series) for series in expand(scaled).values()], axis=1)
    ramp = np.linspace(-1, 1, len(parameters))
    drift = np.stack([np.sqrt(3) * ramp, np.sqrt(5) * (1.5 * ramp**2 - 0.5)], axis=1)
    return names + PHYSIOLOGY + DRIFT, np.concatenate([motion, physiology, drift], axis=1)
