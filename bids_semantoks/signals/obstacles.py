"""Why an atlas is not available, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from bids_semantoks.errors import AtlasError
from bids_semantoks.runtime.downloads import TEMPLATEFLOW_SERVER, find_obstacle
from bids_semantoks.signals.fetching import find_address, name_transform
from bids_semantoks.signals.labels import load_label_table
from bids_semantoks.signals.local_files import DIRECTORY_VARIABLE, Places, find_archived, find_file
from bids_semantoks.signals.parts import FETCH_HINT, find_local_parts
from bids_semantoks.signals.registry import Entry, Recipe, find_registry, load_entry

#: Sets of files that a message names; more are no longer read.
_N_SETS: Final = 2


def describe_obstacle(recipe: Recipe, space: str, places: Places) -> str:
    """Describe what keeps the images and transforms of a recipe from being fetched; empty when it is worth a try."""
    for one in recipe:
        address = find_address(one)
        is_here = find_file(one, places) is not None
        if not is_here and not address:
            return f"nobody publishes {one.names[0]} alone"
        # Without the name, which is listed among what is needed: the reason is the same for most of them.
        if not is_here and (obstacle := find_obstacle(address)):
            return obstacle
        transform = name_transform(one.space, space)
        is_lacking = one.space != space and not find_archived(transform, places)
        if is_lacking and (obstacle := find_obstacle(TEMPLATEFLOW_SERVER)):
            return obstacle
    return ""


def refuse(
    entry: Entry, spaces: Iterable[str], places: Places, obstacles: Sequence[str] = (), *, hint: str = FETCH_HINT
) -> AtlasError:
    """Build the AtlasError for an atlas whose files are missing from `places` in all of `spaces`. `obstacles` are
    the reasons why they were not fetched; `hint` is used only with these."""
    recipes = {space: entry.find_recipes(space) for space in spaces}
    needed = "; ".join(f"for {space}: {_describe_all(some, space)}" for space, some in recipes.items())
    whole = [space for space, some in entry.recipes.items() if any(_is_in(one, space) for one in some)]
    foreign = [space for space, some in recipes.items() if not any(_is_in(one, space) for one in some)]
    own = " or ".join(whole or entry.recipes)
    searched = ", ".join(map(str, (*places.given, *places.others, *places.templateflow)))
    sources = {one.source for some in recipes.values() for recipe in some for one in recipe}
    smaller = _find_smaller(entry, recipes, places)
    lacking = (
        f"The atlas {entry.name} is in the space {own}, the data in {foreign[0] or 'none named'}, and what takes it "
        f"there is not found in {searched}."
        if foreign
        else f"The images of the atlas {entry.name} are not found in {searched}."
    )
    return AtlasError(
        f"{lacking} Needed are, {needed}." + (f" They were not fetched: {_join(obstacles)}." if obstacles else ""),
        hint=(hint if obstacles else f"Give their directory with --atlas-dir or in {DIRECTORY_VARIABLE}.")
        + f" The files come from {', '.join(sorted(sources))}; transforms from https://www.templateflow.org."
        + (f" Or process the data in {own} (--space)." if foreign else "")
        + (f" Or take less of it, which is here: --atlas {' or '.join(smaller)}." if smaller else ""),
    )


def _is_in(recipe: Recipe, space: str) -> bool:
    return all(one.space == space for one in recipe)


def _find_smaller(entry: Entry, spaces: Iterable[str], places: Places) -> list[str]:
    """Find registry atlases that are part of this one and available in one of the spaces, largest first."""
    parcels = set(load_label_table(entry.table).parcels)
    found = {}
    for path in sorted(find_registry().glob("*.json")):
        other = load_entry(path)
        own = set(load_label_table(other.table).parcels)
        recipes = {space: [one for one in other.recipes.get(space, ()) if _is_in(one, space)] for space in spaces}
        if own < parcels and any(find_local_parts(other, some, space, places) for space, some in recipes.items()):
            found[other.name] = len(own)
    return sorted(found, key=lambda name: -found[name])


def _join(obstacles: Sequence[str]) -> str:
    return "; ".join(dict.fromkeys(one.rstrip(".") for one in obstacles))


def _describe_all(recipes: Sequence[Recipe], space: str) -> str:
    sets = list(dict.fromkeys(_describe(one, space) for one in recipes))
    n_others = len(sets) - _N_SETS
    others = f" (or {n_others} other set{'s' if n_others > 1 else ''})" if n_others > 0 else ""
    return ", or ".join(sets[:_N_SETS]) + others


def _describe(recipe: Recipe, space: str) -> str:
    images = " with ".join(one.names[0] for one in recipe)
    transforms = sorted({Path(name_transform(one.space, space)).name for one in recipe if one.space != space})
    return " with ".join([images, *transforms])
