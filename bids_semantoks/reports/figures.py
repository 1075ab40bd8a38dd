"""Shared by all figures and pages: style, margins, colours and scales, files, pictures and templates.

Shape letters: T volumes, P parcels.
"""

from __future__ import annotations

import io
import logging
import re
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.disk import is_full
from bids_semantoks.escaping import replace_hidden
from bids_semantoks.files import write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

LOGGER = logging.getLogger("bids_semantoks")

#: Colours of Okabe and Ito, which colour-blind readers can distinguish.
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
    # Dollar signs in column names must not start mathematics.
    "text.parse_math": False,
    # Found automatically, the place of a title costs as much as drawing all ticks.
    "axes.titley": 1.0,
    "legend.frameon": False,
    "lines.linewidth": 1.0,
    # Equal data give equal bytes, and letters look the same on every machine.
    "svg.hashsalt": "bids_semantoks",
    "svg.fonttype": "path",
}

#: Figures of a run's signals and of its embedding, by the word in their names.
SIGNAL_FIGURES: Final = ("carpet", "motion", "coverage", "connectivity")

EMBEDDING_FIGURES: Final = ("Windows", "Tokens")

_TITLES: Final = {
    "carpet": "Before and after denoising",
    "motion": "Motion and dropped volumes",
    "coverage": "Coverage",
    "connectivity": "Connectivity",
    "Windows": "Windows on the time line",
    "Tokens": "Similarity of tokens",
    "Stability": "Stability of the embedding",
}

_CAPTIONS: Final = {
    "carpet": "Framewise displacement (FD); DVARS and global signal of the parcels before (grey) and after (blue) "
    "denoising; then every parcel over time, z-scored, ordered by network. Dummy volumes are shaded grey, scrubbed "
    "ones orange. Bands across all parcels that remain after denoising are a bad sign.",
    "motion": "Framewise displacement over time, with dropped volumes shaded, and its distribution.",
    "coverage": "Share of each parcel's voxels or vertices that count and vary. Absent parcels are orange.",
    "connectivity": "Pearson correlations of the cleaned signals over kept volumes, ordered by network, and their "
    "distribution. Absent parcels are grey. A median far from 0 hints at global noise that is left.",
    "Windows": "Windows that the encoder was given. Each bar is one window; hatched parts are padding.",
    "Tokens": "Cosine similarity of the encoder's output tokens. Networks that look all alike, or windows that do not, "
    "hint at an input that the encoder does not know.",
    "Stability": "Cosine similarity of the embeddings of windows: within a run, between runs of this participant, and "
    "to the runs of others in this dataset that were known when this page was written. An embedding that tells people "
    "apart is more alike within and between runs than to others.",
}

_NOT_DRAWN: Final = "It could not be drawn, and the log of that call says why; or it was removed since."

_WHY_MISSING: Final = {
    "carpet": "It needs the signals before denoising, which only the participant level has at hand.",
    "motion": "It needs the confounds, which only the participant level has at hand.",
    "Windows": "It is drawn where the participant level makes the embedding, and by --reports-only.",
    "Tokens": "It needs the tokens of each window: run the participant level, or save them with --save-tokens.",
}

_SAFE: Final = " !$()*+,-./:;=?@[]^_`{|}~'\n"


def shorten_label(text: str, longest: int) -> str:
    """Shorten a label to `longest` characters (at least 3) with an ellipsis in
    the middle: names often differ at the end. Fonts have no letters for what `replace_hidden` replaces."""
    text = replace_hidden(text)
    if len(text) <= longest:
        return text
    n_last = (longest - 1) // 2
    return f"{text[: longest - 1 - n_last]}…{text[-n_last:]}"


@contextmanager
def use_style() -> Iterator[None]:
    """Apply the style of the reports while the context lasts."""
    import matplotlib as mpl  # noqa: PLC0415 - loading it takes a third of a second

    # One font only, or matplotlib would report each missing one in every figure.
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


def build_figure_path(out_dir: Path, stem: str, word: str) -> Path:
    """Build ``OUT_DIR/sub-L/figures/<stem>_desc-<word>_bold.svg``; `word` has letters and digits only."""
    # A stem begins with its participant, as the folder is named.
    # Up to the next entity: labels may hold underscores.
    return out_dir / re.split(r"_(?=[a-zA-Z]+-)", stem, maxsplit=1)[0] / "figures" / f"{stem}_desc-{word}_bold.svg"


def write_figure(path: Path, draw: Callable[[], Figure]) -> bool:
    """Draw and write a figure; on any error but a full disk, log a warning and
    return False. An outdated figure of that name is removed."""
    try:
        path.unlink(missing_ok=True)
        with use_style():
            text = render_svg(draw(), Creator=None)
        write_text(path, text)
    except Exception as error:
        if is_full(error):
            raise
        # A picture must never cost a run, whatever is wrong with it.
        LOGGER.debug("Drawing %s", path, exc_info=True)
        LOGGER.warning("The figure %s could not be drawn: %s: %s", path.name, type(error).__name__, error)
        return False
    return True


def render_figure(name: str, draw: Callable[[], Figure]) -> str:
    """Draw a figure to an SVG data URI; on any error, log a warning that names it and return an empty string."""
    try:
        with use_style():
            return embed_svg(render_svg(draw(), Creator=None))
    except Exception as error:
        # A picture must never cost results.
        LOGGER.debug("Drawing %s", name, exc_info=True)
        LOGGER.warning("The figure of %s could not be drawn: %s: %s", name, type(error).__name__, error)
        return ""


def render_svg(figure: Figure, **metadata: str | None) -> str:
    """Render a figure as SVG without a date: matplotlib passes on characters of labels that XML forbids."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, **metadata})
    return replace_hidden(buffer.getvalue())


def embed_svg(text: str) -> str:
    """Turn SVG text into a data URI; percent-encoded, it is a third smaller than in
    base64, and its ids clash with no other's."""
    return f"data:image/svg+xml;charset=utf-8,{urllib.parse.quote(text, safe=_SAFE)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One figure on a page."""

    title: str
    caption: str
    data: str  # data URI; empty when the figure is missing
    missing: str = _NOT_DRAWN  # why it is missing


def load_picture(out_dir: Path, stem: str, word: str, kind: str) -> Picture:
    """Load a figure for the report, or the reason why it is missing.

    `kind` selects title and caption; `word`, in the file name, is `kind`, prefixed by the encoder label for embeddings.
    """
    path = build_figure_path(out_dir, stem, word)
    data = embed_svg(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else ""
    missing = _WHY_MISSING.get(kind, _NOT_DRAWN)
    return Picture(title=_TITLES[kind], caption=_CAPTIONS[kind], data=data, missing=missing)


def write_page(path: Path, build: Callable[[], str]) -> bool:
    """Build and write a page; on any error but a full disk, log a warning and return False."""
    try:
        write_text(path, build(), only_if_changed=True)
    except Exception as error:
        if is_full(error):
            raise
        # Results are on disk already; a page about them must never turn success into failure.
        LOGGER.debug("Writing %s", path, exc_info=True)
        LOGGER.warning("The report %s could not be written: %s: %s", path.name, type(error).__name__, error)
        return False
    return True


def read_template(name: str) -> str:
    """Read a page template of the package."""
    return files("bids_semantoks").joinpath("data", f"{name}.html.jinja").read_text(encoding="utf-8")


def fill_template(template: str, **values: Any) -> str:
    """Fill a page template of the package; everything but `Markup` is escaped, and an unknown name is an error."""
    from jinja2 import Environment, StrictUndefined  # noqa: PLC0415 - loading it takes 50 ms

    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=True)
    return replace_hidden(environment.from_string(read_template(template)).render(**values))
