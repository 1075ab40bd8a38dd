"""The volumes of a NIfTI file, inflated in blocks ahead of the arithmetic."""

from __future__ import annotations

import gzip
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import nibabel as nib
import numpy as np
from isal import igzip
from isal.igzip_lib import IsalError
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from bids_semantoks.errors import RunFailed, RunSkipped

# Small enough to stay in a core's cache between inflating and summing, large enough to hide the cost of a step.
_BLOCK_BYTES = 4 << 20
_BLOCKS_AHEAD = 2
_READ_BYTES = 1 << 18
_MAX_OFFSET = 1 << 28
_SAME_AFFINE = 1e-3
_SECONDS = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}
_DAMAGED: tuple[type[Exception], ...] = (
    ImageFileError,
    HeaderDataError,
    OSError,
    EOFError,
    ValueError,
    zlib.error,
    AttributeError,  # an image class without affine, such as a time-series CIFTI
    cast(type[Exception], IsalError),  # typed as an instance by its stub
)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Volumes:
    """Where the volumes of a 4-D image lie in its file, and how to read them.

    Parameters
    ----------
    path : Path
        NIfTI-1 or NIfTI-2 file, compressed or not.
    shape : tuple of int
        Voxels along x, y, z.
    n_volumes : int
        Volumes that the header promises.
    affine : NDArray, float64, shape (4, 4)
        Voxel to millimetre.
    dtype : np.dtype
        Of the stored numbers, with their byte order.
    slope, intercept : float
        Turn stored numbers into values.
    offset : int
        Bytes before the first volume.
    repetition_time : float or None
        Seconds, from the header; None when it holds none.
    """

    path: Path
    shape: tuple[int, int, int]
    n_volumes: int
    affine: NDArray[np.float64]
    dtype: np.dtype[Any]
    slope: float
    intercept: float
    offset: int
    repetition_time: float | None


def check_content(path: Path) -> None:
    """Refuse a file whose content was never fetched.

    Parameters
    ----------
    path : Path
        File to be read.

    Raises
    ------
    RunSkipped
        ``no_content``: a dangling link, or the pointer file that git-annex leaves in its place.
    """
    is_pointer = False
    if path.is_file() and path.stat().st_size < 4096:
        is_pointer = b"/annex/objects/" in path.read_bytes()[:2048]
    if is_pointer or (path.is_symlink() and not path.exists()):
        raise RunSkipped("no_content", f"The content of {path} is not here.", hint="Fetch it with `datalad get`.")


def load_volumes(path: Path) -> Volumes:
    """Read the header of a BOLD image.

    Parameters
    ----------
    path : Path
        4-D NIfTI file, ``.nii`` or ``.nii.gz``.

    Returns
    -------
    Volumes
        What is needed to stream it.

    Raises
    ------
    RunSkipped
        ``no_content``.
    RunFailed
        ``bad_image``: not a NIfTI image, not 4-D, or of numbers that are not real.
    """
    check_content(path)
    try:
        image = nib.load(path)
        if not isinstance(image, nib.Nifti1Image):
            raise RunFailed("bad_image", f"{path} holds a {type(image).__name__}; a 4-D NIfTI image is expected.")
        header = image.header
        shape, dtype = tuple(int(n) for n in image.shape), header.get_data_dtype()
        slope, intercept = header.get_slope_inter()
        affine = np.asarray(image.affine, dtype=np.float64)
    except _DAMAGED as error:
        raise RunFailed("bad_image", f"The header of {path} cannot be read: {_one_line(error)}") from error
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
        slope=1.0 if slope is None else float(slope),
        intercept=0.0 if intercept is None else float(intercept),
        offset=int(image.dataobj.offset),
        repetition_time=step if np.isfinite(step) and step > 0 else None,
    )


def read_blocks(volumes: Volumes) -> Iterator[NDArray[Any]]:
    """Give the stored numbers in blocks of volumes, while the next blocks are inflated in a thread.

    Parameters
    ----------
    volumes : Volumes
        What `load_volumes` found.

    Yields
    ------
    NDArray, stored dtype, shape (volumes in the block, x * y * z)
        Voxels in Fortran order. The memory is used again for a later block.

    Raises
    ------
    RunFailed
        ``bad_image``: the file ends early or its checksum is wrong. The end of the compressed file is read, so
        damage anywhere is found.
    """
    n_bytes = int(np.prod(volumes.shape, dtype=np.int64)) * volumes.dtype.itemsize
    per_block = min(max(1, _BLOCK_BYTES // n_bytes), volumes.n_volumes)
    counts = [min(per_block, volumes.n_volumes - start) for start in range(0, volumes.n_volumes, per_block)]
    buffers = _build_buffers(volumes, min(_BLOCKS_AHEAD + 1, len(counts)), per_block * n_bytes)
    n_read = 0
    ahead: deque[Future[_Filled]] = deque()
    with closing(_open(volumes)) as file, ThreadPoolExecutor(1, thread_name_prefix="inflate") as pool:
        before = pool.submit(_fill, file, memoryview(bytearray(volumes.offset)), volumes.offset)
        for block, count in enumerate(counts):
            while len(ahead) < max(1, len(buffers) - 1) and block + len(ahead) < len(counts):
                following = block + len(ahead)
                target = memoryview(buffers[following % len(buffers)])[: counts[following] * n_bytes]
                ahead.append(pool.submit(_fill, file, target, n_bytes))
            _check_filled(volumes, before.result(), volumes.offset, n_read=0)
            filled = ahead.popleft().result()
            _check_filled(volumes, filled, count * n_bytes, n_read=n_read + filled.n_bytes // n_bytes)
            n_read += count
            stored = np.frombuffer(buffers[block % len(buffers)], dtype=volumes.dtype)
            yield stored.reshape(per_block, -1)[:count]
        _check_filled(volumes, pool.submit(_drain, file).result(), 0, n_read=n_read)


class _Filled(NamedTuple):
    """How far a read came, and what stopped it."""

    n_bytes: int
    error: Exception | None


def _fill(file: BinaryIO, target: memoryview, n_bytes: int) -> _Filled:
    # Pieces end with volumes: a piece that fails is lost, and should not take a whole volume with it.
    done = 0
    try:
        while done < len(target):
            end = min(done + _READ_BYTES, (done // n_bytes + 1) * n_bytes)
            n_new = file.readinto(target[done:end])  # type: ignore[attr-defined]
            if not n_new:
                return _Filled(done, None)
            done += n_new
    except _DAMAGED as error:
        return _Filled(done, error)
    return _Filled(done, None)


def _drain(file: BinaryIO) -> _Filled:
    # The checksum stands at the end of the compressed file and is compared only when that is reached.
    try:
        while file.read(_READ_BYTES):
            pass
    except _DAMAGED as error:
        # Bytes behind a complete gzip file, as failed transfers leave them, take nothing from the volumes.
        is_garbage = isinstance(error, gzip.BadGzipFile) and "Not a gzipped file" in str(error)
        return _Filled(0, None if is_garbage else error)
    return _Filled(0, None)


def _check_filled(volumes: Volumes, filled: _Filled, expected: int, *, n_read: int) -> None:
    if filled.error is None and filled.n_bytes == expected:
        return
    reason = "it ends early" if filled.error is None else _one_line(filled.error)
    raise RunFailed(
        "bad_image",
        f"{volumes.path} is damaged: {n_read} of {volumes.n_volumes} volumes could be read ({reason}).",
        hint="Copy or compute it again.",
    ) from filled.error


def _build_buffers(volumes: Volumes, n_buffers: int, n_bytes: int) -> list[bytearray]:
    try:
        return [bytearray(n_bytes) for _ in range(n_buffers)]
    except (MemoryError, ValueError) as error:
        raise RunFailed(
            "bad_image",
            f"A volume of {volumes.path} is {volumes.shape} voxels of {volumes.dtype} by its header, more than fits.",
            hint="Its header may be damaged.",
        ) from error


def _open(volumes: Volumes) -> BinaryIO:
    is_compressed = volumes.path.name.lower().endswith(".gz")
    try:
        return cast(BinaryIO, igzip.open(volumes.path, "rb") if is_compressed else volumes.path.open("rb", buffering=0))
    except OSError as error:
        raise RunFailed("bad_image", f"{volumes.path} cannot be opened: {_one_line(error)}.") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def load_mask(path: Path, volumes: Volumes) -> NDArray[np.bool_]:
    """Read the brain mask of a run.

    Parameters
    ----------
    path : Path
        3-D NIfTI image; not 0 in the brain.
    volumes : Volumes
        The run's image, whose grid the mask must have.

    Returns
    -------
    NDArray, bool, shape (X, Y, Z)
        True in the brain.

    Raises
    ------
    RunSkipped
        ``no_content``.
    RunFailed
        ``bad_image`` when the mask cannot be read, ``space_mismatch`` when its grid is not the run's.
    """
    check_content(path)
    try:
        image: Any = nib.load(path)
        shape = tuple(int(n) for n in image.shape)
        shape = shape[:3] if set(shape[3:]) <= {1} else shape
        is_same = shape == volumes.shape and np.allclose(image.affine, volumes.affine, rtol=0, atol=_SAME_AFFINE)
        values = np.asanyarray(image.dataobj) if is_same else np.zeros(volumes.shape)
    except _DAMAGED as error:
        raise RunFailed("bad_image", f"The brain mask {path} cannot be read: {_one_line(error)}") from error
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
