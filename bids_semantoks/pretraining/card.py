"""Files written next to a trained encoder: the training log and the model card."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from bids_semantoks.errors import escape_markdown
from bids_semantoks.files import read_table, write_json, write_text
from bids_semantoks.outputs.credits import build_hub_header
from bids_semantoks.outputs.methods import load_template
from bids_semantoks.outputs.sidecars import read_column_descriptions
from bids_semantoks.records import Floats
from bids_semantoks.reports.figures import FIGURES
from bids_semantoks.reports.pages import read_template
from bids_semantoks.training.progress import LOG_COLUMNS

if TYPE_CHECKING:
    from jinja2 import Environment

CARD_FILE: Final = "README.md"
LOG_FILE: Final = "training_log.tsv"

#: Entries of a model card that are ranges: lowest and highest, or first and last.
_RANGES: Final = (
    *("mask_ratio", "weight_decay", "momentum", "band"),
    *("repetition_time_of_the_sources_in_s", "length_of_the_runs_in_s"),
)

#: Entries that list values occurring in the data.
_CHOICES: Final = ("noise_removed", "global_signal", "scrubbing")


def start_log(path: Path, step: int) -> None:
    """Start the table of a training, or keep its rows up to `step`, from which the training resumes; 0 for a new
    one."""
    header = "\t".join(LOG_COLUMNS)
    kept = [header]
    if step and path.is_file():
        lines = path.read_text(encoding="utf-8").splitlines()
        if lines[:1] == [header]:
            steps = (line.partition("\t")[0] for line in lines[1:])
            kept += [line for line, at in zip(lines[1:], steps, strict=True) if at.isdecimal() and int(at) <= step]
    write_text(path, "\n".join(kept) + "\n")
    write_json(path.with_suffix(".json"), read_column_descriptions("training_log"), only_if_changed=True)


def append_log(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Append rows of `LOG_COLUMNS` and sync them to disk; missing values become ``n/a``."""
    cells = ([row.get(column, math.nan) for column in LOG_COLUMNS] for row in rows)
    lines = ["\t".join("n/a" if math.isnan(one) else f"{one:.7g}" for one in row) + "\n" for row in cells]
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(lines))
        file.flush()
        os.fsync(file.fileno())


def read_training_log(path: Path) -> dict[str, Floats]:
    """Read the table of a training as arrays by column; ``n/a`` becomes NaN."""
    columns, rows = read_table(path)
    return dict(zip(columns, rows.T, strict=True))


class Terms(NamedTuple):
    """Under which terms weights are published, as their owner states them."""

    repository: str  # ORG/NAME
    license: str  # identifier of the Hub, such as cc-by-nc-4.0
    data: str  # of the use of the training data
    datasets: tuple[str, ...] = ()  # names of datasets on the Hub


def write_model_card(
    directory: Path,
    *,
    name: str,
    sha256: str,
    details: Mapping[str, Any],
    drawn: Sequence[str],
    terms: Terms | None = None,
) -> None:
    """Write the model card from ``details`` of config.json (``data``, ``limits``, ``recipe``, ``participants``,
    ``n_parameters``), the `drawn` figures (keys of `FIGURES`) and, for weights to be published, their `terms`."""
    header = build_hub_header(
        "feature-extraction",
        tags=("self-distillation",),
        license_id=terms.license if terms else None,
        datasets=terms.datasets if terms else (),
    )
    text = load_template("model_card.md.jinja", read_template, _prepare).render(
        header=header,
        name=name,
        model=terms.repository if terms else directory.name,
        sha256=sha256,
        details=details,
        figures={figure: FIGURES[figure] for figure in drawn},
        terms=terms,
    )
    write_text(directory / CARD_FILE, text + "\n")


def _prepare(environment: Environment) -> None:
    environment.filters["markdown"] = escape_markdown
    environment.globals["entries"] = _describe_entries


def _describe_entries(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (escape_markdown(key.replace("_", " ")), escape_markdown(_describe(key, value)))
        for key, value in values.items()
        if value is not None
    ]


def _describe(key: str, value: Any) -> str:
    if isinstance(value, list | tuple):
        between = " to " if key in _RANGES else " or " if key in _CHOICES else ", "
        words = between.join(_describe("", item) for item in value)
        return f"{words} Hz" if key == "band" else words
    return f"{value:.6g}" if isinstance(value, float) else str(value)
