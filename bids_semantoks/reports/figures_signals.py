"""Signal figures of a run over time: carpet plot and motion.

Shape letters: T volumes, P parcels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.reports.figures import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    add_colour_bar,
    build_colours,
    build_margins,
    describe_time,
    draw_histogram,
    start_figure,
    zscore_rows,
)
from bids_semantoks.reports.figures_networks import NetworkOrder, mark_networks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MAX_COLUMNS = 600


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Volumes:
    """Kept volumes and head motion of a run."""

    kept: NDArray[np.bool_]  # (T,) False for dummy and scrubbed volumes
    n_dummy: int  # leading dummy volumes, not kept
    motion: NDArray[np.float64]  # (T,) framewise displacement in mm; NaN where unknown
    threshold: float | None  # scrubbing threshold in mm
    repetition_time: float  # seconds

    @property
    def end(self) -> float:
        """Duration of the run in seconds."""
        return self.kept.size * self.repetition_time

    @property
    def times(self) -> NDArray[np.float64]:
        """Mid-time of each volume in seconds, (T,)."""
        return np.asarray((np.arange(self.kept.size) + 0.5) * self.repetition_time, dtype=np.float64)


def mark_dropped(axes: Axes, volumes: Volumes) -> None:
    """Shade dummy volumes in grey and scrubbed volumes in orange; the x axis is in seconds."""
    step = volumes.repetition_time
    if volumes.n_dummy:
        axes.axvspan(0, volumes.n_dummy * step, color=GREY, alpha=0.35, linewidth=0)
    scrubbed = ~volumes.kept
    scrubbed[: volumes.n_dummy] = False
    edges = np.flatnonzero(np.diff(np.concatenate([[0], scrubbed.astype(np.int8), [0]])))
    for start, end in edges.reshape(-1, 2):
        axes.axvspan(float(start) * step, float(end) * step, color=ORANGE, alpha=0.35, linewidth=0)


def compute_dvars(values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Compute DVARS over parcels, the RMS change from the previous volume: (T, P) -> (T,), in input units.

    NaN for the first volume and where either volume is dropped. Source, there over voxels: Power et al.
    (2012), doi:10.1016/j.neuroimage.2011.10.018.
    """
    present = ~np.isnan(values).all(axis=0)
    change = np.diff(values[:, present].astype(np.float64), axis=0)
    dvars = np.full(values.shape[0], np.nan)
    dvars[1:] = np.sqrt((change**2).mean(axis=1))
    return dvars


def compute_global(values: NDArray[np.floating[Any]], n_voxels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Average the parcels, weighted by voxel counts: (T, P), (P,) -> (T,); NaN for dropped volumes.

    Weights are equal where the voxel count of any parcel is unknown (0).
    """
    present = ~np.isnan(values).all(axis=0)
    weights = n_voxels[present].astype(np.float64)
    if not weights.size or weights.min() <= 0:
        weights = np.ones(int(present.sum()))
    mean: NDArray[np.float64] = values[:, present].astype(np.float64) @ (weights / weights.sum())
    return mean


def draw_carpet(
    before: NDArray[np.float32],
    after: NDArray[np.float32],
    volumes: Volumes,
    networks: NetworkOrder,
    n_voxels: NDArray[np.int64],
) -> Figure:
    """Draw carpet plots before and after denoising, both (T, P), under traces of FD, DVARS and the global signal.

    `n_voxels` (P,) weights the global signal.
    """
    figure = start_figure(10, 8.2)
    margins = build_margins(figure, left=1.25, right=0.85, top=0.15, bottom=0.5)
    rows = figure.subplots(
        5, 1, sharex=True, gridspec_kw={**margins, "height_ratios": [0.75, 0.75, 0.75, 3, 3], "hspace": 0.25}
    )
    times = volumes.times
    _draw_trace(rows[0], volumes)
    for axes, name, compute in (
        (rows[1], "DVARS", compute_dvars),
        (rows[2], "global\nsignal", lambda x: (values := compute_global(x, n_voxels)) - np.nanmean(values)),
    ):
        trace = compute(before)
        axes.plot(times, trace, color=GREY, label="before denoising")
        axes.plot(times, compute(after), color=BLUE, label="after")
        _fit_to_kept(axes, trace[volumes.kept])
        axes.set_ylabel(name, rotation=0, ha="right", va="center")
        mark_dropped(axes, volumes)
    rows[1].legend(loc="lower right", bbox_to_anchor=(1, 0.9), ncols=2, borderaxespad=0)
    step = -(-before.shape[0] // _MAX_COLUMNS)
    steady = before.copy()
    # Dummy volumes are so bright that they would hide everything else.
    steady[: volumes.n_dummy] = np.nan
    for axes, title, values in ((rows[3], "before denoising", steady), (rows[4], "after denoising", after)):
        scores = zscore_rows(values)[networks.order]
        image = axes.imshow(
            _thin(scores, step),
            aspect="auto",
            cmap=build_colours("gray"),
            vmin=-2,
            vmax=2,
            interpolation="none",
            extent=(0, volumes.end, scores.shape[0] - 0.5, -0.5),
        )
        axes.set_title(f"{scores.shape[0]} parcels {title}")
        mark_networks(axes, networks, span=2.4)
        add_colour_bar(image, axes, "z-score", ticks=(-2, 0, 2))
    describe_time(rows[4], volumes.end)
    return figure


def _fit_to_kept(axes: Axes, values: NDArray[np.float64]) -> None:
    """Fit the y limits to the kept volumes: dummy volumes may be ten times as bright."""
    values = values[~np.isnan(values)]
    if values.size and values.max() > values.min():
        margin = 0.08 * (values.max() - values.min())
        axes.set_ylim(min(0.0, values.min() - margin), max(0.0, values.max() + margin))


def _thin(scores: NDArray[np.float64], step: int) -> NDArray[np.float64]:
    """Average groups of `step` volumes, ignoring NaN, to fit the width of a picture: (P, T) -> (P, T // step)."""
    if step == 1:
        return scores
    n = scores.shape[1] // step * step
    parts = scores[:, :n].reshape(scores.shape[0], -1, step)
    there = ~np.isnan(parts)
    total = np.where(there, parts, 0).sum(axis=2)
    count = there.sum(axis=2)
    mean: NDArray[np.float64] = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    return mean


def _draw_trace(axes: Axes, volumes: Volumes) -> None:
    axes.set_ylabel("FD (mm)", rotation=0, ha="right", va="center")
    mark_dropped(axes, volumes)
    if np.isnan(volumes.motion).all():
        axes.text(0.5, 0.5, "framewise displacement is not known", transform=axes.transAxes, ha="center", va="center")
        axes.set_yticks([])
        return
    axes.plot(volumes.times, volumes.motion, color=INK)
    top = float(np.nanmax(volumes.motion))
    if volumes.threshold is not None:
        axes.axhline(volumes.threshold, color=ORANGE, linestyle="--", linewidth=0.8)
        top = max(top, volumes.threshold)
    axes.set_ylim(0, max(top * 1.1, 0.5))


def draw_motion(volumes: Volumes) -> Figure:
    """Draw framewise displacement over time, with dropped volumes shaded, and its distribution."""
    from matplotlib.patches import Patch  # noqa: PLC0415 - loading it takes a third of a second

    figure = start_figure(10, 2.4)
    margins = build_margins(figure, left=0.6, right=0.15, top=0.3, bottom=0.5)
    left, right = figure.subplots(1, 2, gridspec_kw={**margins, "width_ratios": [4, 1], "wspace": 0.2})
    _draw_trace(left, volumes)
    describe_time(left, volumes.end)
    left.set_ylabel("FD (mm)", rotation=90, ha="center", va="bottom")
    n_scrubbed = int((~volumes.kept).sum()) - volumes.n_dummy
    dummy = Patch(color=GREY, alpha=0.35, label=f"dummy volumes: {volumes.n_dummy}")
    scrubbed = Patch(color=ORANGE, alpha=0.35, label=f"scrubbed volumes: {n_scrubbed}")
    left.legend(handles=[dummy, scrubbed], loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0)
    known = volumes.motion[~np.isnan(volumes.motion)]
    if known.size:
        # The bulk lies below half a millimetre; one jump must not squeeze it into one bar.
        top = max(0.5, float(np.quantile(known, 0.99)) * 1.2)
        draw_histogram(right, np.clip(known, 0, top), bins=24, low=0, high=top)
        right.axvline(float(np.median(known)), color=BLUE)
        right.set_title(f"median {np.median(known):.2f} mm", color=BLUE)
        right.set_xlim(0, top)
    right.set_xlabel("FD (mm)")
    right.set_ylabel("volumes")
    return figure
