"""Charts of the group page: scores with intervals, curves and gains as small inline SVG, and marks of participants.

Colours of the SVG are classes of ``group.css``, so that they follow dark mode; values appear on hover without a script.
Participants are data for a script that draws them on a canvas, and an image of fixed size for readers without scripts:
the page size does not grow with their number.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from markupsafe import Markup

from bids_semantoks.records import Floats, Indices
from bids_semantoks.reports.figures import shorten_label
from bids_semantoks.reports.run_data import to_base64

Interval = tuple[float, float, float]  # estimate, lower and upper end
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

    def name(self, row: int, name: str, kind: str) -> None:
        """Write the name of a row at the left."""
        self.write(_LABELS - 10, self.place(0, row + 0.5)[1] + 4, shorten_label(name, 26), f"name end {kind}")

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
    height, said = _LINE * len(bars), []
    plot = _Plot((_LABELS, 8, _WIDTH - _LABELS - 90, height), _find_limits(intervals, chance), (len(bars), 0))
    plot.axis(f"{label} with 95 % interval (dashed: {line})")
    plot.line([(chance, 0), (chance, len(bars))], "reference")
    for row, (bar, interval) in enumerate(zip(bars, intervals, strict=True)):
        kind = "encoder" if bar.is_encoder else "baseline"
        said.append(_describe(bar.name, interval, bar.note))
        plot.name(row, bar.name, kind)
        plot.interval(interval, row + 0.5, kind, said[-1])
        plot.write(_WIDTH - 84, plot.place(0, row + 0.5)[1] + 4, shorten_label(bar.note, 15), "note")
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
                plot.name(row, name, kind if encoder else "baseline")
        parts += plot.parts
    return _wrap(parts, _WIDTH + 180, height + 70, f"{'; '.join(said)}.")


def _start_curve(x: str, y: str) -> _Plot:
    """Start a square plot from 0 to 1 on both axes, with its diagonal."""
    plot = _Plot((64, 10, 270, 270), (0, 1), (0, 1))
    plot.axis(x)
    plot.side(y)
    plot.line([(0, 0), (1, 1)], "reference")
    return plot


def build_roc(false: Sequence[float], hit: Sequence[float], name: str) -> Markup:
    """Build the ROC curve of one class from false and true positive rates, as steps."""
    label = shorten_label(name, 26)
    plot = _start_curve("false positive rate", f"true positive rate ({label})")
    steps = [(0.0, 0.0)]
    for x, y in zip(false, hit, strict=True):
        steps += [(x, steps[-1][1]), (x, y)]
    plot.line(steps, "curve encoder")
    middle = float(np.interp(0.5, false, hit)) if len(false) > 1 else math.nan
    said = f"ROC curve: at a false positive rate of 0.5, the true positive rate of {label} is {middle:.2f}."
    return _wrap(plot.parts, 350, 322, said)


def build_calibration(
    predicted: Sequence[float], observed: Sequence[float], counts: Sequence[int], name: str
) -> Markup:
    """Build the calibration curve: the observed share of a class by its predicted probability."""
    plot = _start_curve(f"predicted probability ({shorten_label(name, 26)})", "observed share")
    plot.line(zip(predicted, observed, strict=True), "curve encoder")
    said = []
    for x, y, count in zip(predicted, observed, counts, strict=True):
        said.append(f"predicted {x:.2f}, observed {y:.2f} of {count} predictions")
        plot.dot(x, y, "encoder", said[-1])
    return _wrap(plot.parts, 350, 322, f"Calibration: {'; '.join(said)}.")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ScalingPanel:
    """Encoders probed on one phenotype, (n,), and means of those pretrained on each share of the data."""

    title: str
    label: str  # metric of the gain
    n_participants: Floats
    gains: Floats
    seeds: Floats
    shares: Floats  # (s, 4) participants, mean gain and its interval; NaN for no interval
    intercept: float  # of the line over log10(participants); NaN for none
    slope: float  # of that line


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


#: Maximum number of marks per chart and page; beyond, a random subset is drawn, which the page states.
_MOST_MARKS: Final = 5000
_MOST_ON_PAGE: Final = 60_000
_MOST_COLOURINGS: Final = 12  # variables to colour the map by
_SHAPE: Final = (300, 420)  # rows and columns of the picture
_STEPS: Final = 1000  # positions along an axis


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Colouring:
    """A variable that colours the points."""

    name: str
    labels: tuple[str | None, ...]  # (n,) None where missing
    numbers: Floats | None  # (n,) for quantities; None for categories


@dataclass(frozen=True, kw_only=True, slots=True)
class Scatter:
    """A chart with one mark per participant."""

    picture: Markup  # for readers without scripts
    data: dict[str, Any]  # for the script
    note: str  # whether only a subset is shown; empty if all are


def _find_range(values: Floats) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    pad = 0.04 * max(high - low, 1e-9 * max(abs(high), 1.0))
    return low - pad, high + pad


def _draw_density(places: Floats, *, said: str, has_diagonal: bool = False) -> Markup:
    """Draw points (n, 2) in 0..1 as an image of fixed size: a mark of 3 by 3 pixels each, darker where several overlap;
    `said` is the text alternative."""
    rows, columns = _SHAPE
    counts = np.zeros(_SHAPE)
    x, y = places.T
    i, j = (1 + (1 - y) * (rows - 3)).astype(np.int64), (1 + x * (columns - 3)).astype(np.int64)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            np.add.at(counts, (i + down, j + right), 1)
    image = np.minimum(counts, 3).astype(np.uint8)
    if has_diagonal:
        steps = np.arange(columns - 2)
        line = (rows - 2 - steps * (rows - 3) / (columns - 3)).astype(np.int64), steps + 1
        image[line] = np.where(image[line] == 0, 4, image[line])
    source = f"data:image/png;base64,{to_base64(image, ('e08a4a', 'd55e00', '9c4500', '8a8f98'))}"
    return Markup('<img class="density" alt="{}" src="{}" width="{}" height="{}">').format(said, source, columns, rows)


def build_predictions(
    truth: Floats, predicted: Floats, people: Sequence[str], *, name: str, n_charts: int = 1, how: str = "out of fold"
) -> Scatter:
    """Build the chart of predicted against true values, both (n,), with names for the pointer and `how` they were
    predicted."""
    limits = _find_range(np.concatenate([truth, predicted]))
    r = float(np.corrcoef(truth, predicted)[0, 1]) if truth.std() * predicted.std() > 0 else math.nan
    said = f"Predicted against true {name} of {len(truth)}, both from {limits[0]:.4g} to {limits[1]:.4g}"
    said += "." if math.isnan(r) else f"; correlation over all test folds {r:.2f}."
    labels = [f"true {name}", f"predicted {name}, {how}"]
    points = np.stack([truth, predicted], axis=1)
    chart, _ = _build_scatter(points, (limits, limits), people, n_charts, labels=labels, said=said, has_diagonal=True)
    return chart


def _build_scatter(
    points: Floats,
    limits: Sequence[tuple[float, float]],
    people: Sequence[str],
    n_charts: int,
    *,
    labels: list[str],
    said: str,
    has_diagonal: bool = False,
) -> tuple[Scatter, Indices]:
    """Build the chart of points (n, 2) between limits of both axes, and list the rows that are drawn as marks."""
    most = max(min(_MOST_MARKS, _MOST_ON_PAGE // max(n_charts, 1)), 100)
    shown = np.arange(len(points))
    if len(points) > most:
        # Always the same ones.
        shown = np.sort(np.random.default_rng(0).choice(len(points), most, replace=False))
    # Positions as shares of both axes; the script gets integers from 0 to 1000.
    places = np.stack([(points[:, i] - low) / (high - low) for i, (low, high) in enumerate(limits)], axis=1)
    data: dict[str, Any] = {}
    for i, (axis, (low, high)) in enumerate(zip("xy", limits, strict=True)):
        data[axis] = {"low": low, "high": high, "at": np.rint(places[shown, i] * _STEPS).astype(int).tolist()}
    data |= {"names": [people[row] for row in shown.tolist()], "labels": labels}
    if has_diagonal:
        data["diagonal"] = True
    note = "" if len(shown) == len(points) else f"Showing a random subset of {len(shown):,} of {len(points):,}."
    return Scatter(picture=_draw_density(places, said=said, has_diagonal=has_diagonal), data=data, note=note), shown


def build_map(
    points: Floats,
    people: Sequence[str],
    *,
    shares: Sequence[float],
    colourings: Sequence[Colouring],
    n_charts: int = 1,
) -> Scatter:
    """Build the chart of points (n, 2), coloured by one variable at a time; `shares` (2,) of variance name the axes."""
    said = f"{len(points)} points on two axes with {shares[0]:.0%} and {shares[1]:.0%} of the variance."
    labels = [f"first axis ({shares[0]:.0%} of variance)", f"second axis ({shares[1]:.0%})"]
    limits = (_find_range(points[:, 0]), _find_range(points[:, 1]))
    chart, shown = _build_scatter(points, limits, people, n_charts, labels=labels, said=said)
    chart.data["colourings"] = [_pack_colouring(one, shown) for one in colourings[:_MOST_COLOURINGS]]
    return chart


def _pack_colouring(one: Colouring, shown: Indices) -> dict[str, Any]:
    if one.numbers is not None:
        numbers = [None if math.isnan(value) else float(f"{value:.3g}") for value in one.numbers[shown].tolist()]
        return {"name": one.name, "numbers": numbers}
    levels = sorted({label for label in one.labels if label is not None})
    places = {level: place for place, level in enumerate(levels)}
    codes = [-1 if one.labels[row] is None else places[one.labels[row] or ""] for row in shown]
    return {"name": one.name, "levels": levels, "codes": codes}


def name_people(labels: Iterable[str], sessions: Iterable[str]) -> list[str]:
    """Name participants for the pointer: label, and session if there is one."""
    return [f"{label} {session}".strip() for label, session in zip(labels, sessions, strict=True)]
