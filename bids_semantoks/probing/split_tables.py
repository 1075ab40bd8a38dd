"""Splits as a table that can be written, given back and checked."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.errors import InputError
from bids_semantoks.probing.splits import Indices, Split

ROLES = ("train", "validation", "test")


class SplitRow(NamedTuple):
    """One line of the table of splits."""

    repetition: int
    fold: int
    participant: str
    role: str  # one of `ROLES`


def check_groups(splits: Iterable[Split], groups: NDArray[Any]) -> None:
    """Refuse splits in which a group has two roles: InputError names the first group, repetition and fold."""
    for split in splits:
        # Validation rows choose a rate, or train as well: tested ones must not know them either.
        for first, second in itertools.combinations(ROLES, 2):
            shared = np.intersect1d(groups[getattr(split, first)], groups[getattr(split, second)])
            if len(shared):
                raise InputError(
                    f"Group {shared[0]} is in both {first} and {second} of repetition {split.repetition}, "
                    f"fold {split.fold}.",
                    hint="Members of a group must have the same role.",
                )


def build_split_table(splits: Iterable[Split], participants: Sequence[str]) -> list[SplitRow]:
    """List splits by repetition, fold, role and participant; one with several rows (sessions) is named once."""
    table = []
    for split in splits:
        for role in ROLES:
            names = sorted({participants[row] for row in getattr(split, role)})
            table += [SplitRow(split.repetition, split.fold, name, role) for name in names]
    return table


def read_split_table(
    table: Iterable[SplitRow],
    participants: Sequence[str],
    *,
    strata: Indices | None = None,
    groups: NDArray[Any] | None = None,
) -> tuple[Split, ...]:
    """Convert a table of splits back to positions, renumbered from 0, and check it.

    Where a fold lists only test rows, everyone else trains; rows with stratum -1 (phenotype missing) are dropped.
    Raises InputError for an unknown participant or role, two roles, a participant tested twice in a repetition, an
    empty part, or a group with two roles.
    """
    roles = _collect_roles(table, participants)
    # Numbers may start anywhere and have gaps; a repetition that does not exist has no score.
    repetitions = sorted({repetition for repetition, _ in roles})
    folds = sorted({fold for _, fold in roles})
    names = np.asarray(participants)
    usable = np.ones(len(names), dtype=bool) if strata is None else strata >= 0
    splits = []
    for (repetition, fold), role_of in sorted(roles.items()):
        default = "train" if set(role_of.values()) == {"test"} else ""
        role = np.array([role_of.get(name, default) for name in names])
        parts = {kind: np.flatnonzero((role == kind) & usable) for kind in ROLES}
        for kind in ("train", "test"):
            if not len(parts[kind]):
                raise InputError(
                    f"Nobody is left in {kind} of repetition {repetition}, fold {fold} of the given splits.",
                    hint="Participants without the phenotype are left out.",
                )
        splits.append(Split(repetition=repetitions.index(repetition), fold=folds.index(fold), **parts))
    if groups is not None:
        check_groups(splits, groups)
    return tuple(splits)


def _collect_roles(table: Iterable[SplitRow], participants: Sequence[str]) -> dict[tuple[int, int], dict[str, str]]:
    known = set(participants)
    roles: dict[tuple[int, int], dict[str, str]] = {}
    tested: dict[tuple[int, str], int] = {}
    for row in table:
        where = f"repetition {row.repetition}, fold {row.fold} of the given splits"
        if row.participant not in known:
            raise InputError(
                f"Participant {row.participant} in {where} is not among the {len(known)} participants here.",
                hint="Splits belong to one set of participants.",
            )
        if row.role not in ROLES:
            raise InputError(f"Role {row.role!r} in {where} is none of {', '.join(ROLES)}.")
        former = roles.setdefault((row.repetition, row.fold), {}).setdefault(row.participant, row.role)
        if former != row.role:
            raise InputError(f"Participant {row.participant} is both {former} and {row.role} in {where}.")
        if row.role == "test" and tested.setdefault((row.repetition, row.participant), row.fold) != row.fold:
            raise InputError(f"Participant {row.participant} is tested twice in repetition {row.repetition}.")
    if not roles:
        raise InputError("The given splits have no rows.", hint="Expected repetition, fold, participant, role.")
    return roles
