"""Content, header, grid and mask of a run's images, before its voxels are read."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import nibabel as nib
import numpy as np
from isal.igzip_lib import IsalError
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from bids_semantoks.errors import RunFailed, RunSkipped

_MAX_OFFSET = 1 << 28
_SAME_AFFINE = 1e-3
_SECONDS = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}
DAMAGED: Final[tuple[type[Exception], ...]] = (
    ImageFileError,
    HeaderDataError,
    OSError,
    EOFError,
    ValueError,
    zlib.error,
    AttributeError,  # an image class without affine, such as a time-series CIFTI
    cast(type[Exception], IsalError),  # typed as an instance by its stub
)
"""What reading a damaged image raises."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Volumes:
    """Place and encoding of the volumes of a 4-D NIfTI file."""

    path: Path
    shape: tuple[int, int, int]  # voxels along x, y, z
    n_volumes: int  # as the header promises
    affine: NDArray[np.float64]  # (4, 4) voxel to mm
    dtype: np.dtype[Any]  # of the stored numbers, with their byte order
    slope: float  # value = slope * stored + intercept
    intercept: float
    offset: int  # bytes before the first volume
    repetition_time: float | None  # in seconds; None where the header has none


def check_content(path: Path) -> None:
    """Refuse a file whose content was not fetched (dangling link or git-annex pointer): RunSkipped no_content."""
    is_pointer = False
    if path.is_file() and path.stat().st_size < 4096:
        is_pointer = b"/annex/objects/" in path.read_bytes()[:2048]
    if is_pointer or (path.is_symlink() and not path.exists()):
        raise RunSkipped("no_content", f"The content of {path} is not here.", hint="Fetch it with `datalad get`.")


def load_volumes(path: Path) -> Volumes:
    """Read the header of a 4-D NIfTI file. Raises RunFailed bad_image where it is damaged, not 4-D or not of real
    numbers, RunSkipped no_content."""
    check_content(path)
    try:
        image = nib.load(path)
        if not isinstance(image, nib.Nifti1Image):
            raise RunFailed("bad_image", f"{path} holds a {type(image).__name__}; a 4-D NIfTI image is expected.")
        header = image.header
        shape, dtype = tuple(int(n) for n in image.shape), header.get_data_dtype()
        # Not from the header: nibabel moves the scaling to the data when it loads an image.
        slope, intercept = float(image.dataobj.slope), float(image.dataobj.inter)
        affine = np.asarray(image.affine, dtype=np.float64)
    except DAMAGED as error:
        raise RunFailed("bad_image", f"The header of {path} cannot be read: {one_line(error)}") from error
    if len(shape) != 4 or min(shape) < 1:
        raise RunFailed("bad_image", f"{path} has the shape {shape}; a 4-D image is expected.")
    if dtype.kind not in "iuf":
        raise RunFailed("bad_image", f"{path} holds numbers of type {dtype}; integers or real numbers are expected.")
    if not np.isfinite(affine).all():
        raise RunFailed("bad_image", f"The affine of {path} is not finite.")
    if not 0 <= int(image.dataobj.offset) <= _MAX_OFFSET:
        raise RunFailed(
            "bad_image", f"The header of {path} puts the volumes {image.dataobj.offset} bytes into the file."
        )
    step = float(header.get_zooms()[3]) * _SECONDS.get(header.get_xyzt_units()[1], 1.0)
    return Volumes(
        path=path,
        shape=(shape[0], shape[1], shape[2]),
        n_volumes=shape[3],
        affine=affine,
        dtype=dtype,
        slope=slope,
        intercept=intercept,
        offset=int(image.dataobj.offset),
        # The header's float32 is no decimal fraction: 0.8 s are 0.80000001.
        repetition_time=round(step, 6) if np.isfinite(step) and round(step, 6) > 0 else None,
    )


def load_mask(path: Path, volumes: Volumes) -> NDArray[np.bool_]:
    """Read the brain mask (X, Y, Z) of a run: True where not 0. Raises RunFailed bad_image, space_mismatch (not the
    run's grid) or low_coverage (empty), RunSkipped no_content."""
    check_content(path)
    try:
        image: Any = nib.load(path)
        shape = tuple(int(n) for n in image.shape)
        shape = shape[:3] if set(shape[3:]) <= {1} else shape
        is_same = shape == volumes.shape and np.allclose(image.affine, volumes.affine, rtol=0, atol=_SAME_AFFINE)
        values = np.asanyarray(image.dataobj) if is_same else np.zeros(volumes.shape)
    except DAMAGED as error:
        raise RunFailed("bad_image", f"The brain mask {path} cannot be read: {one_line(error)}") from error
    if not is_same:
        raise RunFailed(
            "space_mismatch",
            f"The grids of {volumes.path} ({volumes.shape}) and its brain mask {path} ({shape}) differ"
            f"{' in their affines' if shape == volumes.shape else ''}.",
            hint="Both must have the same voxels, to 0.001 mm.",
        )
    inside: NDArray[np.bool_] = np.asarray(np.nan_to_num(values) != 0).reshape(volumes.shape)
    if not inside.any():
        raise RunFailed("low_coverage", f"The brain mask {path} is empty.")
    return inside


def one_line(error: Exception) -> str:
    """Return the text of an error without line breaks, or its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
