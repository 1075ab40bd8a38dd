"""Phenotypes as targets, and the types of the columns used with them. Shapes: n rows, c covariates."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import numpy as np

from bids_semantoks.analyses.rows import Rows
from bids_semantoks.bids_names import sorted_naturally
from bids_semantoks.config import ProbingConfig
from bids_semantoks.config.options import check
from bids_semantoks.errors import InputError, name_count
from bids_semantoks.inputs.people_tables import Key, parse_number
from bids_semantoks.inputs.phenotypes import MIN_CLASS, Column, Phenotype, check_cells, find_codes
from bids_semantoks.records import Bools, Floats, Labels
from bids_semantoks.statistics.predictions import Target, build_class_target
from bids_semantoks.statistics.splits import Split

LOGGER = logging.getLogger("bids_semantoks")
_MIN_SITE: Final = 5  # rows of a site without which it cannot be harmonised
_SMALL_SITE: Final = 20  # rows of a site with fewer of which its estimate is uncertain
HARMONISERS: Final = {"combat": "ComBat", "mean_scale": "mean and scale"}  # methods of --harmonize in words


def check_columns(
    columns: Mapping[str, Column], keys: Sequence[Key], asked: ProbingConfig, *, site: str
) -> tuple[str, ...]:
    """Return the warnings about the requested columns and the detected `site`, for the page. Raises InputError if
    covariates or grouping columns are numeric except for a few text cells."""
    # Measures of runs are covariates without a column.
    extra = [name for name in asked.beside if name in columns]
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
    usable: Bools,
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
    return f"category, {name_count(len(levels), 'level')}"


def convert_covariates(
    cells: Mapping[str, Sequence[str | None]], usable: Bools, categories: Collection[str] = ()
) -> Floats:
    """Convert covariates to (n, c), text and `categories` to indicators; unusable rows get the first known value."""
    columns: list[Floats] = []
    for name, texts in cells.items():
        known = [text for text, use in zip(texts, usable, strict=True) if use and text is not None]
        filled = [text if use and text is not None else known[0] for text, use in zip(texts, usable, strict=True)]
        if name in categories or None in map(parse_number, known):
            # All levels keep their indicator, since a training part may lack any of them.
            column = np.array(filled)
            columns += [(column == level).astype(np.float64) for level in sorted(set(filled))]
        else:
            columns.append(np.array([float(text) for text in filled]))
    return np.stack(columns, axis=1)


def name_groups(labels: Sequence[str | None], rows: Rows) -> Labels:
    """Name the group (n,) of each row; a participant without one forms a separate group."""
    named = zip(labels, rows.participants, strict=True)
    return np.array([f"sub-{participant}" if label is None else label for label, participant in named])


def check_together(groups: Labels, rows: Rows, name: str, usable: Bools) -> None:
    """Refuse groups that separate usable sessions of one participant: InputError names the first participant."""
    first: dict[str, str] = {}
    for group, participant in zip(groups[usable], rows.participants[usable], strict=True):
        if first.setdefault(str(participant), str(group)) != str(group):
            raise InputError(
                f"Sessions of sub-{participant} have different values of {name}: {first[str(participant)]} and "
                f"{group}.",
                hint="Choose a column with one value per participant.",
            )


def check_harmonised(
    asked: ProbingConfig, phenotype: Phenotype, cells: Mapping[str, Sequence[str | None]], splits: Sequence[Split]
) -> str:
    """Describe how the features of a phenotype are harmonised, and which sites are small; empty if they are not. Raises
    InputError for sites with too few rows, ConfigurationError for a column to keep that is the phenotype under another
    name. `cells` are those of the columns beside the phenotype."""
    if asked.harmonize is None:
        return ""
    for name in asked.harmonize_keep:
        pairs = {(own, other) for own, other in zip(phenotype.labels, cells[name], strict=True) if own and other}
        own, others = ({pair[side] for pair in pairs} for side in (0, 1))
        check(
            len(own) < 2 or not len(pairs) == len(own) == len(others),
            f"--harmonize-keep {name} would put the predicted phenotype into the features of test rows: each value of "
            f"{name} stands for one of {phenotype.name}.",
            "Remove it.",
        )
    sites, name = np.array([label or "" for label in cells[asked.harmonize]]), asked.harmonize
    least = dict.fromkeys(np.unique(np.concatenate([sites[split.test] for split in splits])).tolist(), len(sites))
    new = set[str]()
    for split in splits:
        trained = Counter(sites[np.concatenate([split.train, split.validation])].tolist())
        tested = Counter(sites[split.test].tolist())
        new |= tested.keys() - trained.keys()
        for site, count in ({site: tested[site] for site in tested.keys() - trained.keys()} | trained).items():
            least[site] = min(least.get(site, count), count)
    if len(least) < 2:
        raise InputError(
            f"--harmonize {name} needs two sites or more; all rows of {phenotype.name} are from {next(iter(least))}.",
            hint="Remove it, or choose a column that tells sites or scanners apart.",
        )
    few = [f"{site} ({least[site]})" for site in sorted_naturally(least) if least[site] < _MIN_SITE]
    if few:
        raise InputError(
            f"--harmonize {name} cannot estimate mean and scale for {phenotype.name} from fewer than {_MIN_SITE} rows "
            f"of a training part, or of a test part with a site of its own: {', '.join(few)}.",
            hint="Merge small sites in the column, or exclude their participants with --exclude-participant-label.",
        )
    small = [f"{site} ({least[site]})" for site in sorted_naturally(least) if least[site] < _SMALL_SITE]
    found = f"{name} ({_name_levels(least)}) by {HARMONISERS[asked.harmonize_method]}"
    found += f", keeping {', '.join(asked.harmonize_keep)}" if asked.harmonize_keep else ""
    found += "; test rows of unseen sites by their own rows, without labels" if new else ""
    if small:
        found += f"; few rows in a part, so the estimate is uncertain: {', '.join(small)}"
        LOGGER.warning("%s: sites with fewer than %d rows in a part: %s", phenotype.name, _SMALL_SITE, ", ".join(small))
    return found


def build_target(phenotype: Phenotype, is_out: Bools, *, n_bins: int) -> Target:
    """Convert a phenotype to a target, missing where `is_out` (n,); InputError if the rest cannot be predicted."""
    if phenotype.kind == "classification":
        labels = [None if gone else label for label, gone in zip(phenotype.labels, is_out, strict=True)]
        n_classes = len(set(labels) - {None})
        if n_classes < 2:
            raise InputError(
                f"Column {phenotype.name} has {n_classes} classes among participants with all  covariates.",
                hint="Remove a covariate.",
            )
        small = {label: count for label, count in Counter(labels).items() if label is not None and count < MIN_CLASS}
        if small:
            raise InputError(
                f"Column {phenotype.name} has classes with fewer than {MIN_CLASS} members among participants with all  "
                f"covariates: {', '.join(f'{label!r} ({count})' for label, count in sorted(small.items()))}.",
                hint="Remove a covariate, or write n/a for these classes.",
            )
        return build_class_target(phenotype.name, labels)
    values = np.where(is_out, np.nan, phenotype.numbers)
    if len(np.unique(values[~np.isnan(values)])) < 2:
        raise InputError(f"Column {phenotype.name} does not vary among participants with all  covariates.")
    return Target(name=phenotype.name, values=values, n_bins=n_bins)


def check_classes(target: Target, splits: Sequence[Split], *, column: str = "", places: Sequence[Any] = ()) -> None:
    """Refuse splits with a training part that lacks a class, or bins that no value falls into: InputError. With
    `places` (n,) they leave out one value of a column each."""
    for split in splits if target.is_class else ():
        labels = target.compute_labels(split.train)[split.train].astype(int)
        counts = np.bincount(labels, minlength=len(target.class_names)).tolist()
        lacking = ", ".join(name for name, count in zip(target.class_names, counts, strict=True) if not count)
        if lacking and target.n_bins:
            values, numbers = np.unique(target.values[split.train], return_counts=True)
            raise InputError(
                f"{target.name} cannot be divided into {target.n_bins} bins of equal size: {numbers.max()} of "
                f"{numbers.sum()} training participants have the value {values[numbers.argmax()]:g}.",
                hint="Reduce or remove --n-bins.",
            )
        if lacking and column:
            place = places[split.test[0]]
            raise InputError(
                f"Without {column} {place} there are no training participants with {target.name} = {lacking}.",
                hint=f"Exclude {column} {place}, or choose another column for --leave-out.",
            )
        if lacking:
            raise InputError(
                f"Repetition {split.repetition}, fold {split.fold} has no training participants with {target.name} = "
                f"{lacking}.",
                hint="Each class must be in several groups, and in the training part of given splits.",
            )
