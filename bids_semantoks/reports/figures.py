"""Style, margins, colours, labels and scales shared by all figures.

Shape letters: T volumes, P parcels.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage


#: Colours of Okabe and Ito, which colour-blind readers can tell apart.
BLUE: Final = "#0072B2"


ORANGE: Final = "#D55E00"


GREY: Final = "#8a8f98"


INK: Final = "#1f2933"


LIGHT: Final = "#d9dde3"


_LEVELS: Final = 32


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


def shorten_label(text: str, longest: int) -> str:
    """Shorten a label to `longest` characters (at least 3) with an ellipsis in the middle: names often differ at the
    end."""
    if len(text) <= longest:
        return text
    n_last = (longest - 1) // 2
    return f"{text[: longest - 1 - n_last]}…{text[-n_last:]}"


@contextmanager
def use_style() -> Iterator[None]:
    """Apply the style of the reports while the context lasts."""
    import matplotlib as mpl  # noqa: PLC0415 - loading it takes a third of a second

    # Asking for one font only; its absence would otherwise be said once a figure.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    with mpl.rc_context(_STYLE):
        yield


def start_figure(width: float, height: float) -> Figure:
    """Create an empty figure (inches) that needs no display and leaves no global state behind."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - as above

    return Figure(figsize=(width, height))


def build_margins(figure: Figure, *, left: float, right: float, top: float, bottom: float) -> dict[str, float]:
    """Convert margins in inches to `gridspec_kw`; an automatic layout would take half of the drawing time."""
    width, height = figure.get_size_inches()
    return {"left": left / width, "right": 1 - right / width, "bottom": bottom / height, "top": 1 - top / height}


def add_colour_bar(image: AxesImage, axes: Axes, label: str, *, ticks: Sequence[float] | None = None) -> None:
    """Add a colour bar to the right of the axes."""
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
    """Build a matplotlib colour map of 32 steps, NaN in light grey; with more steps, noisy images compress badly."""
    import matplotlib as mpl  # noqa: PLC0415 - as above

    colours: Colormap = mpl.colormaps[name].resampled(_LEVELS).with_extremes(bad=LIGHT)
    return colours


def draw_histogram(axes: Axes, values: NDArray[np.float64], *, bins: int, low: float, high: float) -> None:
    """Draw a histogram as a single outline: separate bars would take as long as the rest of the figure."""
    axes.stairs(*np.histogram(values, bins=bins, range=(low, high)), fill=True, color=INK)


def describe_time(axes: Axes, end: float) -> None:
    """Label the time axis of a run that ends at `end` seconds."""
    axes.set_xlim(0, end)
    axes.set_xlabel("time from the first volume (s)")


def zscore_rows(values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Z-score each parcel over its non-NaN volumes and transpose: (T, P) -> (P, T); constant parcels give 0."""
    turned = values.T.astype(np.float64)
    there = ~np.isnan(turned)
    n = np.maximum(there.sum(axis=1, keepdims=True), 1)
    centred = turned - np.where(there, turned, 0).sum(axis=1, keepdims=True) / n
    deviation = np.sqrt((np.where(there, centred, 0) ** 2).sum(axis=1, keepdims=True) / n)
    result: NDArray[np.float64] = centred / np.where(deviation > 0, deviation, 1)
    return result
