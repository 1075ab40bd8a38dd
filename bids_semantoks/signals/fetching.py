"""Downloads of atlas images and of transforms between template spaces."""

from __future__ import annotations

from pathlib import Path

from bids_semantoks.errors import AtlasError
from bids_semantoks.runtime.downloads import (
    ATLASES,
    HUB,
    HUB_SERVER,
    TEMPLATEFLOW,
    TEMPLATEFLOW_SERVER,
    FetchError,
    download,
    fetch_hub_file,
    find_obstacle,
    find_target,
)
from bids_semantoks.signals.registry import Ingredient


def name_transform(source: str, target: str) -> str:
    """Return the path of an image transform in TemplateFlow's archive; it maps points from `target` to `source`."""
    return f"tpl-{target}/tpl-{target}_from-{source}_mode-image_xfm.h5"


def find_address(ingredient: Ingredient) -> str:
    """Find the URL of an image; empty when nobody publishes it."""
    if ingredient.repository:
        return f"{HUB_SERVER}/{ingredient.repository}/resolve/main/{ingredient.files[0]}"
    if ingredient.url:
        return ingredient.url
    return f"{TEMPLATEFLOW_SERVER}/{ingredient.templateflow}" if ingredient.templateflow else ""


def fetch_image(ingredient: Ingredient, target: Path) -> Path:
    """Fetch one label image into `target`, a directory with the layout of the cache; AtlasError where that fails."""
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
    """Fetch an image transform into `root`, a directory with the layout of the cache. Raises AtlasError where
    TemplateFlow has none or the download fails."""
    name = name_transform(source, target)
    path = root / TEMPLATEFLOW / name
    download(f"{TEMPLATEFLOW_SERVER}/{name}", path)
    return path


def fetch_missing_transform(source: str, target: str, work_dir: Path | None) -> Path:
    """Fetch an image transform into the cache, or for this process only (below `work_dir` if given) when the cache
    is not writable; AtlasError where that fails."""
    if obstacle := find_obstacle(TEMPLATEFLOW_SERVER):
        raise AtlasError(f"{Path(name_transform(source, target)).name} is not here, and {obstacle}")
    return fetch_transform(source, target, find_target(work_dir))
