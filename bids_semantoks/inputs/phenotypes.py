"""Phenotypes: tables found and read as text, their columns converted explicitly to classes or numbers."""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bids_semantoks.bids_names import sorted_naturally
from bids_semantoks.errors import InputError
from bids_semantoks.files import split_rows
from bids_semantoks.inputs.names import find_above, find_linked_raw
from bids_semantoks.inputs.selection import describe_labels, describe_nearest

LOGGER = logging.getLogger("bids_semantoks")

MIN_CLASS: Final = 5
MIN_VALUES: Final = 10
_MAX_CLASSES: Final = 10
_KEYS: Final = ("participant_id", "session_id")

#: Participant and session label; the session is empty where a table has none.
Key = tuple[str, str]


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


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Table:
    """Table of phenotypes, as text."""

    path: Path  # for sub-*_sessions.tsv, the dataset root
    name: str  # for messages
    has_sessions: bool  # whether rows are sessions
    keys: tuple[Key, ...]  # one per row
    columns: dict[str, tuple[str | None, ...]]  # cells by column; None if missing
    # why the table is unusable (it then has no cells); raised only if one of its columns is requested
    problem: InputError | None = None


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
            if table.columns.keys() & (set(names) - found.keys()):
                raise table.problem
            unsound.append(table.problem)
            continue
        tables.append(table.name)
        for name, cells in table.columns.items():
            first = known.setdefault(name, table)
            is_twin = first is not table and first.path.parent.name == table.path.parent.name == "phenotype"
            if is_twin and name in names and first.path.name != (phenotype and phenotype.name):
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


def _tell_unsound(problems: Sequence[InputError], *, is_needed: bool) -> None:
    if problems and is_needed:
        raise problems[0]
    for problem in problems:
        LOGGER.warning("A table is left aside: %s", problem)


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
    numbers = np.full(len(labels), np.nan)
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
        # Only numbers, few or many, are cut into bins; text stays classes.
        decided = "classification" if None in map(parse_number, known) else "regression"
    if decided == "classification":
        if kind == "auto":
            _check_spelling(known, where)
        _check_classes(known, where)
    elif bad := [label for label in known if parse_number(label) is None]:
        raise InputError(
            f"{where} holds {len(bad)} cells that are no numbers, such as {bad[0]!r}.",
            hint="Write n/a for missing values, or use --probe-kind classification.",
        )
    else:
        numbers[:] = [np.nan if label is None else parse_number(label) for label in labels]
    return Phenotype(name=column.name, table=column.table, kind=decided, labels=labels, numbers=numbers)


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
    if small := {name: count for name, count in counts.items() if count < MIN_CLASS}:
        shown = ", ".join(f"{name!r} ({small[name]})" for name in sorted_naturally(small)[:5])
        raise InputError(
            f"{where} has {len(small)} of {len(counts)} classes with fewer than {MIN_CLASS} members: {shown}.",
            hint="Write n/a for them, merge them, or use --probe-kind regression for numbers.",
        )


def find_roots(bids_dir: Path) -> tuple[Path, ...]:
    """List BIDS_DIR, the raw root above ``derivatives/`` and the raw dataset its description links to, if any."""
    found = (bids_dir, find_above(bids_dir), find_linked_raw(bids_dir))
    return tuple(root for root in found if root is not None)


def read_phenotype_table(path: Path) -> Table:
    """Read a TSV or CSV with ``participant_id`` and optional ``session_id``; labels lose ``sub-`` and ``ses-``.

    Cells stay text, so a site called NA is not missing and 01 is not 1. Raises InputError if the file is unreadable,
    lacks participant_id, or repeats a column, participant or session.
    """
    names, rows = _read_cells(path)
    if twice := sorted(name for name, count in Counter(names).items() if count > 1):
        raise InputError(f"{path} has columns of the same name: {', '.join(twice)}.", hint="Rename one of them.")
    if "participant_id" not in names:
        raise InputError(
            f"{path} has no column participant_id: found {describe_labels(names)}.",
            hint="Expected one row a participant, tab-separated.",
        )
    cells = {name: tuple(row[index] for row in rows) for index, name in enumerate(names) if name}
    participants = [(cell or "").removeprefix("sub-") for cell in cells["participant_id"]]
    sessions = [(cell or "").removeprefix("ses-") for cell in cells.get("session_id", ("",) * len(participants))]
    if "" in participants:
        raise InputError(f"{path} has no participant_id in row {participants.index('') + 2}.", hint="Fill it in.")
    keys = tuple(zip(participants, sessions, strict=True))
    _check_unique(keys, path)
    return Table(
        path=path,
        name=path.name,
        has_sessions=any(sessions),
        keys=keys,
        columns={name: values for name, values in cells.items() if name not in _KEYS},
    )


def _read_cells(path: Path) -> tuple[list[str], list[list[str | None]]]:
    """Read the header and the cells of each row, cleaned; None if missing."""
    try:
        # Only n/a is missing: a site called NA is text.
        as_text: dict[str, Any] = {"dtype": str, "keep_default_na": False, "na_values": ["n/a"]}
        separator = "," if path.suffix.lower() == ".csv" else "\t"
        frame = pd.read_csv(path, sep=separator, header=None, encoding="utf-8-sig", skip_blank_lines=True, **as_text)
    except pd.errors.EmptyDataError:
        return [], []
    except (OSError, UnicodeDecodeError, pd.errors.ParserError) as error:
        raise InputError(
            f"The table {path} cannot be read: {' '.join(str(error).split())}.", hint="Expected tab-separated UTF-8."
        ) from error
    header, *rows = frame.to_numpy().tolist()
    return [_clean(str(name)) for name in header], [
        [(_clean(cell) or None) if isinstance(cell, str) else None for cell in row] for row in rows
    ]


def _clean(text: str) -> str:
    """Replace line breaks and tabs, which CSV cells may hold but the TSV output may not."""
    return re.sub(r"\s*[\t\n\v\f\r]\s*", " ", text).strip()


def _check_unique(keys: Sequence[Key], path: Path) -> None:
    if twice := [key for key, count in Counter(keys).items() if count > 1]:
        shown = ", ".join(f"sub-{sub}{f' ses-{ses}' if ses else ''}" for sub, ses in twice[:5])
        raise InputError(
            f"{path} has {len(twice)} participants or sessions twice: {shown}.", hint="Keep one row of each."
        )


def find_tables(bids_dir: Path, phenotype: Path | None) -> Iterator[Table]:
    """Yield phenotype tables lazily: `phenotype`, then participants, sessions and ``phenotype/*.tsv`` of each root.

    `phenotype` may be relative to a root or its ``phenotype`` folder; InputError if it is missing or unsound. Any other
    unsound table is yielded with its problem, since most calls need only one table.
    """
    roots = find_roots(bids_dir)
    if phenotype is not None:
        places = [phenotype, *(root / folder / phenotype for root in roots for folder in ("", "phenotype"))]
        there = [place for place in places if place.is_file()]
        if not there:
            raise InputError(
                f"--phenotype {phenotype} is no file: looked for {', '.join(map(str, dict.fromkeys(places)))}.",
                hint="Give a table with a participant_id column.",
            )
        yield read_phenotype_table(there[0])
    for root in roots:
        for path in (root / "participants.tsv", root / "sessions.tsv"):
            if path.is_file():
                yield _read_anyway(path)
        yield from _find_session_tables(root)
        for path in sorted((root / "phenotype").glob("*.tsv")):
            yield _read_anyway(path)


def _read_anyway(path: Path) -> Table:
    try:
        return read_phenotype_table(path)
    except InputError as error:
        return _build_unsound(path, error)


def _build_unsound(path: Path, problem: InputError) -> Table:
    """Build a table of column names alone."""
    try:
        first = path.read_bytes().partition(b"\n")[0].decode(errors="replace")
    except OSError:
        first = ""
    columns: dict[str, tuple[str | None, ...]] = {name.strip(): () for name in (split_rows(first) or [[""]])[0]}
    return Table(path=path, name=path.name, has_sessions=False, keys=(), columns=columns, problem=problem)


def _find_session_tables(root: Path) -> Iterator[Table]:
    """Merge the session tables of all participants; one without ``session_id`` is yielded as unsound."""
    cells: dict[str, dict[Key, str | None]] = {}
    keys: list[Key] = []
    for path in sorted(root.glob("sub-*/sub-*_sessions.tsv")):
        names, rows = _read_cells(path)
        if "session_id" not in names:
            found = f"{path} has no column session_id: found {describe_labels(names)}."
            yield _build_unsound(path, InputError(found, hint="Expected one row a session."))
            continue
        for row in rows:
            texts = dict(zip(names, row, strict=True))
            key = (path.parent.name.removeprefix("sub-"), (texts.get("session_id") or "").removeprefix("ses-"))
            keys.append(key)
            for name, text in texts.items():
                cells.setdefault(name, {})[key] = text
    if keys:
        _check_unique(keys, root / "sub-*_sessions.tsv")
        columns = {name: tuple(found.get(key) for key in keys) for name, found in cells.items() if name not in _KEYS}
        yield Table(path=root, name="sub-*_sessions.tsv", has_sessions=True, keys=tuple(keys), columns=columns)
