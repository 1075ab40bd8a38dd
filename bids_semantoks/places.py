"""Where files lie that others publish: our cache, and those of TemplateFlow and of the Hugging Face hub.

Nothing of their libraries is imported: that writes thousands of entries into a cache, or fails where it cannot.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

CACHE_VARIABLE: Final = "BIDS_SEMANTOKS_CACHE_DIR"
# Below our cache, and below the directory that `bids_semantoks-fetch` fills.
ATLASES: Final = "atlases"
TEMPLATEFLOW: Final = "templateflow"
HUB: Final = "huggingface/hub"
GRIDS: Final = "grids"


def find_cache() -> Path | None:
    """Find the directory that keeps what was fetched.

    Returns
    -------
    Path or None
        BIDS_SEMANTOKS_CACHE_DIR, else ``bids_semantoks`` in XDG_CACHE_HOME, else in ``~/.cache``; it need not exist.
        None for a user without home.
    """
    if named := _read_variable(os.environ, CACHE_VARIABLE):
        return named
    base = _find_user_cache(os.environ)
    return base / "bids_semantoks" if base else None


def find_templateflow_homes() -> list[Path]:
    """Find the directories that may hold TemplateFlow's archive.

    Returns
    -------
    list of Path
        TEMPLATEFLOW_HOME or the one that its client uses without, then our cache's; they need not exist.
    """
    base, cache = _find_user_cache(os.environ), find_cache()
    own = _read_variable(os.environ, "TEMPLATEFLOW_HOME") or (base / "templateflow" if base else None)
    return [path for path in (own, cache / TEMPLATEFLOW if cache else None) if path]


def find_hub_caches() -> list[Path]:
    """Find the caches that may hold files of the Hugging Face hub.

    Returns
    -------
    list of Path
        The cache of its client, then ours; they need not exist.
    """
    environ, base, cache = os.environ, _find_user_cache(os.environ), find_cache()
    home = _read_variable(environ, "HF_HOME") or (base / "huggingface" if base else None)
    own = (
        _read_variable(environ, "HF_HUB_CACHE")
        or _read_variable(environ, "HUGGINGFACE_HUB_CACHE")
        or (home / "hub" if home else None)
    )
    return [path for path in (own, cache / HUB if cache else None) if path]


def find_hub_file(repository: str, name: str) -> Path | None:
    """Find a file of the hub in the local caches.

    Parameters
    ----------
    repository : str
        ORG/NAME.
    name : str
        Name of the file in it.

    Returns
    -------
    Path or None
        The file of the main revision; None when no cache holds it.
    """
    for cache in find_hub_caches():
        folder = cache / f"models--{repository.replace('/', '--')}"
        try:
            revision = (folder / "refs" / "main").read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            continue
        path = folder / "snapshots" / revision / name
        if revision and path.is_file():
            return path
    return None


def _find_user_cache(environ: Mapping[str, str]) -> Path | None:
    if base := _read_variable(environ, "XDG_CACHE_HOME"):
        return base
    try:
        return Path.home() / ".cache"
    except RuntimeError:  # no HOME, and no entry for this user
        return None


def _read_variable(environ: Mapping[str, str], name: str) -> Path | None:
    text = environ.get(name, "")
    return Path(text) if text else None
