"""Registry entries: of which files an atlas is made in each space, and where each may come from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from bids_semantoks.errors import AtlasError


@dataclass(frozen=True, kw_only=True, slots=True)
class Ingredient:
    """One label image of an atlas, wherever it is.

    Parameters
    ----------
    files : tuple of str
        Names that the image may have.
    values, indices : tuple of int
        Image values, and the index in the table of each.
    licence, source : str
        One line each.
    space : str
        Template space of the image.
    n_labels : int
        The image must hold exactly the labels from 1 to this; 0 for any that `values` lie among.
    templateflow : str
        Path in TemplateFlow's archive; empty when it is not from there.
    repository : str
        Repository of the Hugging Face hub that holds the first of `files`; empty when it is not from there.
    url : str
        Address of the first of `files`; empty when it is not published by itself.
    sha256 : str or None
        Checksum of what `url` gives; None when it is recorded at the first fetch.
    """

    files: tuple[str, ...]
    values: tuple[int, ...]
    indices: tuple[int, ...]
    licence: str
    source: str
    space: str
    n_labels: int = 0
    templateflow: str = ""
    repository: str = ""
    url: str = ""
    sha256: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """All names that the image may have, best first."""
        archived = (self.templateflow.rsplit("/", 1)[-1],) if self.templateflow else ()
        return tuple(dict.fromkeys((*self.files, *archived)))

    @property
    def is_fetchable(self) -> bool:
        """Whether it can be had over the network."""
        return bool(self.templateflow or self.repository or self.url)


Recipe = tuple[Ingredient, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A registry entry.

    Parameters
    ----------
    path : Path
        The entry.
    name : str
        Label of the atlas.
    table : Path
        Its table of parcels.
    recipes : mapping of str to tuple
        For each template space, preferred first, the sets of images that make the whole atlas, preferred first.
    landmarks : mapping of int to tuple of float
        For some parcels, by their index in the table, where their centre of mass lies: millimetres right, anterior and
        superior.
    """

    path: Path
    name: str
    table: Path
    recipes: Mapping[str, tuple[Recipe, ...]]
    landmarks: Mapping[int, tuple[float, ...]] = field(default_factory=dict)

    def find_recipes(self, space: str) -> tuple[Recipe, ...]:
        """Find the recipes for a space.

        Parameters
        ----------
        space : str
            Template space of the data.

        Returns
        -------
        tuple of Recipe
            Those of the space itself; where the entry has none, those of all other spaces.
        """
        if space in self.recipes:
            return self.recipes[space]
        return tuple(one for recipes in self.recipes.values() for one in recipes)

    def find_fetchable_spaces(self) -> tuple[str, ...]:
        """Find the spaces in which all parcels can be had over the network.

        Returns
        -------
        tuple of str
            Template spaces, preferred first.
        """
        return tuple(
            space
            for space, recipes in self.recipes.items()
            if any(all(part.is_fetchable for part in one) for one in recipes)
        )


def find_registry() -> Path:
    """Find the directory of the entries that come with this program.

    Returns
    -------
    Path
        A directory of ``.json`` files.
    """
    return Path(str(files("bids_semantoks"))) / "data" / "atlases"


def load_entry(path: Path) -> Entry:
    """Read a registry entry.

    Parameters
    ----------
    path : Path
        JSON file.

    Returns
    -------
    Entry
        What it says.

    Raises
    ------
    AtlasError
        It cannot be read or lacks something.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        recipes = {
            str(one["space"]): tuple(
                tuple(_read_ingredient(part, str(one["space"])) for part in recipe) for recipe in one["alternatives"]
            )
            for one in content["spaces"]
        }
        if not any(recipe for space in recipes.values() for recipe in space):
            raise ValueError("no space has an image")
        sizes = {sum(len(part.indices) for part in one) for some in recipes.values() for one in some}
        if len(sizes) > 1:
            raise ValueError(f"its sets of images give {' or '.join(map(str, sorted(sizes)))} parcels")
        return Entry(
            path=path,
            name=str(content["name"]),
            table=path.parent / content["table"],
            recipes=recipes,
            landmarks={int(index): tuple(map(float, at)) for index, at in content.get("landmarks", {}).items()},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise AtlasError(f"The atlas description {path} cannot be read: {type(error).__name__} {error}.") from error


def _read_ingredient(part: Mapping[str, Any], space: str) -> Ingredient:
    values, indices = _expand(part["values"]), _expand(part["parcels"])
    names = tuple(map(str, part["files"]))
    if len(values) != len(indices) or not values or not names:
        raise ValueError(f"{len(values)} values but {len(indices)} parcels for {', '.join(names) or 'no file'}")
    sha256 = part.get("sha256")
    return Ingredient(
        files=names,
        values=values,
        indices=indices,
        licence=str(part["licence"]),
        source=str(part["source"]),
        space=str(part.get("space", space)),
        n_labels=int(part.get("n_labels", 0)),
        templateflow=str(part.get("templateflow", "")),
        repository=str(part.get("huggingface", "")),
        url=str(part.get("url", "")),
        sha256=None if sha256 is None else str(sha256),
    )


def _expand(ranges: Iterable[tuple[int, int]]) -> tuple[int, ...]:
    return tuple(number for first, last in ranges for number in range(int(first), int(last) + 1))
