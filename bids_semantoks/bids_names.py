"""Parse BIDS file names: entities in BIDS order, suffix and extension."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from bids_semantoks.errors import SemantoksError

# fmt: off
ENTITY_ORDER: Final = (
    "sub", "tpl", "ses", "sample", "task", "tracksys", "acq", "nuc", "voi", "ce", "trc", "stain", "rec", "dir", "run",
    "mod", "echo", "flip", "inv", "mt", "part", "proc", "hemi", "space", "cohort", "split", "recording", "chunk",
    "atlas", "seg", "scale", "res", "den", "label", "stat", "desc",
)

# fmt: on

# Entities that a pipeline adds when it resamples or cleans a run; all others distinguish runs.
DERIVED_ENTITIES: Final = frozenset({"space", "cohort", "res", "den", "hemi", "desc"})
# Entities in the names of parcel tables that the run's other files lack.
TABLE_ENTITIES: Final = frozenset({"atlas", "seg", "scale", "stat", "label"})

_RANK: Final = {key: rank for rank, key in enumerate(ENTITY_ORDER)}
# Labels of Schaefer's parcels in 7 networks: giga_connectome's and TemplateFlow's, and those with seg- and scale-.
SCHAEFER: Final = re.compile(r"Schaefer(?:2018(?:(\d+)Parcels7Networks|7Networks(\d+)Parcels|7n(\d+))|(\d+)-7Networks)")
_ENTITY: Final = re.compile(r"([a-zA-Z]+)-(.+)")
# Words that end a name; elsewhere they are not part of a label, e.g. in pipelines older than BIDS derivatives.
_SUFFIXES: Final = frozenset({"bold", "boldref", "mask", "timeseries", "regressors", "preproc", "confounds", "sbref"})
# NiBabies' newer spelling of a template's cohort, as in MNIInfant+1.
_COHORT: Final = re.compile(r"([a-zA-Z0-9]+)\+([0-9]+)")

Entities = tuple[tuple[str, str], ...]
_Item = TypeVar("_Item")
_Key = TypeVar("_Key")


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
    """Parse a file name or path without touching the disk; None if `explain_name` has a reason."""
    pairs, suffix, extension, problem = _split_name(path)
    if problem:
        return None
    return BidsFile(path=path, entities=sort_entities(pairs), suffix=suffix, extension=extension)


def parse_names(paths: Iterable[str]) -> list[BidsFile]:
    """Parse file names; those that `parse_name` cannot parse are dropped."""
    return [one for path in paths if (one := parse_name(path)) is not None]


def explain_name(path: str) -> str:
    """Explain why a name cannot be parsed; empty if it can."""
    return _split_name(path)[3]


def _split_name(path: str) -> tuple[list[tuple[str, str]], str, str, str]:
    """Split a name into pairs, suffix, extension, and what is wrong with it. A part without a key belongs to the
    preceding label, since labels may contain ``_``; cohorts get their own pair."""
    *parts, last = os.path.basename(path).split("_")  # noqa: PTH119 - a Path costs ten times as much
    suffix, dot, extension = last.partition(".")
    # fMRIPrep up to 20.0 gave surface series no suffix.
    if suffix in ("hemi-L", "hemi-R") and extension == "func.gii":
        parts, suffix = [*parts, suffix], "bold"
    pairs: list[tuple[str, str]] = []
    for part in parts:
        if match := _ENTITY.fullmatch(part):
            pairs.append((match[1], match[2]))
        elif not part:
            return [], "", "", "it has two consecutive underscores, or one at the start"
        elif part in _SUFFIXES:
            return [], "", "", f"it has {part!r} before its end; expected key-label pairs"
        elif not pairs or part.endswith("-"):
            return [], "", "", f"{part!r} is not a key-label pair"
        else:
            pairs[-1] = (pairs[-1][0], f"{pairs[-1][1]}_{part}")
    keys = [key for key, _ in pairs]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        return [], "", "", f"the entity {twice[0]}- is repeated"
    if not suffix or "-" in suffix:
        return [], "", "", "it has no suffix such as _bold after the entities"
    return _split_cohort(pairs), suffix, dot + extension, ""


def _split_cohort(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Read ``space-MNIInfant+1`` as ``space-MNIInfant_cohort-1``."""
    space = next((label for key, label in pairs if key == "space"), "")
    match = _COHORT.fullmatch(space) if "+" in space else None
    if match is None:
        return pairs
    return [(key, match[1]) if key == "space" else (key, label) for key, label in pairs] + [("cohort", match[2])]


def parse_entities(name: str) -> dict[str, str]:
    """Parse a file name into entities by short key, in the order of the name; suffix and extension may be missing.
    Unlike `parse_name`, this never fails: invalid parts are dropped."""
    pairs: list[tuple[str, str]] = []
    waiting: list[str] = []
    *parts, last = name.split("_")
    for part in (*parts, last.partition(".")[0]):
        key, hyphen, label = part.partition("-")
        if not hyphen:
            # Part of the label before it, unless it turns out to end the name.
            waiting.append(part)
            continue
        if waiting and pairs and _SUFFIXES.isdisjoint(waiting) and all(waiting):
            pairs[-1] = (pairs[-1][0], "_".join((pairs[-1][1], *waiting)))
        waiting = []
        pairs.append((key, label))
    return dict(_split_cohort(pairs))


def sort_entities(pairs: Iterable[tuple[str, str]]) -> Entities:
    """Sort (key, value) pairs in BIDS order; an unknown entity is kept after its predecessor."""
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


def group_by(items: Iterable[_Item], key: Callable[[_Item], _Key]) -> dict[_Key, list[_Item]]:
    """Gather items by their key; groups, and items in them, in the order of appearance."""
    groups: dict[_Key, list[_Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def format_label(text: str) -> str:
    """Reduce a name to the ASCII letters and digits allowed in a BIDS label. Raises ValueError if none are left."""
    label = re.sub(r"[^A-Za-z0-9]", "", text)
    if not label:
        raise ValueError(f"no letter or digit in {text!r}")
    return label


def name_schaefer(label: str) -> str:
    """Reduce another pipeline's label of Schaefer's parcels in 7 networks to ours, such as Schaefer400; others stay."""
    found = SCHAEFER.fullmatch(label)
    return f"Schaefer{''.join(filter(None, found.groups()))}" if found else label


def check_name(name: str | Path, kind: type[SemantoksError], what: str) -> None:
    """Raise an error of this kind if the system cannot even look up a file name, mostly because it is too long;
    names that merely do not exist pass."""
    try:
        os.lstat(name)
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:
        text, reason = str(name), getattr(error, "strerror", None) or str(error)
        shown = text if len(text) < 200 else f"{text[:100]}... ({len(text)} characters)"
        raise kind(f"{what} {shown} is not a valid path: {reason}.") from error
