"""Figures of probe scores against the amount of pretraining data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.reports.figures import BLUE, GREY, ORANGE, build_margins, shorten_label, start_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_LEAST_RANGE = 0.05


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ScalingPanel:
    """Encoders probed on one phenotype."""

    title: str
    label: str  # metric of the gain
    n_participants: NDArray[np.float64]  # (n,) one per encoder
    gains: NDArray[np.float64]  # (n,) one per encoder
    seeds: NDArray[np.float64]  # (n,) one per encoder
    # (s, 4) participants, mean gain and its interval for each share of the data; NaN for no interval
    shares: NDArray[np.float64]
    intercept: float  # of the line over log10(participants); NaN for none
    slope: float  # of the line over log10(participants); NaN for none


def draw_scaling(panels: Sequence[ScalingPanel]) -> Figure:
    """Draw the gain over random weights against the number of pretraining participants, two panels per row.

    Dots are encoders, thin lines join those of a seed, diamonds are means of a share with their intervals.
    """
    n_columns = min(len(panels), 2)
    n_lines = (len(panels) + 1) // 2
    figure = start_figure(0.6 + 3.9 * n_columns, 0.5 + 2.9 * n_lines)
    margins = build_margins(figure, left=0.75, right=0.25, top=0.35, bottom=0.6)
    axes = figure.subplots(n_lines, n_columns, squeeze=False, gridspec_kw={**margins, "wspace": 0.35, "hspace": 0.5})
    for panel, one in zip(panels, axes.flat, strict=False):
        _draw_panel(one, panel)
    for one in axes.flat[len(panels) :]:
        one.set_visible(False)
    return figure


def _draw_panel(axes: Axes, panel: ScalingPanel) -> None:
    axes.axhline(0, color=GREY, linewidth=1, linestyle="--")
    for seed in np.unique(panel.seeds):
        own = panel.seeds == seed
        axes.plot(
            panel.n_participants[own], panel.gains[own], "o-", color=GREY, markersize=3.5, linewidth=0.7, alpha=0.6
        )
    if np.isfinite([panel.slope, panel.intercept]).all():
        ends = np.array([panel.n_participants.min(), panel.n_participants.max()])
        axes.plot(ends, panel.intercept + panel.slope * np.log10(ends), color=BLUE, linewidth=1.8)
    sizes, means, low, high = panel.shares.T
    reach = np.nan_to_num(np.stack([means - low, high - means])).clip(min=0)
    axes.errorbar(sizes, means, yerr=reach, fmt="D", color=ORANGE, markersize=5, elinewidth=1.6, capsize=3)
    # Differences that mean nothing shall not fill the picture.
    low_end, high_end = axes.get_ylim()
    axes.set_ylim(min(low_end, -_LEAST_RANGE), max(high_end, _LEAST_RANGE))
    axes.set_xscale("log")
    ticks = sorted(set(panel.n_participants.tolist()))
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(ticks[0] / 1.2, ticks[-1] * 1.2)
    axes.set_xlabel("participants pretrained on")
    axes.set_ylabel(f"gain in {panel.label}")
    axes.set_title(shorten_label(panel.title, 44))
