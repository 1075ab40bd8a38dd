"""The images that an atlas is composed of: where each lies, or would be fetched from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bids_semantoks.signals.fetching import fetch_image, fetch_transform, name_transform
from bids_semantoks.signals.local_files import DIRECTORY_VARIABLE, Places, find_archived, find_file
from bids_semantoks.signals.registry import Entry, Ingredient, Recipe

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
