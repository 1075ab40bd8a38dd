"""Choose one template space for a call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from bids_semantoks.bids_names import sorted_naturally
from bids_semantoks.errors import InputError
from bids_semantoks.inputs.pairing import Candidate
from bids_semantoks.inputs.selection import check_known
from bids_semantoks.inputs.surfaces import is_surface_file

DEFAULT_SPACES: Final = ("MNI152NLin6Asym", "MNI152NLin2009cAsym", "fsLR")


def choose_space(
    candidates: Sequence[Candidate], asked: str | None, preferred: tuple[str, ...]
) -> tuple[str, list[tuple[str, str]]]:
    """Choose a space, and the (key, value) entities that ``NAME:res-2`` adds to it.

    If none is asked for: the first available of `preferred` and DEFAULT_SPACES, else a surface space if it is the only
    one. Raises InputError if the requested space, or every default, is absent.
    """
    there = _spaces(candidates)
    if asked is None:
        space = next((name for name in (*preferred, *DEFAULT_SPACES) if name in there), None)
        if space is None and len(there) == 1 and _are_on_surfaces(candidates, there[0]):
            space = there[0]
        if space is None:
            wanted = ", ".join(dict.fromkeys((*preferred, *DEFAULT_SPACES)))
            raise InputError(
                f"No BOLD image is in a space that is chosen by itself ({wanted}): found "
                f"{', '.join(there) or 'native space only'}.",
                hint="Name one with --space." if there else "Run fMRIPrep with --output-spaces.",
            )
        return space, []
    name, *parts = asked.removeprefix("space-").split(":")
    check_known("space", [name], there, "the names of the selected BOLD images")
    modifiers = []
    for part in parts:
        key, _, value = part.partition("-")
        values = {found for one in candidates if one.entity("space") == name and (found := _value_of(one, key))}
        check_known(f"{key} of space {name}", [value], values, f"--space {asked}")
        modifiers.append((key, value))
    return name, modifiers


def _value_of(candidate: Candidate, key: str) -> str | None:
    """Get the value of an entity; without ``res``, an image is on its ``native`` grid."""
    return candidate.entity(key) or ("native" if key == "res" else None)


def has_value(candidate: Candidate, key: str, value: str) -> bool:
    """Tell whether a candidate has this value of an entity; ``native`` matches a name without ``res``."""
    return _value_of(candidate, key) == value


def check_cohorts(chosen: Sequence[Candidate], space: str) -> None:
    """Refuse several cohorts, with InputError: their templates differ, so one atlas cannot fit all."""
    cohorts = sorted_naturally(cohort for one in chosen if (cohort := one.entity("cohort")))
    if len(cohorts) > 1:
        raise InputError(
            f"Images in space {space} are of {len(cohorts)} cohorts: {', '.join(cohorts)}; each is another template.",
            hint=f"Choose one, such as --space {space}:cohort-{cohorts[0]}, with an OUT_DIR of its own.",
        )


def _are_on_surfaces(candidates: Sequence[Candidate], space: str) -> bool:
    return all(is_surface_file(one.image.path) for one in candidates if one.entity("space") == space)


def _spaces(candidates: Sequence[Candidate]) -> tuple[str, ...]:
    return sorted_naturally(space for one in candidates if (space := one.entity("space")))


def rank_coarseness(candidate: Candidate) -> tuple[int, int, str]:
    """Build a sorting key, finest first; TemplateFlow numbers resolutions from fine to coarse."""
    res = candidate.entity("res")
    if res is None or res == "native":
        return 1, 0, ""
    return (0, int(res), "") if res.isdecimal() else (2, 0, res)
