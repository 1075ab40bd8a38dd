"""The group report as records, and its rendering to a single HTML file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from markupsafe import Markup

from bids_semantoks.outputs.methods import read_methods
from bids_semantoks.reports.figures import Picture, embed_svg
from bids_semantoks.reports.pages import fill_template, read_asset, write_page
from bids_semantoks.version import __version__

#: Tables that the page links to, where they exist, and the texts of the links.
TABLES: Final = {
    "group_probe": "scores",
    "group_predictions": "predictions",
    "group_splits": "splits",
    "group_strata": "scores by site and repetition time",
    "group_retest": "test-retest",
    "group_task_blocks": "blocks",
    "group_scaling": "scaling",
    "group_map": "two dimensions",
    "group_status": "status of all runs",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A section of the report."""

    anchor: str  # link target, unique on the page; letters and hyphens
    title: str
    short: str  # label in the navigation
    sentences: list[str]
    pictures: list[Picture]
    columns: list[str] = field(default_factory=list)  # header of its table; empty for none
    lines: list[list[str]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, slots=True)
class PhenotypePart:
    """Report content of one phenotype."""

    name: str
    lead: str  # result in a few sentences
    facts: list[tuple[str, str]]  # (name, value): sample, splits, covariates
    pictures: list[Picture]
    columns: list[str]
    lines: list[list[str]]  # cells, one row per model
    details: list[Section]  # by network, site, repetition time


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupPage:
    """Content of the group report."""

    title: str  # encoder label
    overview: list[tuple[str, str]]  # (name, value) pairs
    pretraining: str  # says whether participants were in both the pretraining and the probing data
    warns: bool  # show `pretraining` as a warning
    phenotypes: list[PhenotypePart]  # in the order requested
    sections: list[Section]  # everything beyond single phenotypes
    warnings: list[str]


def read_training_picture(directory: Path) -> Picture | None:
    """Read the training curves from an encoder directory; None if absent."""
    path = directory / "figures" / "training.svg"
    if not path.is_file():
        return None
    return Picture(
        title="Pretraining",
        caption="Losses and effective rank of the projections over the optimiser's steps. A rank that falls to a few "
        "means that the encoder has collapsed.",
        data=embed_svg(path.read_text(encoding="utf-8", errors="replace")),
    )


def write_group_page(out_dir: Path, page: GroupPage) -> Path:
    """Write ``group.html`` and return its path; on any error, log a warning, as the results are on disk already."""
    path = out_dir / "group.html"
    tables = {name: text for name, text in TABLES.items() if (out_dir / f"{name}.tsv").is_file()}
    write_page(path, lambda: render_page(page, methods=read_methods(out_dir), tables=tables))
    return path


def render_page(page: GroupPage, *, methods: Markup, tables: Mapping[str, str] = TABLES) -> str:
    """Render the group report as self-contained HTML.

    `methods` is an HTML fragment; `tables` maps the stem of each table beside the page to its link text.
    """
    style = Markup(read_asset("page.css"))
    return fill_template("group", page=page, version=__version__, style=style, methods=methods, tables=tables)
