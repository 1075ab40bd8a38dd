"""Warped atlases on the grids of runs, kept in our cache: reading a transform takes seconds and much memory."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.places import GRIDS, find_cache
from bids_semantoks.signals.downloads import is_writable


def _name_grid(key: str) -> Path | None:
    cache = find_cache()
    return cache / GRIDS / f"{key}.npy" if cache else None


def read_grid(key: str, shape: tuple[int, int, int]) -> NDArray[np.int32] | None:
    """Read a grid that this or another process has laid.

    Parameters
    ----------
    key : str
        What tells grids apart: letters and digits.
    shape : tuple of int
        Voxels along x, y, z.

    Returns
    -------
    NDArray, int32, shape (X, Y, Z), or None
        The grid; None when it is not there or not whole.
    """
    path = _name_grid(key)
    try:
        grid = np.load(path, allow_pickle=False) if path is not None else None
    except (OSError, ValueError, EOFError):
        return None
    return grid if grid is not None and grid.shape == shape and grid.dtype == np.int32 else None


def keep_grid(key: str, grid: NDArray[np.int32]) -> None:
    """Keep a grid for other processes, where the cache can be written.

    Parameters
    ----------
    key : str
        As for `read_grid`.
    grid : NDArray, int32, shape (X, Y, Z)
        The grid.
    """
    path = _name_grid(key)
    if path is None or not is_writable(path.parent):
        return
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        np.save(file, grid)
    Path(file.name).replace(path)
