"""Phenotypes: text columns of tables, converted explicitly to classes or numbers."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.bids_names import sorted_naturally
from bids_semantoks.errors import InputError
from bids_semantoks.inputs.phenotype_tables import Key, Table, find_roots, find_tables
from bids_semantoks.inputs.selection import describe_labels, describe_nearest

LOGGER = logging.getLogger("bids_semantoks")

MIN_CLASS: Final = 5
MIN_VALUES: Final = 10
_MAX_CLASSES: Final = 10


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Column:
    """Column of a table, by participant or session."""

    name: str
    table: str  # name in messages
    has_sessions: bool  # whether values differ by session
    values: dict[Key, str | None]  # text; None if missing

    def find(self, keys: Sequence[Key]) -> tuple[str | None, ...]:
        """Look up (participant, session) pairs; None if missing."""
        return tuple(self.values.get((sub, ses if self.has_sessions else "")) for sub, ses in keys)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Phenotype:
    """Phenotype of n participants or sessions, converted to classes or numbers."""

    name: str
    table: str  # name in messages
    kind: str  # classification or regression
    labels: tuple[str | None, ...]  # (n,) text; None if missing
    numbers: NDArray[np.float64]  # (n,) NaN if missing, all NaN for classification


def find_columns(
    bids_dir: Path, names: Sequence[str], *, phenotype: Path | None = None, optional: Sequence[str] = ()
) -> dict[str, Column]:
    """Find columns by name, each in the first table that has it; `optional` ones may be missing.

    Raises InputError, with the nearest match, for a missing column; also if no table exists, if two files of
    ``phenotype/`` hold the column and `phenotype` does not choose, or if a table that is needed is unsound.
    """
    found: dict[str, Column] = {}
    known: dict[str, Table] = {}
    tables, unsound = [], []
    for table in find_tables(bids_dir, phenotype):
        if table.problem is not None:
            unsound.append(_pass_over(table, set(names) - set(found)))
            continue
        tables.append(table.name)
        for name, cells in table.columns.items():
            first = known.setdefault(name, table)
            is_twin = first is not table and {first.path.parent.name} == {table.path.parent.name} == {"phenotype"}
            if is_twin and name in names and not _is_given(first, phenotype):
                raise InputError(
                    f"Column {name} is in both {first.path} and {table.path}.", hint="Choose one with --phenotype."
                )
            if first is table and name in (*names, *optional):
                values = dict(zip(table.keys, cells, strict=True))
                found[name] = Column(name=name, table=table.name, has_sessions=table.has_sessions, values=values)
    unknown = [name for name in names if name not in found]
    _tell_unsound(unsound, is_needed=bool(unknown))
    roots = " and ".join(map(str, find_roots(bids_dir)))
    if not tables:
        raise InputError(
            f"No table of phenotypes in {roots}: expected participants.tsv, sessions.tsv or phenotype/*.tsv.",
            hint="Give one with --phenotype.",
        )
    if unknown:
        raise InputError(
            f"Column {', '.join(unknown)} not found in {', '.join(tables)} of {roots}: found {describe_labels(known)}.",
            hint=describe_nearest(unknown, sorted_naturally(known)),
        )
    return found


def _pass_over(table: Table, wanted: set[str]) -> InputError:
    """Return the problem of an unsound table, or raise it if the table has a wanted column."""
    assert table.problem is not None
    if wanted & set(table.columns):
        raise table.problem
    return table.problem


def _tell_unsound(problems: Sequence[InputError], *, is_needed: bool) -> None:
    if problems and is_needed:
        raise problems[0]
    for problem in problems:
        LOGGER.warning("A table is left aside: %s", problem)


def _is_given(table: Table, phenotype: Path | None) -> bool:
    return phenotype is not None and table.path.name == phenotype.name


def parse_number(text: str) -> float | None:
    """Parse a finite number; None for anything else, including 1_000, which float() accepts."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and "_" not in text else None


def build_phenotype(column: Column, keys: Sequence[Key], *, kind: str = "auto", n_bins: int = 0) -> Phenotype:
    """Convert a column for `keys`, in their order, to classes or numbers.

    `kind` ``auto`` treats text and a few distinct whole numbers as classes. With `n_bins`, a numeric column with more
    distinct values than bins becomes a regression; text stays classes. Raises InputError if no key matches, labels
    differ only in leading zeros, values are too few, constant or not numbers, or a class is too small.
    """
    labels = _unite_numbers(column.find(keys))
    where = f"Column {column.name} of {column.table}"
    known = [label for label in labels if label is not None]
    _check_keys(column, keys, where)
    if len(known) < MIN_VALUES:
        raise InputError(
            f"{where} has values for {len(known)} of {len(keys)} participants or sessions with features; "
            f"{MIN_VALUES} are the least to probe.",
            hint="Check participant_id and n/a.",
        )
    if len(set(known)) == 1:
        raise InputError(f"{where} is constant: all {len(known)} values are {known[0]!r}.", hint="Nothing to predict.")
    decided = _decide_kind(known, where) if kind == "auto" else kind
    if n_bins and decided == "classification" and len(set(known)) > n_bins:
        # Bins are cut from numbers, few or many; text stays what it is.
        decided = "classification" if None in map(parse_number, known) else "regression"
    if decided == "classification":
        if kind == "auto":
            _check_spelling(known, where)
        _check_classes(known, where)
        return _build(column, decided, labels, np.full(len(labels), np.nan))
    bad = [label for label in known if parse_number(label) is None]
    if bad:
        raise InputError(
            f"{where} holds {len(bad)} cells that are no numbers, such as {bad[0]!r}.",
            hint="Write n/a for missing values, or use --probe-kind classification.",
        )
    numbers = [np.nan if label is None else parse_number(label) for label in labels]
    return _build(column, decided, labels, np.array(numbers, dtype=np.float64))


def _check_keys(column: Column, keys: Sequence[Key], where: str) -> None:
    """Refuse a table whose participants or sessions match none of the data, or differ in leading zeros."""
    described, wanted = {sub for sub, _ in column.values}, {sub for sub, _ in keys}
    if not described & wanted:
        raise InputError(
            f"{where} describes none of the participants with features: it has {describe_labels(described)}, features "
            f"have {describe_labels(wanted)}.",
            hint="participant_id must be the labels of sub-* folders, with the same zeros in front.",
        )
    bare = {label.lstrip("0"): label for label in sorted(described - wanted)}
    alike = [(label, bare[label.lstrip("0")]) for label in sorted(wanted - described) if label.lstrip("0") in bare]
    if alike:
        shown = ", ".join(f"{other} for {label}" for label, other in alike[:5])
        raise InputError(
            f"{where} has other zeros in front of {len(alike)} participants than their folders: {shown}.",
            hint="participant_id is text: keep the zeros where a spreadsheet took them away.",
        )
    sessions, scanned = {ses for _, ses in column.values}, {ses for _, ses in keys}
    if column.has_sessions and not sessions & scanned:
        found = describe_labels(scanned) if scanned - {""} else "none"
        raise InputError(
            f"{where} describes none of the sessions with features: it has {describe_labels(sessions - {''})}, "
            f"features have {found}.",
            hint="session_id must be the labels of ses-* folders, with the same zeros in front.",
        )


def _unite_numbers(labels: tuple[str | None, ...]) -> tuple[str | None, ...]:
    """Merge spellings of a number (1, 1.0) into the shortest, so a lone 01 stays; any text cell prevents merging."""
    numbers = {label: parse_number(label) for label in labels if label is not None}
    if None in numbers.values():
        return labels
    shortest = {numbers[label]: label for label in sorted(numbers, key=lambda text: (-len(text), text))}
    return tuple(None if label is None else shortest[numbers[label]] for label in labels)


def _build(column: Column, kind: str, labels: tuple[str | None, ...], numbers: NDArray[np.float64]) -> Phenotype:
    return Phenotype(name=column.name, table=column.table, kind=kind, labels=labels, numbers=numbers)


def _decide_kind(known: Sequence[str], where: str) -> str:
    numbers = [number for label in known if (number := parse_number(label)) is not None]
    distinct = set(numbers)
    if len(numbers) < len(known):
        if len(numbers) >= len(known) / 2 and len(distinct) > _MAX_CLASSES:
            bad = next(label for label in known if parse_number(label) is None)
            raise InputError(
                f"{where} holds numbers, but also {len(known) - len(numbers)} cells that are none, such as {bad!r}.",
                hint="Write n/a for missing values, or say what it is with --probe-kind.",
            )
        return "classification"
    is_whole = all(number == int(number) for number in distinct)
    is_few = len(distinct) == 2 or (len(distinct) <= _MAX_CLASSES and len(known) >= 5 * len(distinct))
    return "classification" if is_whole and is_few else "regression"


def _check_spelling(known: Sequence[str], where: str) -> None:
    """Refuse decimal commas and classes that differ only in case; an explicit ``--probe-kind`` skips this check."""
    if all(label.count(",") == 1 and parse_number(label.replace(",", ".")) is not None for label in known):
        raise InputError(
            f"{where} holds numbers with commas, such as {known[0]!r}.",
            hint="Write points for decimals, or use --probe-kind classification for pairs such as alleles.",
        )
    forms: dict[str, list[str]] = {}
    for name in sorted(set(known)):
        forms.setdefault(name.casefold(), []).append(name)
    if alike := [names for names in forms.values() if len(names) > 1]:
        shown = "; ".join(" and ".join(map(repr, names)) for names in alike[:5])
        raise InputError(
            f"{where} has classes that differ in upper and lower case alone: {shown}.",
            hint="Write each class in one way, or use --probe-kind classification where case tells them apart.",
        )


def _check_classes(known: Sequence[str], where: str) -> None:
    counts = Counter(known)
    small = {name: count for name, count in counts.items() if count < MIN_CLASS}
    if small:
        shown = ", ".join(f"{name!r} ({small[name]})" for name in sorted_naturally(small)[:5])
        raise InputError(
            f"{where} has {len(small)} of {len(counts)} classes with fewer than {MIN_CLASS} members: {shown}.",
            hint="Write n/a for them, merge them, or use --probe-kind regression for numbers.",
        )
