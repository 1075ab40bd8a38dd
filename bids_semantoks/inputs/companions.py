"""Companions of a run: mask, confounds and other tables, found by their entities in its folder or above."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from bids_semantoks.bids_names import TABLE_ENTITIES, BidsFile

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
