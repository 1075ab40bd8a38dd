"""Phenotypes: found in the tables of a BIDS dataset, read as text, and converted on purpose."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bids_semantoks.errors import InputError
from bids_semantoks.inputs.dataset import find_linked_raw
from bids_semantoks.inputs.names import sorted_naturally
from bids_semantoks.inputs.selection import describe_labels, describe_nearest

#: Participant and session label; the session is empty where a table has none.
Key = tuple[str, str]

MIN_CLASS: Final = 5
MIN_VALUES: Final = 10
_MAX_CLASSES: Final = 10
_KEYS: Final = ("participant_id", "session_id")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Table:
    """One table of phenotypes.

    Parameters
    ----------
    path : Path
        The file; for tables of sessions the dataset's root.
    name : str
        What messages call it.
    has_sessions : bool
        Whether a row is a session of a participant.
    keys : tuple of (str, str)
        Participant and session label of each row.
    columns : dict of str to tuple of (str or None)
        Cells as text by column; None where missing.
    """

    path: Path
    name: str
    has_sessions: bool
    keys: tuple[Key, ...]
    columns: dict[str, tuple[str | None, ...]]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Column:
    """One column of a table, by participant or session.

    Parameters
    ----------
    name : str
        Of the column.
    table : str
        What messages call the table.
    has_sessions : bool
        Whether each session has a value of its own.
    values : dict of (str, str) to str or None
        Text by participant and session; None where missing.
    """

    name: str
    table: str
    has_sessions: bool
    values: dict[Key, str | None]

    def find(self, keys: Sequence[Key]) -> tuple[str | None, ...]:
        """Look up participants or sessions.

        Parameters
        ----------
        keys : sequence of (str, str)
            Participant and session labels.

        Returns
        -------
        tuple of (str or None)
            None where the table has no value.
        """
        return tuple(self.values.get((sub, ses if self.has_sessions else "")) for sub, ses in keys)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Phenotype:
    """A phenotype of given participants or sessions, with its kind decided.

    Parameters
    ----------
    name : str
        Column it comes from.
    table : str
        What messages call the table.
    kind : str
        ``classification`` or ``regression``.
    labels : tuple of (str or None), length n
        Cells as text; None where missing.
    numbers : NDArray, float64, shape (n,)
        The same as numbers where the kind is regression, else NaN; NaN where missing.
    """

    name: str
    table: str
    kind: str
    labels: tuple[str | None, ...]
    numbers: NDArray[np.float64]

    @property
    def n_missing(self) -> int:
        """Rows without a value."""
        return sum(label is None for label in self.labels)


def find_roots(bids_dir: Path) -> tuple[Path, ...]:
    """Find the folders whose tables may describe the participants.

    Parameters
    ----------
    bids_dir : Path
        A raw or a derivative dataset.

    Returns
    -------
    tuple of Path
        BIDS_DIR, and the raw root above ``derivatives/``, or the one that its description links to, where there is one.
    """
    roots = [bids_dir]
    for parent in bids_dir.resolve().parents:
        if parent.name == "derivatives":
            roots.append(parent.parent)
            break
    if (linked := find_linked_raw(bids_dir)) is not None:
        roots.append(linked)
    return tuple(roots)


def read_phenotype_table(path: Path) -> Table:
    """Read one table; text stays text, so that a site called NA is no gap and 01 is not 1.

    Parameters
    ----------
    path : Path
        TSV (CSV where its name ends so) with a ``participant_id`` column, and ``session_id`` where a row is a session.

    Returns
    -------
    Table
        Labels without ``sub-`` and ``ses-``.

    Raises
    ------
    InputError
        When it cannot be read, lacks participant_id, has a column twice, or a participant (or session) twice.
    """
    frame = _read_frame(path)
    names = [str(name).strip() for name in frame.iloc[0]] if len(frame) else []
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise InputError(f"{path} has columns of the same name: {', '.join(twice)}.", hint="Rename one of them.")
    if "participant_id" not in names:
        raise InputError(
            f"{path} has no column participant_id: found {describe_labels(names)}.",
            hint="Expected one row a participant, tab-separated.",
        )
    cells = {
        name: tuple(_clean(cell) for cell in frame.iloc[1:, index].tolist()) for index, name in enumerate(names) if name
    }
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


def _read_frame(path: Path) -> pd.DataFrame:
    separator = "," if path.suffix.lower() == ".csv" else "\t"
    try:
        return pd.read_csv(
            path,
            sep=separator,
            header=None,
            dtype=str,
            keep_default_na=False,
            na_values=["n/a"],
            encoding="utf-8-sig",
            skip_blank_lines=True,
        )
    except pd.errors.EmptyDataError:
        return pd.DataFrame()
    except (OSError, UnicodeDecodeError, pd.errors.ParserError) as error:
        raise InputError(
            f"The table {path} cannot be read: {' '.join(str(error).split())}.", hint="Expected tab-separated UTF-8."
        ) from error


def _clean(cell: object) -> str | None:
    return (cell.strip() or None) if isinstance(cell, str) else None


def _check_unique(keys: Sequence[Key], path: Path) -> None:
    twice = [key for key, count in Counter(keys).items() if count > 1]
    if twice:
        shown = ", ".join(f"sub-{sub}{f' ses-{ses}' if ses else ''}" for sub, ses in twice[:5])
        raise InputError(
            f"{path} has {len(twice)} participants or sessions twice: {shown}.", hint="Keep one row of each."
        )


def find_tables(bids_dir: Path, phenotype: Path | None) -> Iterator[Table]:
    """Find the tables of phenotypes, reading each only when it is asked for.

    Parameters
    ----------
    bids_dir : Path
        A raw or a derivative dataset.
    phenotype : Path or None
        Table to look in first: a path, or one below BIDS_DIR, the raw root above it, or their ``phenotype`` folders.

    Yields
    ------
    Table
        `phenotype`, then of each root ``participants.tsv``, tables of sessions and ``phenotype/*.tsv``.

    Raises
    ------
    InputError
        When `phenotype` is not there, or a table cannot be read.
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
        if (root / "participants.tsv").is_file():
            yield read_phenotype_table(root / "participants.tsv")
        yield from _find_session_tables(root)
        for path in sorted((root / "phenotype").glob("*.tsv")):
            yield read_phenotype_table(path)


def _find_session_tables(root: Path) -> Iterator[Table]:
    """Find ``sessions.tsv`` of the dataset, and those of participants taken together."""
    if (root / "sessions.tsv").is_file():
        yield read_phenotype_table(root / "sessions.tsv")
    cells: dict[str, dict[Key, str | None]] = {}
    keys: list[Key] = []
    for path in sorted(root.glob("sub-*/sub-*_sessions.tsv")):
        frame = _read_frame(path)
        names = [str(name).strip() for name in frame.iloc[0]] if len(frame) else []
        if "session_id" not in names:
            raise InputError(
                f"{path} has no column session_id: found {describe_labels(names)}.", hint="Expected one row a session."
            )
        for row in frame.iloc[1:].itertuples(index=False):
            texts = dict(zip(names, map(_clean, row), strict=True))
            key = (path.parent.name.removeprefix("sub-"), (texts.get("session_id") or "").removeprefix("ses-"))
            keys.append(key)
            for name, text in texts.items():
                cells.setdefault(name, {})[key] = text
    if keys:
        _check_unique(keys, root / "sub-*_sessions.tsv")
        columns = {name: tuple(found.get(key) for key in keys) for name, found in cells.items() if name not in _KEYS}
        yield Table(path=root, name="sub-*_sessions.tsv", has_sessions=True, keys=tuple(keys), columns=columns)


def find_columns(
    bids_dir: Path, names: Sequence[str], *, phenotype: Path | None = None, optional: Sequence[str] = ()
) -> dict[str, Column]:
    """Find columns by name, in the first table that has them.

    Parameters
    ----------
    bids_dir : Path
        A raw or a derivative dataset.
    names : sequence of str
        Columns that must be there.
    phenotype : Path or None
        Table to look in first.
    optional : sequence of str
        Columns that are taken when they are there.

    Returns
    -------
    dict of str to Column
        By name.

    Raises
    ------
    InputError
        When there is no table, or none has the column; it names what is there and the nearest match. When two files
        of the ``phenotype`` folder have it.
    """
    found: dict[str, Column] = {}
    known: dict[str, Table] = {}
    tables = []
    for table in find_tables(bids_dir, phenotype):
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
    roots = " and ".join(map(str, find_roots(bids_dir)))
    if not tables:
        raise InputError(
            f"No table of phenotypes in {roots}: expected participants.tsv, sessions.tsv or phenotype/*.tsv.",
            hint="Give one with --phenotype.",
        )
    unknown = [name for name in names if name not in found]
    if unknown:
        raise InputError(
            f"Column {', '.join(unknown)} not found in {', '.join(tables)} of {roots}: found {describe_labels(known)}.",
            hint=describe_nearest(unknown, sorted_naturally(known)),
        )
    return found


def _is_given(table: Table, phenotype: Path | None) -> bool:
    return phenotype is not None and table.path.name == phenotype.name


def parse_number(text: str) -> float | None:
    """Read a number.

    Parameters
    ----------
    text : str
        A cell.

    Returns
    -------
    float or None
        None when it is something else, infinite or not a number.
    """
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and "_" not in text else None


def build_phenotype(column: Column, keys: Sequence[Key], *, kind: str = "auto", n_bins: int = 0) -> Phenotype:
    """Decide what a column is and convert it.

    Parameters
    ----------
    column : Column
        As text.
    keys : sequence of (str, str)
        Participants or sessions that have features.
    kind : str
        ``classification`` or ``regression``; ``auto`` takes text and few whole numbers for classes.
    n_bins : int
        When classes will be cut from it, it must hold numbers.

    Returns
    -------
    Phenotype
        Of `keys`, in their order.

    Raises
    ------
    InputError
        When no participant matches, values are too few or all the same, a class is too small, or text stands where
        numbers are expected.
    """
    labels = column.find(keys)
    where = f"Column {column.name} of {column.table}"
    known = [label for label in labels if label is not None]
    if not {sub for sub, _ in column.values} & {sub for sub, _ in keys}:
        raise InputError(
            f"{where} describes none of the participants with features: it has "
            f"{describe_labels({sub for sub, _ in column.values})}, features have "
            f"{describe_labels({sub for sub, _ in keys})}.",
            hint="participant_id must be the labels of sub-* folders, with the same zeros in front.",
        )
    if len(known) < MIN_VALUES:
        raise InputError(
            f"{where} has values for {len(known)} of {len(keys)} participants or sessions with features; "
            f"{MIN_VALUES} are the least to probe.",
            hint="Check participant_id and n/a.",
        )
    if len(set(known)) == 1:
        raise InputError(f"{where} is constant: all {len(known)} values are {known[0]!r}.", hint="Nothing to predict.")
    decided = _decide_kind(known, where) if kind == "auto" else kind
    if n_bins and decided == "classification" and kind == "auto":
        # Bins ask for numbers, few or many.
        decided = "regression"
    if decided == "classification":
        _check_classes(known, where)
        return _build(column, decided, labels, np.full(len(labels), np.nan))
    bad = [label for label in known if parse_number(label) is None]
    if bad:
        raise InputError(
            f"{where} holds {bad[0]!r} and {len(bad) - 1} other cells that are no numbers.",
            hint="Write n/a for missing values, or use --probe-kind classification.",
        )
    numbers = [np.nan if label is None else parse_number(label) for label in labels]
    return _build(column, decided, labels, np.array(numbers, dtype=np.float64))


def _build(column: Column, kind: str, labels: tuple[str | None, ...], numbers: NDArray[np.float64]) -> Phenotype:
    return Phenotype(name=column.name, table=column.table, kind=kind, labels=labels, numbers=numbers)


def _decide_kind(known: Sequence[str], where: str) -> str:
    numbers = [number for label in known if (number := parse_number(label)) is not None]
    distinct = set(numbers)
    if len(numbers) < len(known):
        if len(numbers) >= len(known) / 2 and len(distinct) > _MAX_CLASSES:
            bad = next(label for label in known if parse_number(label) is None)
            raise InputError(
                f"{where} holds numbers, but also {bad!r} in one of {len(known) - len(numbers)} cells.",
                hint="Write n/a for missing values, or say what it is with --probe-kind.",
            )
        return "classification"
    is_whole = all(number == int(number) for number in distinct)
    is_few = len(distinct) == 2 or (len(distinct) <= _MAX_CLASSES and len(known) >= 5 * len(distinct))
    return "classification" if is_whole and is_few else "regression"


def _check_classes(known: Sequence[str], where: str) -> None:
    counts = Counter(known)
    small = {name: count for name, count in counts.items() if count < MIN_CLASS}
    if small:
        shown = ", ".join(f"{name!r} ({small[name]})" for name in sorted_naturally(small)[:5])
        raise InputError(
            f"{where} has {len(small)} of {len(counts)} classes with fewer than {MIN_CLASS} members: {shown}.",
            hint="Write n/a for them, merge them, or use --probe-kind regression for numbers.",
        )
