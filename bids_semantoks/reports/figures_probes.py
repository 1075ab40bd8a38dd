"""Probe figures: model comparison and predictions."""

from __future__ import annotations

import io
import logging
import urllib.parse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.reports.figures import (
    BLUE,
    GREY,
    INK,
    LIGHT,
    ORANGE,
    build_margins,
    shorten_label,
    start_figure,
    use_style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


LOGGER = logging.getLogger("bids_semantoks")


Floats = NDArray[np.float64]


_SAFE: Final = " !$()*+,-./:;=?@[]^_`{|}~'\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """One model in a comparison."""

    name: str
    value: float
    low: float  # confidence interval
    high: float
    note: str  # text at the right margin, such as a p value
    is_encoder: bool  # the encoder, as opposed to a baseline


def render_figure(name: str, draw: Callable[[], Figure]) -> str:
    """Draw a figure to an SVG data URI; on any error, log a warning that names it and return an empty string."""
    try:
        buffer = io.BytesIO()
        with use_style():
            draw().savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    except Exception as error:
        # A picture must never cost results.
        LOGGER.debug("Drawing %s", name, exc_info=True)
        LOGGER.warning("The figure of %s could not be drawn: %s: %s", name, type(error).__name__, error)
        return ""
    return embed_svg(buffer.getvalue().decode())


def embed_svg(text: str) -> str:
    """Turn SVG text into a data URI, percent-encoded: a third smaller than base64."""
    return f"data:image/svg+xml;charset=utf-8,{urllib.parse.quote(text, safe=_SAFE)}"


def draw_models(bars: Sequence[Bar], *, label: str, chance: float) -> Figure:
    """Draw the score of each model with its interval, in the given order, with a line at `chance`."""
    names = [shorten_label(bar.name, 28) for bar in bars]
    left = max(1.75, 0.08 * max(map(len, names)))
    figure = start_figure(4.65 + left, 0.85 + 0.32 * len(bars))
    axes = figure.subplots(gridspec_kw=build_margins(figure, left=left, right=1.35, top=0.15, bottom=0.5))
    axes.axvline(chance, color=GREY, linewidth=1, linestyle="--")
    for i, bar in enumerate(bars):
        colour = ORANGE if bar.is_encoder else BLUE
        if np.isfinite([bar.low, bar.high]).all():
            axes.plot([bar.low, bar.high], [i, i], color=colour, linewidth=2.2, solid_capstyle="butt", alpha=0.55)
        axes.plot(bar.value, i, "o", color=colour, markersize=6)
        axes.annotate(
            bar.note,
            xy=(1, i),
            xycoords=axes.get_yaxis_transform(),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            annotation_clip=False,
        )
    axes.set_yticks(range(len(bars)), names)
    for tick, bar in zip(axes.get_yticklabels(), bars, strict=True):
        tick.set_fontweight("bold" if bar.is_encoder else "normal")
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=True, axis="x", color=LIGHT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(f"{label} with 95 % interval (dashed: chance)")
    return figure


def draw_values(truth: Floats, predicted: Floats, *, name: str) -> Figure:
    """Draw predicted against true values of the tested rows, both (n,)."""
    figure = start_figure(4.2, 4.0)
    axes = figure.subplots(gridspec_kw=build_margins(figure, left=0.65, right=0.2, top=0.15, bottom=0.55))
    both = np.concatenate([truth, predicted])
    pad = 0.04 * max(float(np.ptp(both)), 1e-12)
    limits = float(both.min()) - pad, float(both.max()) + pad
    axes.plot(limits, limits, color=GREY, linewidth=1, linestyle="--")
    axes.plot(truth, predicted, "o", color=ORANGE, markersize=4, alpha=0.7, markeredgewidth=0)
    name = shorten_label(name, 26)
    axes.set(xlim=limits, ylim=limits, xlabel=f"true {name}", ylabel=f"predicted {name}, out of fold", aspect="equal")
    return figure


def draw_classes(
    counts: Floats, classes: Sequence[str], roc: tuple[Sequence[float], Sequence[float]] | None = None
) -> Figure:
    """Draw the confusion matrix (K, K), true classes in rows, and for two classes the ROC curve.

    `roc` holds the false and the true positive rates of the second class.
    """
    figure = start_figure(4.8, 3.9 if roc is None else 8.2)
    margins = build_margins(figure, left=0.95, right=0.2, top=0.3, bottom=0.85)
    # One above the other: the column beside the scores is narrow.
    axes = figure.subplots(1 if roc is None else 2, 1, squeeze=False, gridspec_kw={**margins, "hspace": 0.35})[:, 0]
    if roc is not None:
        _draw_roc(axes[0], *roc, classes[1])
    _draw_confusion(axes[-1], counts, classes)
    return figure


def _draw_roc(axes: Axes, false: Sequence[float], hit: Sequence[float], name: str) -> None:
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--")
    axes.plot([0.0, *false], [0.0, *hit], color=ORANGE, linewidth=2, drawstyle="steps-post")
    found = f"share of {shorten_label(name, 26)} found"
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel="share of others taken for it", ylabel=found)
    axes.set_aspect("equal")
    axes.set_title("ROC curve")


def _draw_confusion(axes: Axes, counts: Floats, classes: Sequence[str]) -> None:
    n = len(classes)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1e-12)
    axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    if n <= 8:
        for i, j in np.ndindex(n, n):
            colour = "white" if shares[i, j] > 0.6 else INK
            axes.text(j, i, f"{shares[i, j]:.0%}\n({counts[i, j]:.0f})", ha="center", va="center", color=colour)
    names = [shorten_label(name, 13) for name in classes]
    is_slanted = max(map(len, names)) > 8 or n > 6
    slanted: dict[str, Any] = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if is_slanted else {}
    axes.set_xticks(range(n), names, **slanted)
    axes.set_yticks(range(n), names)
    axes.set(xlabel="taken for", ylabel="true")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_title("Who was taken for whom")
