"""What all figures share: style, order by network, saving, and that none of them can fail a run.

Shape letters: T volumes, P parcels, N networks, X, Y, Z voxels.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.outputs.files import open_atomic
from bids_semantoks.outputs.naming import parse_entities
from bids_semantoks.records import CANONICAL_NETWORKS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

LOGGER = logging.getLogger("bids_semantoks")

#: Colours of Okabe and Ito, which colour-blind readers can tell apart.
BLUE: Final = "#0072B2"
ORANGE: Final = "#D55E00"
GREY: Final = "#8a8f98"
INK: Final = "#1f2933"
LIGHT: Final = "#d9dde3"

#: Figures of a run's signals and of its embedding, by the word in their names.
SIGNAL_FIGURES: Final = ("carpet", "motion", "coverage", "connectivity")
EMBEDDING_FIGURES: Final = ("Windows", "Tokens")
NO_NETWORK: Final = "no network"

_LEVELS: Final = 32
_MAX_NAMED: Final = 20
_STYLE: Final[dict[Any, Any]] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    # A dollar in the name of a column is a dollar.
    "text.parse_math": False,
    # Found automatically, the place of a title costs as much as drawing all ticks.
    "axes.titley": 1.0,
    "legend.frameon": False,
    "lines.linewidth": 1.0,
    # Equal data give equal bytes, and letters look the same on every machine.
    "svg.hashsalt": "bids_semantoks",
    "svg.fonttype": "path",
}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class NetworkOrder:
    """Parcels sorted by network, networks in the usual order.

    Parameters
    ----------
    order : NDArray, int64, shape (P,)
        Positions of the parcels, sorted.
    names : tuple of str, length N
        Networks in this order.
    edges : NDArray, int64, shape (N + 1,)
        Where each network starts in the sorted parcels, and the end.
    """

    order: NDArray[np.int64]
    names: tuple[str, ...]
    edges: NDArray[np.int64]


def sort_by_network(networks: Sequence[str]) -> NetworkOrder:
    """Sort parcels by network.

    Parameters
    ----------
    networks : sequence of str, length P
        Network label of each parcel; empty for none.

    Returns
    -------
    NetworkOrder
        Canonical networks first, then others by name, then parcels without a network.
    """
    labels = [label or NO_NETWORK for label in networks]
    there = set(labels)
    names = [name for name in CANONICAL_NETWORKS if name in there]
    names += sorted(there - set(names) - {NO_NETWORK})
    names += [NO_NETWORK] if NO_NETWORK in there else []
    rank = np.array([names.index(label) for label in labels], dtype=np.int64)
    counts = np.bincount(rank, minlength=len(names))
    edges = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return NetworkOrder(order=np.argsort(rank, kind="stable"), names=tuple(names), edges=edges)


def shorten_label(text: str, longest: int) -> str:
    """Shorten what users wrote to what a figure has room for; both ends stay, for names often differ at their end.

    Parameters
    ----------
    text : str
        A name.
    longest : int
        Letters, 3 at least.

    Returns
    -------
    str
        With an ellipsis in the middle where it was longer.
    """
    if len(text) <= longest:
        return text
    n_last = (longest - 1) // 2
    return f"{text[: longest - 1 - n_last]}…{text[-n_last:]}"


def spread(positions: Sequence[float], *, gap: float, low: float, high: float) -> list[float]:
    """Move labels apart so that no two overlap.

    Parameters
    ----------
    positions : sequence of float
        Where labels would like to be, ascending.
    gap : float
        Least distance.
    low, high : float
        Limits.

    Returns
    -------
    list of float
        Where they are put, in the same order.
    """
    placed: list[float] = []
    for position in positions:
        placed.append(max(position, placed[-1] + gap if placed else low))
    limit = high
    for i in range(len(placed) - 1, -1, -1):
        placed[i] = min(placed[i], limit)
        limit = placed[i] - gap
    return placed


@contextmanager
def use_style() -> Iterator[None]:
    """Draw in the style of the reports.

    Yields
    ------
    None
        While it holds.
    """
    import matplotlib as mpl  # noqa: PLC0415 - loading it takes a third of a second

    # Asking for one font only; its absence would otherwise be said once a figure.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    with mpl.rc_context(_STYLE):
        yield


def start_figure(width: float, height: float) -> Figure:
    """Start a figure that needs no display and leaves no global state behind.

    Parameters
    ----------
    width, height : float
        Inches.

    Returns
    -------
    Figure
        Empty.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - as above

    return Figure(figsize=(width, height))


def build_margins(figure: Figure, *, left: float, right: float, top: float, bottom: float) -> dict[str, float]:
    """Build margins; an automatic layout would take half of the time of drawing.

    Parameters
    ----------
    figure : Figure
        Gives the size.
    left, right, top, bottom : float
        Inches.

    Returns
    -------
    dict
        What a grid of axes takes.
    """
    width, height = figure.get_size_inches()
    return {"left": left / width, "right": 1 - right / width, "bottom": bottom / height, "top": 1 - top / height}


def add_colour_bar(image: AxesImage, axes: Axes, label: str, *, ticks: Sequence[float] | None = None) -> None:
    """Put a colour bar to the right of an image.

    Parameters
    ----------
    image : AxesImage
        Gives colours and limits.
    axes : Axes
        Where the bar goes beside.
    label : str
        What the colours mean.
    ticks : sequence of float, optional
        Values to name.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    axes.apply_aspect()
    box, width = axes.get_position(), figure.get_size_inches()[0]
    bar = figure.colorbar(
        image, cax=figure.add_axes((box.x1 + 0.1 / width, box.y0, 0.13 / width, box.height)), label=label, ticks=ticks
    )
    # Without edges of their own colour, thin gaps show between the steps.
    if bar.solids is not None:
        bar.solids.set_edgecolor("face")
    bar.outline.set_visible(False)


def build_colours(name: str) -> Colormap:
    """Build a colour map of few steps: images of noise compress badly otherwise.

    Parameters
    ----------
    name : str
        Name of a map of matplotlib.

    Returns
    -------
    Colormap
        In 32 steps, with light grey for what is absent.
    """
    import matplotlib as mpl  # noqa: PLC0415 - as above

    colours: Colormap = mpl.colormaps[name].resampled(_LEVELS).with_extremes(bad=LIGHT)
    return colours


def mark_networks(axes: Axes, networks: NetworkOrder, *, vertical: bool = True, span: float) -> None:
    """Name the networks beside an image whose rows or columns are parcels in their order.

    Parameters
    ----------
    axes : Axes
        Holds an image with one unit a parcel, first at -0.5.
    networks : NetworkOrder
        Order and edges.
    vertical : bool
        Along the y axis; else along the x axis.
    span : float
        Length of the axis in inches, from which the least distance of labels follows.
    """
    from matplotlib.collections import LineCollection  # noqa: PLC0415 - as above

    edges, names = networks.edges, networks.names
    total = int(edges[-1])
    set_ticks = axes.set_yticks if vertical else axes.set_xticks
    set_ticks([])
    across = axes.get_yaxis_transform() if vertical else axes.get_xaxis_transform()
    draw_lines = axes.hlines if vertical else axes.vlines
    for colour, width in (("white", 1.2), (INK, 0.4)):
        draw_lines(edges[1:-1] - 0.5, 0, 1, transform=across, colors=colour, linewidths=width)
    if len(names) > _MAX_NAMED:
        return
    centres = [float(a + b) / 2 - 0.5 for a, b in itertools.pairwise(edges.tolist())]
    gap = total * (0.14 if vertical else 0.16) / span
    places = spread(centres, gap=gap, low=-0.5, high=total - 0.5)
    pointers = [
        [(-0.005, a), (-0.03, b)] if vertical else [(a, -0.005), (b, -0.03)]
        for a, b in zip(centres, places, strict=True)
    ]
    # Arrows of annotations would take as long as all letters of a figure.
    axes.add_collection(
        LineCollection(pointers, colors=GREY, linewidths=0.5, transform=across, clip_on=False), autolim=False
    )
    for name, (_, (x, y)) in zip(names, pointers, strict=True):
        axes.text(
            *(x, y, name),
            transform=across,
            ha="right",
            va="center" if vertical else "top",
            rotation=0 if vertical else 60,
            rotation_mode=None if vertical else "anchor",
            fontsize=8,
        )


def draw_histogram(axes: Axes, values: NDArray[np.float64], *, bins: int, low: float, high: float) -> None:
    """Draw a distribution as one outline: bars of their own would take as long as all else in a figure.

    Parameters
    ----------
    axes : Axes
        Where to.
    values : NDArray, float64, shape (n,)
        Numbers from `low` to `high`.
    bins : int
        How many steps.
    low, high : float
        Limits.
    """
    axes.stairs(*np.histogram(values, bins=bins, range=(low, high)), fill=True, color=INK)


def build_figure_path(out_dir: Path, stem: str, word: str) -> Path:
    """Build the path of a figure.

    Parameters
    ----------
    out_dir : Path
        Output dataset.
    stem : str
        Entities of what the figure shows.
    word : str
        What it shows, letters and digits only.

    Returns
    -------
    Path
        ``OUT_DIR/sub-L/figures/<stem>_desc-<word>_bold.svg``.
    """
    return out_dir / f"sub-{parse_entities(stem)['sub']}" / "figures" / f"{stem}_desc-{word}_bold.svg"


def write_figure(path: Path, draw: Callable[[], Figure]) -> bool:
    """Draw a figure and write it; whatever goes wrong costs this figure alone.

    Parameters
    ----------
    path : Path
        Where to.
    draw : callable
        Makes the figure.

    Returns
    -------
    bool
        Whether it is there. An older one of that name, which would show something else, never stays.
    """
    try:
        path.unlink(missing_ok=True)
        with use_style():
            figure = draw()
            with open_atomic(path) as file:
                figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    except Exception as error:
        # A picture must never cost a run, whatever is wrong with it.
        LOGGER.debug("Drawing %s", path, exc_info=True)
        LOGGER.warning("The figure %s could not be drawn: %s: %s", path.name, type(error).__name__, error)
        return False
    return True


def describe_time(axes: Axes, end: float) -> None:
    """Label an axis of time.

    Parameters
    ----------
    axes : Axes
        Its x axis is in seconds.
    end : float
        Where the run ends, seconds.
    """
    axes.set_xlim(0, end)
    axes.set_xlabel("time from the first volume (s)")


def zscore_rows(values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Z-score every parcel over its kept volumes, for pictures.

    Parameters
    ----------
    values : NDArray, float, shape (T, P)
        Signals; not-a-number where dropped or absent.

    Returns
    -------
    NDArray, float64, shape (P, T)
        Turned, as pictures have time along x; constant parcels are zero.
    """
    turned = values.T.astype(np.float64)
    there = ~np.isnan(turned)
    n = np.maximum(there.sum(axis=1, keepdims=True), 1)
    centred = turned - np.where(there, turned, 0).sum(axis=1, keepdims=True) / n
    deviation = np.sqrt((np.where(there, centred, 0) ** 2).sum(axis=1, keepdims=True) / n)
    result: NDArray[np.float64] = centred / np.where(deviation > 0, deviation, 1)
    return result
