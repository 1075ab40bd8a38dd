"""The files of an atlas in the space of the data: those that are here, then those that can be fetched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bids_semantoks.errors import AtlasError
from bids_semantoks.network import HUB_SERVER, FetchError, fetch_hub_file, find_obstacle
from bids_semantoks.places import ATLASES, HUB, TEMPLATEFLOW
from bids_semantoks.signals.downloads import TEMPLATEFLOW_SERVER, download, find_target
from bids_semantoks.signals.labels import load_label_table
from bids_semantoks.signals.registry import (
    DIRECTORY_VARIABLE,
    Entry,
    Ingredient,
    Places,
    Recipe,
    find_archived,
    find_file,
    find_places,
    find_registry,
    load_entry,
)

FETCH_HINT: Final = (
    f"`bids_semantoks-fetch DIR` on a machine with network brings all that is needed; then set "
    f"{DIRECTORY_VARIABLE}=DIR here, or give --atlas-dir DIR."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One label image and which of its values are which parcels.

    Parameters
    ----------
    path : Path
        Label image.
    listed_in : Path
        What says so, for messages.
    values : tuple of int or None
        Image values; None when they are the table's own.
    indices : tuple of int
        The table's index of each value.
    licence : str
        One line on licence and source.
    n_labels : int
        The image must hold exactly the labels from 1 to this; 0 for any.
    space : str
        Template space of the image, when it is another than that of the data.
    transform : Path or None
        File that takes points of the data's space to this space.
    sha256 : str or None
        Checksum of the image as published, where it is known.
    """

    path: Path
    listed_in: Path
    values: tuple[int, ...] | None = None
    indices: tuple[int, ...] = ()
    licence: str = ""
    n_labels: int = 0
    space: str = ""
    transform: Path | None = None
    sha256: str | None = None


def name_transform(source: str, target: str) -> str:
    """Name the file that takes images from one template space to another.

    Parameters
    ----------
    source, target : str
        Template spaces; points go the other way.

    Returns
    -------
    str
        Path in TemplateFlow's archive.
    """
    return f"tpl-{target}/tpl-{target}_from-{source}_mode-image_xfm.h5"


def find_local_parts(entry: Entry, recipes: Iterable[Recipe], space: str, places: Places) -> tuple[Part, ...] | None:
    """Find the images of the first recipe that is here as a whole, what the user named before all else.

    Parameters
    ----------
    entry : Entry
        The atlas.
    recipes : iterable of Recipe
        Preferred first.
    space : str
        Template space of the data.
    places : Places
        Where to look.

    Returns
    -------
    tuple of Part, or None
        The images, with transforms where they are needed.
    """
    recipes = tuple(recipes)
    for narrow in places.narrow():
        for recipe in recipes:
            if parts := collect_parts(entry, recipe, space, Shelf(places=narrow)):
                return parts
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Shelf:
    """Where files are taken from, and where what is lacking is fetched to.

    Parameters
    ----------
    places : Places
        Where to look.
    target : Path or None
        A directory laid out like our cache; None to fetch nothing.
    """

    places: Places
    target: Path | None = None

    def find_image(self, ingredient: Ingredient) -> Path | None:
        """Find or fetch a label image.

        Parameters
        ----------
        ingredient : Ingredient
            What is wanted.

        Returns
        -------
        Path or None
            The image.
        """
        found = find_file(ingredient, self.places)
        return fetch_image(ingredient, self.target) if found is None and self.target is not None else found

    def find_transform(self, source: str, target: str) -> Path | None:
        """Find or fetch what takes images from one template space to another.

        Parameters
        ----------
        source, target : str
            Template spaces.

        Returns
        -------
        Path or None
            The transform.
        """
        found = find_archived(name_transform(source, target), self.places)
        return fetch_transform(source, target, self.target) if found is None and self.target is not None else found


def collect_parts(entry: Entry, recipe: Recipe, space: str, shelf: Shelf) -> tuple[Part, ...] | None:
    """Collect all images of a recipe, with the transforms that they need.

    Parameters
    ----------
    entry : Entry
        The atlas.
    recipe : Recipe
        One of its.
    space : str
        Template space of the data.
    shelf : Shelf
        Where files are taken from.

    Returns
    -------
    tuple of Part, or None
        The images; None when one of them or its transform is not there.

    Raises
    ------
    AtlasError
        Something is lacking and cannot be fetched.
    """
    parts = []
    for one in recipe:
        path = shelf.find_image(one)
        transform = shelf.find_transform(one.space, space) if path and one.space != space else None
        if path is None or (one.space != space and transform is None):
            return None
        parts.append(
            Part(
                path=path,
                listed_in=entry.path,
                values=one.values,
                indices=one.indices,
                licence=f"{path.name}: {one.licence}, from {one.source}",
                n_labels=one.n_labels,
                space=one.space if transform else "",
                transform=transform,
                sha256=one.sha256 if path.name == Path(one.files[0]).name else None,
            )
        )
    return tuple(parts)


def find_parts(entry: Entry, space: str, *, directory: Path | None, work_dir: Path | None) -> tuple[Part, ...]:
    """Find or fetch the images of an atlas for a space.

    Parameters
    ----------
    entry : Entry
        The atlas.
    space : str
        Template space of the data.
    directory : Path or None
        Where the user said that files are.
    work_dir : Path or None
        Where fetched files go when the cache cannot be written.

    Returns
    -------
    tuple of Part
        All parcels: from the first recipe that is here, else from the first that can be fetched.

    Raises
    ------
    AtlasError
        No recipe can be had; says what is missing where, why it was not fetched, and the remedy.
    """
    places = find_places(directory, beside=entry.path.parent)
    recipes = entry.find_recipes(space)
    if parts := find_local_parts(entry, recipes, space, places):
        return parts
    parts, obstacles = _fetch_parts(entry, recipes, space, places, lambda: find_target(work_dir))
    if parts is None:
        raise refuse(entry, (space,), places, obstacles)
    return parts


def find_or_fetch(entry: Entry, space: str, places: Places, target: Path) -> tuple[Part, ...]:
    """Find all images of an atlas for a space, or fetch them into a directory.

    Parameters
    ----------
    entry : Entry
        The atlas.
    space : str
        Template space of the data.
    places : Places
        Where to look.
    target : Path
        A directory laid out like our cache.

    Returns
    -------
    tuple of Part
        All parcels.

    Raises
    ------
    AtlasError
        No recipe can be had.
    """
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
        if reason := _find_obstacle(recipe, space, places):
            obstacles[reason] = None
            continue
        try:
            parts = collect_parts(entry, recipe, space, Shelf(places=places, target=choose_target()))
        except AtlasError as error:
            obstacles[str(error)] = None
            continue
        return parts, []
    return None, list(obstacles)


def _find_obstacle(recipe: Recipe, space: str, places: Places) -> str:
    """Find what keeps a recipe from being fetched; empty when it is worth a try."""
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


def find_address(ingredient: Ingredient) -> str:
    """Find where an image can be fetched from.

    Parameters
    ----------
    ingredient : Ingredient
        The image.

    Returns
    -------
    str
        Address; empty when there is none.
    """
    if ingredient.repository:
        return f"{HUB_SERVER}/{ingredient.repository}/resolve/main/{ingredient.files[0]}"
    if ingredient.url:
        return ingredient.url
    return f"{TEMPLATEFLOW_SERVER}/{ingredient.templateflow}" if ingredient.templateflow else ""


def refuse(
    entry: Entry, spaces: Iterable[str], places: Places, obstacles: Sequence[str] = (), *, hint: str = FETCH_HINT
) -> AtlasError:
    """Say which files of an atlas are missing.

    Parameters
    ----------
    entry : Entry
        The atlas.
    spaces : iterable of str
        Template spaces that would do.
    places : Places
        Where they were looked for.
    obstacles : sequence of str
        Why they were not fetched.
    hint : str
        What to do when they could be.

    Returns
    -------
    AtlasError
        To be raised.
    """
    recipes = {space: entry.find_recipes(space) for space in spaces}
    needed = "; ".join(
        f"for {space}: {', or '.join(_describe(one, space) for one in some)}" for space, some in recipes.items()
    )
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
    """Name the atlases of the registry that are part of another, and here in one of the spaces; the largest first."""
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


def _describe(recipe: Recipe, space: str) -> str:
    images = " with ".join(one.names[0] for one in recipe)
    transforms = sorted({Path(name_transform(one.space, space)).name for one in recipe if one.space != space})
    return " with ".join([images, *transforms])


def fetch_image(ingredient: Ingredient, target: Path) -> Path:
    """Fetch one label image.

    Parameters
    ----------
    ingredient : Ingredient
        What is wanted.
    target : Path
        A directory laid out like our cache.

    Returns
    -------
    Path
        The image.

    Raises
    ------
    AtlasError
        It cannot be fetched.
    """
    name = ingredient.files[0]
    if ingredient.repository:
        try:
            return fetch_hub_file(ingredient.repository, name, cache=target / HUB)
        except FetchError as error:
            raise AtlasError(f"{name} of {ingredient.repository} is not here, and {error}.") from error
    if ingredient.url:
        download(ingredient.url, target / ATLASES / name, sha256=ingredient.sha256)
        return target / ATLASES / name
    path = target / TEMPLATEFLOW / ingredient.templateflow
    download(f"{TEMPLATEFLOW_SERVER}/{ingredient.templateflow}", path)
    return path


def fetch_transform(source: str, target: str, root: Path) -> Path:
    """Fetch the file that takes images from one template space to another.

    Parameters
    ----------
    source, target : str
        Template spaces.
    root : Path
        A directory laid out like our cache.

    Returns
    -------
    Path
        The transform.

    Raises
    ------
    AtlasError
        TemplateFlow has none, or it cannot be fetched.
    """
    name = name_transform(source, target)
    path = root / TEMPLATEFLOW / name
    download(f"{TEMPLATEFLOW_SERVER}/{name}", path)
    return path


def fetch_missing_transform(source: str, target: str, work_dir: Path | None) -> Path:
    """Fetch a transform into our cache, or what takes its place.

    Parameters
    ----------
    source, target : str
        Template spaces.
    work_dir : Path or None
        Where it goes when the cache cannot be written.

    Returns
    -------
    Path
        The transform.

    Raises
    ------
    AtlasError
        TemplateFlow has none, or it cannot be fetched.
    """
    if obstacle := find_obstacle(TEMPLATEFLOW_SERVER):
        raise AtlasError(f"{Path(name_transform(source, target)).name} is not here, and {obstacle}")
    return fetch_transform(source, target, find_target(work_dir))
