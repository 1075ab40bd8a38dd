"""Embedding figures of a run: windows on the time line, token similarity, stability.

Shape letters: B windows, N networks, K patches, D width, R runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.reports.figures import (
    BLUE,
    GREY,
    INK,
    LIGHT,
    add_colour_bar,
    build_colours,
    build_margins,
    describe_time,
    shorten_label,
    start_figure,
)
from bids_semantoks.reports.figures_signals import Volumes, mark_dropped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MAX_NAMED = 20
_MIN_OTHERS = 4


def draw_windows(onset: NDArray[np.float64], duration: float, kept: NDArray[np.float64], volumes: Volumes) -> Figure:
    """Draw where in the run the windows lie: `onset` (B,) and `duration`
    in s, `kept` (B,) share that is real and kept."""
    figure = start_figure(10, 0.9 + 0.24 * max(onset.size, 2))
    axes = figure.subplots(gridspec_kw=build_margins(figure, left=0.6, right=0.3, top=0.25, bottom=0.5))
    end = max(volumes.end, float((onset + duration).max()))
    mark_dropped(axes, volumes)
    for i, (start, share) in enumerate(zip(onset, kept, strict=True)):
        real = min(duration, volumes.end - start)
        axes.barh(i + 1, real, left=start, height=0.62, color=BLUE)
        if real < duration:
            axes.barh(
                i + 1, duration - real, left=start + real, height=0.62, color="white", edgecolor=GREY, hatch="////"
            )
        axes.text(start + 0.01 * end, i + 1, f"{share:.0%} kept", color="white", va="center", fontsize=8)
    axes.set_ylim(onset.size + 0.6, 0.4)
    axes.set_yticks(range(1, onset.size + 1))
    axes.set_ylabel("window")
    describe_time(axes, end)
    if end > volumes.end:
        axes.axvline(volumes.end, color=INK, linewidth=0.8)
        axes.text(volumes.end, 0.3, " padding", va="bottom", fontsize=8, color=INK)
    return figure


def compute_cosines(vectors: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Compute the cosine similarities between rows: (n, D) -> (n, n); 0 for rows of zeros."""
    rows = vectors.astype(np.float64)
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = rows / np.where(norm > 0, norm, 1)
    return np.clip(unit @ unit.T, -1, 1)


def draw_tokens(tokens: NDArray[np.float32], names: Sequence[str], masked: Sequence[str]) -> Figure:
    """Draw token similarity between networks and, if there are several, between windows.

    `tokens` (B, 1 + N*K, D), class token first; `names` (N,). Tokens of `masked` networks are the encoder's guess.
    """
    n_windows, _, width = tokens.shape
    rows = tokens[:, 1:].reshape(n_windows, len(names), -1, width).mean(axis=2, dtype=np.float64)  # (B, N, D)
    between = compute_cosines(rows.mean(axis=0))
    figure = start_figure(10, 4.4)
    margins = build_margins(figure, left=1.1, right=0.8, top=0.3, bottom=0.9)
    left, right = figure.subplots(1, 2, gridspec_kw={**margins, "wspace": 0.45})
    labels = [f"{shorten_label(name, 28)}{'*' if name in masked else ''}" for name in names]
    _draw_similarity(left, between, labels if len(labels) <= _MAX_NAMED else ())
    note = " (* masked)" if any(name in masked for name in names) else ""
    left.set_title(f"tokens of networks, mean over windows and patches{note}")
    if n_windows < 2:
        right.set_axis_off()
        right.text(0.5, 0.5, "The run gave one window:\nnothing to compare it with.", ha="center", va="center")
        return figure
    across = np.mean([compute_cosines(rows[:, n]) for n in range(rows.shape[1])], axis=0)
    _draw_similarity(right, across, [str(i + 1) for i in range(n_windows)])
    right.set_title("windows, mean over networks")
    right.tick_params(axis="x", labelrotation=0)
    return figure


def _draw_similarity(axes: Axes, matrix: NDArray[np.float64], labels: Sequence[str]) -> None:
    off = matrix[~np.eye(matrix.shape[0], dtype=np.bool_)]
    low = float(off.min()) if off.size else 0.0
    image = axes.imshow(matrix, cmap=build_colours("cividis"), vmin=min(low, 0.999), vmax=1, interpolation="none")
    axes.set_xticks(range(len(labels)), labels, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(labels)), labels)
    add_colour_bar(image, axes, "cosine similarity")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Stability:
    """Similarity of a participant's window embeddings to each other and to other participants' runs."""

    cosines: NDArray[np.float64]  # (n, n) between all n windows, run after run
    runs: NDArray[np.int64]  # (n,) index of each window's run
    labels: tuple[str, ...]  # (R,) entities that tell the runs apart
    others: NDArray[np.float64]  # (m,) between each window and the mean window of each other participant's run
    is_centred: bool  # whether the mean over the dataset's runs was subtracted

    @property
    def within(self) -> NDArray[np.float64]:
        """Cosines between different windows of the same run."""
        return self._pairs(same=True)

    @property
    def between(self) -> NDArray[np.float64]:
        """Cosines between windows of different runs."""
        return self._pairs(same=False)

    def _pairs(self, *, same: bool) -> NDArray[np.float64]:
        i, j = np.triu_indices(self.runs.size, k=1)
        chosen = (self.runs[i] == self.runs[j]) == same
        pairs: NDArray[np.float64] = self.cosines[i[chosen], j[chosen]]
        return pairs


def compute_stability(
    own: Sequence[NDArray[np.float32]], labels: Sequence[str], others: Sequence[NDArray[np.float32]]
) -> Stability:
    """Compare a participant's window embeddings, one (B, D) array per run, with each other and with those of others.

    Embeddings share most of their direction, so the dataset mean is subtracted if at least four other runs are known.
    """
    is_centred = len(others) >= _MIN_OTHERS
    means = np.array([run.mean(axis=0, dtype=np.float64) for run in others])
    windows = np.concatenate(own).astype(np.float64)
    if is_centred:
        centre = np.vstack([means, [run.mean(axis=0, dtype=np.float64) for run in own]]).mean(axis=0)
        windows, means = windows - centre, means - centre
    runs = np.repeat(np.arange(len(own)), [run.shape[0] for run in own])
    both = compute_cosines(np.vstack([windows, means])) if others else compute_cosines(windows)
    n = windows.shape[0]
    return Stability(
        cosines=both[:n, :n], runs=runs, labels=tuple(labels), others=both[:n, n:].ravel(), is_centred=is_centred
    )


def draw_stability(stability: Stability) -> Figure:
    """Draw the similarity matrix of all windows and its distributions within runs, between runs and to others."""
    figure = start_figure(10, 3.9)
    margins = build_margins(figure, left=0.9, right=0.2, top=0.3, bottom=0.5)
    left, right = figure.subplots(1, 2, gridspec_kw={**margins, "width_ratios": [1, 1.25], "wspace": 0.55})
    matrix = stability.cosines
    low = -1.0 if stability.is_centred else float(min(matrix.min(), 0.999))
    name = "RdBu_r" if stability.is_centred else "cividis"
    image = left.imshow(matrix, cmap=build_colours(name), vmin=low, vmax=1, interpolation="none")
    edges = np.flatnonzero(np.diff(stability.runs)) + 0.5
    for edge in edges:
        left.axhline(edge, color=INK, linewidth=0.8)
        left.axvline(edge, color=INK, linewidth=0.8)
    centres = [float(np.flatnonzero(stability.runs == r).mean()) for r in range(len(stability.labels))]
    left.set_yticks(centres, stability.labels)
    left.set_xticks([])
    left.set_title("windows of all runs")
    what = "cosine, mean of the dataset removed" if stability.is_centred else "cosine similarity"
    add_colour_bar(image, left, what)
    groups = {"within a run": stability.within, "between runs": stability.between, "to others": stability.others}
    groups = {name: values for name, values in groups.items() if values.size}
    if not groups:
        right.set_axis_off()
        right.text(0.5, 0.5, "One window in all:\nnothing to compare it with.", ha="center", va="center")
        return figure
    _draw_groups(right, groups, what)
    return figure


def _draw_groups(axes: Axes, groups: dict[str, NDArray[np.float64]], what: str) -> None:
    rng = np.random.default_rng(0)
    for y, values in enumerate(groups.values()):
        shown = values if values.size <= 300 else rng.choice(values, 300, replace=False)
        axes.plot(shown, y + rng.uniform(-0.22, 0.22, shown.size), "o", color=GREY, markersize=2.5, alpha=0.5)
        median = float(np.median(values))
        axes.plot([median, median], [y - 0.32, y + 0.32], color=BLUE, linewidth=2.5)
        axes.text(median, y - 0.36, f"{median:.3f}", color=BLUE, ha="center", va="bottom", fontsize=8)
        axes.axhline(y + 0.5, color=LIGHT, linewidth=0.6)
    axes.set_ylim(len(groups) - 0.5, -0.65)
    axes.set_yticks(range(len(groups)), [f"{name}\n(n = {values.size})" for name, values in groups.items()])
    axes.set_xlabel(what)
    axes.set_title("pairs of windows, median in blue")
