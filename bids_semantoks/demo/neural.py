"""Participants of the synthetic study, their runs, and the hidden neural signal: coupled slow network fluctuations with
planted effects of age, sex and site.

Effects on coupling show in connectivity; effects on tempo and lag hardly do, but a sequence model can find them.
Networks are balanced to nearly cancel in the global signal, which spreads the effects on coupling a little.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final, NamedTuple

import numpy as np

from bids_semantoks.demo.atlas import build_anatomy, build_table
from bids_semantoks.records import CANONICAL_NETWORKS, Floats, Indices
from bids_semantoks.signals.windows import compute_response

SITES: Final = ("EU", "AS", "NA")
SITE_REPETITION_TIMES: Final = {"EU": 2.0, "AS": 0.8, "NA": 2.0}
SITE_NOISE: Final = {"EU": 1.0, "AS": 1.2, "NA": 0.9}
#: Share of patients: a confound, since scanners differ between sites and nothing else tells patients from controls.
SITE_PATIENTS: Final = {"EU": 0.3, "AS": 0.8, "NA": 0.25}
RUN_SECONDS: Final = 360.0
SHORT_RUN_SECONDS: Final = 136.0
TOO_SHORT_SECONDS: Final = 60.0
N_DUMMY: Final = 3

# Special runs recur every 24 participants, so that a large study keeps their share.
_PERIOD: Final = 24
_AGE_MEAN, _AGE_SD = 49.0, 18.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPlan:
    """One run to simulate."""

    entities: tuple[tuple[str, str], ...]  # session, task, acquisition and run, where present, in BIDS order
    n_volumes: int
    repetition_time: float  # s
    n_dummy: int  # leading volumes before the steady state
    motion: float  # relative to a quiet participant
    number: int  # position among the participant's runs; seeds the run


@dataclass(frozen=True, kw_only=True, slots=True)
class Participant:
    """One participant with everything that shapes the signal."""

    number: int  # from 1
    seed: int  # of the study
    age: int  # years
    sex: str  # F or M
    site: str
    group: str  # diagnosis; depends on the site alone, and plants nothing

    @property
    def label(self) -> str:
        """Participant label without ``sub-``."""
        return f"{self.number:03d}"

    @property
    def age_z(self) -> float:
        """Age in standard deviations from the study population's mean."""
        return (self.age - _AGE_MEAN) / _AGE_SD

    @property
    def sex_sign(self) -> float:
        """Plus one half for M, minus one half for F."""
        return 0.5 if self.sex == "M" else -0.5

    def rng(self, *stream: int) -> np.random.Generator:
        """Make a generator that depends only on study seed, participant and stream."""
        return np.random.default_rng([self.seed, self.number, *stream])


def draw_participant(number: int, seed: int) -> Participant:
    """Draw one participant, numbered from 1; the same for any study size."""
    rng = np.random.default_rng([seed, number, 0])
    age = int(rng.integers(18, 81))
    turn, place = divmod(number - 1, len(SITES))
    site = SITES[place]
    return Participant(
        number=number,
        seed=seed,
        age=age,
        sex="FM"[int(rng.integers(2))],
        site=site,
        # Dealt, not drawn, so that small studies hold these shares, too.
        group="patient" if turn * 7 % 20 < 20 * SITE_PATIENTS[site] else "control",
    )


def plan_runs(participant: Participant, *, short: bool = False) -> tuple[RunPlan, ...]:
    """Plan a participant's runs; `short` runs of 136 s have just one high-pass regressor. In every 24: every third from
    the 1st has dummy scans, every sixth from the 2nd two sessions, the 3rd AP and PA runs, the 4th a second run cut off
    at 60 s, the 5th heavy motion."""
    turn = (participant.number - 1) % _PERIOD
    seconds = SHORT_RUN_SECONDS if short else RUN_SECONDS
    task = ("task", "rest")
    runs: list[tuple[tuple[tuple[str, str], ...], float]] = [((task,), seconds)]
    if turn % 6 == 1:
        runs = [((("ses", "1"), task), seconds), ((("ses", "2"), task), seconds)]
    elif turn == 2:
        runs = [((task, ("acq", "AP")), seconds), ((task, ("acq", "PA")), seconds)]
    elif turn == 3:
        runs = [((task, ("run", "1")), seconds), ((task, ("run", "2")), TOO_SHORT_SECONDS)]
    repetition_time = SITE_REPETITION_TIMES[participant.site]
    quiet = float(np.exp(np.clip(participant.rng(1).normal(0.0, 0.25), -0.5, 0.5)))
    return tuple(
        RunPlan(
            entities=entities,
            n_volumes=round(length / repetition_time),
            repetition_time=repetition_time,
            n_dummy=N_DUMMY if turn % 3 == 0 else 0,
            motion=8.0 * quiet if turn == 4 else quiet,
            number=number,
        )
        for number, (entities, length) in enumerate(runs)
    )


def describe_phenotypes(participant: Participant) -> tuple[str | int | None, ...]:
    """List a participant's row of participants.tsv, with a few values missing (None)."""
    turn = (participant.number - 1) % _PERIOD
    return (
        f"sub-{participant.label}",
        None if turn == 9 else participant.age,
        None if turn == 14 else participant.sex,
        participant.site,
        None if turn in (7, 18) else participant.group,
    )


# Correlation added to a pair of networks, per standard deviation of age and for M over F.
AGE_COUPLING: Final = {
    ("Cont", "Default"): -0.09,
    ("Vis", "SomMot"): 0.09,
    ("SalVentAttn", "DorsAttn"): -0.09,
    ("Limbic", "Subcortex"): 0.09,
    ("Default", "Limbic"): -0.09,
}
SEX_COUPLING: Final = {
    ("SomMot", "Cerebellum"): 0.2,
    ("Cont", "DorsAttn"): -0.2,
    ("SalVentAttn", "Subcortex"): 0.2,
    ("Vis", "Limbic"): -0.2,
    ("Default", "Cerebellum"): 0.2,
}
SITE_COUPLING: Final = {"EU": 0.0, "AS": 0.04, "NA": -0.04}

# Relative change of the central frequency, per standard deviation of age and for M over F.
AGE_TEMPO: Final = {"Vis": 0.22, "SomMot": 0.22, "Cont": -0.22, "Default": -0.22}
SEX_TEMPO: Final = {"Vis": 0.5, "SomMot": -0.5, "Cont": 0.5, "Default": -0.5}
# Seconds behind the other networks, per standard deviation of age.
AGE_LAG: Final = {"SalVentAttn": 0.5, "Limbic": -0.5}
INDIVIDUAL_COUPLING: Final = 0.07
CENTRAL_FREQUENCY: Final = 0.07
BANDWIDTH: Final = 1.0

# Degrees on a circle of networks: neighbours go together, opposites against each other, and all roughly cancel out,
# which keeps the global signal small.
_ANGLES: Final = (0, 40, 90, 125, 260, 190, 225, 300, 330)
_COMMON_SHARE: Final = 0.6
_NETWORK_SHARE: Final = 0.4
_HEMISPHERE_SHARE: Final = 0.2
MOTION: Final = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")
EXPANSIONS: Final = ("", "_derivative1", "_power2", "_derivative1_power2")
PHYSIOLOGY: Final = ("respiration", "pulsation", "vasomotion", "receiver")
DRIFT: Final = ("drift_linear", "drift_quadratic")
BREATHING_HZ: Final = 0.328  # aliased by a repetition time of 2 s to 0.17 and 0.16 Hz
PULSE_HZ: Final = 0.837
VOLUME_HZ: Final = 0.0125
VASOMOTION_HZ: Final = 0.003
RECEIVER_HZ: Final = 0.13
_ORDERS: Final = 7
_HEAD_RADIUS: Final = 50.0
_RMS_RADIUS: Final = 80.0
DRIVEN: Final = {"looking": "Vis", "moving": "SomMot"}  # network that each type of block drives
BLOCK_SECONDS: Final = 20.0
_REST_SECONDS: Final = 10.0
_STRENGTH: Final = 0.6  # response over the standard deviation of a parcel's signal


class NeuralSignals(NamedTuple):
    """Noise-free signals of one run and what was planted in them."""

    signals: Floats  # (T, P), expected variance 1
    coupling: Floats  # (N, N) correlation between networks
    frequency: Floats  # (N,) central frequency in Hz
    lag: Floats  # (N,) delay in s


def compute_coupling(participant: Participant) -> Floats:
    """Compute a participant's planted correlations (N, N) after balancing, networks in canonical order."""
    n = len(CANONICAL_NETWORKS)
    angles = np.deg2rad(_ANGLES)
    coupling = _COMMON_SHARE * np.cos(angles[:, None] - angles)
    coupling += participant.age_z * _pairs(AGE_COUPLING) + participant.sex_sign * _pairs(SEX_COUPLING)
    own = participant.rng(2).normal(0.0, INDIVIDUAL_COUPLING, (n, n))
    coupling += (np.triu(own, 1) + np.triu(own, 1).T) + SITE_COUPLING[participant.site]
    np.fill_diagonal(coupling, 1.0)
    values, vectors = np.linalg.eigh(coupling)
    coupling = (vectors * np.maximum(values, 0.02)) @ vectors.T
    # Networks trade off against each other: a shared component would be removed with the global signal.
    share = np.bincount(build_anatomy().labels.ravel(), minlength=len(_places()[0]) + 1)[1:]
    weight = np.bincount(_places()[0], weights=share) / share.sum()
    for _ in range(3):
        centre = np.eye(n) - weight
        coupling = centre @ coupling @ centre.T
        scale = np.sqrt(np.diag(coupling))
        coupling = coupling / np.outer(scale, scale)
    return np.asarray(coupling)


def compute_dynamics(participant: Participant) -> tuple[Floats, Floats]:
    """Compute a participant's planted central frequency (Hz) and delay (s) of each network, (N,) each."""
    age, sex = participant.age_z, participant.sex_sign
    tempo = [age * AGE_TEMPO.get(name, 0.0) + sex * SEX_TEMPO.get(name, 0.0) for name in CANONICAL_NETWORKS]
    lag = [age * AGE_LAG.get(name, 0.0) for name in CANONICAL_NETWORKS]
    return CENTRAL_FREQUENCY * np.exp(tempo), np.array(lag)


def simulate_signals(
    participant: Participant, n_volumes: int, repetition_time: float, rng: np.random.Generator
) -> NeuralSignals:
    """Simulate the neural signal of one run; repetition time in seconds."""
    coupling = compute_coupling(participant)
    frequency, lag = compute_dynamics(participant)
    network, hemisphere = _places()
    n_networks, n_parcels = len(coupling), len(network)
    # The filter is circular: 40 s of padding, cut off again, keep its ends from meeting.
    length = n_volumes + int(np.ceil(40.0 / repetition_time))
    values, vectors = np.linalg.eigh(coupling)
    # The symmetric root exists for a nearly singular matrix, too.
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    driven = rng.standard_normal((length, n_networks)) @ root
    sides = rng.standard_normal((length, n_networks * 2))
    own = rng.standard_normal((length, n_parcels))
    shared = np.sqrt(1 - _HEMISPHERE_SHARE) * np.repeat(driven, 2, axis=1) + np.sqrt(_HEMISPHERE_SHARE) * sides
    shared = colour(shared, repetition_time, np.repeat(frequency, 2), np.repeat(lag, 2))
    own = colour(own, repetition_time, np.full(n_parcels, CENTRAL_FREQUENCY), np.zeros(n_parcels))
    signals = np.sqrt(_NETWORK_SHARE) * shared[:, 2 * network + hemisphere] + np.sqrt(1 - _NETWORK_SHARE) * own
    return NeuralSignals(signals[-n_volumes:], coupling, frequency, lag)


def colour(white: Floats, repetition_time: float, frequency: Floats, lag: Floats) -> Floats:
    """Filter white noise (T, S) to a broad neural bump seen through blood flow, of expected variance 1. `frequency`
    (Hz) and `lag` (s) are (S,). The response is the difference of gamma densities (shapes 6 and 16, scale 1 s, ratio
    1/6) of Friston et al. (1998), NeuroImage 7, 30-40: (1 + i w)^-6 - (1 + i w)^-16 / 6."""
    f = np.fft.rfftfreq(len(white), repetition_time)[:, None]
    omega = 2 * np.pi * f
    response = (1 + 1j * omega) ** -6 - (1 + 1j * omega) ** -16 / 6
    bump = np.exp(-0.5 * (np.log(np.maximum(f, 1e-6) / frequency) / BANDWIDTH) ** 2)
    # Below 0.01 Hz lies only drift, so that a high-pass filter costs no neural signal.
    high_pass = 1 / np.sqrt(1 + (0.01 / np.maximum(f, 1e-6)) ** 12)
    transfer = bump * high_pass * response * np.exp(-1j * omega * lag)
    power = np.abs(transfer) ** 2
    gain = np.sqrt((2 * power[1:].sum(axis=0) - power[-1] * (len(white) % 2 == 0)) / len(white))
    return np.asarray(np.fft.irfft(np.fft.rfft(white, axis=0) * transfer / gain, n=len(white), axis=0))


def _pairs(changes: dict[tuple[str, str], float]) -> Floats:
    """Build the symmetric matrix of coupling changes."""
    matrix = np.zeros((len(CANONICAL_NETWORKS), len(CANONICAL_NETWORKS)))
    for pair, change in changes.items():
        row, column = map(CANONICAL_NETWORKS.index, pair)
        matrix[row, column] = matrix[column, row] = change
    return matrix


@cache
def _places() -> tuple[Indices, Indices]:
    """Find the network and hemisphere (0 left or midline, 1 right) of each parcel."""
    parcels, networks = build_table()
    network = np.array([CANONICAL_NETWORKS.index(name) for name in networks])
    return network, np.array([int("_RH_" in parcel) for parcel in parcels])


def simulate_motion(plan: RunPlan, rng: np.random.Generator) -> Floats:
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


def expand(series: Floats) -> dict[str, Floats]:
    """Compute derivative, square and squared derivative of series (T, ...) by fMRIPrep suffix; NaN in volume 0."""
    derivative = np.concatenate([np.full_like(series[:1], np.nan), np.diff(series, axis=0)])
    return dict(zip(EXPANSIONS, (series, derivative, series**2, derivative**2), strict=True))


def compute_framewise_displacement(parameters: Floats) -> Floats:
    """Compute framewise displacement (T,) in mm from motion (T, 6), mm then rad; NaN in the first volume. Sum of
    absolute changes, rotations as arcs of 50 mm radius (Power et al. 2012, NeuroImage 59, 2142-2154)."""
    changes = np.abs(np.diff(parameters, axis=0) * np.repeat([1.0, _HEAD_RADIUS], 3))
    return np.concatenate([[np.nan], changes.sum(axis=1)])


def compute_rmsd(parameters: Floats) -> Floats:
    """Compute the RMS deviation (T,) in mm between successive volumes from motion (T, 6), mm then rad; NaN at first.
    Jenkinson (1999), FMRIB report TR99MJ1: sqrt(R^2 / 5 trace(A'A) + t't), R = 80 mm; for small rotations trace(A'A) is
    twice the squared rotation."""
    squares = np.diff(parameters, axis=0) ** 2
    deviation = np.sqrt(2 * _RMS_RADIUS**2 / 5 * squares[:, 3:].sum(axis=1) + squares[:, :3].sum(axis=1))
    return np.concatenate([[np.nan], deviation])


def simulate_physiology(plan: RunPlan, rng: np.random.Generator) -> Floats:
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


def _slow_cosines(n_volumes: int, count: int) -> Floats:
    """Compute discrete cosines (T, count) of the lowest orders, the constant first."""
    return np.asarray(np.cos(np.pi * np.arange(count) * (np.arange(n_volumes)[:, None] + 0.5) / n_volumes))


def build_sources(parameters: Floats, physiology: Floats) -> tuple[tuple[str, ...], Floats]:
    """Stack 24 motion terms, physiology (T, 4) and drift, scaled to a quiet run: names (C,), sources (T, C)."""
    scaled = parameters * np.repeat([1 / 0.1, 1 / 0.001], 3)
    names = tuple(f"{name}{suffix}" for suffix in EXPANSIONS for name in MOTION)
    motion = np.concatenate([np.nan_to_num(series) for series in expand(scaled).values()], axis=1)
    ramp = np.linspace(-1, 1, len(parameters))
    drift = np.stack([np.sqrt(3) * ramp, np.sqrt(5) * (1.5 * ramp**2 - 0.5)], axis=1)
    return names + PHYSIOLOGY + DRIFT, np.concatenate([motion, physiology, drift], axis=1)


def draw_blocks(participant: Participant, plan: RunPlan) -> list[tuple[float, float, str]]:
    """Draw a run's blocks (onset s, duration s, type): pairs of both types, in random order within each pair."""
    rng = participant.rng(6, plan.number)
    step = BLOCK_SECONDS + _REST_SECONDS
    n_pairs = int((plan.n_volumes * plan.repetition_time - _REST_SECONDS) // (2 * step))
    types = [name for _ in range(n_pairs) for name in rng.permutation(sorted(DRIVEN)).tolist()]
    return [(_REST_SECONDS + number * step, BLOCK_SECONDS, name) for number, name in enumerate(types)]


def compute_activity(blocks: list[tuple[float, float, str]], plan: RunPlan) -> Floats:
    """Compute the activity (T, P) that blocks add to each parcel, in standard deviations of the signal."""
    networks = np.array(build_table()[1])
    times: Floats = np.arange(plan.n_volumes, dtype=np.float64) * plan.repetition_time
    activity = np.zeros((plan.n_volumes, len(networks)))
    for onset, duration, name in blocks:
        response = _STRENGTH * compute_response(times - onset, duration)
        activity[:, networks == DRIVEN[name]] += response[:, None]
    return activity
