"""Figures of a run that need no script: heatmaps and bars with labels and text alternatives.

Lengths are in units of the SVG view box, about one pixel each.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from bids_semantoks.records import Bools, Floats
from bids_semantoks.reports.figures import shorten_label
from bids_semantoks.reports.run_data import (
    ABSENT,
    CIVIDIS_COLOURS,
    COVERAGE,
    GREYS,
    N_BINS,
    RED_BLUE,
    Palette,
    from_base64,
    to_base64,
)


def spread(positions: Sequence[float], *, gap: float, low: float, high: float) -> list[float]:
    """Move ascending label positions at least `gap` apart within [low, high], keeping their order."""
    placed: list[float] = []
    for position in positions:
        placed.append(max(position, placed[-1] + gap if placed else low))
    limit = high
    for i in range(len(placed) - 1, -1, -1):
        placed[i] = min(placed[i], limit)
        limit = placed[i] - gap
    return placed


PALETTES: Final = {"grey": GREYS, "redblue": RED_BLUE, "coverage": COVERAGE}  # palettes by the name that scripts know
_GAP: Final = 13.0  # between labels
_MOST_NAMED: Final = 24


@dataclass(frozen=True, kw_only=True, slots=True)
class Label:
    """The label of a network on an axis, shifted if labels would overlap."""

    text: str
    at: float  # middle of what is labelled
    place: float  # middle of the text


@dataclass(frozen=True, kw_only=True, slots=True)
class Heatmap:
    """An image with labels along its sides and a bar of colours."""

    title: str
    alt: str  # text alternative
    caption: str
    image: str  # base64 of a PNG
    size: tuple[int, int]  # width and height of the image on the page
    bar: str  # base64 of a PNG, from high to low
    ticks: tuple[str, str]  # of the bar: high, low
    measure: str  # what the colours mean
    left: Sequence[Label] = ()
    below: Sequence[Label] = ()
    edges: Sequence[float] = ()  # lines between networks, from the top
    is_square: bool = False  # the same networks in both directions
    script: Mapping[str, Any] = field(default_factory=dict)  # what a script needs to name values


def _place_networks(networks: Sequence[tuple[str, int]], n_parcels: int, length: float) -> dict[str, Any]:
    """Label networks, given with the position of their first parcel, along an axis of `length`, unless they are too
    many, and place the lines between them: ``left`` and ``edges`` of a heatmap."""
    starts, scale = [first for _, first in networks], length / max(n_parcels, 1)
    edges = [round(first * length / max(n_parcels, 1), 1) for first in starts[1:]]
    if len(networks) > _MOST_NAMED:
        return {"left": (), "edges": edges}
    middles = [(a + b) / 2 * scale for a, b in zip(starts, [*starts[1:], n_parcels], strict=True)]
    places = spread(middles, gap=_GAP, low=_GAP / 2, high=length - _GAP / 2)
    labels = [
        Label(text=shorten_label(name, 18), at=round(at, 1), place=round(place, 1))
        for (name, _), at, place in zip(networks, middles, places, strict=True)
    ]
    return {"left": labels, "edges": edges}


@functools.cache
def draw_bar(palette: Palette) -> str:
    """Draw the bar of a palette as base64 of a PNG one pixel wide, high values first."""
    levels = np.arange(len(palette.colours), 0, -1, dtype=np.uint8)[:, None]
    return to_base64(levels, palette.colours)


def draw_carpets(data: Mapping[str, Any], n_volumes: int, seconds: float, why_alone: str) -> list[Heatmap]:
    """Draw the carpets that a run has; `why_alone` explains why there is no carpet before denoising."""
    carpets, networks, n_parcels = data["carpets"], data["networks"], len(data["parcels"])
    is_alone, size, pictures = "before" not in carpets, (870, 230), []
    for when in ("after",) if is_alone else ("before", "after"):
        share = carpets["common"].get(when)
        said = "" if share is None else f" The mean over parcels explains {share:.0%} of the variance."
        title = "Signals" if is_alone else f"Signals {when} denoising"
        pictures.append(
            Heatmap(
                title=title,
                alt=f"{title}: {n_parcels} parcels in {len(networks)} networks over {n_volumes} volumes "
                f"({seconds:.0f} s), z-scored.{said}",
                caption=f"{why_alone if is_alone else ''}{said}".strip(),
                image=carpets[when],
                size=size,
                bar=draw_bar(GREYS),
                ticks=("2", "-2"),
                measure="z-score",
                script={"carpet": when},
                **_place_networks(networks, n_parcels, size[1]),
            )
        )
    return pictures


def draw_connectivity(data: Mapping[str, Any]) -> list[Heatmap]:
    """Draw the correlations of all parcels, and their means within and between networks."""
    found, networks, n_parcels = data["connectivity"], data["networks"], len(data["parcels"])
    means = np.array([[np.nan if value is None else value for value in row] for row in found["means"]], dtype=float)
    names = [name for name, _ in networks]
    words = _describe_extremes(means, names, within=True)
    median = "unknown" if found["median"] is None else f"{found['median']:.2f}"
    size = (420, 420)
    whole = Heatmap(
        title="Correlation matrix",
        alt=f"Correlation matrix of {n_parcels} parcels in {len(networks)} networks. The median is {median}. {words}",
        caption="Pearson correlations of the cleaned signals over kept volumes, ordered by network; absent parcels are "
        "blank. A median far from 0 suggests residual global noise.",
        image=found["image"],
        size=size,
        measure="r",
        **_place_networks(networks, n_parcels, size[1]),
        bar=draw_bar(RED_BLUE),
        ticks=("1", "-1"),
        is_square=True,
        script={"palette": "redblue", "what": "r", "rows": found["rows"]},
    )
    if not 1 < len(networks) <= _MOST_NAMED:
        return [whole]
    alt = f"Mean correlations within and between networks. {words}"
    caption = "Mean correlation within (diagonal) and between networks."
    return [whole, _draw_matrix(means, names, RED_BLUE, measure="r", title="Network means", alt=alt, caption=caption)]


def _draw_matrix(
    values: Floats, names: Sequence[str], palette: Palette, *, measure: str, title: str, alt: str, caption: str
) -> Heatmap:
    """Draw a small square matrix with its names."""
    side = 260
    step = side / max(len(names), 1)
    places = [round((i + 0.5) * step, 1) for i in range(len(names) if len(names) <= _MOST_NAMED else 0)]
    labels = [Label(text=shorten_label(names[i], 18), at=at, place=at) for i, at in enumerate(places)]
    return Heatmap(
        title=title,
        alt=alt,
        caption=caption,
        image=palette.draw(values),
        size=(side, side),
        bar=draw_bar(palette),
        ticks=(f"{palette.high:.2g}", f"{palette.low:.2g}"),
        measure=measure,
        left=labels,
        below=labels,
        script={
            "what": measure,
            "names": list(names),
            "values": [[None if np.isnan(x) else round(float(x), 3) for x in row] for row in values],
        },
    )


def draw_similarity(values: Sequence[Sequence[float]], names: Sequence[str], title: str, caption: str) -> Heatmap:
    """Draw cosine similarities between networks or windows, the colours from the least alike pair to 1."""
    matrix = np.array(values, dtype=np.float64)
    off = matrix[~np.eye(len(matrix), dtype=np.bool_)]
    own = Palette(colours=CIVIDIS_COLOURS, low=min(float(off.min()) if off.size else 0.0, 0.99), high=1.0)
    alt = f"{title}. {_describe_extremes(matrix, names, within=False)}"
    return _draw_matrix(matrix, names, own, measure="cosine", title=title, alt=alt, caption=caption)


def _describe_extremes(values: Floats, names: Sequence[str], *, within: bool) -> str:
    """Say which pair is highest and which lowest, the diagonal among them only if `within`."""
    masked = values.copy()
    if not within:
        np.fill_diagonal(masked, np.nan)
    if np.isnan(masked).all():
        return "No pairs are available."
    found = []
    for word, position in (("highest", np.nanargmax(masked)), ("lowest", np.nanargmin(masked))):
        i, j = divmod(int(position), len(names))
        where = f"within {names[i]}" if i == j else f"between {names[i]} and {names[j]}"
        found.append(f"{word} {where} ({masked[i, j]:.2f})")
    return f"On average {found[0]}, {found[1]}." if within else f"It is {found[0]}, {found[1]}."


@dataclass(frozen=True, kw_only=True, slots=True)
class Bars:
    """Bars as one outline over labels."""

    alt: str
    caption: str
    outline: str  # path of an SVG, of 870 x 120
    marks: str  # path of what is absent
    labels: Sequence[Label] = ()
    ticks: Sequence[str] = ()


def draw_histogram(data: Mapping[str, Any]) -> Bars:
    """Draw the distribution of correlations."""
    counts = np.array(data["connectivity"]["counts"], dtype=np.float64)
    median = data["connectivity"]["median"]
    middle = "" if median is None else f"M{(median + 1) * 435:.1f},0V120"
    words = "no pairs are available" if median is None else f"half of the pairs are below {median:.2f}"
    return Bars(
        alt=f"Distribution of the correlations between parcels from -1 to 1: {words}.",
        caption=f"Distribution of all pairs{'' if median is None else f'; the line is the median, {median:.2f}'}.",
        outline=_outline(counts / max(counts.max(), 1), 870 / N_BINS),
        marks=middle,
        ticks=("-1", "0", "1"),
    )


def draw_coverage(data: Mapping[str, Any], coverage: Floats, present: Bools) -> Bars:
    """Draw the coverage of each parcel (P,), ordered as in `data`, absent parcels as marks."""
    networks, n_parcels = data["networks"], coverage.size
    step = 870 / max(n_parcels, 1)
    shown = np.where(present, np.nan_to_num(coverage, nan=0.0), 0.0)
    absent = np.flatnonzero(~present)
    if np.isnan(coverage).all():
        words = "Coverage is unknown"
    else:
        ends = [*(first for _, first in networks[1:]), n_parcels]
        means = [float(np.nan_to_num(coverage[a:b]).mean()) for (_, a), b in zip(networks, ends, strict=True)]
        lowest = int(np.argmin(means))
        words = f"Mean coverage {np.nanmean(coverage):.2f}, lowest in {networks[lowest][0]} ({means[lowest]:.2f})"
    return Bars(
        alt=f"{words}; {absent.size} of {n_parcels} parcels are absent.",
        caption=f"Share of each parcel that has data, by network. {words}; {absent.size} of {n_parcels} parcels are "
        "absent (orange).",
        outline=_outline(shown, step),
        marks="".join(f"M{(p + 0.5) * step:.1f},120V106" for p in absent),
        labels=_place_networks(networks, n_parcels, 870.0)["left"],
        ticks=("0", "1"),
    )


def _outline(heights: Floats, step: float) -> str:
    """Draw heights in [0, 1] as the path of a filled outline, 120 high."""
    at = [f"V{120 * (1 - height):.1f}H{(i + 1) * step:.1f}" for i, height in enumerate(heights)]
    return f"M0,120{''.join(at)}V120Z"


def describe_slices(data: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the slices of a run with their text alternative; None if there are none."""
    slices = data.get("slices")
    if not slices:
        return None
    image = from_base64(slices["image"])
    words = "some parcels are absent (orange)" if (image == ABSENT).any() else "no visible parcel is absent"
    return {
        **slices,
        "bar": draw_bar(COVERAGE),
        "alt": f"Sagittal, coronal and axial slices of the atlas, coloured by coverage; {words}.",
    }
