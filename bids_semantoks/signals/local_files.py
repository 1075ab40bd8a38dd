"""Atlas files on this machine: the directories to search, and the files in them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bids_semantoks.errors import AtlasError
from bids_semantoks.runtime.downloads import ATLASES, TEMPLATEFLOW, find_cache, find_hub_file, find_templateflow_homes
from bids_semantoks.signals.registry import Ingredient

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
