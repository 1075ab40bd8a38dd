"""Companions of a run: mask, confounds, events and other tables, found by their entities in its folder or above."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bids_semantoks.bids_names import DERIVED_ENTITIES, TABLE_ENTITIES, BidsFile, parse_name
from bids_semantoks.errors import InputError
from bids_semantoks.files import is_missing, parse_table, read_text
from bids_semantoks.inputs.names import find_above, split_named

Key = frozenset[tuple[str, str]]
KeyFunction = Callable[[BidsFile], Key]
Pool = dict[Key, list[BidsFile]]

# Pipelines include it in some files of a run and omit it from others.
_LOOSE: Final = ("part", "mag")


def drop(file: BidsFile, keys: Iterable[str]) -> Key:
    """Reduce a file to its entities except the given ones."""
    return frozenset([pair for pair in file.entities if pair[0] not in keys])


def image_key(file: BidsFile) -> Key:
    """Reduce an image or its mask to the entities they share."""
    return drop(file, ("desc",))


def source_key(file: BidsFile) -> Key:
    """Reduce an image, or a table of its run, to the entities that distinguish runs."""
    return file.source


def run_key(table: BidsFile) -> Key:
    """Reduce the entities of a table, or of another file of its run, to those of the run."""
    return frozenset(pair for pair in table.source if pair[0] not in TABLE_ENTITIES)


def build_pool(files: Iterable[BidsFile], kinds: Sequence[tuple[str, str | None]], key: KeyFunction) -> Pool:
    """Index the files of some (suffix, desc) kinds, best first; desc None accepts any, an empty desc
    only files without one."""
    pool: Pool = {}
    known = list(files)
    for suffix, desc in kinds:
        for one in known:
            if one.suffix == suffix and desc in (None, one.entity("desc") or ""):
                pool.setdefault(_loosen(key(one)), []).append(one)
    return pool


def find_companion(pool: Pool, image: BidsFile, key: KeyFunction) -> str | None:
    """Find the path of an image's companion: the same entities, else one that differs only in ``part-mag``.
    The nearest folder wins; only the image's folder and those above it are considered."""
    wanted = key(image)
    fitting = [one for one in pool.get(_loosen(wanted), ()) if is_above(one.path, image.path)]
    exact = [one for one in fitting if key(one) == wanted]
    nearest = max(exact or fitting, key=lambda one: one.path.count(os.sep), default=None)
    return nearest.path if nearest else None


def is_above(path: str, image: str) -> bool:
    """Return whether a file is in the folder of an image or above it (BIDS inheritance)."""
    return image.startswith(path.rpartition(os.sep)[0] + os.sep)


def describe_missing(image: BidsFile, expected: str, others: Sequence[BidsFile]) -> str:
    """Describe the missing companion of an image and the most similar file among `others`."""
    names = {os.path.basename(one.path): one.path for one in reversed(others)}  # noqa: PTH119 - no Path needed
    near = difflib.get_close_matches(expected, names, n=1, cutoff=0.0)
    if not near:
        return f"Expected {expected}; the participant has no such file."
    place = os.path.relpath(names[near[0]], os.path.dirname(image.path))  # noqa: PTH120
    return f"Expected {expected}; the closest match is {place}."


def _loosen(key: Key) -> Key:
    return key - {_LOOSE}


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
