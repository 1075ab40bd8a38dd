"""Small inline SVG charts of the group page: scores with intervals, curves, gains.

Their colours are classes of ``group.css``, so that they follow dark mode; values appear on hover without a
script.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from bids_semantoks.records import Floats
from bids_semantoks.reports.figures import shorten_label

#: Estimate, lower and upper end.
Interval = tuple[float, float, float]

_LINE: Final = 26.0  # height of one line of a chart
_WIDTH: Final = 640.0
_LABELS: Final = 190.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """One line of a chart: a score with its interval."""

    name: str
    value: float
    low: float  # confidence interval
    high: float
    note: str  # text at the right margin
    is_encoder: bool  # the encoder, as opposed to a baseline


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One of two charts with common rows."""

    title: str
    label: str  # of the axis
    intervals: Sequence[Interval]
    reference: float  # dashed line
    whole: float = math.nan  # second line; NaN for none


def find_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Find round numbers between two limits, `most` at most."""
    step = 10.0 ** math.floor(math.log10(max(high - low, 1e-12) / most))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= most)
    return [number * step for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


class _Plot:
    """A rectangle (left, top, width, height) of a chart with linear axes, and the elements drawn into it."""

    def __init__(self, box: tuple[float, float, float, float], x: tuple[float, float], y: tuple[float, float]) -> None:
        self.box, self.x, self.y = box, x, y
        self.parts: list[Markup] = []

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Convert values to positions on the page."""
        left, top, width, height = self.box
        return (
            left + width * (x - self.x[0]) / (self.x[1] - self.x[0]),
            top + height * (self.y[1] - y) / (self.y[1] - self.y[0]),
        )

    def line(self, points: Iterable[tuple[float, float]], kind: str) -> None:
        """Draw a line through points, in a class of the style."""
        text = " ".join("{:.1f},{:.1f}".format(*self.place(*point)) for point in points)
        self.parts.append(Markup('<polyline class="{}" points="{}"/>').format(kind, text))

    def dot(self, x: float, y: float, kind: str, title: str = "") -> None:
        """Draw a dot, with a title under the pointer."""
        where = [f"{one:.1f}" for one in self.place(x, y)]
        named = Markup("<title>{}</title>").format(title) if title else ""
        self.parts.append(Markup('<circle class="{}" cx="{}" cy="{}" r="5">{}</circle>').format(kind, *where, named))

    def interval(self, interval: Interval, y: float, kind: str, title: str) -> None:
        """Draw an estimate with its interval; the title appears anywhere on the line."""
        value, low, high = interval
        if math.isnan(value):
            return
        if np.isfinite([low, high]).all():
            self.line([(low, y), (high, y)], f"reach {kind}")
        self.dot(value, y, kind, title)

    def write(self, x: float, y: float, text: str, kind: str) -> None:
        """Write text at a position of the page."""
        self.parts.append(Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>').format(kind, x, y, text))

    def axis(self, label: str, ticks: Sequence[tuple[float, str]] = ()) -> None:
        """Draw the axis below, with a grid; ticks are round numbers unless they are given."""
        left, top, width, height = self.box
        for value, text in ticks or [(one, f"{one:.6g}") for one in find_ticks(*self.x)]:
            self.line([(value, self.y[0]), (value, self.y[1])], "grid")
            self.write(self.place(value, 0)[0], top + height + 16, text, "tick middle")
        self.write(left + width / 2, top + height + 36, label, "label middle")

    def side(self, label: str) -> None:
        """Draw the axis at the left, with a grid."""
        left, top, _, height = self.box
        for value in find_ticks(*self.y):
            self.line([(self.x[0], value), (self.x[1], value)], "grid")
            self.write(left - 7, self.place(0, value)[1] + 4, f"{value:.6g}", "tick end")
        turn = Markup('<text class="label middle" transform="translate({:.1f},{:.1f}) rotate(-90)">{}</text>')
        self.parts.append(turn.format(left - 44, top + height / 2, label))


def _wrap(parts: Iterable[Markup], width: float, height: float, said: str) -> Markup:
    """Wrap elements as one chart with a text alternative."""
    template = Markup(
        '<svg class="chart" viewBox="0 0 {:.0f} {:.0f}" width="{:.0f}" role="img" aria-label="{}">{}</svg>'
    )
    return template.format(width, height, width, said, Markup("").join(parts))


def _find_limits(intervals: Iterable[Interval], *others: float) -> tuple[float, float]:
    values = np.array([*(one for interval in intervals for one in interval), *others])
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    pad = 0.04 * max(high - low, 1e-6)
    return low - pad, high + pad


def _describe(name: str, interval: Interval, note: str = "") -> str:
    value, low, high = interval
    reach = f" [{low:.2f}, {high:.2f}]" if np.isfinite([low, high]).all() else ""
    return f"{name}: {value:.2f}{reach}{f', {note}' if note and note != f'{value:.2f}' else ''}"


def build_models(bars: Sequence[Bar], *, label: str, chance: float, line: str = "chance") -> Markup:
    """Build the chart of scores with their intervals, one line each in the given order, with a line at `chance`, or
    what else it is called."""
    intervals = [(bar.value, bar.low, bar.high) for bar in bars]
    height = _LINE * len(bars)
    plot = _Plot((_LABELS, 8, _WIDTH - _LABELS - 90, height), _find_limits(intervals, chance), (len(bars), 0))
    plot.axis(f"{label} with 95 % interval (dashed: {line})")
    plot.line([(chance, 0), (chance, len(bars))], "reference")
    said = [_describe(bar.name, one, bar.note) for bar, one in zip(bars, intervals, strict=True)]
    for row, (bar, interval) in enumerate(zip(bars, intervals, strict=True)):
        kind = "encoder" if bar.is_encoder else "baseline"
        y = plot.place(0, row + 0.5)[1] + 4
        plot.write(_LABELS - 10, y, shorten_label(bar.name, 26), f"name end {kind}")
        plot.interval(interval, row + 0.5, kind, said[row])
        plot.write(_WIDTH - 84, y, shorten_label(bar.note, 15), "note")
    return _wrap(plot.parts, _WIDTH, height + 52, f"{label}, {line} {chance:.2f}. {'; '.join(said)}.")


def build_pair(names: Sequence[str], columns: Sequence[Column], *, encoder: str = "") -> Markup:
    """Build charts side by side with common rows; the row named `encoder` is highlighted."""
    height, gap = _LINE * len(names), 24.0
    width = (_WIDTH + 180 - _LABELS - gap * len(columns)) / len(columns)
    parts, said = [], []
    for number, column in enumerate(columns):
        left = _LABELS + number * (width + gap)
        limits = _find_limits(column.intervals, column.reference, column.whole)
        plot = _Plot((left, 26, width, height), limits, (len(names), 0))
        plot.axis(column.label)
        plot.write(left, 16, column.title, "title")
        plot.line([(column.reference, 0), (column.reference, len(names))], "reference")
        if not math.isnan(column.whole):
            plot.line([(column.whole, 0), (column.whole, len(names))], "whole")
        for row, (name, interval) in enumerate(zip(names, column.intervals, strict=True)):
            kind = "encoder" if name == encoder or (not encoder and number) else "baseline"
            said.append(_describe(f"{column.title}, {name}", interval))
            plot.interval(interval, row + 0.5, kind, said[-1])
            if not number:
                y = plot.place(0, row + 0.5)[1] + 4
                plot.write(_LABELS - 10, y, shorten_label(name, 26), f"name end {kind if encoder else 'baseline'}")
        parts += plot.parts
    return _wrap(parts, _WIDTH + 180, height + 70, f"{'; '.join(said)}.")


def build_roc(false: Sequence[float], hit: Sequence[float], name: str) -> Markup:
    """Build the ROC curve of one class from false and true positive rates, as steps."""
    plot = _Plot((64, 10, 270, 270), (0, 1), (0, 1))
    label = shorten_label(name, 26)
    plot.axis("false positive rate")
    plot.side(f"true positive rate ({label})")
    plot.line([(0, 0), (1, 1)], "reference")
    steps = [(0.0, 0.0)]
    for x, y in zip(false, hit, strict=True):
        steps += [(x, steps[-1][1]), (x, y)]
    plot.line(steps, "curve encoder")
    middle = float(np.interp(0.5, false, hit)) if len(false) > 1 else math.nan
    return _wrap(
        plot.parts,
        350,
        322,
        f"ROC curve: at a false positive rate of 0.5, the true positive rate of {label} is {middle:.2f}.",
    )


def build_calibration(
    predicted: Sequence[float], observed: Sequence[float], counts: Sequence[int], name: str
) -> Markup:
    """Build the calibration curve: the observed share of a class by its predicted probability."""
    plot = _Plot((64, 10, 270, 270), (0, 1), (0, 1))
    label = shorten_label(name, 26)
    plot.axis(f"predicted probability ({label})")
    plot.side("observed share")
    plot.line([(0, 0), (1, 1)], "reference")
    plot.line(zip(predicted, observed, strict=True), "curve encoder")
    said = []
    for x, y, count in zip(predicted, observed, counts, strict=True):
        said.append(f"predicted {x:.2f}, observed {y:.2f} of {count} predictions")
        plot.dot(x, y, "encoder", said[-1])
    return _wrap(plot.parts, 350, 322, f"Calibration: {'; '.join(said)}.")


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


def build_scaling(panel: ScalingPanel) -> Markup:
    """Build the chart of gains over random weights against the number of pretraining participants, logarithmic."""
    sizes = np.log10(panel.n_participants)
    limits = _find_limits([(panel.gains.min(), panel.gains.max(), 0.0)], *panel.shares[:, 1:].ravel(), -0.05, 0.05)
    plot = _Plot((70, 28, 290, 190), (float(sizes.min()) - 0.08, float(sizes.max()) + 0.08), limits)
    plot.write(70, 16, shorten_label(panel.title, 40), "title")
    ticks = sorted(set(panel.n_participants.tolist()))
    plot.axis("pretraining participants", [(math.log10(one), f"{one:g}") for one in ticks])
    plot.side(f"gain in {panel.label}")
    plot.line([(plot.x[0], 0), (plot.x[1], 0)], "reference")
    for seed in np.unique(panel.seeds):
        own = panel.seeds == seed
        plot.line(zip(sizes[own].tolist(), panel.gains[own].tolist(), strict=True), "thin")
        for x, y in zip(sizes[own].tolist(), panel.gains[own].tolist(), strict=True):
            plot.dot(x, y, "single", f"seed {seed:g}: {y:+.3f}")
    if np.isfinite([panel.slope, panel.intercept]).all():
        ends: Floats = np.array([sizes.min(), sizes.max()])
        plot.line(zip(ends.tolist(), (panel.intercept + panel.slope * ends).tolist(), strict=True), "curve baseline")
    said = []
    for size, mean, low, high in panel.shares.tolist():
        said.append(_describe(f"{size:g} participants", (mean, low, high)))
        if np.isfinite([low, high]).all():
            plot.line([(math.log10(size), low), (math.log10(size), high)], "reach encoder")
        plot.dot(math.log10(size), mean, "encoder", said[-1])
    return _wrap(plot.parts, 380, 270, f"{panel.title}, gain in {panel.label}. {'; '.join(said)}.")
