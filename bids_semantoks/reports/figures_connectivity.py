"""Connectivity figure of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.reports.figures import (
    BLUE,
    INK,
    LIGHT,
    add_colour_bar,
    build_colours,
    build_margins,
    draw_histogram,
    start_figure,
)
from bids_semantoks.reports.figures_networks import NetworkOrder, mark_networks

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_connectivity(matrix: NDArray[np.float64], networks: NetworkOrder) -> Figure:
    """Draw the correlation matrix, ordered by network, and the distribution of its values: (P, P), NaN for absent
    parcels."""
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
