"""Parcels in the order of networks, as in all figures of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.records import CANONICAL_NETWORKS

NO_NETWORK: Final = "no network"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class NetworkOrder:
    """Parcels sorted by network."""

    order: NDArray[np.int64]  # (P,) parcel positions, sorted by network
    names: tuple[str, ...]  # (N,) in display order
    edges: NDArray[np.int64]  # (N + 1,) first sorted position of each network, then P


def sort_by_network(networks: Sequence[str]) -> NetworkOrder:
    """Sort parcels by network label (empty for none): canonical networks, then
    others by name, then parcels without one."""
    labels = [label or NO_NETWORK for label in networks]
    there = set(labels)
    names = [name for name in CANONICAL_NETWORKS if name in there]
    names += sorted(there - set(names) - {NO_NETWORK})
    names += [NO_NETWORK] if NO_NETWORK in there else []
    rank = np.array([names.index(label) for label in labels], dtype=np.int64)
    counts = np.bincount(rank, minlength=len(names))
    edges = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return NetworkOrder(order=np.argsort(rank, kind="stable"), names=tuple(names), edges=edges)


def spread(positions: Sequence[float], *, gap: float, low: float, high: float) -> list[float]:
    """Move ascending label positions at least `gap` apart within [low, high], keeping their order."""
    placed: list[float] = []
    for position in positions:
        placed.append(max(position, placed[-1] + gap if placed else low))
    limit = high
    for i in range(len(placed) - 1, -1, -1):
        placed[i] = min(placed[i], limit)
        limit = placed[i] - gap
    return placed
