"""Figures of a run with parcels ordered by network: connectivity and coverage, and the order itself."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.records import CANONICAL_NETWORKS
from bids_semantoks.reports.figures import (
    BLUE,
    GREY,
    INK,
    LIGHT,
    ORANGE,
    add_colour_bar,
    build_colours,
    build_margins,
    draw_histogram,
    shorten_label,
    start_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NO_NETWORK: Final = "no network"
_MAX_NAMED: Final = 20
_N_SLICES: Final = 8


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
    # Annotation arrows would take as long to draw as all letters of a figure.
    axes.add_collection(
        LineCollection(pointers, colors=GREY, linewidths=0.5, transform=across, clip_on=False), autolim=False
    )
    for name, (_, (x, y)) in zip(names, pointers, strict=True):
        axes.text(
            *(x, y, shorten_label(name, 28)),
            transform=across,
            ha="right",
            va="center" if vertical else "top",
            rotation=0 if vertical else 60,
            rotation_mode=None if vertical else "anchor",
            fontsize=8,
        )


def draw_connectivity(matrix: NDArray[np.float64], networks: NetworkOrder) -> Figure:
    """Draw the correlation matrix, ordered by network, and the distribution of
    its values: (P, P), NaN for absent parcels."""
    figure = start_figure(10, 5.4)
    margins = build_margins(figure, left=1.1, right=0.15, top=0.3, bottom=0.5)
    left, right = figure.subplots(1, 2, gridspec_kw={**margins, "width_ratios": [1.9, 1], "wspace": 0.36})
    ordered = matrix[np.ix_(networks.order, networks.order)]
    image = left.imshow(ordered, cmap=build_colours("RdBu_r"), vmin=-1, vmax=1, interpolation="none")
    mark_networks(left, networks, span=4.2)
    left.vlines(networks.edges[1:-1] - 0.5, 0, 1, transform=left.get_xaxis_transform(), colors=INK, linewidths=0.4)
    left.set_xticks([])
    add_colour_bar(image, left, "Pearson correlation", ticks=(-1, 0, 1))
    values = ordered[np.triu_indices_from(ordered, k=1)]
    values = values[~np.isnan(values)]
    draw_histogram(right, values, bins=60, low=-1, high=1)
    right.axvline(0, color=LIGHT, linewidth=0.8)
    if values.size:
        right.axvline(float(np.median(values)), color=BLUE)
        right.set_title(f"median {round(float(np.median(values)), 2) + 0.0:.2f}", color=BLUE)
    right.set_xlabel("correlation of two parcels")
    right.set_ylabel("pairs")
    return figure


def draw_coverage(
    coverage: NDArray[np.float64], present: NDArray[np.bool_], networks: NetworkOrder, grid: NDArray[np.int32] | None
) -> Figure:
    """Draw the coverage of each parcel on slices (if there is a grid) and by network.

    `coverage` (P,) in [0, 1], NaN where unknown; `present` (P,) bool; `grid` (X, Y, Z),
    RAS+, of parcel position + 1, 0 elsewhere.
    """
    from matplotlib.patches import Patch  # noqa: PLC0415 - loading it takes a third of a second

    figure = start_figure(10, 2.3 if grid is None else 4.1)
    margins = build_margins(figure, left=0.6, right=0.15, top=0.3 if grid is None else 2.1, bottom=0.75)
    axes = figure.subplots(gridspec_kw=margins)
    if grid is not None:
        _draw_slices(figure, coverage, present, grid)
    known = np.nan_to_num(coverage, nan=0.0)[networks.order]
    there = present[networks.order]
    axes.stairs(np.where(there, known, 0), np.arange(known.size + 1) - 0.5, fill=True, color=BLUE)
    axes.plot(np.flatnonzero(~there), np.full((~there).sum(), 0.04), "x", color=ORANGE, markersize=5)
    axes.set_ylim(0, 1.02)
    axes.set_xlim(-0.5, known.size - 0.5)
    axes.set_ylabel("coverage")
    mark_networks(axes, networks, vertical=False, span=8.5)
    n_absent = int((~there).sum())
    handles = [Patch(color=BLUE, label="present"), Patch(color=ORANGE, label=f"absent: {n_absent}")]
    axes.legend(handles=handles, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0)
    axes.set_title("share of each parcel that has data, by network")
    return figure


def _draw_slices(
    figure: Figure, coverage: NDArray[np.float64], present: NDArray[np.bool_], grid: NDArray[np.int32]
) -> None:
    """Draw the slices side by side as one image, many times faster than one axes per slice."""
    from matplotlib.colors import to_rgba  # noqa: PLC0415 - as above

    colours = build_colours("cividis")
    table = np.vstack([[1, 1, 1, 0], colours(np.nan_to_num(coverage, nan=0.0))])
    table[1:][~present] = to_rgba(ORANGE)
    filled = np.flatnonzero(grid.any(axis=(0, 1)))
    levels = np.unique(np.linspace(filled[0], filled[-1], _N_SLICES + 2).astype(int)[1:-1])
    side = np.flatnonzero(grid.any(axis=(1, 2)))
    front = np.flatnonzero(grid.any(axis=(0, 2)))
    # Beside the middle, where many atlases have a gap.
    cuts = [grid[int(side.mean()) + 4], grid[:, int(front.mean())], *(grid[:, :, z] for z in levels)]
    height = max(cut.shape[1] for cut in cuts)
    padded = []
    for cut in cuts:
        below = (height - cut.shape[1]) // 2
        padded.append(np.pad(cut, ((2, 2), (below, height - cut.shape[1] - below))))
    row = np.concatenate(padded)
    axes = figure.add_axes(_box(figure, row.shape))
    image = axes.imshow(table[row.T], origin="lower", interpolation="none", cmap=colours, vmin=0, vmax=1)
    axes.set_axis_off()
    axes.set_title("cuts from the side and the front, then from bottom to top")
    add_colour_bar(image, axes, "coverage", ticks=(0, 0.5, 1))


def _box(figure: Figure, shape: tuple[int, ...]) -> tuple[float, float, float, float]:
    """Place an (x, y) image across the full width at the top of a figure; return its axes rectangle."""
    width, height = figure.get_size_inches()
    across = width - 1.0
    down = min(across * shape[1] / shape[0], 1.4)
    return 0.15 / width, 1 - (0.3 + down) / height, across / width, down / height
