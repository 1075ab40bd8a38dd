"""BIDS file names taken apart: entities in BIDS order, suffix and extension."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

# fmt: off
ENTITY_ORDER: Final = (
    "sub", "tpl", "ses", "sample", "task", "tracksys", "acq", "nuc", "voi", "ce", "trc", "stain", "rec", "dir", "run",
    "mod", "echo", "flip", "inv", "mt", "part", "proc", "hemi", "space", "cohort", "split", "recording", "chunk",
    "atlas", "seg", "scale", "res", "den", "label", "stat", "desc",
)
# fmt: on
# What a pipeline adds to the name of a run when it resamples or cleans it; all else tells runs apart.
DERIVED_ENTITIES: Final = frozenset({"space", "cohort", "res", "den", "hemi", "desc"})

_RANK: Final = {key: rank for rank, key in enumerate(ENTITY_ORDER)}
_PART: Final = re.compile(r"([a-zA-Z]+)-([a-zA-Z0-9+]+)")

Entities = tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class BidsFile:
    """A file and what its name says.

    Parameters
    ----------
    path : str
        The file as it was found (a plain string: paths cost more than the whole search).
    entities : tuple of (str, str)
        Entities in BIDS order; one that BIDS does not know stays behind the one it followed.
    suffix : str
        Last part of the name, such as ``bold``.
    extension : str
        Everything from the first dot, such as ``.nii.gz``.
    """

    path: str
    entities: Entities
    suffix: str
    extension: str

    @property
    def source(self) -> frozenset[tuple[str, str]]:
        """Entities that tell this run from every other run."""
        return frozenset(pair for pair in self.entities if pair[0] not in DERIVED_ENTITIES)


def parse_name(path: str) -> BidsFile | None:
    """Take a file name apart.

    Parameters
    ----------
    path : str
        File name, with or without folders before it; nothing is read from disk.

    Returns
    -------
    BidsFile or None
        None when the name is not made of ``key-value`` parts and a suffix.
    """
    stem, dot, extension = os.path.basename(path).partition(".")  # noqa: PTH119 - a Path costs ten times as much
    *parts, suffix = stem.split("_")
    ranked: list[tuple[int, str, str]] = []
    rank = 0
    for part in parts:
        match = _PART.fullmatch(part)
        if match is None:
            return None
        rank = _RANK.get(match[1], rank)
        ranked.append((rank, match[1], match[2]))
    ranked.sort(key=lambda item: item[0])
    entities = tuple((key, value) for _, key, value in ranked)
    if len(dict(entities)) != len(entities) or not suffix:
        return None
    return BidsFile(path=path, entities=entities, suffix=suffix, extension=dot + extension)


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """Sorting key under which ``run-2`` comes before ``run-10``.

    Parameters
    ----------
    text : str
        A label or a file name.

    Returns
    -------
    tuple
        To be compared with keys of the same function only.
    """
    parts = (part for part in re.split(r"([0-9]+)", text) if part)
    return tuple((0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts)


def sorted_naturally(labels: Iterable[str]) -> tuple[str, ...]:
    """Sort labels, numbers by their value.

    Parameters
    ----------
    labels : iterable of str
        Labels; doubles are dropped.

    Returns
    -------
    tuple of str
        The same in any order of `labels`.
    """
    return tuple(sorted(set(labels), key=natural_key))
