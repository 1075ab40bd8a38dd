"""Labels requested by the user, and messages that suggest the nearest match."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from bids_semantoks.bids_names import sorted_naturally
from bids_semantoks.config import SelectionConfig
from bids_semantoks.errors import InputError

_LISTED: Final = 12


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


def is_same_value(key: str, value: str, asked: str) -> bool:
    """Compare entity values; the indices run, echo and chunk compare as numbers, so 1 matches 01."""
    if value == asked:
        return True
    return key in ("run", "echo", "chunk") and value.isdecimal() and asked.isdecimal() and int(value) == int(asked)


def read_labels(asked: Sequence[str], prefix: str) -> tuple[str, ...]:
    """Strip the prefix from labels and drop repeats; InputError for an empty label or a bad ``@FILE``.

    ``@FILE`` lists labels separated by white space or commas, with ``#`` comments, or is a TSV with ``participant_id``.
    """
    labels: list[str] = []
    for item in asked:
        labels.extend(_read_label_file(Path(item[1:])) if item.startswith("@") else [item])
    bare = tuple(dict.fromkeys(label.strip().removeprefix(prefix) for label in labels))
    if "" in bare:
        # An unset shell variable must not select everything.
        raise InputError(f"Empty label among {', '.join(map(repr, asked))}.", hint=f"Expected {prefix}LABEL or LABEL.")
    return bare


def check_known(what: str, asked: Iterable[str], known: Iterable[str], where: str, *, key: str = "") -> None:
    """Refuse unknown labels: InputError listing the available ones and the nearest match."""
    there = sorted_naturally(known)
    unknown = [label for label in asked if not any(is_same_value(key, value, label) for value in there)]
    if unknown:
        names = ", ".join(repr(label) for label in unknown)
        raise InputError(
            f"{what[:1].upper()}{what[1:]} {names} not found in {where}: found {describe_labels(there)}.",
            hint=describe_nearest(unknown, there),
        )


def describe_labels(labels: Iterable[str]) -> str:
    """Abbreviate labels for a message, such as ``3 (01, 02, 03)``, or ``none``."""
    known = sorted_naturally(labels)
    if not known:
        return "none"
    shown = ", ".join(known[:_LISTED]) + (", ..." if len(known) > _LISTED else "")
    return f"{len(known)} ({shown})"


def describe_nearest(asked: Iterable[str], known: Sequence[str]) -> str:
    """Suggest the nearest known labels as a question; empty if nothing is known."""
    folded = {label.lower(): label for label in reversed(known)}
    # A number without its leading zeros is the likeliest slip.
    numbers = {int(label): label for label in reversed(known) if label.isdecimal()}
    nearest = [
        numbers[int(label)] if label.isdecimal() and int(label) in numbers else folded[match]
        for label in asked
        for match in difflib.get_close_matches(label.lower(), folded, 1, cutoff=0.0)
    ]
    return f"Did you mean {', '.join(dict.fromkeys(nearest))}?" if nearest else ""


def _read_label_file(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"File of labels {path} cannot be read: {error}.", hint="Expected @FILE with one label a line."
        ) from error
    header = lines[0].split("\t") if lines else []
    if "participant_id" in header:
        column = header.index("participant_id")
        labels = [cells[column] for line in lines[1:] if len(cells := line.split("\t")) > column and cells[column]]
    else:
        labels = [label for line in lines for label in line.partition("#")[0].replace(",", " ").split()]
    if not labels:
        raise InputError(f"File of labels {path} holds no label.", hint="Expected one label a line.")
    return labels
