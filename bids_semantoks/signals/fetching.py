"""Images and transforms of atlases, fetched to where they are looked for."""

from __future__ import annotations

from pathlib import Path

from bids_semantoks.errors import AtlasError
from bids_semantoks.network import HUB_SERVER, FetchError, fetch_hub_file, find_obstacle
from bids_semantoks.places import ATLASES, HUB, TEMPLATEFLOW
from bids_semantoks.signals.downloads import TEMPLATEFLOW_SERVER, download, find_target
from bids_semantoks.signals.registry import Ingredient


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
