"""The embedding in two dimensions, coloured by participant variables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.reports.figures import LIGHT, build_margins, shorten_label, start_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


Floats = NDArray[np.float64]


#: Colours of Okabe and Ito in an order in which neighbours differ in brightness, too.
COLOURS: Final = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")


_MOST_NAMED: Final = 12


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Colouring:
    """A variable that colours the points."""

    name: str
    labels: tuple[str | None, ...]  # (n,) None where missing
    numbers: Floats | None  # (n,) for quantities; None for categories


def compute_axes(values: Floats) -> tuple[Floats, Floats]:
    """Project rows onto their first two principal axes, features scaled to unit variance: (n, D) -> (n, 2), (2,).

    Coordinates are in standard deviations of the first axis; the second array holds the shares of variance.
    """
    centred = values - values.mean(axis=0)
    deviation = centred.std(axis=0)
    centred = centred[:, deviation > 0] / deviation[deviation > 0]
    power, axes = np.linalg.eigh(centred @ centred.T)
    first = np.maximum(power[::-1][:2], 0)
    points = axes[:, ::-1][:, :2] * np.sqrt(first)
    total = max(float(np.maximum(power, 0).sum()), 1e-300)
    return points / max(float(points[:, 0].std()), 1e-300), first / total


def draw_map(points: Floats, shares: Sequence[float], colourings: Sequence[Colouring]) -> Figure:
    """Draw the points (n, 2) once per colouring, two panels per row; `shares` (2,) of variance go into the axis
    labels."""
    n_lines = (len(colourings) + 1) // 2
    figure = start_figure(9.0, 0.5 + 3.4 * n_lines)
    margins = build_margins(figure, left=0.6, right=1.4, top=0.3, bottom=0.55)
    panels = figure.subplots(n_lines, 2, squeeze=False, gridspec_kw={**margins, "wspace": 0.75, "hspace": 0.42})
    for axes, colouring in zip(panels.flat, colourings, strict=False):
        _draw_points(axes, points, colouring)
        axes.set_title(shorten_label(colouring.name, 36))
        axes.set_xlabel(f"first axis ({shares[0]:.0%} of variance)")
        axes.set_ylabel(f"second axis ({shares[1]:.0%})")
    for axes in panels.flat[len(colourings) :]:
        axes.set_visible(False)
    return figure


def _draw_points(axes: Axes, points: Floats, colouring: Colouring) -> None:
    style: dict[str, Any] = {"s": 22, "linewidths": 0, "alpha": 0.85}
    known = np.array([label is not None for label in colouring.labels])
    axes.scatter(points[~known, 0], points[~known, 1], color=LIGHT, **style)
    if colouring.numbers is not None:
        image = axes.scatter(points[known, 0], points[known, 1], c=colouring.numbers[known], cmap="viridis", **style)
        bar = axes.get_figure(root=True).colorbar(image, ax=axes, pad=0.02, fraction=0.05)  # type: ignore[union-attr]
        bar.outline.set_visible(False)
        return
    names = sorted({label for label in colouring.labels if label is not None})
    for i, name in enumerate(names):
        own = np.array([label == name for label in colouring.labels])
        marker = "os^Dv"[(i // len(COLOURS)) % 5]
        # Legends leave out what begins with an underscore.
        shown = f"{' ' if name.startswith('_') else ''}{shorten_label(name, 15)}" if i < _MOST_NAMED else None
        axes.scatter(
            points[own, 0], points[own, 1], color=COLOURS[i % len(COLOURS)], marker=marker, label=shown, **style
        )
    if len(names) > _MOST_NAMED:
        axes.scatter([], [], label=f"and {len(names) - _MOST_NAMED} more", s=0)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), handletextpad=0.2, borderaxespad=0.3)
