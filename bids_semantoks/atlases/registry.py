"""Registry entries: the files that make up an atlas in each space, and where to get them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from bids_semantoks.errors import AtlasError
from bids_semantoks.runtime.downloads import ATLASES, TEMPLATEFLOW, find_cache, find_hub_file, find_templateflow_homes


@dataclass(frozen=True, kw_only=True, slots=True)
class Ingredient:
    """One label image of an atlas, local or remote."""

    files: tuple[str, ...]  # names that the image may have
    values: tuple[int, ...]
    indices: tuple[int, ...]  # index in the table of each value
    licence: str  # one line
    source: str  # one line
    space: str  # template space of the image
    n_labels: int = 0  # the image must hold exactly labels 1 to this; 0 for any
    templateflow: str = ""  # path in TemplateFlow's archive; empty if not there
    repository: str = ""  # Hugging Face repository of the first of files; empty if not there
    url: str = ""  # address of the first of files; empty if not published by itself
    sha256: str | None = None  # checksum of the file at url; None: recorded at the first fetch

    @property
    def names(self) -> tuple[str, ...]:
        """All names that the image may have, best first."""
        archived = (self.templateflow.rsplit("/", 1)[-1],) if self.templateflow else ()
        return tuple(dict.fromkeys((*self.files, *archived)))

    @property
    def is_fetchable(self) -> bool:
        """Whether the image can be downloaded."""
        return bool(self.templateflow or self.repository or self.url)


Recipe = tuple[Ingredient, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A registry entry."""

    path: Path
    name: str
    table: Path  # TSV of parcels
    # by template space; spaces and recipes preferred first, each recipe a whole atlas
    recipes: Mapping[str, tuple[Recipe, ...]]
    # by table index: centre of mass in RAS mm, for some parcels
    landmarks: Mapping[int, tuple[float, ...]] = field(default_factory=dict)

    def find_recipes(self, space: str) -> tuple[Recipe, ...]:
        """Return the recipes for a space; where it has none, those of all other spaces."""
        if space in self.recipes:
            return self.recipes[space]
        return tuple(one for recipes in self.recipes.values() for one in recipes)

    def find_fetchable_spaces(self) -> tuple[str, ...]:
        """Find the template spaces, preferred first, in which all parcels can be downloaded."""
        return tuple(
            space
            for space, recipes in self.recipes.items()
            if any(all(part.is_fetchable for part in one) for one in recipes)
        )


def find_registry() -> Path:
    """Find the directory of the registry entries (``.json``) in this package."""
    return Path(str(files("bids_semantoks"))) / "data" / "atlases"


def load_entry(path: Path) -> Entry:
    """Read a registry entry from JSON; AtlasError if it cannot be read or is incomplete."""
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


DIRECTORY_VARIABLE: Final = "BIDS_SEMANTOKS_ATLAS_DIR"


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Directories to search, in the order of the fields."""

    given: tuple[Path, ...]  # named by the user, first choice first
    others: tuple[Path, ...]  # the cache, and the folder of the entry
    templateflow: tuple[Path, ...]  # roots of TemplateFlow's archive

    def narrow(self) -> list[Places]:
        """Return the first given place alone, the first two, ..., all places: what the user named wins as a whole."""
        narrower = [Places(given=self.given[:n], others=(), templateflow=()) for n in range(1, len(self.given) + 1)]
        return [*narrower, self]


def find_places(directory: Path | None, *, beside: Path | None = None) -> Places:
    """Find the directories that may hold atlas files: `directory` (--atlas-dir), BIDS_SEMANTOKS_ATLAS_DIR, the
    cache, `beside` and TemplateFlow's. Raises AtlasError where `directory` is not a directory."""
    if directory is not None and not directory.is_dir():
        raise AtlasError(f"The atlas directory {directory} (--atlas-dir) is not a directory.")
    variable, cache = os.environ.get(DIRECTORY_VARIABLE), find_cache()
    others = (*((cache / ATLASES,) if cache else ()), *((beside,) if beside else ()))
    given = (*((directory,) if directory is not None else ()), *((Path(variable),) if variable else ()))
    return Places(given=given, others=others, templateflow=tuple(find_templateflow_homes()))


def find_file(ingredient: Ingredient, places: Places) -> Path | None:
    """Find an image without using the network; None where it is missing. In a given directory the layout that
    `bids_semantoks-fetch` writes is searched as well."""
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
    """Find a file of TemplateFlow's archive by its path below the root; None where it is missing, or only announced
    by TemplateFlow's client (empty, or a link without content)."""
    given = (sub for one in places.given for sub in (one / path.rsplit("/", 1)[-1], one / path))
    fetched = (one / TEMPLATEFLOW / path for one in places.given)
    return next(filter(is_there, (*given, *fetched, *(root / path for root in places.templateflow))), None)


def is_there(path: Path) -> bool:
    """Test whether a file has content; False also where it cannot be accessed."""
    try:
        return path.is_file() and path.stat().st_size > 0
    except OSError:
        return False
