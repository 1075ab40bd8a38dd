"""The hidden neural signal: coupled slow network fluctuations with planted effects of age, sex and site.

Effects on coupling show in connectivity; effects on tempo and lag hardly do, but a sequence model can find them.
Networks are balanced to nearly cancel in the global signal, which spreads the effects on coupling a little.
"""

from __future__ import annotations

from functools import cache
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.demo.atlas import build_anatomy, build_table
from bids_semantoks.demo.participants import Participant
from bids_semantoks.records import CANONICAL_NETWORKS

# Correlation added to a pair of networks, per standard deviation of age and for M over F.
AGE_COUPLING: Final = {
    ("Cont", "Default"): -0.06,
    ("Vis", "SomMot"): 0.06,
    ("SalVentAttn", "DorsAttn"): -0.06,
    ("Limbic", "Subcortex"): 0.06,
    ("Default", "Limbic"): -0.06,
}
SEX_COUPLING: Final = {
    ("SomMot", "Cerebellum"): 0.12,
    ("Cont", "DorsAttn"): -0.12,
    ("SalVentAttn", "Subcortex"): 0.12,
    ("Vis", "Limbic"): -0.12,
    ("Default", "Cerebellum"): 0.12,
}
SITE_COUPLING: Final = {"EU": 0.0, "AS": 0.04, "NA": -0.04}
# Relative change of the central frequency, per standard deviation of age and for M over F.
AGE_TEMPO: Final = {"Vis": 0.15, "SomMot": 0.15, "Cont": -0.15, "Default": -0.15}
SEX_TEMPO: Final = {"DorsAttn": 0.2, "Subcortex": -0.2}
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


class NeuralSignals(NamedTuple):
    """Noise-free signals of one run and what was planted in them."""

    signals: NDArray[np.float64]  # (T, P), expected variance 1
    coupling: NDArray[np.float64]  # (N, N) correlation between networks
    frequency: NDArray[np.float64]  # (N,) central frequency in Hz
    lag: NDArray[np.float64]  # (N,) delay in s


def compute_coupling(participant: Participant) -> NDArray[np.float64]:
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
    # Networks trade off against each other: what all have in common would be taken for the global signal.
    share = np.bincount(build_anatomy().labels.ravel(), minlength=len(_places()[0]) + 1)[1:]
    weight = np.bincount(_places()[0], weights=share) / share.sum()
    for _ in range(3):
        centre = np.eye(n) - weight
        coupling = centre @ coupling @ centre.T
        scale = np.sqrt(np.diag(coupling))
        coupling = coupling / np.outer(scale, scale)
    return np.asarray(coupling)


def compute_dynamics(participant: Participant) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute a participant's planted central frequency (Hz) and delay (s) of each network, (N,) each."""
    tempo = np.array(
        [
            participant.age_z * AGE_TEMPO.get(name, 0.0) + participant.sex_sign * SEX_TEMPO.get(name, 0.0)
            for name in CANONICAL_NETWORKS
        ]
    )
    lag = [participant.age_z * AGE_LAG.get(name, 0.0) for name in CANONICAL_NETWORKS]
    return CENTRAL_FREQUENCY * np.exp(tempo), np.array(lag)


def simulate_signals(
    participant: Participant, n_volumes: int, repetition_time: float, rng: np.random.Generator
) -> NeuralSignals:
    """Simulate the neural signal of one run; repetition time in seconds."""
    coupling = compute_coupling(participant)
    frequency, lag = compute_dynamics(participant)
    network, hemisphere = _places()
    n_networks, n_parcels = len(coupling), len(network)
    # The ends of a circular filter meet; 40 s more, cut off again, keep them apart.
    length = n_volumes + int(np.ceil(40.0 / repetition_time))
    driven = rng.standard_normal((length, n_networks)) @ _take_root(coupling)
    sides = rng.standard_normal((length, n_networks * 2))
    own = rng.standard_normal((length, n_parcels))
    shared = np.sqrt(1 - _HEMISPHERE_SHARE) * np.repeat(driven, 2, axis=1) + np.sqrt(_HEMISPHERE_SHARE) * sides
    shared = colour(shared, repetition_time, np.repeat(frequency, 2), np.repeat(lag, 2))
    own = colour(own, repetition_time, np.full(n_parcels, CENTRAL_FREQUENCY), np.zeros(n_parcels))
    signals = np.sqrt(_NETWORK_SHARE) * shared[:, 2 * network + hemisphere] + np.sqrt(1 - _NETWORK_SHARE) * own
    return NeuralSignals(signals[-n_volumes:], coupling, frequency, lag)


def colour(
    white: NDArray[np.float64],
    repetition_time: float,
    frequency: NDArray[np.float64],
    lag: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Filter white noise (T, S) to a broad neural bump seen through blood flow, of expected variance 1.

    `frequency` (Hz) and `lag` (s) are (S,). The response is the difference of gamma densities (shapes 6 and 16,
    scale 1 s, ratio 1/6) of Friston et al. (1998), NeuroImage 7, 30-40: (1 + i w)^-6 - (1 + i w)^-16 / 6.
    """
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


def _take_root(coupling: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the symmetric square root, which exists for a nearly singular matrix too."""
    values, vectors = np.linalg.eigh(coupling)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T)


def _pairs(changes: dict[tuple[str, str], float]) -> NDArray[np.float64]:
    """Build the symmetric matrix of coupling changes."""
    matrix = np.zeros((len(CANONICAL_NETWORKS), len(CANONICAL_NETWORKS)))
    for (one, other), change in changes.items():
        row, column = CANONICAL_NETWORKS.index(one), CANONICAL_NETWORKS.index(other)
        matrix[row, column] = matrix[column, row] = change
    return matrix


@cache
def _places() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find the network and hemisphere (0 left or midline, 1 right) of each parcel."""
    parcels, networks = build_table()
    network = np.array([CANONICAL_NETWORKS.index(name) for name in networks])
    return network, np.array([int("_RH_" in parcel) for parcel in parcels])
