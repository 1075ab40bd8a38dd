"""Training and test rows of each fold, as plain positions, and work on several folds at once."""

from __future__ import annotations

import contextlib
import itertools
import operator
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold, train_test_split
from threadpoolctl import threadpool_limits

from bids_semantoks.errors import InputError
from bids_semantoks.records import Floats, Indices, Labels

ROLES = ("train", "validation", "test")
_MOST_FOLDS = 5
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_N_THREADS: ContextVar[int] = ContextVar("n_threads", default=1)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Split:
    """One division of the rows; rows without the phenotype are in neither part."""

    repetition: int  # counted from 0, as is fold
    fold: int
    train: Indices  # sorted positions, as are test and validation
    test: Indices
    # empty except in the published protocol
    validation: Indices = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def __post_init__(self) -> None:
        where = f"repetition {self.repetition}, fold {self.fold}"
        parts = (self.train, self.test, self.validation)
        if not len(self.train) or not len(self.test):
            raise ValueError(f"{where}: {len(self.train)} training rows and {len(self.test)} test rows")
        if len(np.unique(np.concatenate(parts))) != sum(map(len, parts)):
            raise ValueError(f"{where}: a row has more than one role")


def compute_strata(values: Floats, *, is_class: bool, n_folds: int = 5) -> Indices:
    """Cut a target (n,) into strata (n,): classes, or ten bins at most with two rows per fold; -1 where missing."""
    strata = np.full(len(values), -1, dtype=np.int64)
    known = ~np.isnan(values)
    if is_class:
        strata[known] = values[known].astype(np.int64)
        return strata
    n_bins = int(np.clip(known.sum() // (2 * n_folds), 1, 10))
    edges = np.unique(np.quantile(values[known], np.arange(1, n_bins) / n_bins)) if n_bins > 1 else np.zeros(0)
    strata[known] = np.searchsorted(edges, values[known], side="right")
    return strata


def build_splits(
    strata: Indices, *, groups: Labels | None = None, n_repeats: int = 10, n_folds: int = 5, seed: int = 0
) -> tuple[Split, ...]:
    """Divide the rows into stratified folds, repetition r shuffled with seed `seed` + r; rows at -1 are left out. Rows
    of one of `groups` (n,) (participant, family, site) are never on both sides. Raises InputError if a stratum has
    fewer members, or there are fewer groups, than folds, or groups are so unequal that a fold is left empty."""
    rows = np.flatnonzero(strata >= 0)
    _check_sizes(strata[rows], None if groups is None else groups[rows], n_folds)
    splits = []
    for repetition in range(n_repeats):
        kind = StratifiedKFold if groups is None else StratifiedGroupKFold
        splitter = kind(n_splits=n_folds, shuffle=True, random_state=seed + repetition)
        parts = list(splitter.split(rows, strata[rows], None if groups is None else groups[rows]))
        if not all(len(test) for _, test in parts):
            raise InputError(
                f"Groups are too unequal in size for {n_folds} folds: a fold of repetition {repetition} has no test "
                "participants.",
                hint="Choose another column for --group-by.",
            )
        splits += [_build_split(repetition, fold, rows, train, test) for fold, (train, test) in enumerate(parts)]
    return tuple(splits)


def build_left_out_splits(strata: Indices, left_out: Labels) -> tuple[Split, ...]:
    """Leave each group (site) out once, folds in sorted order; rows at -1 are left out. InputError for one group."""
    rows = np.flatnonzero(strata >= 0)
    names = np.unique(left_out[rows])
    if len(names) < 2:
        raise InputError(
            f"Leave-one-group-out needs at least two groups, found {len(names)}: {', '.join(map(str, names))}.",
            hint="Choose another column for --leave-out.",
        )
    return tuple(
        _build_split(0, fold, rows, np.flatnonzero(left_out[rows] != name), np.flatnonzero(left_out[rows] == name))
        for fold, name in enumerate(names)
    )


def build_published_splits(
    strata: Indices, *, groups: Labels | None = None, n_repeats: int = 10, seed: int = 0
) -> tuple[Split, ...]:
    """Divide the rows .6/.2/.2 into train, validation and test as the published evaluation does, one fold a repetition.
    Groups and errors are those of `build_random_splits`."""

    def draw(strata: Indices, seed: int) -> list[Indices]:
        """Draw train, test and validation."""
        train, rest = train_test_split(np.arange(len(strata)), test_size=0.4, stratify=strata, random_state=seed)
        validation, test = train_test_split(rest, test_size=0.5, stratify=strata[rest], random_state=seed)
        return [train, test, validation]

    return build_random_splits(strata, draw, groups=groups, n_repeats=n_repeats, seed=seed)


def build_random_splits(
    strata: Indices, draw: Callable[[Indices, int], list[Indices]], *, groups: Labels | None, n_repeats: int, seed: int
) -> tuple[Split, ...]:
    """Draw training, test and perhaps validation rows anew in each repetition, r with `seed` + r; rows at -1 are left
    out. `draw` divides units with strata (u,): groups stay together, drawn by the stratum of their first row. Raises
    InputError for a stratum below 5 members."""
    rows = np.flatnonzero(strata >= 0)
    units = np.arange(len(rows)) if groups is None else np.unique(groups[rows], return_inverse=True)[1].ravel()
    unit_strata = strata[rows][np.unique(units, return_index=True)[1]]
    _check_sizes(unit_strata, None, 5)
    splits = []
    for repetition in range(n_repeats):
        inside = [np.flatnonzero(np.isin(units, part)) for part in draw(unit_strata, seed + repetition)]
        splits.append(_build_split(repetition, 0, rows, *inside))
    return tuple(splits)


def build_inner_folds(
    rows: Indices, *, strata: Indices | None, groups: Labels | None, n_folds: int, seed: int
) -> Indices:
    """Number the folds (n_train,) inside a training part, in which penalties are chosen: by group or else stratified.
    `strata` and `groups` are (n,) of all rows; fewer folds where there are fewer groups or rows."""
    fold_of = np.zeros(len(rows), dtype=np.int64)
    kind: Any = KFold
    if groups is not None and len(np.unique(groups[rows])) >= 2:
        n_folds, kind = min(n_folds, len(np.unique(groups[rows]))), GroupKFold
    else:
        groups = None
        n_folds = min(n_folds, len(rows))
        largest = int(np.bincount(strata[rows]).max()) if strata is not None else 0
        if largest >= n_folds:
            kind = StratifiedKFold
    splitter = kind(n_splits=n_folds, shuffle=True, random_state=seed)
    labels = None if strata is None else strata[rows]
    with warnings.catch_warnings():
        # A class too small for every inner fold to hold one still serves to choose a penalty.
        warnings.filterwarnings("ignore", message="The least populated class")
        for fold, (_, test) in enumerate(splitter.split(rows, labels, None if groups is None else groups[rows])):
            fold_of[test] = fold
    return fold_of


def _build_split(repetition: int, fold: int, rows: Indices, *parts: Indices) -> Split:
    """Build a split of `rows` from positions among them: train, test and perhaps validation."""
    named = {role: np.sort(rows[part]) for role, part in zip(("train", "test", "validation"), parts, strict=False)}
    return Split(repetition=repetition, fold=fold, **named)


def _check_sizes(strata: Indices, groups: Labels | None, n_folds: int) -> None:
    counts = np.bincount(strata) if len(strata) else np.zeros(1, dtype=np.int64)
    smallest = int(counts[counts > 0].min()) if counts.any() else 0
    if smallest < n_folds:
        raise InputError(
            f"The smallest class or bin has {smallest} members, but each of {n_folds} parts needs one.",
            hint="Exclude or merge that class, or use fewer bins.",
        )
    if groups is not None and len(np.unique(groups)) < n_folds:
        raise InputError(
            f"{len(np.unique(groups))} groups cannot be divided into {n_folds} folds.",
            hint="Choose another column for --group-by.",
        )


class SplitRow(NamedTuple):
    """One line of the table of splits."""

    repetition: int
    fold: int
    participant: str
    role: str  # one of `ROLES`


def list_used(splits: Sequence[Split]) -> Indices:
    """List the rows that are in any part of a split."""
    return np.unique(np.concatenate([getattr(one, role) for one in splits for role in ROLES]))


def check_groups(splits: Iterable[Split], groups: Labels) -> None:
    """Refuse splits in which a group has two roles: InputError names the first group, repetition and fold."""
    for split in splits:
        # Validation rows choose a rate or also train, so groups must not span them and tested rows either.
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


def tabulate_splits(splits: Sequence[Split], participants: Sequence[str]) -> list[tuple[str, ...]] | None:
    """Tabulate splits as participant x repetition: the name, then for each repetition the fold that tests the
    participant while all others train, ``train`` or ``validation`` for those never tested there, empty for those in no
    part. None where roles differ between the folds of a repetition in other ways, which only a list can tell."""
    names = sorted({participants[row] for split in splits for role in ROLES for row in getattr(split, role)})
    place = {name: i for i, name in enumerate(names)}
    people = np.array([place.get(name, -1) for name in participants])
    words = np.array(["", *ROLES], dtype=object)
    by_repetition = operator.attrgetter("repetition")
    columns = []
    for _, group in itertools.groupby(sorted(splits, key=by_repetition), key=by_repetition):
        folds = list(group)
        roles = np.zeros((len(folds), len(names)), dtype=np.int64)  # position in `words`
        for row, split in zip(roles, folds, strict=True):
            for number, role in enumerate(ROLES, start=1):
                row[people[getattr(split, role)]] = number
        tested = roles == 1 + ROLES.index("test")
        others = np.where(tested.any(axis=0), 1 + ROLES.index("train"), roles[0])
        is_known = ((roles == others) | tested).all(axis=0) & (tested.sum(axis=0) <= 1)
        if not is_known.all() or (len(folds) > 1 and (roles == 1 + ROLES.index("validation")).any()):
            return None
        numbers = np.array([str(split.fold) for split in folds], dtype=object)
        columns.append(np.where(tested.any(axis=0), numbers[tested.argmax(axis=0)], words[others]))
    return [(name, *cells) for name, *cells in zip(names, *columns, strict=True)]


def read_split_table(
    table: Iterable[SplitRow],
    participants: Sequence[str],
    *,
    strata: Indices | None = None,
    groups: Labels | None = None,
) -> tuple[Split, ...]:
    """Convert a table of splits back to positions, renumbered from 0, and check it. Where a fold lists only test rows,
    everyone else trains; rows with stratum -1 (phenotype missing) are dropped, and so are participants who are not
    here. Raises InputError for an unknown role, two roles, a participant tested twice in a repetition, an empty part,
    nobody who is here, or a group with two roles."""
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
                    f"Repetition {repetition}, fold {fold} of the given splits has an empty {kind} set.",
                    hint="Participants without the phenotype are excluded.",
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
        if row.role not in ROLES:
            raise InputError(f"Unknown role {row.role!r} in {where}; expected {', '.join(ROLES)}.")
        former = roles.setdefault((row.repetition, row.fold), {}).setdefault(row.participant, row.role)
        if former != row.role:
            raise InputError(f"Participant {row.participant} is both {former} and {row.role} in {where}.")
        if row.role == "test" and tested.setdefault((row.repetition, row.participant), row.fold) != row.fold:
            raise InputError(f"Participant {row.participant} is tested twice in repetition {row.repetition}.")
    if not roles:
        raise InputError("The given splits have no rows.", hint="Expected repetition, fold, participant, role.")
    named = {name for role_of in roles.values() for name in role_of}
    if not named & known:
        raise InputError(
            f"The given splits match none of the {len(known)} participants: they have {len(named)}, such as "
            f"{min(named)}; expected labels such as {min(known, default='n/a')}.",
            hint="Labels must match the sub-* folders.",
        )
    return roles


def build_within_splits(
    labels: Indices, participants: Labels, runs: Labels, onsets: Floats
) -> tuple[tuple[Split, ...], dict[str, str]]:
    """Split the blocks of each participant into folds, with nobody else's blocks to train on.

    With two or more runs, each run is left out once. A single run is cut into stretches of time with about as many
    blocks each: five, or the most that leave two blocks of each class in every training part. Neighbours in time are
    similar, which random folds would exploit. Arguments are (n,), onsets in seconds. Returns one
    repetition, folds numbered on across participants, and ``runs`` or ``time`` for each participant with folds.
    """
    n_classes = len(np.unique(labels))
    splits: list[Split] = []
    kinds: dict[str, str] = {}
    for participant in np.unique(participants):
        rows = np.flatnonzero(participants == participant)
        if len(np.unique(labels[rows])) < n_classes:
            continue
        kind, folds = _divide(rows, labels, runs, onsets)
        for fold in folds:
            train = np.setdiff1d(rows, fold)
            splits.append(Split(repetition=0, fold=len(splits), train=train, test=np.sort(fold)))
        if folds:
            kinds[str(participant)] = kind
    return tuple(splits), kinds


def _divide(rows: Indices, labels: Indices, runs: Labels, onsets: Floats) -> tuple[str, list[Indices]]:
    names = np.unique(runs[rows])
    if len(names) > 1:
        folds = [rows[runs[rows] == name] for name in names]
        return "runs", folds if _trains_all(rows, folds, labels) else []
    ordered = rows[np.argsort(onsets[rows], kind="stable")]
    for n_folds in range(min(_MOST_FOLDS, len(rows)), 1, -1):
        folds = np.array_split(ordered, n_folds)
        if _trains_all(rows, folds, labels):
            return "time", folds
    return "time", []


def _trains_all(rows: Indices, folds: list[Indices], labels: Indices) -> bool:
    """Check that every training part has two rows of every class, the least for choosing a penalty."""
    wanted = len(np.unique(labels[rows]))
    for fold in folds:
        counts = np.bincount(labels[np.setdiff1d(rows, fold)])
        if (counts >= 2).sum() < wanted:
            return False
    return True


@contextlib.contextmanager
def use_threads(n_threads: int) -> Iterator[None]:
    """Let `run_folds` work on this many folds at once. Libraries for linear algebra then use one thread each, whatever
    the number: the partition of a product affects its last digits."""
    token = _N_THREADS.set(n_threads)
    try:
        with threadpool_limits(limits=1, user_api="blas"):
            yield
    finally:
        _N_THREADS.reset(token)


def run_folds(
    work: Callable[[_Item], _Result],
    folds: Sequence[_Item],
    *,
    each: Callable[[Sequence[_Item]], Iterable[_Item]] = iter,
) -> list[_Result]:
    """Work on every fold, several at a time within `use_threads`, and return the results in order. `each` yields the
    folds again, and may count them."""
    n_threads = min(_N_THREADS.get(), len(folds))
    if n_threads <= 1:
        return [work(fold) for fold in each(folds)]
    with ThreadPoolExecutor(n_threads) as pool:
        waiting = [pool.submit(work, fold) for fold in folds]
        try:
            return [one.result() for one, _ in zip(waiting, each(folds), strict=True)]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
