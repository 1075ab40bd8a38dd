"""Find tables that may hold phenotypes in BIDS datasets, and read them as text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pandas as pd

from bids_semantoks.errors import InputError
from bids_semantoks.inputs.roots import find_linked_raw
from bids_semantoks.inputs.selection import describe_labels

#: Participant and session label; the session is empty where a table has none.
Key = tuple[str, str]

_KEYS: Final = ("participant_id", "session_id")


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


def find_roots(bids_dir: Path) -> tuple[Path, ...]:
    """List BIDS_DIR, the raw root above ``derivatives/`` and the raw dataset its description links to, if any."""
    roots = [bids_dir]
    for parent in bids_dir.resolve().parents:
        if parent.name == "derivatives":
            roots.append(parent.parent)
            break
    if (linked := find_linked_raw(bids_dir)) is not None:
        roots.append(linked)
    return tuple(roots)


def read_phenotype_table(path: Path) -> Table:
    """Read a TSV or CSV with ``participant_id`` and optional ``session_id``; labels lose ``sub-`` and ``ses-``.

    Cells stay text, so a site called NA is not missing and 01 is not 1. Raises InputError if the file is unreadable,
    lacks participant_id, or repeats a column, participant or session.
    """
    frame = _read_frame(path)
    names = [_clean_text(name) for name in frame.iloc[0]] if len(frame) else []
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
    return (_clean_text(cell) or None) if isinstance(cell, str) else None


def _clean_text(text: object) -> str:
    """Replace line breaks and tabs, which CSV cells may hold but the TSV output may not."""
    return re.sub(r"\s*[\t\n\v\f\r]\s*", " ", str(text)).strip()


def _check_unique(keys: Sequence[Key], path: Path) -> None:
    twice = [key for key, count in Counter(keys).items() if count > 1]
    if twice:
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
    """Read a table, or on failure its column names and the problem."""
    try:
        return read_phenotype_table(path)
    except InputError as error:
        return _build_unsound(path, error)


def _build_unsound(path: Path, problem: InputError) -> Table:
    try:
        first = path.read_bytes().partition(b"\n")[0].decode(errors="replace")
    except OSError:
        first = ""
    names = {name.strip(): () for name in first.split("\t")}
    return Table(path=path, name=path.name, has_sessions=False, keys=(), columns=dict(names), problem=problem)


def _find_session_tables(root: Path) -> Iterator[Table]:
    """Merge the session tables of all participants; one without ``session_id`` is yielded as unsound."""
    cells: dict[str, dict[Key, str | None]] = {}
    keys: list[Key] = []
    for path in sorted(root.glob("sub-*/sub-*_sessions.tsv")):
        frame = _read_frame(path)
        names = [_clean_text(name) for name in frame.iloc[0]] if len(frame) else []
        if "session_id" not in names:
            found = f"{path} has no column session_id: found {describe_labels(names)}."
            yield _build_unsound(path, InputError(found, hint="Expected one row a session."))
            continue
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
