"""Types of the columns used with a phenotype: numeric, or categorical with levels. Shapes: n rows, c covariates."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.analyses.rows import Rows
from bids_semantoks.config import ProbingConfig
from bids_semantoks.errors import InputError
from bids_semantoks.inputs.missing_codes import parse_number
from bids_semantoks.inputs.people_tables import Key
from bids_semantoks.inputs.phenotypes import Column, Phenotype, check_cells, find_codes
from bids_semantoks.statistics.targets import build_covariates

LOGGER = logging.getLogger("bids_semantoks")


def check_columns(
    columns: Mapping[str, Column], keys: Sequence[Key], asked: ProbingConfig, *, site: str
) -> tuple[str, ...]:
    """Return the warnings about the requested columns and the detected `site`, for the page.

    Raises InputError if covariates or grouping columns are numeric except for a few text cells.
    """
    extra = [*asked.covariate, *asked.strata, *filter(None, (asked.group_by, asked.leave_out))]
    # Measures of runs are covariates without a column.
    extra = [name for name in extra if name in columns]
    warnings: list[str] = []
    for name in dict.fromkeys((*asked.probe, *extra, *filter(None, (site,)))):
        warnings += columns[name].warnings
        if name not in (*asked.probe, *extra):
            # Requested columns have already warned when they were read.
            for warning in columns[name].warnings:
                LOGGER.warning("%s", warning)
        if name in extra:
            check_cells(columns[name], keys)
        if name in asked.covariate and (codes := find_codes(columns[name], keys)):
            LOGGER.warning("%s", codes)
            warnings.append(codes)
    return tuple(warnings)


def describe_kinds(
    phenotype: Phenotype,
    cells: Mapping[str, Sequence[str | None]],
    usable: NDArray[np.bool_],
    categories: Collection[str],
    *,
    n_bins: int,
) -> dict[str, str]:
    """Describe the type of a phenotype and of the other columns (n,): ``number`` or ``category, 3 levels``."""
    is_class = phenotype.kind == "classification"
    levels = {text for text, use in zip(phenotype.labels, usable, strict=True) if use}
    kind = _name_levels(levels) if is_class else f"number cut into {n_bins} bins" if n_bins else "number"
    kinds = {phenotype.name: kind}
    for name, texts in cells.items():
        levels = {text for text, use in zip(texts, usable, strict=True) if use} - {None}
        kinds.setdefault(name, _name_levels(levels) if name in categories else "number")
    return kinds


def _name_levels(levels: Collection[object]) -> str:
    return f"category, {len(levels)} level{'' if len(levels) == 1 else 's'}"


def convert_covariates(
    cells: Mapping[str, Sequence[str | None]], usable: NDArray[np.bool_], categories: Collection[str] = ()
) -> NDArray[np.float64]:
    """Convert covariates to (n, c), text and `categories` to indicators; unusable rows get the first known value."""
    columns: dict[str, Sequence[float] | Sequence[str]] = {}
    for name, texts in cells.items():
        known = [text for text, use in zip(texts, usable, strict=True) if use and text is not None]
        filled = [text if use and text is not None else known[0] for text, use in zip(texts, usable, strict=True)]
        is_text = name in categories or None in map(parse_number, known)
        columns[name] = filled if is_text else [float(text) for text in filled]
    return build_covariates(columns)


def name_groups(labels: Sequence[str | None], rows: Rows) -> NDArray[Any]:
    """Name the group (n,) of each row; a participant without one forms a separate group."""
    return np.array(
        [label if label is not None else f"sub-{key[0]}" for label, key in zip(labels, rows.keys, strict=True)]
    )


def check_together(groups: NDArray[Any], rows: Rows, name: str, usable: NDArray[np.bool_]) -> None:
    """Refuse groups that separate usable sessions of one participant: InputError names the first participant."""
    first: dict[str, str] = {}
    for group, participant in zip(groups[usable], rows.participants[usable], strict=True):
        if first.setdefault(str(participant), str(group)) != str(group):
            raise InputError(
                f"Sessions of sub-{participant} have different values of {name}: {first[str(participant)]} and "
                f"{group}.",
                hint="Choose a column with one value per participant.",
            )
