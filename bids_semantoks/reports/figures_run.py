"""Publication figures of a run (matplotlib) from its report data: carpet, connectivity, coverage, tokens."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bids_semantoks.outputs.connectivity import read_coverage
from bids_semantoks.outputs.store import OutputPaths, find_encoders, read_sidecar
from bids_semantoks.records import Floats
from bids_semantoks.reports.figures import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    add_colour_bar,
    build_colours,
    build_figure_path,
    shorten_label,
    start_panels,
    write_figure,
)
from bids_semantoks.reports.pictures import spread
from bids_semantoks.reports.run_data import COVERAGE, GREYS, N_BINS, RED_BLUE, from_base64, read_run_data

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_NAMED: Final = 20
_TRACES: Final = (("fd", "FD (mm)"), ("dvars", "DVARS"), ("global", "global\nsignal"))


def draw_figures(
    paths: OutputPaths, sidecar: dict[str, Any], atlas: tuple[Sequence[str], Sequence[str]], kind: str
) -> None:
    """Draw the figures of a run into ``sub-*/figures/``; `sidecar` is that of its signals, `atlas` (parcels, networks),
    `kind` svg or png. A figure that fails is only logged."""
    data = read_run_data(paths, sidecar, atlas)
    draws: dict[str, Callable[[], Figure]] = {
        "carpet": lambda: draw_carpet(data, sidecar),
        "connectivity": lambda: draw_connectivity(data),
        "coverage": lambda: draw_coverage(data, paths),
    }
    for model in sorted(find_encoders(paths)):
        embedding = read_sidecar(paths.file(f"desc-{model}_embedding.json")) or {}
        if similarity := embedding.get("TokenSimilarity"):
            draws[f"{model}Tokens"] = functools.partial(draw_tokens, similarity, embedding["TokenRows"])
    for word, draw in draws.items():
        write_figure(build_figure_path(paths.out_dir, paths.stem, word, kind), draw)


def draw_carpet(data: Mapping[str, Any], sidecar: Mapping[str, Any]) -> Figure:
    """Draw the traces and carpets that a run has over one axis of time, dropped volumes shaded."""
    step, end = sidecar["RepetitionTime"], sidecar["VolumesTotal"] * sidecar["RepetitionTime"]
    traces, carpets = data["traces"], data["carpets"]
    lines = [(key, name) for key, name in _TRACES if any(found.startswith(key) for found in traces)]
    images = [when for when in ("before", "after") if when in carpets]
    heights = [0.75] * len(lines) + [3.0] * len(images)
    size, margins = (10, 0.9 + 0.85 * sum(heights)), (1.3, 0.95, 0.25, 0.5)
    figure, panels = start_panels(size, len(heights), 1, margins, share_x=True, height_ratios=heights, hspace=0.25)
    rows = panels[:, 0]
    times = (np.arange(sidecar["VolumesTotal"]) + 0.5) * step
    for axes, (key, name) in zip(rows, lines, strict=False):
        _draw_traces(axes, traces, key, times, sidecar["VolumesDropped"]["Dummy"]["Count"])
        axes.set_ylabel(name, rotation=0, ha="right", va="center")
        _mark_dropped(axes, sidecar)
    for axes, when in zip(rows[len(lines) :], images, strict=True):
        scores = GREYS.restore(from_base64(carpets[when]))
        across = scores.shape[1] * carpets["step"] * step
        extent = (0, across, len(data["parcels"]) - 0.5, -0.5)
        image = axes.imshow(
            scores, aspect="auto", cmap=build_colours("gray"), vmin=-2, vmax=2, interpolation="none", extent=extent
        )
        axes.set_title(f"signals {when} denoising" if len(images) > 1 else "signals")
        _mark_networks(axes, data["networks"], len(data["parcels"]), span=2.2)
        add_colour_bar(image, axes, "z-score", ticks=(-2, 0, 2))
    rows[-1].set_xlim(0, end)
    rows[-1].set_xlabel("time from the first volume (s)")
    return figure


def _draw_traces(
    axes: Axes, traces: Mapping[str, Sequence[float | None]], key: str, times: Floats, n_dummy: int
) -> None:
    """Draw the available traces of a measure; after denoising on a separate axis, which has a much smaller range."""
    names = [name for name in (key, f"{key}_filtered", f"{key}_before", f"{key}_after") if name in traces]
    words = [name.removeprefix(f"{key}_").replace(key, "measured") for name in names]
    for number, name in enumerate(names):
        own = axes.twinx() if number and name.endswith("_after") else axes
        values = np.array(traces[name], dtype=float)
        own.plot(times, values, color=BLUE if number else INK)
        # Dummy volumes may be ten times as bright.
        low, high = np.nanmin(values[n_dummy:]), np.nanmax(values[n_dummy:])
        if own is not axes or not number:
            own.set_ylim(0 if key != "global" else low - 0.05 * (high - low), high + 0.05 * (high - low) or 1)
        if own is not axes:
            own.tick_params(axis="y", colors=BLUE)
    if len(names) > 1:
        axes.set_title(f"{words[0]} (dark), {words[-1]} (blue)", fontsize=8)


def _mark_dropped(axes: Axes, sidecar: Mapping[str, Any]) -> None:
    """Shade dummy volumes in grey and scrubbed volumes in orange; the x axis is in seconds."""
    step, dropped = sidecar["RepetitionTime"], sidecar["VolumesDropped"]
    if dropped["Dummy"]["Count"]:
        axes.axvspan(0, dropped["Dummy"]["Count"] * step, color=GREY, alpha=0.35, linewidth=0)
    for volume in dropped["Scrubbed"]["Volumes"]:
        axes.axvspan(volume * step, (volume + 1) * step, color=ORANGE, alpha=0.35, linewidth=0)


def _mark_networks(
    axes: Axes, networks: Sequence[tuple[str, int]], n_parcels: int, *, span: float, vertical: bool = True
) -> None:
    """Label the networks along an axis of parcels (unit spacing, first at -0.5), `span` inches long."""
    edges = [first for _, first in networks] + [n_parcels]
    axis = axes.yaxis if vertical else axes.xaxis
    axis.set_ticks([])
    if len(networks) > _MOST_NAMED:
        return
    centres = [(a + b) / 2 - 0.5 for a, b in itertools.pairwise(edges)]
    places = spread(centres, gap=n_parcels * 0.15 / span, low=-0.5, high=n_parcels - 0.5)
    for (name, _), at, place in zip(networks, centres, places, strict=True):
        ends = [(-0.005, at), (-0.03, place)]
        (x0, y0), (x1, y1) = ends if vertical else [end[::-1] for end in ends]
        across = axes.get_yaxis_transform() if vertical else axes.get_xaxis_transform()
        axes.plot([x0, x1], [y0, y1], color=GREY, linewidth=0.5, transform=across, clip_on=False)
        how: dict[str, Any] = {"va": "center"} if vertical else {"va": "top", "rotation": 60, "rotation_mode": "anchor"}
        axes.text(x1, y1, shorten_label(name, 28), transform=across, ha="right", fontsize=8, **how)


def draw_connectivity(data: Mapping[str, Any]) -> Figure:
    """Draw the correlation matrix, ordered by network, and the distribution of its values."""
    found, n_parcels = data["connectivity"], len(data["parcels"])
    margins = (1.2, 0.15, 0.3, 0.5)
    figure, ((left, right),) = start_panels((10, 5.4), 1, 2, margins, width_ratios=[1.9, 1], wspace=0.36)
    values = RED_BLUE.restore(from_base64(found["image"]))
    edge = n_parcels - 0.5
    image = left.imshow(
        values, cmap=build_colours("RdBu_r"), vmin=-1, vmax=1, interpolation="none", extent=(-0.5, edge, edge, -0.5)
    )
    _mark_networks(left, data["networks"], n_parcels, span=4.2)
    lines = [first - 0.5 for _, first in data["networks"][1:]]
    for draw in (left.hlines, left.vlines):
        draw(lines, -0.5, edge, colors=INK, linewidths=0.4)
    left.set_xticks([])
    add_colour_bar(image, left, "Pearson correlation", ticks=(-1, 0, 1))
    right.stairs(found["counts"], np.linspace(-1, 1, N_BINS + 1), fill=True, color=INK)
    if found["median"] is not None:
        right.axvline(found["median"], color=BLUE)
        right.set_title(f"median {found['median']:.2f}", color=BLUE)
    right.set_xlabel("correlation between parcels")
    right.set_ylabel("pairs")
    return figure


def draw_coverage(data: Mapping[str, Any], paths: OutputPaths) -> Figure:
    """Draw the coverage of each parcel by network, absent parcels marked, under slices of the atlas if known."""
    slices = data["slices"]
    height, above = (4.1, 2.1) if slices else (2.4, 0.3)
    figure, ((axes,),) = start_panels((10, height), 1, 1, (0.6, 0.15, above, 0.85))
    if slices:
        top = figure.add_axes((0.015, 0.55, 0.885, 0.4))
        image = from_base64(slices["image"])
        levels = np.where(image > len(COVERAGE.colours), 0, image)
        shown = top.imshow(
            COVERAGE.restore(levels.astype(np.uint8)),
            cmap=build_colours("cividis"),
            vmin=0,
            vmax=1,
            interpolation="none",
        )
        top.set_axis_off()
        add_colour_bar(shown, top, "coverage", ticks=(0, 0.5, 1))
    coverage, there, _ = read_coverage(paths.coverage, data["parcels"])
    known = np.nan_to_num(coverage)
    axes.stairs(np.where(there, known, 0), np.arange(known.size + 1) - 0.5, fill=True, color=BLUE)
    axes.plot(np.flatnonzero(~there), np.full((~there).sum(), 0.04), "x", color=ORANGE, markersize=5)
    axes.set_ylim(0, 1.02)
    axes.set_xlim(-0.5, known.size - 0.5)
    axes.set_ylabel("coverage")
    axes.set_title(f"share of each parcel that has data; absent (orange): {int((~there).sum())}")
    _mark_networks(axes, data["networks"], known.size, span=8.5, vertical=False)
    return figure


def draw_tokens(similarity: Mapping[str, Sequence[Sequence[float]]], rows: Sequence[str]) -> Figure:
    """Draw the similarities of network tokens and of window tokens."""
    figure, (panels,) = start_panels((10, 4.4), 1, len(similarity), (1.2, 0.9, 0.3, 0.9), wspace=0.5)
    for axes, (what, values) in zip(panels, sorted(similarity.items()), strict=True):
        matrix = np.array(values, dtype=float)
        names = [shorten_label(name, 28) for name in rows] if what == "Networks" else range(1, len(matrix) + 1)
        off = matrix[~np.eye(len(matrix), dtype=np.bool_)]
        low = min(float(off.min()) if off.size else 0.0, 0.99)
        image = axes.imshow(matrix, cmap=build_colours("cividis"), vmin=low, vmax=1, interpolation="none")
        if len(matrix) <= _MOST_NAMED:
            axes.set_xticks(range(len(matrix)), names, rotation=60, ha="right", rotation_mode="anchor")
            axes.set_yticks(range(len(matrix)), names)
        axes.set_title(f"tokens of {what.lower()}")
        add_colour_bar(image, axes, "cosine similarity")
    return figure
