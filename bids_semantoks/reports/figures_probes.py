"""Publication figures of the group: models, predictions, networks, test-retest, scaling, the map of the embedding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bids_semantoks.records import Floats
from bids_semantoks.reports.charts import Bar, Colouring, Column, Interval, ScalingPanel
from bids_semantoks.reports.figures import BLUE, GREY, INK, LIGHT, ORANGE, shorten_label, start_panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Colours of Okabe and Ito, ordered so that neighbours also differ in brightness.
COLOURS: Final = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
_MOST_NAMED: Final = 12

#: More points than these are drawn as an image within the figure.
_MOST_VECTORS: Final = 2000
_LEAST_RANGE: Final = 0.05


def draw_models(bars: Sequence[Bar], *, label: str, chance: float, line: str = "chance") -> Figure:
    """Draw the score of each model with its interval, in the given order, with a line at `chance`, or what else it is
    called."""
    names = [shorten_label(bar.name, 28) for bar in bars]
    left = max(1.75, 0.08 * max(map(len, names)))
    figure, ((axes,),) = start_panels((4.65 + left, 0.85 + 0.32 * len(bars)), 1, 1, (left, 1.35, 0.15, 0.5))
    axes.axvline(chance, color=GREY, linewidth=1, linestyle="--")
    beside: dict[str, Any] = {"xytext": (8, 0), "textcoords": "offset points", "va": "center", "fontsize": 8}
    for i, bar in enumerate(bars):
        _draw_interval(axes, (bar.value, bar.low, bar.high), i, ORANGE if bar.is_encoder else BLUE)
        axes.annotate(bar.note, xy=(1, i), xycoords=axes.get_yaxis_transform(), annotation_clip=False, **beside)
    axes.set_yticks(range(len(bars)), names)
    _finish_rows(axes, axes, [bar.is_encoder for bar in bars])
    axes.set_xlabel(f"{label} with 95 % interval (dashed: {line})")
    return figure


def draw_values(truth: Floats, predicted: Floats, *, name: str) -> Figure:
    """Draw predicted against true values of the tested rows, both (n,)."""
    figure, ((axes,),) = start_panels((4.2, 4.0), 1, 1, (0.65, 0.2, 0.15, 0.55))
    both = np.concatenate([truth, predicted])
    pad = 0.04 * max(float(np.ptp(both)), 1e-12)
    limits = float(both.min()) - pad, float(both.max()) + pad
    axes.plot(limits, limits, color=GREY, linewidth=1, linestyle="--")
    style: dict[str, Any] = {"color": ORANGE, "markersize": 4, "alpha": 0.7, "markeredgewidth": 0}
    axes.plot(truth, predicted, "o", rasterized=len(truth) > _MOST_VECTORS, **style)
    name = shorten_label(name, 26)
    axes.set(xlim=limits, ylim=limits, xlabel=f"true {name}", ylabel=f"predicted {name}, out of fold", aspect="equal")
    return figure


def draw_classes(
    counts: Floats, classes: Sequence[str], roc: tuple[Sequence[float], Sequence[float]] | None = None
) -> Figure:
    """Draw the confusion matrix (K, K), true classes in rows, and for two classes the ROC curve. `roc` holds the false
    and the true positive rates of the second class."""
    # One above the other: the column next to the scores is narrow.
    n_rows, height = (1, 3.9) if roc is None else (2, 8.2)
    figure, panels = start_panels((4.8, height), n_rows, 1, (0.95, 0.2, 0.3, 0.85), hspace=0.35)
    if roc is not None:
        _draw_roc(panels[0, 0], *roc, classes[1])
    _draw_confusion(panels[-1, 0], counts, classes)
    return figure


def _draw_roc(axes: Axes, false: Sequence[float], hit: Sequence[float], name: str) -> None:
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--")
    axes.plot([0.0, *false], [0.0, *hit], color=ORANGE, linewidth=2, drawstyle="steps-post")
    found = f"true positive rate ({shorten_label(name, 26)})"
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel="false positive rate", ylabel=found)
    axes.set(aspect="equal", title="ROC curve")


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
    axes.set(xlabel="predicted", ylabel="true")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_title("Confusion matrix")


def draw_pair(names: Sequence[str], columns: Sequence[Column], *, encoder: str = "") -> Figure:
    """Draw charts side by side with common rows, top to bottom; the row named `encoder` is highlighted."""
    figure, (panels,) = start_panels((7.4, 1.15 + 0.3 * len(names)), 1, 2, (1.75, 0.15, 0.35, 0.55), wspace=0.12)
    for number, (axes, column) in enumerate(zip(panels, columns, strict=True)):
        axes.axvline(column.reference, color=GREY, linewidth=1, linestyle="--")
        if np.isfinite(column.whole):
            axes.axvline(column.whole, color=INK, linewidth=1)
        for line, (name, interval) in enumerate(zip(names, column.intervals, strict=True)):
            is_encoder = name == encoder or (not encoder and number > 0)
            _draw_interval(axes, interval, line, ORANGE if is_encoder else BLUE)
        axes.set(title=column.title, xlabel=column.label)
        axes.set_yticks(range(len(names)), ["" if number else shorten_label(name, 28) for name in names])
        _finish_rows(axes, panels[0], [name == encoder for name in names])
    return figure


def _draw_interval(axes: Axes, interval: Interval, line: int, colour: str) -> None:
    value, low, high = interval
    if np.isfinite([low, high]).all():
        axes.plot([low, high], [line, line], color=colour, linewidth=2.2, solid_capstyle="butt", alpha=0.55)
    axes.plot(value, line, "o", color=colour, markersize=6)


def _finish_rows(axes: Axes, named: Axes, are_bold: Sequence[bool]) -> None:
    """Show rows from top to bottom, with their names in `named`."""
    axes.set_ylim(len(are_bold) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=True, axis="x", color=LIGHT, linewidth=0.6)
    axes.set_axisbelow(True)
    for tick, is_bold in zip(named.get_yticklabels(), are_bold, strict=True):
        tick.set_fontweight("bold" if is_bold else "normal")


def draw_scaling(panels: Sequence[ScalingPanel]) -> Figure:
    """Draw the gain over random weights against the number of pretraining participants, two panels per row. Dots are
    encoders, thin lines join those of a seed, diamonds are means of a share with their intervals."""
    n_columns = min(len(panels), 2)
    n_lines = (len(panels) + 1) // 2
    size, margins = (0.6 + 3.9 * n_columns, 0.5 + 2.9 * n_lines), (0.75, 0.25, 0.35, 0.6)
    figure, axes = start_panels(size, n_lines, n_columns, margins, wspace=0.35, hspace=0.5)
    for panel, one in zip(panels, axes.flat, strict=False):
        _draw_gains(one, panel)
    for one in axes.flat[len(panels) :]:
        one.set_visible(False)
    return figure


def _draw_gains(axes: Axes, panel: ScalingPanel) -> None:
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
    # Negligible differences must not fill the axis.
    low_end, high_end = axes.get_ylim()
    axes.set_ylim(min(low_end, -_LEAST_RANGE), max(high_end, _LEAST_RANGE))
    axes.set_xscale("log")
    ticks = sorted(set(panel.n_participants.tolist()))
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set(xlim=(ticks[0] / 1.2, ticks[-1] * 1.2), xlabel="pretraining participants")
    axes.set(ylabel=f"gain in {panel.label}", title=shorten_label(panel.title, 44))


def draw_map(points: Floats, shares: Sequence[float], colourings: Sequence[Colouring]) -> Figure:
    """Draw the points (n, 2) once per colouring, two panels per row, `shares` (2,) of variance in the axis labels."""
    n_lines = (len(colourings) + 1) // 2
    margins = (0.6, 1.4, 0.3, 0.55)
    figure, panels = start_panels((9.0, 0.5 + 3.4 * n_lines), n_lines, 2, margins, wspace=0.75, hspace=0.42)
    for axes, colouring in zip(panels.flat, colourings, strict=False):
        _draw_points(axes, points, colouring)
        axes.set_title(shorten_label(colouring.name, 36))
        axes.set(xlabel=f"first axis ({shares[0]:.0%} of variance)", ylabel=f"second axis ({shares[1]:.0%})")
    for axes in panels.flat[len(colourings) :]:
        axes.set_visible(False)
    return figure


def _draw_points(axes: Axes, points: Floats, colouring: Colouring) -> None:
    style: dict[str, Any] = {"s": 22, "linewidths": 0, "alpha": 0.85, "rasterized": len(points) > _MOST_VECTORS}
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
        # Legends omit labels that begin with an underscore.
        shown = f"{' ' if name.startswith('_') else ''}{shorten_label(name, 15)}" if i < _MOST_NAMED else None
        axes.scatter(
            points[own, 0], points[own, 1], color=COLOURS[i % len(COLOURS)], marker=marker, label=shown, **style
        )
    if len(names) > _MOST_NAMED:
        axes.scatter([], [], label=f"and {len(names) - _MOST_NAMED} more", s=0)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), handletextpad=0.2, borderaxespad=0.3)
