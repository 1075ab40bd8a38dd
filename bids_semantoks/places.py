"""Locations of our cache, TemplateFlow's and the Hugging Face hub's, found without importing their libraries: that
writes
thousands of cache entries, or fails where the cache is read-only."""

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
    """Return our cache directory, which need not exist; None for a user without a home.

    BIDS_SEMANTOKS_CACHE_DIR, else ``bids_semantoks`` in XDG_CACHE_HOME or ``~/.cache``.
    """
    if named := _read_variable(os.environ, CACHE_VARIABLE):
        return named
    base = _find_user_cache(os.environ)
    return base / "bids_semantoks" if base else None


def find_templateflow_homes() -> list[Path]:
    """List directories that may hold TemplateFlow's archive: TEMPLATEFLOW_HOME or its client's default, then that in
    our
    cache."""
    base, cache = _find_user_cache(os.environ), find_cache()
    own = _read_variable(os.environ, "TEMPLATEFLOW_HOME") or (base / "templateflow" if base else None)
    return [path for path in (own, cache / TEMPLATEFLOW if cache else None) if path]


def find_hub_caches() -> list[Path]:
    """List directories that may hold Hugging Face files: its client's cache, then that in ours; they need not exist."""
    environ, base, cache = os.environ, _find_user_cache(os.environ), find_cache()
    home = _read_variable(environ, "HF_HOME") or (base / "huggingface" if base else None)
    own = (
        _read_variable(environ, "HF_HUB_CACHE")
        or _read_variable(environ, "HUGGINGFACE_HUB_CACHE")
        or (home / "hub" if home else None)
    )
    return [path for path in (own, cache / HUB if cache else None) if path]


def find_hub_file(repository: str, name: str) -> Path | None:
    """Find a file of a hub repository (ORG/NAME), main revision, in the local caches; None if absent."""
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
