"""Registry entries: of which files an atlas is made in each space, and where each may lie or come from."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from bids_semantoks.errors import AtlasError
from bids_semantoks.places import ATLASES, TEMPLATEFLOW, find_cache, find_hub_file, find_templateflow_homes

DIRECTORY_VARIABLE: Final = "BIDS_SEMANTOKS_ATLAS_DIR"


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Directories to look into, in this order.

    Parameters
    ----------
    given : tuple of Path
        Those that the user named, the most wanted first.
    others : tuple of Path
        Our cache, and what lies beside the entry.
    templateflow : tuple of Path
        Roots of TemplateFlow's archive.
    """

    given: tuple[Path, ...]
    others: tuple[Path, ...]
    templateflow: tuple[Path, ...]

    def narrow(self) -> list[Places]:
        """Give the first place alone, the first two, and so on: what the user named wins as a whole.

        Returns
        -------
        list of Places
            The last is all places.
        """
        narrower = [Places(given=self.given[:n], others=(), templateflow=()) for n in range(1, len(self.given) + 1)]
        return [*narrower, self]


def find_places(directory: Path | None, *, beside: Path | None = None) -> Places:
    """Find the directories that may hold the files of an atlas.

    Parameters
    ----------
    directory : Path or None
        The one that the user gave (``--atlas-dir``).
    beside : Path or None
        Where the atlas is described.

    Returns
    -------
    Places
        That directory, BIDS_SEMANTOKS_ATLAS_DIR, our cache, and the directories of TemplateFlow.

    Raises
    ------
    AtlasError
        What the user gave is no directory.
    """
    if directory is not None and not directory.is_dir():
        raise AtlasError(f"The atlas directory {directory} (--atlas-dir) is not a directory.")
    variable, cache = os.environ.get(DIRECTORY_VARIABLE), find_cache()
    others = (*((cache / ATLASES,) if cache else ()), *((beside,) if beside else ()))
    given = (*((directory,) if directory is not None else ()), *((Path(variable),) if variable else ()))
    return Places(given=given, others=others, templateflow=tuple(find_templateflow_homes()))


def find_file(ingredient: Ingredient, places: Places) -> Path | None:
    """Find an image without using the network.

    Parameters
    ----------
    ingredient : Ingredient
        What is wanted.
    places : Places
        Where to look. A directory that `bids_semantoks-fetch` filled counts as all that it holds.

    Returns
    -------
    Path or None
        The image.
    """
    folders = [*(sub for one in places.given for sub in (one, one / ATLASES)), *places.others]
    for folder in folders:
        for name in ingredient.names:
            if is_there(folder / name):
                return folder / name
    if ingredient.templateflow and (found := find_archived(ingredient.templateflow, places)):
        return found
    # Caches are no directories of the user's: they are asked when all places are.
    if ingredient.repository and places.others:
        return find_hub_file(ingredient.repository, ingredient.files[0])
    return None


def find_archived(path: str, places: Places) -> Path | None:
    """Find a file of TemplateFlow's archive.

    Parameters
    ----------
    path : str
        Path below its root.
    places : Places
        Where to look.

    Returns
    -------
    Path or None
        The file; one that TemplateFlow's client has only announced (empty, or a link without content) does not count.
    """
    given = (sub for one in places.given for sub in (one / path.rsplit("/", 1)[-1], one / path))
    fetched = (one / TEMPLATEFLOW / path for one in places.given)
    return next(filter(is_there, (*given, *fetched, *(root / path for root in places.templateflow))), None)


def is_there(path: Path) -> bool:
    """Tell whether a file has content.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    bool
        False also for an empty file and for what cannot be looked at.
    """
    try:
        return path.is_file() and path.stat().st_size > 0
    except OSError:
        return False
