"""Shared by all publication figures: style, margins, colours and files; and those of a pretrained encoder.

Shape letters: T volumes, P parcels.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.errors import replace_hidden
from bids_semantoks.files import open_atomic, write_text
from bids_semantoks.records import Floats, Reals
from bids_semantoks.reports.pages import attempt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

#: Colours of Okabe and Ito, which colour-blind readers can distinguish.
BLUE: Final = "#0072B2"
ORANGE: Final = "#D55E00"
GREY: Final = "#8a8f98"
INK: Final = "#1f2933"
LIGHT: Final = "#d9dde3"

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
    # Dollar signs in column names must not start math mode.
    "text.parse_math": False,
    # Placing titles automatically takes as long as drawing all ticks.
    "axes.titley": 1.0,
    "legend.frameon": False,
    "lines.linewidth": 1.0,
    # Equal data give equal bytes, and text remains searchable and editable.
    "svg.hashsalt": "bids_semantoks",
    "svg.fonttype": "none",
}


def shorten_label(text: str, longest: int) -> str:
    """Shorten a label to `longest` characters (at least 3) by an ellipsis in the middle, since names often differ at
    the end. Fonts lack glyphs for characters that `replace_hidden` replaces."""
    text = replace_hidden(text)
    if len(text) <= longest:
        return text
    n_last = (longest - 1) // 2
    return f"{text[: longest - 1 - n_last]}…{text[-n_last:]}"


@contextmanager
def use_style() -> Iterator[None]:
    """Apply the style of the reports while the context lasts."""
    import matplotlib as mpl  # noqa: PLC0415 - loading it takes a third of a second

    # Only one font, or matplotlib would report each missing one in every figure.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    with mpl.rc_context(_STYLE):
        yield


def start_figure(width: float, height: float, **options: Any) -> Figure:
    """Create an empty figure (inches) that needs no display and leaves no global state behind."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - as above

    return Figure(figsize=(width, height), **options)


def start_panels(
    size: tuple[float, float],
    n_rows: int,
    n_columns: int,
    margins: tuple[float, float, float, float],
    *,
    share_x: bool = False,
    **grid: Any,
) -> tuple[Figure, NDArray[Any]]:
    """Create a figure with panels (rows, columns); `size` and `margins` (left, right, top, bottom) in inches. An
    automatic layout would take half of the drawing time."""
    (width, height), (left, right, top, bottom), figure = size, margins, start_figure(*size)
    grid |= {"left": left / width, "right": 1 - right / width, "bottom": bottom / height, "top": 1 - top / height}
    return figure, figure.subplots(n_rows, n_columns, squeeze=False, sharex=share_x, gridspec_kw=grid)


def add_colour_bar(image: AxesImage, axes: Axes, label: str, *, ticks: Sequence[float] | None = None) -> None:
    """Add a colour bar to the right of the axes."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    axes.apply_aspect()
    box, width = axes.get_position(), figure.get_size_inches()[0]
    bar = figure.colorbar(
        image, cax=figure.add_axes((box.x1 + 0.1 / width, box.y0, 0.13 / width, box.height)), label=label, ticks=ticks
    )
    # Without coloured edges, thin gaps appear between the steps.
    if bar.solids is not None:
        bar.solids.set_edgecolor("face")
    bar.outline.set_visible(False)


def build_colours(name: str) -> Colormap:
    """Build a matplotlib colour map of 32 steps, NaN in light grey; with more steps, noisy images compress badly."""
    import matplotlib as mpl  # noqa: PLC0415 - as above

    colours: Colormap = mpl.colormaps[name].resampled(32).with_extremes(bad=LIGHT)
    return colours


def build_figure_path(out_dir: Path, stem: str, word: str, kind: str) -> Path:
    """Build ``OUT_DIR/sub-L/figures/<stem>_desc-<word>_bold.<kind>``; `word` has letters and digits only."""
    # A stem begins with its participant, as the folder is named.
    # Up to the next entity: labels may contain underscores.
    return out_dir / re.split(r"_(?=[a-zA-Z]+-)", stem, maxsplit=1)[0] / "figures" / f"{stem}_desc-{word}_bold.{kind}"


def write_figure(path: Path, draw: Callable[[], Figure]) -> bool:
    """Draw and write a figure (``.svg`` or ``.png``) and return whether it could be; an outdated one is removed."""

    def write() -> None:
        """Remove the former figure first: it must not look like that of this call."""
        path.unlink(missing_ok=True)
        with use_style():
            figure = draw()
            if path.suffix == ".png":
                buffer = io.BytesIO()
                figure.savefig(buffer, format="png", dpi=200, metadata={"Software": None})
                content = buffer.getvalue()
            else:
                content = render_svg(figure, Creator=None).encode()
        with open_atomic(path) as file:
            file.write(content)

    return attempt(write, path, "draw figure")


def render_svg(figure: Figure, **metadata: str | None) -> str:
    """Render a figure as SVG without a date: matplotlib passes on characters of labels that XML forbids."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, **metadata})
    return replace_hidden(buffer.getvalue())


FIGURES: Final = {
    "training": "Loss and effective rank of the projections over training.",
    "kernels": "Frequency response of the learned kernels of each network, as the mean over kernels.",
    "networks": "Cosine similarity of the learned network embeddings.",
}


def write_figures(
    directory: Path,
    *,
    log: Mapping[str, Floats],
    kernels: Mapping[str, Reals],
    embeddings: Reals,
    names: Sequence[str],
    repetition_time: float,
) -> tuple[str, ...]:
    """Write the figures of an encoder directory; return the keys of `FIGURES` drawn. `log` holds the columns of the
    training log. `kernels` maps a network to its taps (n_kernels, L), `repetition_time` seconds apart (empty if the
    tokenizer has no structured kernels); `embeddings` (N, D) and `names` (N,) are per network."""
    import matplotlib as mpl  # noqa: PLC0415 - as above

    drawn = {"training": _draw_training(log)}
    if kernels:
        drawn["kernels"] = _draw_kernels(kernels, repetition_time)
    drawn["networks"] = _draw_networks(embeddings, names)
    style: dict[Any, Any] = {name: _STYLE[name] for name in ("svg.hashsalt", "svg.fonttype", "text.parse_math")}
    with mpl.rc_context(style):
        for name, figure in drawn.items():
            write_text(directory / "figures" / f"{name}.svg", render_svg(figure))
    return tuple(drawn)


def _smooth(values: Floats, width: int) -> Floats:
    """Running mean over `width` values, ignoring non-finite ones."""
    real, window = np.isfinite(values), np.ones(min(width, values.size))
    total = np.convolve(np.where(real, values, 0.0), window, mode="same")
    count = np.convolve(real.astype(float), window, mode="same")
    return np.asarray(np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0))


def _draw_training(log: Mapping[str, Floats]) -> Figure:
    figure = start_figure(7, 5, layout="constrained")
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


def _draw_kernels(kernels: Mapping[str, Reals], repetition_time: float) -> Figure:
    figure = start_figure(7, 4, layout="constrained")
    axes = figure.subplots()
    frequencies = np.fft.rfftfreq(256, repetition_time)
    for i, (name, taps) in enumerate(kernels.items()):
        mean = np.abs(np.fft.rfft(taps, 256, axis=-1)).mean(axis=0)
        style: dict[str, Any] = {"color": f"C{i % 10}", "linestyle": "-" if i < 10 else "--"}
        axes.plot(frequencies, mean / mean.max(), label=shorten_label(name, 28), **style)
    axes.set(xlabel="frequency (Hz)", ylabel="gain relative to the maximum", ylim=(0, 1.05))
    axes.legend(frameon=False, ncols=2, fontsize="small")
    axes.grid(visible=True, alpha=0.3)
    return figure


def _draw_networks(embeddings: Reals, names: Sequence[str]) -> Figure:
    figure = start_figure(6, 5, layout="constrained")
    axes = figure.subplots()
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    image = axes.imshow(unit @ unit.T, vmin=-1, vmax=1, cmap="RdBu_r")
    if len(names) <= 40:
        names = [shorten_label(name, 28) for name in names]
        axes.set_xticks(range(len(names)), names, rotation=60, ha="right")
        axes.set_yticks(range(len(names)), names)
    figure.colorbar(image, ax=axes, label="cosine similarity")
    return figure
