"""Tables of events: found for a run by its entities, read by columns."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bids_semantoks.errors import InputError
from bids_semantoks.inputs.names import DERIVED_ENTITIES, parse_name

_MISSING = ("", "n/a")


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One line of a table of events.

    Parameters
    ----------
    onset, duration : float
        Seconds; the onset counts from the run's first volume.
    label : str
        Value of the column that was asked for.
    """

    onset: float
    duration: float
    label: str


def find_event_roots(bids_dir: Path, derivatives: Sequence[str]) -> tuple[Path, ...]:
    """List the datasets in which tables of events are looked for.

    Parameters
    ----------
    bids_dir : Path
        The dataset of the call.
    derivatives : sequence of str
        Derivative datasets as PATH or NAME=PATH.

    Returns
    -------
    tuple of Path
        BIDS_DIR, the raw dataset above it when it lies in ``derivatives/``, then the derivatives that are there.
    """
    resolved = bids_dir.resolve()
    raw = [parent.parent for parent in resolved.parents if parent.name == "derivatives"][:1]
    named = [Path(text.partition("=")[2] or text) for text in derivatives]
    inside = resolved / "derivatives"
    own = sorted(path for path in inside.iterdir() if path.is_dir()) if inside.is_dir() else []
    return tuple(dict.fromkeys([resolved, *raw, *(path.resolve() for path in named if path.is_dir()), *own]))


def find_events(entities: Mapping[str, str], roots: Sequence[Path]) -> Path | None:
    """Find the table of events of a run, by BIDS' inheritance principle.

    Parameters
    ----------
    entities : mapping
        Entities of the run; those that only derivatives have do not count.
    roots : sequence of Path
        Datasets, the first that has one decides.

    Returns
    -------
    Path or None
        The nearest table whose entities the run all has, of several that which names most.
    """
    own = {(key, value) for key, value in entities.items() if key not in DERIVED_ENTITIES}
    parts = [f"sub-{entities['sub']}", *([f"ses-{entities['ses']}"] if "ses" in entities else []), "func"]
    for root in roots:
        places = [root.joinpath(*parts[:n]) for n in range(len(parts), -1, -1)]
        for place in places:
            found = [parse_name(str(path)) for path in sorted(place.glob("*_events.tsv"))]
            fitting = [one for one in found if one is not None and own.issuperset(one.entities)]
            if fitting:
                return Path(max(fitting, key=lambda one: len(one.entities)).path)
    return None


def read_events(path: Path, column: str) -> tuple[tuple[Event, ...], int]:
    """Read the events that have a time and a value.

    Parameters
    ----------
    path : Path
        ``*_events.tsv``.
    column : str
        Column of the values, such as ``trial_type``.

    Returns
    -------
    events : tuple of Event
        In the order of onsets; lines without a value in the column are left out.
    n_timeless : int
        Lines that have a value, but n/a for a time; they are left out, too.

    Raises
    ------
    InputError
        When the table cannot be read, lacks a column, or holds something else than seconds.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
            columns = list(rows[0]) if rows else []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"The events {path} cannot be read: {error}.") from error
    missing = [name for name in ("onset", "duration", column) if rows and name not in columns]
    if missing:
        raise InputError(
            f"The events {path} have no column {', '.join(missing)}: found {', '.join(map(str, columns))}.",
            hint="Choose another column with --task-blocks."
            if missing == [column]
            else "BIDS wants onset and duration, in seconds, in every table of events.",
        )
    events, n_timeless = [], 0
    for number, row in enumerate(rows, start=2):
        cells = [(row[name] or "").strip() for name in ("onset", "duration", column)]
        if cells[2] in _MISSING:
            continue
        if any(cell in _MISSING for cell in cells):
            n_timeless += 1
            continue
        try:
            onset, duration = float(cells[0]), float(cells[1])
        except ValueError:
            onset = duration = math.nan
        if not (math.isfinite(onset) and math.isfinite(duration) and duration >= 0):
            raise InputError(
                f"Line {number} of the events {path} has onset {cells[0]!r} and duration {cells[1]!r}, "
                "expected seconds."
            )
        events.append(Event(onset=onset, duration=duration, label=cells[2]))
    return tuple(sorted(events, key=lambda event: event.onset)), n_timeless
