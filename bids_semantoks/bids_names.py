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

# Entities that a pipeline adds when it resamples or cleans a run; all others distinguish runs.
DERIVED_ENTITIES: Final = frozenset({"space", "cohort", "res", "den", "hemi", "desc"})
# Entities of a table of parcels that the names of the run's other files lack.
TABLE_ENTITIES: Final = frozenset({"atlas", "seg", "scale", "stat", "label"})

_RANK: Final = {key: rank for rank, key in enumerate(ENTITY_ORDER)}
# Labels of Schaefer's parcels in 7 networks: giga_connectome's and TemplateFlow's, and those with seg- and scale-.
SCHAEFER: Final = re.compile(r"Schaefer2018(?:(\d+)Parcels7Networks|7Networks(\d+)Parcels|7n(\d+))")
# A whole part of a name: nothing but underscores or the ends may stand beside it.
_ENTITY: Final = re.compile(r"(?<![^_])([a-zA-Z]+)-([a-zA-Z0-9+]+)(?![^_])")

Entities = tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class BidsFile:
    """File with the entities parsed from its name."""

    path: str  # as found; a string, since Path objects would cost more than the whole search
    entities: Entities  # as `sort_entities` orders them
    suffix: str  # last part of the name, such as bold
    extension: str  # from the first dot, such as .nii.gz

    @property
    def source(self) -> frozenset[tuple[str, str]]:
        """Entities that distinguish this run from every other."""
        return frozenset([pair for pair in self.entities if pair[0] not in DERIVED_ENTITIES])

    def entity(self, key: str) -> str | None:
        """Get the value of an entity by short key, such as ``ses``; None if absent."""
        return dict(self.entities).get(key)


def parse_name(path: str) -> BidsFile | None:
    """Parse a file name or path without touching the disk; None unless it is ``key-value`` parts and a suffix."""
    stem, dot, extension = os.path.basename(path).partition(".")  # noqa: PTH119 - a Path costs ten times as much
    parts, _, suffix = stem.rpartition("_")
    entities = sort_entities(_ENTITY.findall(parts))
    # Fewer entities than parts: one part is not an entity, or a key is repeated.
    if not suffix or len(dict(entities)) != stem.count("_"):
        return None
    return BidsFile(path=path, entities=entities, suffix=suffix, extension=dot + extension)


def parse_entities(name: str) -> dict[str, str]:
    """Parse a file name into entities by short key, in the order of the name; suffix and extension may be missing.

    Labels may hold any character, unlike those of `parse_name`: people name atlases as they like.
    """
    parts = name.partition(".")[0].split("_")
    return dict(part.split("-", 1) for part in parts if "-" in part)


def sort_entities(pairs: Iterable[tuple[str, str]]) -> Entities:
    """Sort (key, value) pairs in BIDS order; an unknown entity stays behind the one it followed."""
    ranked: list[tuple[int, tuple[str, str]]] = []
    rank = 0
    for pair in pairs:
        rank = _RANK.get(pair[0], rank)
        ranked.append((rank, pair))
    ranked.sort(key=lambda item: item[0])
    return tuple([pair for _, pair in ranked])


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


def name_schaefer(label: str) -> str:
    """Reduce another pipeline's label of Schaefer's parcels in 7 networks to ours, such as Schaefer400; others stay."""
    found = SCHAEFER.fullmatch(label)
    return f"Schaefer{''.join(filter(None, found.groups()))}" if found else label
