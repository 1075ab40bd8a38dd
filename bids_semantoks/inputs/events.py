"""Find a run's events table by its entities, and read it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bids_semantoks.bids_names import DERIVED_ENTITIES, parse_name
from bids_semantoks.errors import InputError
from bids_semantoks.files import is_missing, parse_table, read_text
from bids_semantoks.inputs.names import find_above, split_named


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Row of an events table."""

    onset: float  # s, from the first volume of the run
    duration: float  # s
    label: str  # cell of the requested column


def find_event_roots(bids_dir: Path, derivatives: Sequence[str]) -> tuple[Path, ...]:
    """List the datasets to search for events tables: BIDS_DIR, the raw dataset above it, and the derivatives given or
    nested in it."""
    resolved, above = bids_dir.resolve(), find_above(bids_dir)
    named = [split_named(text)[1] for text in derivatives]
    inside = sorted(path for path in (resolved / "derivatives").glob("*") if path.is_dir())
    raw = [] if above is None else [above]
    return tuple(dict.fromkeys([resolved, *raw, *(path.resolve() for path in named if path.is_dir()), *inside]))


def find_events(entities: Mapping[str, str], roots: Sequence[Path]) -> Path | None:
    """Find a run's events table by BIDS inheritance; the nearest folder wins, then the table with most entities.

    Entities that only derivatives carry are ignored. The first of `roots` that has a table decides.
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
    """Read events sorted by onset, and count the rows dropped because they have a label but no onset or duration.

    Rows without a label in `column` are dropped, uncounted. Raises InputError if the table is unreadable, lacks a
    column, or has onsets or durations that are not in seconds.
    """
    try:
        names, rows, lines = parse_table(read_text(path), is_padded=True)
    except OSError as error:
        raise InputError(f"The events table {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise InputError(f"The events table {path} {error}.") from error
    missing = [name for name in ("onset", "duration", column) if rows and name not in names]
    if missing:
        raise InputError(
            f"The events table {path} has no column {', '.join(missing)}: found {', '.join(names)}.",
            hint="Choose another column with --task-blocks."
            if missing == [column]
            else "BIDS requires onset and duration, in seconds, in every events table.",
        )
    events, n_timeless = [], 0
    for number, row in zip(lines, rows, strict=True):
        cells = [row[names.index(name)].strip() for name in ("onset", "duration", column)]
        if is_missing(cells[2]):
            continue
        if any(map(is_missing, cells)):
            n_timeless += 1
            continue
        try:
            onset, duration = float(cells[0]), float(cells[1])
        except ValueError:
            onset = duration = math.nan
        if not (math.isfinite(onset) and math.isfinite(duration) and duration >= 0):
            raise InputError(
                f"Line {number} of the events table {path} has onset {cells[0]!r} and duration {cells[1]!r}; "
                "expected seconds."
            )
        events.append(Event(onset=onset, duration=duration, label=cells[2]))
    return tuple(sorted(events, key=lambda event: event.onset)), n_timeless
