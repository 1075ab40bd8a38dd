"""Figures of network importance and of test-retest reliability."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bids_semantoks.reports.figures import BLUE, GREY, INK, LIGHT, ORANGE, build_margins, start_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


#: Middle of a range, and its ends.
Interval = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkScore:
    """Importance of one network."""

    name: str
    alone: Interval  # score with all other networks masked
    lost: Interval  # drop in score with this network masked


@dataclass(frozen=True, kw_only=True, slots=True)
class RetestBar:
    """Test-retest reliability of one kind of features."""

    name: str
    identification: Interval  # share of scans recognised, with its confidence interval
    icc: Interval  # median and quartiles of the intraclass correlation over features
    is_encoder: bool  # the encoder, as opposed to a baseline


def draw_importance(networks: Sequence[NetworkScore], *, label: str, chance: float, whole: float) -> Figure:
    """Draw the score of each network alone and the loss without it, with lines at `chance` and at the score of all
    networks."""
    figure, (left, right) = _start_pair(len(networks))
    left.axvline(chance, color=GREY, linewidth=1, linestyle="--")
    left.axvline(whole, color=INK, linewidth=1)
    right.axvline(0, color=GREY, linewidth=1, linestyle="--")
    for i, network in enumerate(networks):
        _draw_interval(left, network.alone, i, BLUE)
        _draw_interval(right, network.lost, i, ORANGE)
    _finish_pair((left, right), [network.name for network in networks])
    left.set_title("From this network alone")
    left.set_xlabel(f"{label} (dashed: chance, line: all)")
    right.set_title("Lost without it")
    right.set_xlabel(f"{label} of all less that without it")
    return figure


def draw_retest(bars: Sequence[RetestBar], *, chance: float) -> Figure:
    """Draw identification rates and intraclass correlations, one line per kind of features, top to bottom."""
    figure, (left, right) = _start_pair(len(bars))
    left.axvline(chance, color=GREY, linewidth=1, linestyle="--")
    for i, bar in enumerate(bars):
        colour = ORANGE if bar.is_encoder else BLUE
        _draw_interval(left, bar.identification, i, colour)
        _draw_interval(right, bar.icc, i, colour)
    _finish_pair((left, right), [bar.name for bar in bars])
    for tick, bar in zip(left.get_yticklabels(), bars, strict=True):
        tick.set_fontweight("bold" if bar.is_encoder else "normal")
    left.set_xlim(-0.03, 1.03)
    left.set_title("Recognised")
    left.set_xlabel("share of scans (dashed: chance)")
    right.set_xlim(right=1.03)
    right.set_title("Intraclass correlation")
    right.set_xlabel("median and quartiles over features")
    return figure


def _start_pair(n_lines: int) -> tuple[Figure, tuple[Axes, Axes]]:
    figure = start_figure(7.4, 1.15 + 0.3 * n_lines)
    margins = build_margins(figure, left=1.75, right=0.15, top=0.35, bottom=0.55)
    left, right = figure.subplots(1, 2, gridspec_kw={**margins, "wspace": 0.12})
    return figure, (left, right)


def _draw_interval(axes: Axes, interval: Interval, line: int, colour: str) -> None:
    value, low, high = interval
    if np.isfinite([low, high]).all():
        axes.plot([low, high], [line, line], color=colour, linewidth=2.2, solid_capstyle="butt", alpha=0.55)
    axes.plot(value, line, "o", color=colour, markersize=6)


def _finish_pair(panels: tuple[Axes, Axes], names: Sequence[str]) -> None:
    for axes in panels:
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.grid(visible=True, axis="x", color=LIGHT, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(axis="y", length=0)
    panels[0].set_yticks(range(len(names)), names)
    panels[1].set_yticks(range(len(names)), [""] * len(names))
