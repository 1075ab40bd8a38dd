"""Parse BIDS file names: entities in BIDS order, suffix and extension."""

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
    """File with the entities parsed from its name."""

    path: str  # as found; a string, since Path objects would cost more than the whole search
    entities: Entities  # BIDS order; an unknown entity stays behind the one it followed
    suffix: str  # last part of the name, such as bold
    extension: str  # from the first dot, such as .nii.gz

    @property
    def source(self) -> frozenset[tuple[str, str]]:
        """Entities that distinguish this run from every other."""
        return frozenset(pair for pair in self.entities if pair[0] not in DERIVED_ENTITIES)


def parse_name(path: str) -> BidsFile | None:
    """Parse a file name or path without touching the disk; None unless it is ``key-value`` parts and a suffix."""
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
    """Build a sorting key that orders ``run-2`` before ``run-10``."""
    parts = (part for part in re.split(r"([0-9]+)", text) if part)
    return tuple((0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts)


def sorted_naturally(labels: Iterable[str]) -> tuple[str, ...]:
    """Sort unique labels, numbers by value; the result does not depend on input order."""
    return tuple(sorted(set(labels), key=natural_key))


def format_label(text: str) -> str:
    """Reduce a name to the ASCII letters and digits that a BIDS label may hold. Raises ValueError if none are left."""
    label = re.sub(r"[^A-Za-z0-9]", "", text)
    if not label:
        raise ValueError(f"no letter or digit in {text!r}")
    return label


def parse_entities(name: str) -> dict[str, str]:
    """Parse a BIDS file name into entities by short key, in order; suffix and extension may be missing."""
    parts = name.split(".", maxsplit=1)[0].split("_")
    return dict(part.split("-", 1) for part in parts if "-" in part)
