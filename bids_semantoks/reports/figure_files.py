"""Paths of figure files, and writing that cannot fail a run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bids_semantoks.bids_names import parse_entities
from bids_semantoks.files import open_atomic
from bids_semantoks.reports.figures import use_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


LOGGER = logging.getLogger("bids_semantoks")


#: Figures of a run's signals and of its embedding, by the word in their names.
SIGNAL_FIGURES: Final = ("carpet", "motion", "coverage", "connectivity")


EMBEDDING_FIGURES: Final = ("Windows", "Tokens")


def build_figure_path(out_dir: Path, stem: str, word: str) -> Path:
    """Build ``OUT_DIR/sub-L/figures/<stem>_desc-<word>_bold.svg``; `word` has letters and digits only."""
    return out_dir / f"sub-{parse_entities(stem)['sub']}" / "figures" / f"{stem}_desc-{word}_bold.svg"


def write_figure(path: Path, draw: Callable[[], Figure]) -> bool:
    """Draw and write a figure; on any error, log a warning and return False. An outdated figure of that name is
    removed."""
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
