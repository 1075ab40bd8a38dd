"""The group report as records, and its rendering to a single HTML file."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from markupsafe import Markup

from bids_semantoks.outputs.group_words import format_number
from bids_semantoks.outputs.methods import read_methods
from bids_semantoks.reports.charts import Bar, build_models
from bids_semantoks.reports.figures import write_figure
from bids_semantoks.reports.figures_probes import draw_models
from bids_semantoks.reports.pages import fill_template, write_page
from bids_semantoks.version import __version__

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Tables that the page links to if they exist, and the link texts.
TABLES: Final = {
    "group_probe": "scores",
    "group_predictions": "predictions",
    "group_participants": "participants used and excluded",
    "group_splits": "splits",
    "group_strata": "scores of subgroups",
    "group_retest": "test-retest",
    "group_audit": "audit",
    "group_task_blocks": "blocks",
    "group_scaling": "scaling",
    "group_predictor": "predictor from another study",
    "group_map": "embedding map",
    "group_status": "status of all runs",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Graphic:
    """A chart or table on the page, and the corresponding publication figure."""

    title: str
    caption: str
    body: Markup
    data: dict[str, Any] | None = None  # for the script that draws over `body`; None if static
    size: str = ""  # ``small``, ``narrow`` or ``map``, classes of the style; empty for that of scores
    name: str = ""  # of the figure, letters, digits and hyphens
    draw: Callable[[], Figure] | None = None  # the figure; None for none


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A section of the report; one about a phenotype has neither anchor nor short title."""

    title: str
    anchor: str = ""  # link target, unique on the page; letters and hyphens
    short: str = ""  # label in the navigation
    sentences: Sequence[str] = ()
    graphics: Sequence[Graphic] = ()
    columns: Sequence[str] = ()  # header of its table; empty for none
    lines: Sequence[Sequence[str]] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class PhenotypePart:
    """Report content of one phenotype."""

    name: str
    lead: str  # result in a few sentences
    facts: Sequence[tuple[str, str]]  # (name, value): sample, splits, covariates
    graphics: Sequence[Graphic]
    columns: Sequence[str]
    lines: Sequence[Sequence[str]]  # cells, one row per model
    people: tuple[Sequence[str], Sequence[Sequence[str]]]  # header and rows of who was used and excluded
    details: Sequence[Section]  # by network, and within subgroups


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupPage:
    """Content of the group report."""

    title: str  # encoder label
    overview: Sequence[tuple[str, str]]  # (name, value) pairs
    sections: Sequence[Section]  # everything beyond single phenotypes
    pretraining: str = ""  # overlap between pretraining and probing participants
    warns: bool = False  # show `pretraining` as a warning
    phenotypes: Sequence[PhenotypePart] = ()  # in the order requested
    warnings: Sequence[str] = ()

    @property
    def has_scatter(self) -> bool:
        """Whether any graphic is drawn by the script."""
        return any(one.data is not None for one in self.iterate_graphics())

    def iterate_graphics(self) -> Iterator[Graphic]:
        """Yield all graphics, from the first to the last."""
        for part in self.phenotypes:
            yield from part.graphics
            for detail in part.details:
                yield from detail.graphics
        for section in self.sections:
            yield from section.graphics


def build_bar(row: Any, name: str, *, note: str = "", is_encoder: bool = True) -> Bar:
    """Build the bar of a row of scores; its note is the score unless another is given."""
    note = note or format_number(row.value)
    return Bar(name=name, value=row.value, low=row.ci_low, high=row.ci_high, note=note, is_encoder=is_encoder)


def show_bars(
    title: str, caption: str, bars: Sequence[Bar], *, label: str, chance: float, name: str, line: str = "chance"
) -> Graphic:
    """Show scores with their intervals and a `line` at chance; `name` is that of the publication figure."""
    return Graphic(
        title=title,
        caption=caption,
        body=build_models(bars, label=label, chance=chance, line=line),
        name=name,
        draw=lambda: draw_models(bars, label=label, chance=chance, line=line),
    )


def name_figure(*words: str) -> str:
    """Name a publication figure: letters and digits of words, joined by hyphens."""
    return "-".join(filter(None, (re.sub(r"[^A-Za-z0-9]+", "", word) for word in words)))


def read_training_picture(directory: Path) -> Graphic | None:
    """Read the training curves from an encoder directory; None if absent."""
    path = directory / "figures" / "training.svg"
    if not path.is_file():
        return None
    # Percent-encoded it is a third smaller than in base64, and its ids do not clash.
    text = urllib.parse.quote(path.read_text(encoding="utf-8", errors="replace"), safe=" !$()*+,-./:;=?@[]^_`{|}~'\n")
    source = f"data:image/svg+xml;charset=utf-8,{text}"
    return Graphic(
        title="Pretraining",
        caption="Losses and effective rank of the projections over optimiser steps. If the rank falls close to 1, "
        "the encoder has collapsed.",
        body=Markup('<div class="scroll"><img alt="Losses and rank over steps" src="{}"></div>').format(source),
    )


def write_group_page(out_dir: Path, build: Callable[[], GroupPage], *, figures: str | None = None) -> Path:
    """Build and write ``group.html``, and with `figures` (svg or png) the publication figures,
    ``OUT_DIR/figures/group_<name>.<kind>``; return the path of the page. On any error, log a warning."""
    path = out_dir / "group.html"

    def render() -> str:
        """Build the page, with its figures if requested."""
        page = build()
        for one in page.iterate_graphics() if figures else ():
            if one.draw is not None:
                write_figure(out_dir / "figures" / f"group_{one.name}.{figures}", one.draw)
        tables = {name: text for name, text in TABLES.items() if (out_dir / f"{name}.tsv").is_file()}
        return fill_template("group", page=page, version=__version__, methods=read_methods(out_dir), tables=tables)

    write_page(path, render)
    return path
