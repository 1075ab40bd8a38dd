"""Phenotype tables as text (participants, sessions, ``phenotype/``), their rows, and codes that may mean missing."""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bids_semantoks.bids_names import check_name, group_by
from bids_semantoks.errors import InputError, name_some
from bids_semantoks.files import TextTable, find_delimiter, is_missing, parse_table, read_json, read_text
from bids_semantoks.inputs.names import find_roots
from bids_semantoks.inputs.selection import describe_labels

LOGGER = logging.getLogger("bids_semantoks")

_ID: Final = "participant_id"
_KEYS: Final = (_ID, "session_id")
#: ID columns in tables of UK Biobank, REDCap, NDA and others, ignoring case and punctuation.
_ID_NAMES: Final = (
    *("participantid", "eid", "recordid", "srcsubjectid", "subjectkey", "subjectid", "participant", "subject"),
    *("sub", "subid", "subj", "subjid", "ptid", "rid", "guid", "id"),
)

#: Participant and session label; the session is empty if a table has none.
Key = tuple[str, str]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Table:
    """Phenotype table, as text."""

    path: Path  # for sub-*_sessions.tsv, the dataset root
    name: str  # for messages
    has_sessions: bool  # whether rows are sessions
    keys: tuple[Key, ...]  # one per row
    columns: dict[str, tuple[str | None, ...]]  # cells by column, as written; None if a file lacks the column
    lines: tuple[int, ...] = ()  # line number of each row in its file
    id_column: str = _ID
    described: dict[str, Any] = field(default_factory=dict)  # sidecar entries, by column
    # why the table is unusable (it then has no cells); raised only if one of its columns is requested
    problem: InputError | None = None

    @property
    def sidecar(self) -> str:
        """Name of the JSON file that describes the columns."""
        return "sessions.json" if "*" in self.name else f"{self.path.stem}.json"


def find_tables(
    bids_dir: Path, phenotype: Path | None, *, id_column: str | None = None, participants: Collection[str] = ()
) -> Iterator[Table]:
    """Yield tables lazily: `phenotype`, then participants, sessions and ``phenotype/*.tsv`` of each root. `phenotype`
    may be relative to a root or its ``phenotype`` folder; InputError if it is missing or unsound. Any other unsound
    table is yielded with its problem, since most calls need only one table. `id_column` has the labels in `phenotype`
    and in tables without participant_id; `participants` are the labels in the data."""
    roots = find_roots(bids_dir)
    if phenotype is not None:
        check_name(phenotype, InputError, "--phenotype")
        places = [phenotype, *(root / folder / phenotype for root in roots for folder in ("", "phenotype"))]
        there = [place for place in places if place.is_file()]
        if not there:
            raise InputError(
                f"--phenotype {phenotype} not found: looked for {', '.join(map(str, dict.fromkeys(places)))}.",
                hint="Give a table with a participant_id column.",
            )
        yield read_phenotype_table(there[0], (id_column, _ID) if id_column else (_ID,), participants)
    names = (_ID, id_column) if id_column else (_ID,)
    for root in roots:
        for path in (root / "participants.tsv", root / "sessions.tsv"):
            if path.is_file():
                yield _read_anyway(path, names, participants)
        yield from _find_session_tables(root)
        for path in sorted((root / "phenotype").glob("*.tsv")):
            yield _read_anyway(path, names, participants)


def _read_anyway(path: Path, id_columns: Sequence[str], participants: Collection[str]) -> Table:
    try:
        return read_phenotype_table(path, id_columns, participants)
    except InputError as error:
        return _build_unsound(path, error)


def _build_unsound(path: Path, problem: InputError) -> Table:
    """Build a table with column names only."""
    names: list[str] = []
    try:
        first = read_text(path).lstrip("\r\n").splitlines()[:1]
        names = parse_table("".join(first), delimiter=find_delimiter("".join(first))).names
    except (OSError, ValueError):
        pass
    return Table(
        path=path, name=path.name, has_sessions=False, keys=(), columns=dict.fromkeys(names, ()), problem=problem
    )


def read_phenotype_table(path: Path, id_columns: Sequence[str] = (_ID,), participants: Collection[str] = ()) -> Table:
    """Read a TSV or CSV with one of `id_columns` and optional ``session_id``; labels lose ``sub-`` and ``ses-``. Cells
    stay text, so 01 is not 1. Raises InputError if the file is unreadable, lacks the ID column (the likely one is
    suggested by its overlap with `participants`), or repeats a column, participant or session."""
    names, rows, lines = _read_cells(path)
    cells = {name: tuple(_clean(row[index]) for row in rows) for index, name in enumerate(names)}
    id_column = next((name for name in id_columns if name in cells), "")
    if not id_column:
        likely = _guess_id_column(cells, participants)
        raise InputError(
            f"{path} has no column {' or '.join(id_columns)}: found {describe_labels(names)}.",
            hint=f"Set the ID column; perhaps --id-column {likely}."
            if likely
            else "Expected a tab-separated table with one row per participant; --id-column sets another ID column.",
        )
    labels = [_strip(cell, "sub-") for cell in cells[id_column]]
    sessions = [_strip(cell, "ses-") for cell in cells.get("session_id", ("",) * len(rows))]
    if "" in labels:
        raise InputError(f"{path} has no {id_column} in row {lines[labels.index('')]}.", hint="Fill it in.")
    keys = tuple(zip(labels, sessions, strict=True))
    _check_unique(keys, path)
    return Table(
        path=path,
        name=path.name,
        has_sessions=any(sessions),
        keys=keys,
        columns={name: values for name, values in cells.items() if name not in (*_KEYS, id_column)},
        lines=tuple(lines),
        id_column=id_column,
        described=_read_sidecar(path.with_suffix(".json")),
    )


def _guess_id_column(cells: dict[str, tuple[str, ...]], participants: Collection[str]) -> str:
    """Guess the ID column: the one with most labels of the data, else one with a common name."""
    labels = set(map(_simplify, participants))
    matches = {name: len(labels.intersection(map(_simplify, values))) for name, values in cells.items()}
    best = max(matches, key=matches.__getitem__, default="")
    if best and matches[best] >= min(2, len(participants)) > 0:
        return best
    plain = {re.sub(r"[\W_]", "", name).casefold(): name for name in reversed(cells)}
    return next((plain[name] for name in _ID_NAMES if name in plain), "")


def _read_cells(path: Path) -> TextTable:
    """Read a table separated by tabs, or by commas or semicolons if its header has no tab."""
    try:
        text = read_text(path)
        table = parse_table(text, delimiter=find_delimiter(text), is_padded=True)
    except OSError as error:
        raise InputError(f"The table {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise InputError(
            f"The table {path} {error}.", hint="Expected tab-separated text with one row per participant."
        ) from error
    if twice := sorted(name for name, count in Counter(table.names).items() if count > 1):
        raise InputError(f"{path} has duplicate columns: {', '.join(twice)}.", hint="Rename one of them.")
    return table


def _read_sidecar(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path) if path.is_file() else {}
    except (OSError, ValueError) as error:
        LOGGER.warning("%s cannot be read, so its Levels and MissingValues are unknown: %s.", path, error)
        return {}
    return content if isinstance(content, dict) else {}


def _clean(text: str) -> str:
    """Replace line breaks and tabs, which are allowed in CSV cells but not in the TSV output."""
    return re.sub(r"\s*[\t\n\v\f\r]\s*", " ", text).strip()


def _strip(text: str, prefix: str) -> str:
    return "" if is_missing(text) else text.removeprefix(prefix)


def _check_unique(keys: Sequence[Key], path: Path) -> None:
    if twice := [key for key, count in Counter(keys).items() if count > 1]:
        shown = ", ".join(f"sub-{sub}{f' ses-{ses}' if ses else ''}" for sub, ses in twice[:5])
        raise InputError(
            f"{path} has duplicate rows for {len(twice)} participants or sessions: {shown}.", hint="Keep one row each."
        )


def _find_session_tables(root: Path) -> Iterator[Table]:
    """Merge the session tables of all participants; unusable ones are yielded with their problem."""
    cells: dict[str, dict[Key, str]] = {}
    lines: dict[Key, int] = {}
    described = _read_sidecar(root / "sessions.json")
    for path in sorted(root.glob("sub-*/sub-*_sessions.tsv")):
        try:
            rows = _read_sessions(path)
        except InputError as error:
            yield _build_unsound(path, error)
            continue
        described |= _read_sidecar(path.with_suffix(".json"))
        for key, (line, texts) in rows.items():
            lines[key] = line
            for name, text in texts.items():
                cells.setdefault(name, {})[key] = text
    if lines:
        columns = {name: tuple(found.get(key) for key in lines) for name, found in cells.items() if name not in _KEYS}
        yield Table(
            path=root,
            name="sub-*_sessions.tsv",
            has_sessions=True,
            keys=tuple(lines),
            columns=columns,
            lines=tuple(lines.values()),
            described=described,
        )


def _read_sessions(path: Path) -> dict[Key, tuple[int, dict[str, str]]]:
    """Read one participant's sessions table: line and cells by column of each session."""
    names, rows, lines = _read_cells(path)
    if "session_id" not in names:
        found = f"{path} has no column session_id: found {describe_labels(names)}."
        raise InputError(found, hint="Expected one row per session.")
    texts = [dict(zip(names, map(_clean, row), strict=True)) for row in rows]
    label = path.parent.name.removeprefix("sub-")
    keys = [(label, _strip(cells["session_id"], "ses-")) for cells in texts]
    _check_unique(keys, path)
    return dict(zip(keys, zip(lines, texts, strict=True), strict=True))


def match_keys(table: Table, keys: Collection[Key]) -> tuple[Key, ...]:
    """Rename the rows of a table to the labels of the data if they differ only in ``sub-``, punctuation, case or
    leading zeros (NDAR_INV1 and NDARINV1, 1 and 001). InputError if a label is ambiguous."""
    participants = _match_labels({sub for sub, _ in table.keys}, {sub for sub, _ in keys}, table)
    sessions = _match_labels({ses for _, ses in table.keys}, {ses for _, ses in keys} - {""}, table)
    return tuple((participants.get(sub, sub), sessions.get(ses, ses)) for sub, ses in table.keys)


def _match_labels(described: Collection[str], wanted: Collection[str], table: Table) -> dict[str, str]:
    ours, theirs = (
        group_by(sorted(set(one) - set(other) - {""}), _simplify)
        for one, other in ((wanted, described), (described, wanted))
    )
    found = {}
    for form in sorted(ours.keys() & theirs.keys()):
        if len(ours[form]) > 1 or len(theirs[form]) > 1:
            raise InputError(
                f"Labels {name_some(theirs[form])} in {table.path} cannot be matched unambiguously to "
                f"{name_some(ours[form])} in the data.",
                hint="Use the labels of the sub-* and ses-* folders in the table.",
            )
        found[theirs[form][0]] = ours[form][0]
    if found:
        LOGGER.info(
            "%d labels in %s were matched to labels spelt differently in the data: %s.",
            *(len(found), table.name, name_some([f"{their} is {our}" for their, our in found.items()])),
        )
    return found


def _simplify(label: str) -> str:
    """Reduce a label to the part that spreadsheets, databases and archives preserve."""
    text = re.sub(r"^(\d+)\.0+$", r"\1", label.strip(" \"'").casefold())
    text = re.sub(r"^(sub|ses)[-_ ]|^sub(?=\d)", "", text)
    return re.sub(r"[\W_]", "", text).lstrip("0") or "0"


# 9, 99, -999, ..., codes of refused and unknown answers, and those of UK Biobank.
_CODE: Final = re.compile(r"-[13]|[-+]?(7+|8+|9+)")
_WORDS: Final = frozenset(
    {
        *("unknown", "unk", "missing", "none", "no data", "nodata", "no answer", "no response", "undefined"),
        *("not available", "not applicable", "not reported", "not recorded", "not collected", "not known", "not done"),
        *("not assessed", "not administered", "not answered", "not tested", "not specified", "unspecified", "invalid"),
        *("refused", "declined", "refuse to answer", "refused to answer", "declined to answer", "prefer not to answer"),
        *("prefer not to say", "don't know", "dont know", "do not know", "no information", "?", "-", "--"),
        *("missing data", "missing value", "missing values", "missing response", "na", "n/a", "nan", "null", "n.a."),
    }
)


def parse_number(text: str) -> float | None:
    """Parse a finite number; None for anything else, including 1_000, which float() accepts."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and "_" not in text else None


def spell(text: object) -> str:
    """Normalise the spelling of a number, so that -9999 and -9999.0 are equal; other text is unchanged."""
    number = parse_number(str(text))
    return str(text).strip() if number is None else repr(number)


def read_levels(entry: object) -> tuple[frozenset[str], frozenset[str]]:
    """Read a column's sidecar entry: its levels, and the values that mean missing, both normalised. Missing are
    ``MissingValues`` (also within ``Annotations``, as written by Neurobagel and nipoppy) and ``Levels`` described as
    such."""
    if not isinstance(entry, Mapping):
        return frozenset(), frozenset()
    notes = entry.get("Annotations")
    places = (entry, notes) if isinstance(notes, Mapping) else (entry,)
    missing = [value for one in places for value in _list(one.get("MissingValues"))]
    levels = entry.get("Levels")
    described = levels if isinstance(levels, Mapping) else dict.fromkeys(_list(levels), "")
    missing += [code for code, text in described.items() if _says_missing(text)]
    codes = frozenset(map(spell, missing))
    return frozenset(map(spell, described)) - codes, codes


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _says_missing(description: object) -> bool:
    """Return whether the description of a level, or its first part, is a word for missing."""
    if isinstance(description, Mapping):
        description = description.get("Description", description.get("Label", ""))
    first = re.split(r"[,;:(/]|\bor\b", str(description).replace("n/a", "na").casefold())[0].strip(" .")
    return first in _WORDS - {"none"}


def find_suspects(labels: Iterable[str], levels: Collection[str]) -> dict[str, int]:
    """Find labels that often mean missing, with their counts: words beside other values, and codes that are the only
    negative numbers, or farther from all others than these are from each other. `levels` (normalised) are values."""
    counts = Counter(labels)
    numbers = {label: number for label in counts if (number := parse_number(label)) is not None}
    codes = {label for label in numbers if _CODE.fullmatch(re.sub(r"\.0+$", "", label)) and spell(label) not in levels}
    words = {label for label in counts if label.casefold() in _WORDS and spell(label) not in levels}
    others = sorted(number for label, number in numbers.items() if label not in codes)
    if len(counts) == len(codes | words):
        return {}
    return {
        label: counts[label]
        for label in counts
        if label in words or (label in codes and _is_apart(numbers[label], others))
    }


def _is_apart(code: float, others: list[float]) -> bool:
    if not others:
        return True
    first, last = others[0], others[-1]
    gap = max(first - code, code - last)
    # -1 and -3 are answer codes in UK Biobank lists, and ordinary numbers elsewhere.
    is_list = len(others) > 2 and all(number.is_integer() for number in others)
    is_only_negative = code < 0 <= first and (code <= -7 or is_list)
    return is_only_negative or (gap > max(last - first, 4) and abs(code) >= 7 and (len(others) > 1 or abs(code) >= 99))
