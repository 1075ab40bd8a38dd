"""What is predicted from what is known, who trains and who is tested: decided and checked before any work.

Shape letters: n rows (participants or sessions), c covariates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.config import AppConfig
from bids_semantoks.errors import InputError
from bids_semantoks.inputs.phenotypes import Column, Phenotype, build_phenotype, find_columns, parse_number
from bids_semantoks.outputs.probes import read_split_lines
from bids_semantoks.outputs.store import StoredRun
from bids_semantoks.probing.covariates import build_covariates
from bids_semantoks.probing.split_tables import SplitRow, check_groups, read_split_table
from bids_semantoks.probing.splits import Split, build_left_out_splits, build_published_splits, build_splits
from bids_semantoks.probing.targets import Target, build_class_target
from bids_semantoks.rows import Rows, build_rows

_FORMS: Final = (str, str.upper, str.title)
_SITE_NAMES: Final = tuple(
    form(name) for name in ("site", "site_id", "scanner", "scanner_id", "center") for form in _FORMS
)
#: Columns that pictures are coloured by where they are there.
COLOUR_NAMES: Final = tuple(form(name) for name in ("sex", "gender", "age") for form in _FORMS)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ProbePlan:
    """What will be probed, checked before any work.

    Parameters
    ----------
    config : AppConfig
        What was asked.
    columns : dict of str to Column
        Phenotypes, covariates, groups and, where there are any, site and columns to colour by.
    site : str
        Column of the site; empty for none.
    given : tuple of (str, int, int, str, str)
        Lines of the splits that were given.
    """

    config: AppConfig
    columns: dict[str, Column]
    site: str
    given: tuple[tuple[str, int, int, str, str], ...]

    def build_rows(self, stored: Sequence[StoredRun], name: str) -> Rows:
        """Choose the rows that a phenotype asks for.

        Parameters
        ----------
        stored : sequence of StoredRun
            All runs.
        name : str
            The phenotype.

        Returns
        -------
        Rows
            Sessions where it has one value a session, else participants.
        """
        return build_rows(stored, by_session=self.columns[name].has_sessions)

    def build_phenotype(self, rows: Rows, name: str) -> Phenotype:
        """Convert a phenotype.

        Parameters
        ----------
        rows : Rows
            From `build_rows`.
        name : str
            The phenotype.

        Returns
        -------
        Phenotype
            Of all rows.
        """
        asked = self.config.probing
        return build_phenotype(self.columns[name], rows.keys, kind=asked.probe_kind, n_bins=asked.n_bins)

    def find_labels(self, rows: Rows, name: str, phenotype: str) -> tuple[str | None, ...]:
        """Look up a column that groups or corrects, as text.

        Parameters
        ----------
        rows : Rows
            From `build_rows`.
        name : str
            The column.
        phenotype : str
            What is predicted, for the message.

        Returns
        -------
        tuple of (str or None), length n
            None where missing.

        Raises
        ------
        InputError
            When the column has one value a session and rows are participants.
        """
        column = self.columns[name]
        if column.has_sessions and not self.columns[phenotype].has_sessions:
            raise InputError(
                f"Column {name} of {column.table} has one value a session, but {phenotype} has one a participant.",
                hint="Give one value a participant in a table of --phenotype.",
            )
        return column.find(rows.keys)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Design:
    """How one phenotype is predicted, whatever the model.

    Parameters
    ----------
    target : Target
        Missing where a covariate is.
    rows : Rows
        All rows.
    splits : tuple of Split
        The same for all models.
    covariates : NDArray, float64, shape (n, c), or None
        To be removed from the features.
    covariate_names : tuple of str
        Their columns.
    groups, blocks : NDArray, shape (n,), or None
        Rows kept together, and rows among which labels are permuted.
    unit_groups : NDArray, shape (n,), or None
        Rows that exchange their labels together in permutations.
    notes : tuple of str
        Who is out, and why.
    """

    target: Target
    rows: Rows
    splits: tuple[Split, ...]
    covariates: NDArray[np.float64] | None
    covariate_names: tuple[str, ...]
    groups: NDArray[Any] | None
    blocks: NDArray[Any] | None
    unit_groups: NDArray[Any] | None
    notes: tuple[str, ...]


def plan_probes(config: AppConfig, stored: Sequence[StoredRun]) -> ProbePlan:
    """Check everything that was asked of probes before any work is done.

    Parameters
    ----------
    config : AppConfig
        What was asked, with at least one phenotype.
    stored : sequence of StoredRun
        The runs.

    Returns
    -------
    ProbePlan
        Phenotypes that can be probed.

    Raises
    ------
    InputError
        When a column or table is not there or cannot be predicted.
    """
    asked = config.probing
    extra = [*asked.covariate, *filter(None, (asked.group_by, asked.leave_out))]
    columns = find_columns(
        config.bids_dir,
        list(dict.fromkeys([*asked.probe, *extra])),
        phenotype=asked.phenotype,
        optional=[*_SITE_NAMES, *COLOUR_NAMES],
    )
    given = read_split_lines(asked.splits) if asked.splits else ()
    site = next((name for name in (asked.leave_out, *_SITE_NAMES) if name in columns), "")
    plan = ProbePlan(config=config, columns=columns, site=site or "", given=tuple(given))
    for name in asked.probe:
        rows = plan.build_rows(stored, name)
        build_design(plan, rows, plan.build_phenotype(rows, name))
    return plan


def build_design(plan: ProbePlan, rows: Rows, phenotype: Phenotype) -> Design:
    """Decide rows, covariates, groups and splits of a phenotype.

    Parameters
    ----------
    plan : ProbePlan
        What was asked.
    rows : Rows
        Participants or sessions.
    phenotype : Phenotype
        Of these rows.

    Returns
    -------
    Design
        The same for all models.

    Raises
    ------
    InputError
        When covariates, groups or splits do not allow it.
    """
    asked, seed = plan.config.probing, plan.config.running.random_seed
    out = np.array([label is None for label in phenotype.labels])
    notes = [f"{int(out.sum())} without a value"] if out.any() else []
    names = tuple(name for name in asked.covariate if name != phenotype.name)
    cells = {name: plan.find_labels(rows, name, phenotype.name) for name in names}
    lacks = np.array([any(cells[name][i] is None for name in names) for i in range(len(rows.keys))], dtype=bool)
    left_out = plan.find_labels(rows, asked.leave_out, phenotype.name) if asked.leave_out else None
    if left_out is not None:
        lacks |= np.array([label is None for label in left_out])
    if (lacks & ~out).any():
        needed = ", ".join(filter(None, (*names, asked.leave_out)))
        notes.append(f"{int((lacks & ~out).sum())} without a value of {needed}")
    target = build_target(phenotype, out | lacks, n_bins=asked.n_bins)
    groups = find_groups(plan, rows, phenotype.name)
    if left_out is not None:
        places = np.array([label or "" for label in left_out])
        check_together(places, rows, asked.leave_out or "", ~(out | lacks))
        splits = build_left_out_splits(target.compute_strata(), places)
        blocks, unit_groups, groups = places, groups, places
    else:
        splits = build_phenotype_splits(plan, target, rows, groups, seed=seed)
        blocks, unit_groups = None, groups
    usable = ~(out | lacks)
    return Design(
        target=target,
        rows=rows,
        splits=splits,
        covariates=convert_covariates(cells, usable) if names else None,
        covariate_names=names,
        groups=groups,
        blocks=blocks,
        unit_groups=unit_groups,
        notes=tuple(notes),
    )


def build_target(phenotype: Phenotype, is_out: NDArray[np.bool_], *, n_bins: int) -> Target:
    """Turn a phenotype into what is predicted.

    Parameters
    ----------
    phenotype : Phenotype
        Of all rows.
    is_out : NDArray, bool, shape (n,)
        Rows that take no part.
    n_bins : int
        Classes to cut values into.

    Returns
    -------
    Target
        Missing where rows take no part.

    Raises
    ------
    InputError
        When nothing varies among the rows that are left.
    """
    if phenotype.kind == "classification":
        labels = [None if gone else label for label, gone in zip(phenotype.labels, is_out, strict=True)]
        n_classes = len(set(labels) - {None})
        if n_classes < 2:
            raise InputError(
                f"Column {phenotype.name} has {n_classes} classes among those with all covariates.",
                hint="Leave a covariate away.",
            )
        return build_class_target(phenotype.name, labels)
    values = np.where(is_out, np.nan, phenotype.numbers)
    if len(np.unique(values[~np.isnan(values)])) < 2:
        raise InputError(f"Column {phenotype.name} does not vary among those with all covariates.")
    return Target(name=phenotype.name, values=values, n_bins=n_bins)


def convert_covariates(cells: Mapping[str, Sequence[str | None]], usable: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Turn covariates into numbers; rows that take no part are filled with what is neutral.

    Parameters
    ----------
    cells : mapping of str to sequence of (str or None), length n
        Text by column.
    usable : NDArray, bool, shape (n,)
        Rows that have all of them.

    Returns
    -------
    NDArray, float64, shape (n, c)
        Text as indicators, numbers as they are.
    """
    columns: dict[str, Sequence[float] | Sequence[str]] = {}
    for name, texts in cells.items():
        known = [text for text, use in zip(texts, usable, strict=True) if use and text is not None]
        numbers = [parse_number(text) for text in known]
        filled = [text if use and text is not None else known[0] for text, use in zip(texts, usable, strict=True)]
        if None in numbers:
            columns[name] = filled
        else:
            columns[name] = [float(text) for text in filled]
    return build_covariates(columns)


def find_groups(plan: ProbePlan, rows: Rows, phenotype: str) -> NDArray[Any] | None:
    """Find which rows must stay on one side of every split.

    Parameters
    ----------
    plan : ProbePlan
        What was asked.
    rows : Rows
        Participants or sessions.
    phenotype : str
        What is predicted.

    Returns
    -------
    NDArray, shape (n,), or None
        Group of each row; None where each row is free.

    Raises
    ------
    InputError
        When a participant belongs to several groups.
    """
    name = plan.config.probing.group_by
    if name is None:
        return rows.participants if rows.has_sessions else None
    labels = plan.find_labels(rows, name, phenotype)
    # Without a family of one's own name, one is one's own family.
    own = [f"{label}" if label is not None else f"sub-{key[0]}" for label, key in zip(labels, rows.keys, strict=True)]
    groups = np.array(own)
    check_together(groups, rows, name, np.ones(len(groups), dtype=bool))
    return groups


def check_together(groups: NDArray[Any], rows: Rows, name: str, usable: NDArray[np.bool_]) -> None:
    """Refuse groups that would put sessions of one participant on both sides.

    Parameters
    ----------
    groups : NDArray, shape (n,)
        Group of each row.
    rows : Rows
        Participants or sessions.
    name : str
        Column of the groups.
    usable : NDArray, bool, shape (n,)
        Rows that count.

    Raises
    ------
    InputError
        Names the first participant in two groups.
    """
    first: dict[str, str] = {}
    for group, participant in zip(groups[usable], rows.participants[usable], strict=True):
        if first.setdefault(str(participant), str(group)) != str(group):
            raise InputError(
                f"Sessions of sub-{participant} have different values of {name}: {first[str(participant)]} and "
                f"{group}.",
                hint="Choose a column with one value a participant.",
            )


def build_phenotype_splits(
    plan: ProbePlan, target: Target, rows: Rows, groups: NDArray[Any] | None, *, seed: int
) -> tuple[Split, ...]:
    """Take the splits that were given, or draw them.

    Parameters
    ----------
    plan : ProbePlan
        What was asked.
    target : Target
        What is predicted.
    rows : Rows
        Participants or sessions.
    groups : NDArray, shape (n,), or None
        Rows kept together.
    seed : int
        Of the drawing.

    Returns
    -------
    tuple of Split
        By repetition, then fold.

    Raises
    ------
    InputError
        When given splits do not fit, or there are too few to be split.
    """
    asked = plan.config.probing
    strata = target.compute_strata()
    if plan.given:
        lines = [line for line in plan.given if line[0] in ("", target.name)]
        if not lines:
            raise InputError(
                f"The splits {asked.splits} have no lines for {target.name}.",
                hint="Leave the column phenotype away to use them for all.",
            )
        table = [SplitRow(*line[1:]) for line in lines]
        splits = read_split_table(table, rows.participants.tolist(), strata=strata, groups=groups)
        if asked.protocol == "paper" and any(not len(split.validation) for split in splits):
            raise InputError(
                f"The splits {asked.splits} have nobody in validation, by which protocol paper chooses a rate.",
                hint="Use --protocol nested.",
            )
        return splits
    if asked.protocol == "paper":
        splits = build_published_splits(strata, groups=groups, n_repeats=asked.n_repeats, seed=seed)
    else:
        splits = build_splits(strata, groups=groups, n_repeats=asked.n_repeats, seed=seed)
    if groups is not None:
        check_groups(splits, groups)
    return splits
