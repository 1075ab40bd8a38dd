"""Figures of how scores grow with the data that an encoder was pretrained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.outputs.figures import BLUE, GREY, LIGHT, ORANGE, build_margins, start_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ScalingPanel:
    """Encoders on one phenotype.

    Parameters
    ----------
    title, label : str
        The phenotype, and what the gain is in.
    n_participants, gains : NDArray, float64, shape (n,)
        Of each encoder.
    intercept, slope : float
        Of the line over log10(participants); NaN for none.
    spread : NDArray, float64
        Scores of random weights less their mean.
    """

    title: str
    label: str
    n_participants: NDArray[np.float64]
    gains: NDArray[np.float64]
    intercept: float
    slope: float
    spread: NDArray[np.float64]


def draw_scaling(panels: Sequence[ScalingPanel]) -> Figure:
    """Draw the gain over random weights against the participants that encoders were pretrained on.

    Parameters
    ----------
    panels : sequence of ScalingPanel
        At least one; two a line.

    Returns
    -------
    Figure
        Points are encoders, the band holds what random weights got.
    """
    n_columns = min(len(panels), 2)
    n_lines = (len(panels) + 1) // 2
    figure = start_figure(0.6 + 3.9 * n_columns, 0.5 + 2.9 * n_lines)
    margins = build_margins(figure, left=0.75, right=0.25, top=0.35, bottom=0.6)
    axes = figure.subplots(n_lines, n_columns, squeeze=False, gridspec_kw={**margins, "wspace": 0.35, "hspace": 0.5})
    for panel, one in zip(panels, axes.flat, strict=False):
        one.axhspan(float(panel.spread.min()), float(panel.spread.max()), color=LIGHT, zorder=0, linewidth=0)
        one.axhline(0, color=GREY, linewidth=1, linestyle="--")
        one.plot(panel.n_participants, panel.gains, "o", color=ORANGE, markersize=5, alpha=0.8, markeredgewidth=0)
        if np.isfinite([panel.slope, panel.intercept]).all():
            ends = np.array([panel.n_participants.min(), panel.n_participants.max()])
            one.plot(ends, panel.intercept + panel.slope * np.log10(ends), color=BLUE, linewidth=1.8)
        one.set_xscale("log")
        ticks = sorted(set(panel.n_participants.tolist()))
        one.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        one.minorticks_off()
        one.set_xlim(ticks[0] / 1.2, ticks[-1] * 1.2)
        one.set_xlabel("participants pretrained on")
        one.set_ylabel(f"gain in {panel.label}")
        one.set_title(panel.title)
    for one in axes.flat[len(panels) :]:
        one.set_visible(False)
    return figure
