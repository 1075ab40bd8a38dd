"""The label images that make up an atlas: where each is, or can be fetched from."""

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
    """One label image, and which of its values are which parcels."""

    path: Path
    listed_in: Path  # named in messages
    values: tuple[int, ...] | None = None  # image values; None for those of the table
    indices: tuple[int, ...] = ()  # index in the table of each value
    licence: str = ""  # one line on licence and source
    n_labels: int = 0  # the image must hold exactly labels 1 to this; 0 for any
    space: str = ""  # template space of the image; empty for that of the data
    transform: Path | None = None  # maps points of the data's space to this space
    sha256: str | None = None  # checksum as published, where known


def find_local_parts(entry: Entry, recipes: Iterable[Recipe], space: str, places: Places) -> tuple[Part, ...] | None:
    """Find the images of the first recipe (preferred first) that is complete locally, places given by the user first.
    None if no recipe is complete; transforms are included where a part is in another space."""
    recipes = tuple(recipes)
    for narrow in places.narrow():
        for recipe in recipes:
            if parts := collect_parts(entry, recipe, space, Shelf(places=narrow)):
                return parts
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Shelf:
    """Where files are looked up, and where missing ones are fetched to."""

    places: Places
    target: Path | None = None  # laid out like our cache; None to fetch nothing

    def find_image(self, ingredient: Ingredient) -> Path | None:
        """Find a label image, or fetch it if there is a target."""
        found = find_file(ingredient, self.places)
        return fetch_image(ingredient, self.target) if found is None and self.target is not None else found

    def find_transform(self, source: str, target: str) -> Path | None:
        """Find, or fetch if there is a target, the transform of images from template space `source` to `target`."""
        found = find_archived(name_transform(source, target), self.places)
        return fetch_transform(source, target, self.target) if found is None and self.target is not None else found


def collect_parts(entry: Entry, recipe: Recipe, space: str, shelf: Shelf) -> tuple[Part, ...] | None:
    """Collect the images and transforms of a recipe; None if any is missing, AtlasError if a fetch fails."""
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
