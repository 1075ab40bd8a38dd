"""Phenotype columns found by name, and their conversion to classes or numbers."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NoReturn

import numpy as np

from bids_semantoks.bids_names import group_by, sorted_naturally
from bids_semantoks.errors import InputError, name_some
from bids_semantoks.files import is_missing
from bids_semantoks.inputs.names import find_roots
from bids_semantoks.inputs.people_tables import (
    Key,
    Table,
    find_suspects,
    find_tables,
    match_keys,
    parse_number,
    read_levels,
    spell,
)
from bids_semantoks.inputs.selection import describe_labels, describe_nearest
from bids_semantoks.records import Floats

LOGGER = logging.getLogger("bids_semantoks")

MIN_CLASS: Final = 5
MIN_VALUES: Final = 10
_MAX_CLASSES: Final = 10

# Words in column names that indicate codes of a site or scanner.
_PLACE: Final = re.compile(
    r"(site|scanner|cent(er|re)|batch|serial|deviceserial|manufacturer|vendor|institution|institute|hospital|station|device)"
    r"s?(id|no|num|nr|number|code|name)?"
)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Column:
    """Column of a table, by participant or session."""

    name: str
    table: str  # name in messages
    has_sessions: bool  # whether values differ by session
    values: dict[Key, str | None]  # text; None if missing
    lines: dict[Key, int] = field(default_factory=dict)  # line number of each row in its file
    sidecar: str = ""  # JSON file that may describe the column
    levels: frozenset[str] = frozenset()  # described in the sidecar, numbers normalised
    warnings: tuple[str, ...] = ()  # values that may mean missing, or are read as missing

    def find(self, keys: Sequence[Key]) -> tuple[str | None, ...]:
        """Look up (participant, session) pairs; None if missing."""
        return tuple(self.values.get((sub, ses if self.has_sessions else "")) for sub, ses in keys)

    def find_known(self, keys: Collection[Key]) -> dict[Key, str]:
        """Find the distinct values of the rows of `keys`."""
        own = dict.fromkeys(keys if self.has_sessions else ((sub, "") for sub, _ in keys))
        return {key: text for key in own if (text := self.values.get(key)) is not None}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Phenotype:
    """Phenotype of n participants or sessions, converted to classes or numbers."""

    name: str
    table: str  # name in messages
    kind: str  # classification or regression
    labels: tuple[str | None, ...]  # (n,) text; None if missing
    numbers: Floats  # (n,) NaN if missing, all NaN for classification


def find_columns(
    bids_dir: Path,
    names: Sequence[str],
    *,
    phenotype: Path | None = None,
    optional: Sequence[str] = (),
    id_column: str | None = None,
    keys: Collection[Key] = (),
) -> dict[str, Column]:
    """Find columns by name, each in the first table that has it; `optional` ones may be missing. Labels are matched to
    `keys`, the participants and sessions of the data, if they differ in spelling only. Raises InputError, with the
    nearest match, for a missing column, or where no table exists for one; also if two files of ``phenotype/`` have the
    column and `phenotype` does not choose, or if a required table is unusable."""
    found: dict[str, Column] = {}
    known: dict[str, Table] = {}
    tables, unsound, id_columns = [], [], set()
    labels = {sub for sub, _ in keys}
    for table in find_tables(bids_dir, phenotype, id_column=id_column, participants=labels):
        if table.problem is not None:
            if table.columns.keys() & (set(names) - found.keys()):
                raise table.problem
            unsound.append(table.problem)
            continue
        tables.append(table.name)
        id_columns.add(table.id_column)
        for name in table.columns:
            first = known.setdefault(name, table)
            is_twin = first is not table and first.path.parent.name == table.path.parent.name == "phenotype"
            if is_twin and name in names and first.path.name != (phenotype and phenotype.name):
                raise InputError(
                    f"Column {name} is in both {first.path} and {table.path}.", hint="Choose one with --phenotype."
                )
        found |= build_columns(table, [name for name in (*names, *optional) if known.get(name) is table], names, keys)
    unknown = [name for name in names if name not in found]
    _tell_unsound(unsound, is_needed=bool(unknown))
    roots = " and ".join(map(str, find_roots(bids_dir)))
    if not tables and names:
        raise InputError(
            f"No phenotype table in {roots}: expected participants.tsv, sessions.tsv or phenotype/*.tsv.",
            hint="Give one with --phenotype.",
        )
    if unknown:
        raise InputError(
            f"Column {', '.join(unknown)} not found in {', '.join(tables)} of {roots}: found {describe_labels(known)}.",
            hint=describe_nearest(unknown, sorted_naturally(known)),
        )
    if id_column and id_column not in id_columns:
        raise InputError(
            f"--id-column {id_column} has no effect: every table of {', '.join(tables)} has participant_id.",
            hint="Remove the option, or give the table with this column with --phenotype.",
        )
    return found


def build_columns(
    table: Table, names: Sequence[str], wanted: Collection[str], keys: Collection[Key]
) -> dict[str, Column]:
    """Build columns of a table; InputError if its labels are ambiguous and one of the columns is `wanted`."""
    if not names:
        return {}
    try:
        own = match_keys(table, keys)
    except InputError:
        if set(names) & set(wanted):
            raise
        return {}
    return {name: _build_column(table, name, own, keys, is_wanted=name in wanted) for name in dict.fromkeys(names)}


def _build_column(table: Table, name: str, own: Sequence[Key], keys: Collection[Key], *, is_wanted: bool) -> Column:
    """Build a column from the cells of the rows `own`; only one that `is_wanted` warns."""
    levels, declared = read_levels(table.described.get(name))
    here = set(keys) if table.has_sessions else {(sub, "") for sub, _ in keys}
    values: dict[Key, str | None] = {}
    by_sidecar: Counter[str] = Counter()
    by_word: Counter[str] = Counter()
    for key, cell in zip(own, table.columns[name], strict=True):
        values[key] = cell
        if cell is None or spell(cell) in declared or (is_missing(cell) and spell(cell) not in levels):
            values[key] = None
            if cell not in (None, "", "n/a") and (key in here or not here):
                (by_sidecar if spell(cell) in declared else by_word)[cell] += 1
    where, warnings = f"Column {name} of {table.name}", []
    if by_sidecar and is_wanted:
        LOGGER.info("%s has values missing according to %s: %s.", where, table.sidecar, _list_counts(by_sidecar))
    if by_word:
        warnings.append(
            f"{where} has cells read as missing: {_list_counts(by_word)}. If one of these is a valid label, list it "
            f"under Levels of {name} in {table.sidecar}."
        )
    known = [text for key, text in values.items() if text is not None and (key in here or not here)]
    if suspects := find_suspects(known, levels):
        warnings.append(
            f"{where} has values that often mean missing but are kept: {_list_counts(suspects)}. If they mean missing, "
            f"write n/a or list them under MissingValues of {name} in {table.sidecar}; otherwise, under Levels."
        )
    for warning in warnings if is_wanted else ():
        LOGGER.warning("%s", warning)
    return Column(
        name=name,
        table=table.name,
        has_sessions=table.has_sessions,
        values=values,
        lines=dict(zip(own, table.lines, strict=False)),
        sidecar=table.sidecar,
        levels=levels,
        warnings=tuple(warnings),
    )


def _list_counts(counts: Mapping[str, int]) -> str:
    return name_some([f"{label!r} ({counts[label]})" for label in sorted(counts, key=lambda one: (-counts[one], one))])


def _tell_unsound(problems: Sequence[InputError], *, is_needed: bool) -> None:
    if problems and is_needed:
        raise problems[0]
    for problem in problems:
        LOGGER.warning("Ignoring a table: %s", problem)


def build_phenotype(column: Column, keys: Sequence[Key], *, kind: str = "auto", n_bins: int = 0) -> Phenotype:
    """Convert a column for `keys`, in their order, to classes or numbers. `kind` ``auto`` treats text and a few
    distinct whole numbers as classes. With `n_bins`, a numeric column with more distinct values than bins is treated as
    regression; text stays classes. Raises InputError if no key matches, labels differ only in leading zeros, values are
    too few, constant or not numbers, or a class is too small."""
    labels = _unite_numbers(column.find(keys))
    numbers = np.full(len(labels), np.nan)
    where = f"Column {column.name} of {column.table}"
    known = [label for label in labels if label is not None]
    _check_keys(column, keys, where)
    if len(known) < MIN_VALUES:
        raise InputError(
            f"{where} has values for {len(known)} of {len(keys)} participants or sessions with features; "
            f"probing requires at least {MIN_VALUES}.",
            hint="Check the participant_id labels and n/a values.",
        )
    if len(set(known)) == 1:
        raise InputError(
            f"{where} is constant: all {len(known)} values are {known[0]!r}.", hint="There is nothing to predict."
        )
    if kind == "auto":
        check_cells(column, keys)
    decided = _decide_kind(column, known) if kind == "auto" else kind
    if n_bins and decided == "classification" and len(set(known)) > n_bins:
        # Only numbers are binned; text stays classes.
        decided = "classification" if None in map(parse_number, known) else "regression"
    if decided == "classification":
        if kind == "auto":
            _check_spelling(known, where)
        _check_classes(known, where)
    elif None in map(parse_number, known):
        _refuse_cells(column, keys, "has {} non-numeric values")
    else:
        numbers[:] = [np.nan if label is None else parse_number(label) for label in labels]
    return Phenotype(name=column.name, table=column.table, kind=decided, labels=labels, numbers=numbers)


def _check_keys(column: Column, keys: Sequence[Key], where: str) -> None:
    """Refuse a table whose participants or sessions match none of the data, or differ in leading zeros."""
    described, wanted = {sub for sub, _ in column.values}, {sub for sub, _ in keys}
    if not described & wanted:
        raise InputError(
            f"{where} has no row for any participant with features: the table has {describe_labels(described)}, the "
            f"features {describe_labels(wanted)}.",
            hint="Labels must match the sub-* folders; --id-column sets another ID column.",
        )
    sessions, scanned = {ses for _, ses in column.values}, {ses for _, ses in keys}
    if column.has_sessions and not sessions & scanned:
        found = describe_labels(scanned) if scanned - {""} else "none"
        raise InputError(
            f"{where} has no row for any session with features: the table has {describe_labels(sessions - {''})}, "
            f"the features {found}.",
            hint="session_id must match the labels of the ses-* folders, including leading zeros.",
        )


def _unite_numbers(labels: tuple[str | None, ...]) -> tuple[str | None, ...]:
    """Merge spellings of a number (1, 1.0) into the shortest, so a lone 01 stays; any text cell prevents merging."""
    numbers = {label: parse_number(label) for label in labels if label is not None}
    if None in numbers.values():
        return labels
    shortest = {numbers[label]: label for label in sorted(numbers, key=lambda text: (-len(text), text))}
    return tuple(None if label is None else shortest[numbers[label]] for label in labels)


def check_cells(column: Column, keys: Sequence[Key]) -> None:
    """Refuse a numeric column with a few text cells, which would each become a level: InputError lists them. Accepted
    if the sidecar describes all levels, or if numbers are few and text is frequent."""
    known = list(column.find_known(keys).values())
    numbers = [number for text in known if (number := parse_number(text)) is not None]
    texts = Counter(text for text in known if parse_number(text) is None)
    if not texts or len(numbers) < len(known) / 2 or _is_described(column, known):
        return
    is_rare = len(numbers) >= 0.9 * len(known) and max(texts.values()) < MIN_CLASS and not names_place(column.name)
    if len(set(numbers)) > _MAX_CLASSES or is_rare:
        _refuse_cells(column, keys, "is numeric except for {} cells")


def _refuse_cells(column: Column, keys: Sequence[Key], problem: str) -> NoReturn:
    """Refuse the cells of a column that are not numbers, by line, participant and value."""
    bad = {key: text for key, text in column.find_known(keys).items() if parse_number(text) is None}
    shown = [
        f"{text!r} of sub-{key[0]}{f' ses-{key[1]}' if key[1] else ''}"
        + (f" (row {column.lines[key]})" if key in column.lines else "")
        for key, text in bad.items()
    ]
    raise InputError(
        f"Column {column.name} of {column.table} {problem.format(len(bad))}: {name_some(shown)}.",
        hint="Write n/a for missing values. For a categorical phenotype use --probe-kind classification, or list "
        f"all its labels under Levels in {column.sidecar or 'a JSON file next to the table'}.",
    )


def names_place(name: str) -> bool:
    """Return whether the name of a column suggests site or scanner codes."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)
    return any(_PLACE.fullmatch(word.lower()) for word in words)


def _is_described(column: Column, known: Sequence[str]) -> bool:
    """Return whether the sidecar lists all values as levels."""
    return bool(column.levels) and column.levels.issuperset(map(spell, known))


def is_category(column: Column, keys: Sequence[Key]) -> bool:
    """Return whether a covariate is categorical: text, levels in the sidecar, or integer codes of a site."""
    known = list(column.find_known(keys).values())
    if not known or None in map(parse_number, known) or _is_described(column, known):
        return bool(known)
    return names_place(column.name) and all(map(float.is_integer, map(float, known)))


def find_codes(column: Column, keys: Sequence[Key]) -> str:
    """Build a warning for a numeric covariate with three to ten distinct integers, each frequent; else empty."""
    distinct = Counter(column.find_known(keys).values())
    if is_category(column, keys) or len(distinct) < 3 or not _has_few_numbers(list(distinct.elements())):
        return ""
    return (
        f"Column {column.name} of {column.table} is treated as numeric but has only the values "
        f"{', '.join(sorted_naturally(distinct))}. If these are codes (e.g. of sites), list them under Levels of "
        f"{column.name} in {column.sidecar}."
    )


def _has_few_numbers(known: Sequence[str]) -> bool:
    """Return whether numbers are whole and distinct ones few: two, or up to ten of five values each on average."""
    distinct = set(map(parse_number, known)) - {None}
    is_whole = all(number == int(number) for number in distinct if number is not None)
    return is_whole and (len(distinct) == 2 or (len(distinct) <= _MAX_CLASSES and len(known) >= 5 * len(distinct)))


def _decide_kind(column: Column, known: Sequence[str]) -> str:
    numbers = list(map(parse_number, known))
    if None in numbers or _has_few_numbers(known):
        return "classification"
    is_code = names_place(column.name) and all(number is not None and number.is_integer() for number in numbers)
    return "classification" if is_code else "regression"


def _check_spelling(known: Sequence[str], where: str) -> None:
    """Refuse decimal commas and classes that differ only in case; an explicit ``--probe-kind`` skips this check."""
    if all(label.count(",") == 1 and parse_number(label.replace(",", ".")) is not None for label in known):
        raise InputError(
            f"{where} has numbers with commas, such as {known[0]!r}.",
            hint="Use decimal points, or --probe-kind classification if the values are pairs such as alleles.",
        )
    if alike := [names for names in group_by(sorted(set(known)), str.casefold).values() if len(names) > 1]:
        shown = "; ".join(" and ".join(map(repr, names)) for names in alike[:5])
        raise InputError(
            f"{where} has classes that differ only in case: {shown}.",
            hint="Spell each class consistently, or use --probe-kind classification if case is meaningful.",
        )


def _check_classes(known: Sequence[str], where: str) -> None:
    counts = Counter(known)
    if small := {name: count for name, count in counts.items() if count < MIN_CLASS}:
        shown = ", ".join(f"{name!r} ({small[name]})" for name in sorted_naturally(small)[:5])
        raise InputError(
            f"{where} has {len(small)} of {len(counts)} classes with fewer than {MIN_CLASS} members: {shown}.",
            hint="Write n/a for them, merge them, or use --probe-kind regression for numbers.",
        )
