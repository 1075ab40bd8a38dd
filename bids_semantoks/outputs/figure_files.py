"""Files of figures: their names, and that none of them can fail a run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bids_semantoks.outputs.figures import use_style
from bids_semantoks.outputs.files import open_atomic
from bids_semantoks.outputs.naming import parse_entities

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOGGER = logging.getLogger("bids_semantoks")

#: Figures of a run's signals and of its embedding, by the word in their names.
SIGNAL_FIGURES: Final = ("carpet", "motion", "coverage", "connectivity")
EMBEDDING_FIGURES: Final = ("Windows", "Tokens")


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
