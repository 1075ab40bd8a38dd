"""Files of atlases on this machine: which directories may hold them, and which of them do."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bids_semantoks.errors import AtlasError
from bids_semantoks.places import ATLASES, TEMPLATEFLOW, find_cache, find_hub_file, find_templateflow_homes
from bids_semantoks.signals.registry import Ingredient

DIRECTORY_VARIABLE: Final = "BIDS_SEMANTOKS_ATLAS_DIR"


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
