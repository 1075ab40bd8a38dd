"""The files of an atlas in the space of the data: local ones first, then downloads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from bids_semantoks.errors import AtlasError
from bids_semantoks.runtime.downloads import find_target
from bids_semantoks.signals.local_files import Places, find_places
from bids_semantoks.signals.obstacles import describe_obstacle, refuse
from bids_semantoks.signals.parts import Part, Shelf, collect_parts, find_local_parts
from bids_semantoks.signals.registry import Entry, Recipe

#: Spaces of BIDS and fMRIPrep that differ between participants.
_NATIVE_SPACES: Final = frozenset(
    ("T1w", "T2w", "anat", "bold", "boldref", "func", "individual", "native", "orig", "scanner")
)


def find_parts(entry: Entry, space: str, *, directory: Path | None, work_dir: Path | None) -> tuple[Part, ...]:
    """Find or fetch all images of an atlas for a template space, from the first recipe available, local ones first.

    Files are looked for first in `directory`; downloads go to `work_dir` if the cache is not writable. Raises
    AtlasError, with what is missing where and the remedy, for a native space or when no recipe is available.
    """
    if space in _NATIVE_SPACES and space not in entry.recipes:
        raise AtlasError(
            f"The data are in {space}, each participant's own space, where no template atlas can lie.",
            hint=f"Choose data in {' or '.join(entry.recipes)} with --space, or have fMRIPrep write them "
            "(--output-spaces).",
        )
    places = find_places(directory, beside=entry.path.parent)
    recipes = entry.find_recipes(space)
    if parts := find_local_parts(entry, recipes, space, places):
        return parts
    parts, obstacles = _fetch_parts(entry, recipes, space, places, lambda: find_target(work_dir))
    if parts is None:
        raise refuse(entry, (space,), places, obstacles)
    return parts


def find_or_fetch(entry: Entry, space: str, places: Places, target: Path) -> tuple[Part, ...]:
    """Find all images of an atlas for a space, or fetch them into `target` (laid out like our cache).
    Raises AtlasError when no recipe is available."""
    recipes = entry.find_recipes(space)
    parts = find_local_parts(entry, recipes, space, places)
    obstacles: list[str] = []
    if parts is None:
        parts, obstacles = _fetch_parts(entry, recipes, space, places, lambda: target)
    if parts is None:
        raise refuse(entry, (space,), places, obstacles, hint="Try again where there is a network, or put them there.")
    return parts


def _fetch_parts(
    entry: Entry, recipes: Sequence[Recipe], space: str, places: Places, choose_target: Callable[[], Path]
) -> tuple[tuple[Part, ...] | None, list[str]]:
    obstacles: dict[str, None] = {}
    for recipe in recipes:
        # Half of an atlas is of no use: nothing is fetched where the rest cannot be had.
        if reason := describe_obstacle(recipe, space, places):
            obstacles[reason] = None
            continue
        try:
            parts = collect_parts(entry, recipe, space, Shelf(places=places, target=choose_target()))
        except AtlasError as error:
            obstacles[str(error)] = None
            continue
        return parts, []
    return None, list(obstacles)
