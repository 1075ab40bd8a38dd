"""Groups of rows that stay together, and the splits that respect them. Shape letters: n rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.errors import InputError
from bids_semantoks.probes.plans import ProbePlan
from bids_semantoks.probes.rows import Rows
from bids_semantoks.statistics.splits import (
    Split,
    SplitRow,
    build_published_splits,
    build_splits,
    check_groups,
    read_split_table,
)
from bids_semantoks.statistics.targets import Target


def find_groups(plan: ProbePlan, rows: Rows, phenotype: str) -> NDArray[Any] | None:
    """Find the group (n,) of each row, None where rows are free; InputError for a participant in several groups."""
    name = plan.config.probing.group_by
    if name is None:
        return rows.participants if rows.has_sessions else None
    groups = name_groups(plan.find_labels(rows, name, phenotype), rows)
    check_together(groups, rows, name, np.ones(len(groups), dtype=bool))
    return groups


def name_groups(labels: Sequence[str | None], rows: Rows) -> NDArray[Any]:
    """Name the group (n,) of each row; a participant without one forms a group alone."""
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
                hint="Choose a column with one value a participant.",
            )


def build_phenotype_splits(
    plan: ProbePlan, target: Target, rows: Rows, groups: NDArray[Any] | None, *, seed: int
) -> tuple[Split, ...]:
    """Use the given splits or draw them; InputError where given ones do not fit or there are too few rows."""
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
        check_classes(target, splits)
        if asked.protocol == "paper" and any(not len(split.validation) for split in splits):
            raise InputError(
                f"The splits {asked.splits} have nobody in validation, by which protocol paper chooses a rate.",
                hint="Use --protocol nested.",
            )
        return splits
    build = build_published_splits if asked.protocol == "paper" else build_splits
    try:
        splits = build(strata, groups=groups, n_repeats=asked.n_repeats, seed=seed)
    except InputError as error:
        # Splits know numbers alone; of several phenotypes the user must know which.
        raise InputError(f"{target.name} cannot be divided: {error.message}", hint=error.hint) from error
    if groups is not None:
        check_groups(splits, groups)
    check_classes(target, splits)
    return splits


def check_classes(target: Target, splits: Sequence[Split]) -> None:
    """Refuse splits with a training part that lacks a class, or bins that no value falls into: InputError."""
    for split in splits if target.n_bins else ():
        if np.bincount(target.compute_labels(split.train)[split.train].astype(int), minlength=target.n_bins).min() == 0:
            values, counts = np.unique(target.values[split.train], return_counts=True)
            raise InputError(
                f"{target.name} cannot be cut into {target.n_bins} bins of equal size: {counts.max()} of "
                f"{counts.sum()} participants to train on share the value {values[counts.argmax()]:g}.",
                hint="Use fewer --n-bins, or none.",
            )
    for split in splits if target.classes else ():
        if missing := find_classes_lacking(target, split):
            raise InputError(
                f"Nobody of {target.name} {', '.join(missing)} is left to train on in repetition {split.repetition}, "
                f"fold {split.fold}.",
                hint="Members of a class must be in several groups, and in the training part of given splits.",
            )


def find_classes_lacking(target: Target, split: Split) -> list[str]:
    """Find the names of classes that a training part lacks."""
    known = set(target.values[split.train].astype(int).tolist())
    return [name for k, name in enumerate(target.classes) if k not in known]
