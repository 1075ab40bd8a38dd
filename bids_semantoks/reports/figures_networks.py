"""Ordering of parcels by network, and network labels along an axis."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.records import CANONICAL_NETWORKS
from bids_semantoks.reports.figures import GREY, INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes


NO_NETWORK: Final = "no network"


_MAX_NAMED: Final = 20


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class NetworkOrder:
    """Parcels sorted by network."""

    order: NDArray[np.int64]  # (P,) parcel positions, sorted by network
    names: tuple[str, ...]  # (N,) in display order
    edges: NDArray[np.int64]  # (N + 1,) first sorted position of each network, then P


def sort_by_network(networks: Sequence[str]) -> NetworkOrder:
    """Sort parcels by network label (empty for none): canonical networks, then others by name, then parcels without
    one."""
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


def mark_networks(axes: Axes, networks: NetworkOrder, *, vertical: bool = True, span: float) -> None:
    """Label the networks along an axis of parcels (unit spacing, first at -0.5), `span` inches long."""
    from matplotlib.collections import LineCollection  # noqa: PLC0415 - loading it takes a third of a second

    edges, names = networks.edges, networks.names
    total = int(edges[-1])
    set_ticks = axes.set_yticks if vertical else axes.set_xticks
    set_ticks([])
    across = axes.get_yaxis_transform() if vertical else axes.get_xaxis_transform()
    draw_lines = axes.hlines if vertical else axes.vlines
    for colour, width in (("white", 1.2), (INK, 0.4)):
        draw_lines(edges[1:-1] - 0.5, 0, 1, transform=across, colors=colour, linewidths=width)
    if len(names) > _MAX_NAMED:
        return
    centres = [float(a + b) / 2 - 0.5 for a, b in itertools.pairwise(edges.tolist())]
    gap = total * (0.14 if vertical else 0.16) / span
    places = spread(centres, gap=gap, low=-0.5, high=total - 0.5)
    pointers = [
        [(-0.005, a), (-0.03, b)] if vertical else [(a, -0.005), (b, -0.03)]
        for a, b in zip(centres, places, strict=True)
    ]
    # Arrows of annotations would take as long as all letters of a figure.
    axes.add_collection(
        LineCollection(pointers, colors=GREY, linewidths=0.5, transform=across, clip_on=False), autolim=False
    )
    for name, (_, (x, y)) in zip(names, pointers, strict=True):
        axes.text(
            *(x, y, name),
            transform=across,
            ha="right",
            va="center" if vertical else "top",
            rotation=0 if vertical else 60,
            rotation_mode=None if vertical else "anchor",
            fontsize=8,
        )
