"""The group report as records, and its rendering to a single HTML file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from markupsafe import Markup

from bids_semantoks.outputs.methods import read_methods
from bids_semantoks.reports.figures import embed_svg, write_figure
from bids_semantoks.reports.figures_probes import draw_models
from bids_semantoks.reports.pages import fill_template, write_page
from bids_semantoks.reports.vector_charts import Bar, build_models
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
    """A section of the report."""

    anchor: str  # link target, unique on the page; letters and hyphens
    title: str
    short: str  # label in the navigation
    sentences: list[str]
    graphics: list[Graphic]
    columns: list[str] = field(default_factory=list)  # header of its table; empty for none
    lines: list[list[str]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, slots=True)
class PhenotypePart:
    """Report content of one phenotype."""

    name: str
    lead: str  # result in a few sentences
    facts: list[tuple[str, str]]  # (name, value): sample, splits, covariates
    graphics: list[Graphic]
    columns: list[str]
    lines: list[list[str]]  # cells, one row per model
    people: tuple[list[str], list[list[str]]]  # header and rows of the table of used and excluded participants
    details: list[Section]  # by network, and within subgroups


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupPage:
    """Content of the group report."""

    title: str  # encoder label
    overview: list[tuple[str, str]]  # (name, value) pairs
    pretraining: str  # overlap between pretraining and probing participants
    warns: bool  # show `pretraining` as a warning
    phenotypes: list[PhenotypePart]  # in the order requested
    sections: list[Section]  # everything beyond single phenotypes
    warnings: list[str]

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


def show_bars(title: str, caption: str, bars: Sequence[Bar], *, label: str, chance: float, name: str) -> Graphic:
    """Show scores with their intervals; `name` is that of the publication figure."""
    return Graphic(
        title=title,
        caption=caption,
        body=build_models(bars, label=label, chance=chance),
        name=name,
        draw=lambda: draw_models(bars, label=label, chance=chance),
    )


def name_figure(*words: str) -> str:
    """Name a publication figure: letters and digits of words, joined by hyphens."""
    return "-".join(filter(None, (re.sub(r"[^A-Za-z0-9]+", "", word) for word in words)))


def write_group_figures(out_dir: Path, page: GroupPage, kind: str) -> None:
    """Write the publication figures of the page, ``OUT_DIR/figures/group_<name>.<kind>``; `kind` is svg or png."""
    for one in page.iterate_graphics():
        if one.draw is not None:
            write_figure(out_dir / "figures" / f"group_{one.name}.{kind}", one.draw)


def read_training_picture(directory: Path) -> Graphic | None:
    """Read the training curves from an encoder directory; None if absent."""
    path = directory / "figures" / "training.svg"
    if not path.is_file():
        return None
    source = embed_svg(path.read_text(encoding="utf-8", errors="replace"))
    return Graphic(
        title="Pretraining",
        caption="Losses and effective rank of the projections over optimiser steps. If the rank falls close to 1, "
        "the encoder has collapsed.",
        body=Markup('<div class="scroll"><img alt="Losses and rank over steps" src="{}"></div>').format(source),
    )


def write_group_page(out_dir: Path, build: Callable[[], GroupPage], *, figures: str | None = None) -> Path:
    """Build and write ``group.html``, and with `figures` (svg or png) the publication figures; return the path of the
    page. On any error, log a warning, as the results are already on disk."""
    path = out_dir / "group.html"
    tables = {name: text for name, text in TABLES.items() if (out_dir / f"{name}.tsv").is_file()}

    def render() -> str:
        """Draw publication figures, if requested, and fill the template."""
        page = build()
        if figures is not None:
            write_group_figures(out_dir, page, figures)
        return render_page(page, methods=read_methods(out_dir), tables=tables)

    write_page(path, render)
    return path


def render_page(page: GroupPage, *, methods: Markup, tables: Mapping[str, str] = TABLES) -> str:
    """Render the group report as self-contained HTML.

    `methods` is an HTML fragment; `tables` maps the stem of each table next to the page to its link text.
    """
    return fill_template("group", page=page, version=__version__, methods=methods, tables=tables)
