"""Cache of warped atlases on run grids: reading a transform takes seconds and much memory."""

from __future__ import annotations

import io
import secrets
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.runtime.downloads import GRIDS, find_cache, is_writable

# Where no cache can be written a process at least lays none twice: that of its runs, and that of its pictures.
_HERE: Final[dict[str, NDArray[np.int32]]] = {}
_N_HERE: Final = 2


def _name_grid(key: str) -> Path | None:
    cache = find_cache()
    return cache / GRIDS / f"{key}.npy" if cache else None


def read_grid(key: str, shape: tuple[int, int, int]) -> NDArray[np.int32] | None:
    """Return a grid (X, Y, Z), read-only, from this process or the disk cache; None where it is missing or damaged."""
    if key in _HERE:
        return _HERE[key]
    path = _name_grid(key)
    try:
        grid = np.load(path, allow_pickle=False) if path is not None else None
    except (OSError, ValueError, EOFError):
        return None
    if grid is None or grid.shape != shape or grid.dtype != np.int32:
        return None
    return _keep_here(key, grid)


def _keep_here(key: str, grid: NDArray[np.int32]) -> NDArray[np.int32]:
    grid.flags.writeable = False
    while len(_HERE) >= _N_HERE:
        del _HERE[next(iter(_HERE))]
    _HERE[key] = grid
    return grid


def keep_grid(key: str, grid: NDArray[np.int32]) -> None:
    """Keep a grid (X, Y, Z) for this process, which makes it read-only, and on disk where the cache is writable."""
    _keep_here(key, grid)
    path = _name_grid(key)
    if path is None or not is_writable(path.parent):
        return
    # Not by tempfile, whose files nobody else may read: several users may share a cache.
    partial = path.with_name(f"{secrets.token_hex(6)}.tmp")
    # Into a file NumPy writes through C's own buffer, and does not notice when that finds the disk full at the end.
    content = io.BytesIO()
    np.save(content, grid)
    try:
        partial.write_bytes(content.getbuffer())
        partial.replace(path)
    except OSError:
        # A full cache costs the next call some seconds, not this run.
        partial.unlink(missing_ok=True)
