"""Coverage figure of a run: how much of each parcel has data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.reports.figures import BLUE, ORANGE, add_colour_bar, build_colours, build_margins, start_figure
from bids_semantoks.reports.figures_networks import NetworkOrder, mark_networks

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_N_SLICES = 8


def draw_coverage(
    coverage: NDArray[np.float64],
    present: NDArray[np.bool_],
    networks: NetworkOrder,
    grid: NDArray[np.int32] | None,
) -> Figure:
    """Draw the coverage of each parcel on slices (if there is a grid) and by network.

    `coverage` (P,) in [0, 1], NaN where unknown; `present` (P,) bool; `grid` (X, Y, Z), RAS+, of parcel position + 1,
    0 elsewhere.
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
