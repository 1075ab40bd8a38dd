"""The page of a group: what was probed, in whom, and what came out, in one file that needs nothing else."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Final

from bids_semantoks import __version__
from bids_semantoks.outputs.figures_probes import embed_svg
from bids_semantoks.outputs.files import write_text
from bids_semantoks.outputs.methods import read_methods

LOGGER = logging.getLogger("bids_semantoks")

#: Tables that the page leads to where they are there, and what links call them.
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
class Picture:
    """One figure on the page.

    Parameters
    ----------
    title, caption : str
        What it is, and what to look for.
    data : str
        The figure as a data URI; empty when it could not be drawn.
    """

    title: str
    caption: str
    data: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A part of the page with a heading of its own.

    Parameters
    ----------
    anchor : str
        Where links lead; letters and hyphens, unlike those of all other sections.
    title, short : str
        Heading, and a word for the navigation.
    sentences : list of str
        What was found.
    pictures : list of Picture
        The same as figures.
    columns : list of str
        Header of a table; empty for none.
    lines : list of list of str
        Its cells.
    """

    anchor: str
    title: str
    short: str
    sentences: list[str]
    pictures: list[Picture]
    columns: list[str] = field(default_factory=list)
    lines: list[list[str]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, slots=True)
class PhenotypePart:
    """What the page says about one phenotype.

    Parameters
    ----------
    name : str
        The phenotype.
    lead : str
        The result in one sentence.
    facts : list of (str, str)
        Who is in and out, splits, covariates.
    pictures : list of Picture
        Models; predictions.
    columns : list of str
        Header of the table.
    lines : list of list of str
        One line a model.
    details : list of Section
        Networks, sites, repetition times.
    """

    name: str
    lead: str
    facts: list[tuple[str, str]]
    pictures: list[Picture]
    columns: list[str]
    lines: list[list[str]]
    details: list[Section]


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupPage:
    """Everything on the page.

    Parameters
    ----------
    title : str
        Name of the encoder.
    overview : list of (str, str)
        What was run.
    pretraining : str
        Whether people were both pretrained and probed on.
    warns : bool
        Whether that is a reason to be careful.
    phenotypes : list of PhenotypePart
        In the order asked for.
    sections : list of Section
        What is not about one phenotype.
    warnings : list of str
        What the user should know.
    """

    title: str
    overview: list[tuple[str, str]]
    pretraining: str
    warns: bool
    phenotypes: list[PhenotypePart]
    sections: list[Section]
    warnings: list[str]


def read_training_picture(directory: Path) -> Picture | None:
    """Read the training curve of an encoder that was pretrained here.

    Parameters
    ----------
    directory : Path
        Directory of the encoder.

    Returns
    -------
    Picture or None
        None when there is none.
    """
    path = directory / "figures" / "training.svg"
    if not path.is_file():
        return None
    return Picture(
        title="Pretraining",
        caption="Losses and effective rank of the projections over the optimiser's steps. A rank that falls to a few "
        "means that the encoder has collapsed.",
        data=embed_svg(path.read_text(encoding="utf-8")),
    )


def write_group_page(out_dir: Path, page: GroupPage) -> Path:
    """Write ``group.html``; the tables are on disk already, so what goes wrong costs the page alone.

    Parameters
    ----------
    out_dir : Path
        Output dataset.
    page : GroupPage
        Its content.

    Returns
    -------
    Path
        ``OUT_DIR/group.html``.
    """
    path = out_dir / "group.html"
    try:
        tables = {name: text for name, text in TABLES.items() if (out_dir / f"{name}.tsv").is_file()}
        write_text(path, render_page(page, methods=read_methods(out_dir), tables=tables), only_if_changed=True)
    except Exception as error:
        # Results are on disk already; a page about them must never turn success into failure.
        LOGGER.debug("Writing %s", path, exc_info=True)
        LOGGER.warning("The report %s could not be written: %s: %s", path.name, type(error).__name__, error)
    return path


def render_page(page: GroupPage, *, methods: str, tables: Mapping[str, str] = TABLES) -> str:
    """Render the page.

    Parameters
    ----------
    page : GroupPage
        Its content.
    methods : str
        HTML fragment of the methods text.
    tables : mapping of str to str
        Tables beside the page, and what links call them.

    Returns
    -------
    str
        HTML that needs nothing else.
    """
    from jinja2 import Environment, StrictUndefined  # noqa: PLC0415 - loading it takes 50 ms

    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=True)
    data = files("bids_semantoks").joinpath("data")
    style = data.joinpath("report.html.jinja").read_text(encoding="utf-8")
    style = style.partition("<style>\n")[2].partition("</style>")[0]
    text = data.joinpath("group.html.jinja").read_text(encoding="utf-8")
    return environment.from_string(text).render(
        page=page, version=__version__, style=style, methods=methods, tables=tables
    )
