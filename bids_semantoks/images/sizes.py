"""What a header promises, compared with the size of its file before memory is taken for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

#: DEFLATE, the method of gzip and zlib, stores no more than this many bytes in one.
MOST_INFLATED: Final = 1032
_STORED: Final = {".nii": 1, ".gz": MOST_INFLATED, ".mgz": MOST_INFLATED}


def check_size(path: Path, shape: Sequence[int], dtype: np.dtype[Any]) -> None:
    """Raise ValueError where an image of this shape and type needs more bytes than its file can hold; what is
    compressed in another way than by gzip passes."""
    n_bytes = math.prod(map(int, shape)) * dtype.itemsize
    factor = _STORED.get(path.suffix.lower())
    if factor is not None and n_bytes > factor * path.stat().st_size:
        raise ValueError(
            f"its header promises {n_bytes} bytes of {dtype} in the shape {tuple(map(int, shape))}, more than the "
            "file can hold"
        )


def read_array(path: Path) -> NDArray[Any]:
    """Read a ``.npy`` file without objects. Raises OSError, and ValueError where it is anything else, or shorter than
    its header says."""
    # Mapped first, as this compares the sizes before any memory is taken.
    mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(mapped, np.ndarray):
        raise ValueError("it is an archive of arrays")
    return np.array(mapped)
