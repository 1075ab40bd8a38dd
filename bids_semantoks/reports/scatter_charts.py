"""Charts with one mark per participant: data for the script of the group page, which draws them on a canvas, and an
image of fixed size for readers without scripts. The page size does not grow with the number of participants."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from bids_semantoks.records import Floats
from bids_semantoks.reports.palette_images import to_base64

#: Maximum number of marks per chart and page; beyond, a random subset is drawn, which the page states.
_MOST_MARKS: Final = 5000
_MOST_ON_PAGE: Final = 60_000

#: Variables to colour the map by.
_MOST_COLOURINGS: Final = 12

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


def choose_marks(n: int, n_charts: int) -> NDArray[np.int64]:
    """Choose the rows that are drawn as marks, always the same ones."""
    most = max(min(_MOST_MARKS, _MOST_ON_PAGE // max(n_charts, 1)), 100)
    return np.arange(n) if n <= most else np.sort(np.random.default_rng(0).choice(n, most, replace=False))


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
) -> tuple[Scatter, NDArray[np.int64]]:
    """Build the chart of points (n, 2) between limits of both axes, and list the rows that are drawn as marks."""
    shown = choose_marks(len(points), n_charts)
    # Positions as shares of both axes; the script gets integers from 0 to 1000.
    places = np.stack([(points[:, i] - low) / (high - low) for i, (low, high) in enumerate(limits)], axis=1)
    data: dict[str, Any] = {}
    for i, (axis, (low, high)) in enumerate(zip("xy", limits, strict=True)):
        data[axis] = {"low": low, "high": high, "at": np.rint(places[shown, i] * _STEPS).astype(int).tolist()}
    data |= {"names": [people[row] for row in shown], "labels": labels}
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


def _pack_colouring(one: Colouring, shown: NDArray[np.int64]) -> dict[str, Any]:
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
