"""Figures of a pretrained encoder: training curves, learned kernels and network embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.files import write_text
from bids_semantoks.reports.figures import render_svg, shorten_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES: Final = {
    "training": "Loss and effective rank of the projections over training.",
    "kernels": "Frequency response of the learned kernels of each network, as the mean over kernels.",
    "networks": "Cosine similarity of the learned network embeddings.",
}


def write_figures(
    directory: Path,
    *,
    log: Mapping[str, NDArray[np.float64]],
    kernels: Mapping[str, NDArray[np.floating[Any]]],
    embeddings: NDArray[np.floating[Any]],
    names: Sequence[str],
    repetition_time: float,
) -> tuple[str, ...]:
    """Write the figures of an encoder directory; return the keys of `FIGURES` drawn.

    `log` holds the columns of the training log. `kernels` maps a network to its taps (n_kernels, L),
    `repetition_time` seconds apart (empty if the tokenizer has no structured kernels); `embeddings`
    (N, D) and `names` (N,) are per network.
    """
    drawn = {"training": _draw_training(log)}
    if kernels:
        drawn["kernels"] = _draw_kernels(kernels, repetition_time)
    drawn["networks"] = _draw_networks(embeddings, names)
    for name, figure in drawn.items():
        _save(figure, directory / "figures" / f"{name}.svg")
    return tuple(drawn)


def _start_figure(width: float, height: float) -> Figure:
    # The object interface needs no display and leaves no global state behind.
    from matplotlib.figure import Figure  # noqa: PLC0415 - only a finished training draws

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Figure, path: Path) -> None:
    import matplotlib as mpl  # noqa: PLC0415 - as above

    # Dollar signs in network names must not start math mode.
    style: dict[Any, Any] = {"svg.hashsalt": "bids_semantoks", "svg.fonttype": "none", "text.parse_math": False}
    with mpl.rc_context(style):
        write_text(path, render_svg(figure))


def _smooth(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Running mean over `width` values, ignoring non-finite ones."""
    real = np.isfinite(values)
    window = np.ones(min(width, values.size))
    total = np.convolve(np.where(real, values, 0.0), window, mode="same")
    count = np.convolve(real.astype(float), window, mode="same")
    mean: NDArray[np.float64] = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    return mean


def _draw_training(log: Mapping[str, NDArray[np.float64]]) -> Figure:
    figure = _start_figure(7, 5)
    above, below = figure.subplots(2, 1, sharex=True)
    steps = log.get("step", np.zeros(0))
    width = max(1, steps.size // 50)
    for axes, names, label in ((above, ("loss", "cls", "token", "ttr"), "loss"), (below, ("rank",), "effective rank")):
        for name in names:
            if name in log and np.isfinite(log[name]).any():
                axes.plot(steps, _smooth(log[name], width), label=name)
        axes.set_ylabel(label)
        axes.grid(visible=True, alpha=0.3)
    if above.lines:
        above.legend(frameon=False)
    below.set_xlabel("optimiser step")
    return figure


def _draw_kernels(kernels: Mapping[str, NDArray[np.floating[Any]]], repetition_time: float) -> Figure:
    figure = _start_figure(7, 4)
    axes = figure.subplots()
    frequencies = np.fft.rfftfreq(256, repetition_time)
    for i, (name, taps) in enumerate(kernels.items()):
        response = np.abs(np.fft.rfft(taps, 256, axis=-1))
        mean = response.mean(axis=0)
        axes.plot(
            frequencies,
            mean / mean.max(),
            label=shorten_label(name, 28),
            color=f"C{i % 10}",
            linestyle="-" if i < 10 else "--",
        )
    axes.set_xlabel("frequency (Hz)")
    axes.set_ylabel("gain relative to the maximum")
    axes.set_ylim(0, 1.05)
    axes.legend(frameon=False, ncols=2, fontsize="small")
    axes.grid(visible=True, alpha=0.3)
    return figure


def _draw_networks(embeddings: NDArray[np.floating[Any]], names: Sequence[str]) -> Figure:
    figure = _start_figure(6, 5)
    axes = figure.subplots()
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    image = axes.imshow(unit @ unit.T, vmin=-1, vmax=1, cmap="RdBu_r")
    if len(names) <= 40:
        names = [shorten_label(name, 28) for name in names]
        axes.set_xticks(range(len(names)), names, rotation=60, ha="right")
        axes.set_yticks(range(len(names)), names)
    figure.colorbar(image, ax=axes, label="cosine similarity")
    return figure
