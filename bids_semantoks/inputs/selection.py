"""Labels that the user asked for, and messages that name the nearest match."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from bids_semantoks.config import SelectionConfig
from bids_semantoks.errors import InputError
from bids_semantoks.inputs.names import sorted_naturally

_LISTED: Final = 12


def list_asked(selection: SelectionConfig) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
    """List what the user asked for of runs.

    Parameters
    ----------
    selection : SelectionConfig
        Options.

    Returns
    -------
    tuple of (str, str, tuple of str)
        What a label stands for, its entity key, and the bare labels; no labels where all are wanted.
    """
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
    """Compare an entity's value with what was asked for.

    Parameters
    ----------
    key : str
        Entity key; indices (``run``, ``echo`` ...) are compared as numbers, so 1 also means 01.
    value, asked : str
        The two values.

    Returns
    -------
    bool
        Whether they mean the same.
    """
    if value == asked:
        return True
    return key in ("run", "echo", "chunk") and value.isdecimal() and asked.isdecimal() and int(value) == int(asked)


def read_labels(asked: Sequence[str], prefix: str) -> tuple[str, ...]:
    """Turn what the user typed into bare labels.

    Parameters
    ----------
    asked : sequence of str
        Labels with or without their prefix; ``@FILE`` stands for the labels in a file, separated by white space or
        commas, ``#`` starting a comment; of a table with a ``participant_id`` column that column is taken.
    prefix : str
        The prefix to remove, such as ``sub-``.

    Returns
    -------
    tuple of str
        Labels in the order given, each once.

    Raises
    ------
    InputError
        When a label is empty, or a file cannot be read or holds none.
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
    """Refuse labels that are not there.

    Parameters
    ----------
    what : str
        What a label stands for, such as ``participant``.
    asked : iterable of str
        Labels asked for.
    known : iterable of str
        Labels that are there.
    where : str
        Where they were looked for.
    key : str
        Entity key, for those compared as numbers.

    Raises
    ------
    InputError
        When one label is unknown; it names what is there and the nearest match.
    """
    there = sorted_naturally(known)
    unknown = [label for label in asked if not any(is_same_value(key, value, label) for value in there)]
    if unknown:
        names = ", ".join(repr(label) for label in unknown)
        raise InputError(
            f"{what[:1].upper()}{what[1:]} {names} not found in {where}: found {describe_labels(there)}.",
            hint=describe_nearest(unknown, there),
        )


def describe_labels(labels: Iterable[str]) -> str:
    """List labels in a message, shortened when there are many.

    Parameters
    ----------
    labels : iterable of str
        Labels.

    Returns
    -------
    str
        Such as ``3 (01, 02, 03)``, or ``none``.
    """
    known = sorted_naturally(labels)
    if not known:
        return "none"
    shown = ", ".join(known[:_LISTED]) + (", ..." if len(known) > _LISTED else "")
    return f"{len(known)} ({shown})"


def describe_nearest(asked: Iterable[str], known: Sequence[str]) -> str:
    """Hint at what was probably meant.

    Parameters
    ----------
    asked : iterable of str
        Unknown labels.
    known : sequence of str
        Labels that are there.

    Returns
    -------
    str
        A question, or nothing when there is nothing to offer.
    """
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
