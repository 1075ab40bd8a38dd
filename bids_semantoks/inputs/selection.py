"""Labels and filters requested by the user, with suggestions of the closest match."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bids_semantoks.bids_names import BidsFile, sorted_naturally
from bids_semantoks.config import SelectionConfig
from bids_semantoks.errors import InputError
from bids_semantoks.files import parse_table, read_json, read_text

LOGGER = logging.getLogger("bids_semantoks")
_LISTED: Final = 12

# pybids' entity names, as used in filter files, where they differ from the keys in file names.
_LONG_NAMES: Final = {
    "subject": "sub",
    "session": "ses",
    "acquisition": "acq",
    "ceagent": "ce",
    "tracer": "trc",
    "reconstruction": "rec",
    "direction": "dir",
    "modality": "mod",
    "hemisphere": "hemi",
    "resolution": "res",
    "density": "den",
    "description": "desc",
    "segmentation": "seg",
    "statistic": "stat",
}

# fmt: off
_FILTER_KEYS: Final = {
    "sample", "task", "run", "echo", "part", "proc", "space", "cohort", "chunk", "recording", "suffix", "extension",
    "datatype", "atlas", "scale", "label", *_LONG_NAMES.values(),
}

# fmt: on
# Entries that other apps read from the same file: valid but ignored here.
_OTHER_QUERIES: Final = frozenset({"fmap", "sbref", "flair", "t1w", "t2w", "roi", "asl", "m0scan", "dwi", "pet"})

_ABSENT: Final = (None, "Query.NONE")
_ANY: Final = ("*", "Query.ANY", "Query.REQUIRED")
_OPTIONAL: Final = ("Query.OPTIONAL",)


def list_asked(selection: SelectionConfig) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
    """List the requested (name, entity key, bare labels) for each entity of runs; no labels means all."""
    asked = (
        ("session", "ses", selection.session_id),
        ("task", "task", selection.task_id),
        ("acquisition", "acq", selection.acquisition_id),
        ("direction", "dir", selection.direction_id),
        ("run", "run", selection.run_id),
        ("echo", "echo", selection.echo_id),
    )
    return tuple((what, key, read_labels(labels, f"{key}-")) for what, key, labels in asked)


def normalise_value(key: str, value: str) -> str:
    """Normalise an entity value for comparison: the indices run, echo and chunk as numbers, so 1 matches 01."""
    return str(int(value)) if key in ("run", "echo", "chunk") and value.isdecimal() else value


def is_among(key: str, value: str, asked: Iterable[str]) -> bool:
    """Return whether an entity's value is one of those requested."""
    return normalise_value(key, value) in {normalise_value(key, label) for label in asked}


def read_labels(asked: Sequence[str], prefix: str) -> tuple[str, ...]:
    """Strip the prefix from labels and drop repeats; InputError for an empty label or a bad ``@FILE``. ``@FILE`` lists
    labels separated by white space or commas, with ``#`` comments, or is a TSV with ``participant_id``."""
    labels: list[str] = []
    for item in asked:
        labels.extend(_read_label_file(Path(item[1:])) if item.startswith("@") else [item])
    bare = tuple(dict.fromkeys(label.strip().removeprefix(prefix) for label in labels))
    if "" in bare:
        # An unset shell variable must not select everything.
        raise InputError(f"Empty label in {', '.join(map(repr, asked))}.", hint=f"Expected {prefix}LABEL or LABEL.")
    return bare


def check_known(what: str, asked: Iterable[str], known: Iterable[str], where: str, *, key: str = "") -> None:
    """Raise InputError for unknown labels, listing the available ones and the closest match."""
    labels = set(known)
    same = {normalise_value(key, value) for value in labels}
    unknown = [label for label in asked if normalise_value(key, label) not in same]
    if unknown:
        there = sorted_naturally(labels)
        names = ", ".join(repr(label) for label in unknown)
        raise InputError(
            f"{what[:1].upper()}{what[1:]} {names} not found in {where}: found {describe_labels(there)}.",
            hint=describe_nearest(unknown, there),
        )


def keep_known(
    asked: Sequence[str], known: Collection[str], where: str, *, is_lenient: bool, is_excluded: bool = False
) -> tuple[str, ...]:
    """Refuse unknown participants as `check_known` does; with `is_lenient` (--ignore-missing-participants) log them and
    return the known ones. InputError if none remain, unless they were to be excluded."""
    left = tuple(label for label in asked if label in known)
    if len(left) == len(asked):
        return left
    if not is_lenient or not (left or is_excluded):
        check_known("participant", asked, known, where)
    unknown = [label for label in asked if label not in known]
    LOGGER.warning(
        "Ignoring %d of %d requested participants that are not in %s: %s",
        len(unknown),
        len(asked),
        where,
        describe_labels(unknown),
    )
    return left


def describe_labels(labels: Iterable[str]) -> str:
    """Abbreviate labels for a message, such as ``3 (01, 02, 03)``, or ``none``."""
    known = sorted_naturally(labels)
    if not known:
        return "none"
    shown = ", ".join(known[:_LISTED]) + (", ..." if len(known) > _LISTED else "")
    return f"{len(known)} ({shown})"


def describe_nearest(asked: Iterable[str], known: Sequence[str]) -> str:
    """Suggest the closest known labels as a question; empty if there are none."""
    folded = {label.lower(): label for label in reversed(known)}
    # A number without its leading zeros is the most likely mistake.
    numbers = {int(label): label for label in reversed(known) if label.isdecimal()}
    nearest = [
        numbers[int(label)] if label.isdecimal() and int(label) in numbers else folded[match]
        for label in asked
        for match in difflib.get_close_matches(label.lower(), folded, 1, cutoff=0.0)
    ]
    return f"Did you mean {', '.join(dict.fromkeys(nearest))}?" if nearest else ""


def _read_label_file(path: Path) -> list[str]:
    try:
        text = read_text(path)
        header, rows, _ = parse_table(text, is_padded=True)
    except (OSError, ValueError) as error:
        raise InputError(
            f"Label file {path} cannot be read: {error}.", hint="Expected @FILE with one label per line."
        ) from error
    if "participant_id" in header:
        column = header.index("participant_id")
        labels = [cells[column] for cells in rows if cells[column]]
    else:
        labels = [label for line in text.splitlines() for label in line.partition("#")[0].replace(",", " ").split()]
    if not labels:
        raise InputError(f"Label file {path} contains no labels.", hint="Expected one label per line.")
    return labels


@dataclass(frozen=True, kw_only=True, slots=True)
class BoldFilter:
    """The ``bold`` entry of a filter file."""

    # (entity key, accepted values); None if the entity must be absent, * for any value
    accepted: tuple[tuple[str, tuple[str | None, ...]], ...]
    warnings: tuple[str, ...]  # one message per ignored entry

    def accepts(self, image: BidsFile) -> bool:
        """Return whether every entity in the filter accepts the image's value."""
        values: dict[str, str | None] = {
            **dict(image.entities),
            "suffix": image.suffix,
            "extension": image.extension,
            "datatype": "func",
        }
        # A filter may spell the cohort as some file names do.
        if any(key == "space" and any(one and "+" in one for one in asked) for key, asked in self.accepted):
            values["space"] = "+".join(filter(None, (values.get("space"), values.get("cohort")))) or None
        return all(_accepts_value(key, values.get(key), accepted) for key, accepted in self.accepted)


def read_filter(path: Path) -> BoldFilter:
    """Read a JSON filter, such as ``{"bold": {"task": "rest", "session": ["1", null]}}``, where null means absent and
    ``*`` any value. InputError if the file is unreadable or malformed."""
    hint = 'Expected a JSON object such as {"bold": {"task": "rest", "session": ["1", "2"]}}.'
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise InputError(f"Filter file {path} cannot be read: {error}.", hint=hint) from error
    bold = content.get("bold", {}) if isinstance(content, dict) else None
    if not isinstance(bold, dict):
        raise InputError(f"Filter file {path} must contain a JSON object with an object 'bold'.", hint=hint)
    others = sorted(set(content) - {"bold"} - _OTHER_QUERIES)
    warnings = [f"Ignoring unknown key {key!r} in filter file {path}." for key in others]
    if "bold" not in content:
        warnings.append(f"Filter file {path} has no 'bold' entry and has no effect.")
    accepted = []
    for name, value in bold.items():
        if (key := _LONG_NAMES.get(name, name)) in _FILTER_KEYS:
            accepted.append((key, _read_values(path, name, value)))
        else:
            warnings.append(f"Ignoring unknown entity {name!r} in filter file {path}.")
    return BoldFilter(accepted=tuple(accepted), warnings=tuple(warnings))


def _read_values(path: Path, name: str, value: Any) -> tuple[str | None, ...]:
    values: list[str | None] = []
    for item in value if isinstance(value, list) else [value]:
        if item in _ABSENT:
            values.append(None)
        elif item in _OPTIONAL:
            values.extend((None, "*"))
        elif isinstance(item, str | int) and not isinstance(item, bool):
            values.append("*" if item in _ANY else str(item))
        else:
            raise InputError(
                f"Filter file {path}: {name!r} must be a string, an integer, null or a list of these, found {item!r}."
            )
    return tuple(values)


def _accepts_value(key: str, value: str | None, accepted: tuple[str | None, ...]) -> bool:
    if value is None:
        return None in accepted
    return "*" in accepted or is_among(key, value, [one.removeprefix(f"{key}-") for one in accepted if one is not None])
