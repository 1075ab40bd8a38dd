"""Check the size that a header declares against the file before allocating memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

#: Maximum compression ratio of DEFLATE, the method of gzip and zlib.
MOST_INFLATED: Final = 1032
_STORED: Final = {".nii": 1, ".gz": MOST_INFLATED, ".mgz": MOST_INFLATED}


def check_size(path: Path, shape: Sequence[int], dtype: np.dtype[Any]) -> None:
    """Raise ValueError if an image of this shape and type needs more bytes than its file can hold. Files compressed
    with anything but gzip are not checked."""
    n_bytes = math.prod(map(int, shape)) * dtype.itemsize
    factor = _STORED.get(path.suffix.lower())
    if factor is not None and n_bytes > factor * path.stat().st_size:
        raise ValueError(
            f"its header declares {n_bytes} bytes ({dtype}, shape {tuple(map(int, shape))}), more than the "
            "file can hold"
        )


def read_array(path: Path) -> NDArray[Any]:
    """Read a ``.npy`` file without objects. Raises OSError, or ValueError if it is anything else or shorter than
    its header declares."""
    # Memory-map first: this checks the sizes before any memory is allocated.
    mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(mapped, np.ndarray):
        raise ValueError("it is an archive of arrays (.npz)")
    return np.array(mapped)
