"""NIfTI images of a run: header, grid and mask, and volumes in blocks, decompressed ahead of use."""

from __future__ import annotations

import math
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Final, cast

import nibabel as nib
import numpy as np
from isal import igzip_lib
from isal.igzip_lib import IsalError
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from bids_semantoks.disk import MOST_INFLATED, check_content, check_size
from bids_semantoks.errors import RunFailed
from bids_semantoks.records import Bools, Floats

_MAX_OFFSET = 1 << 28
_SAME_AFFINE = 1e-3
_SECONDS = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}
# Small enough to stay in a core's cache between inflating and summing, large enough to hide the overhead per block.
_BLOCK_BYTES = 4 << 20
_BLOCKS_AHEAD = 2
_READ_BYTES = 1 << 18
_MAGIC = b"\x1f\x8b"

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
"""Errors raised when reading a damaged image."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Volumes:
    """Location and encoding of the volumes in a 4-D NIfTI file."""

    path: Path
    shape: tuple[int, int, int]  # voxels along x, y, z
    n_volumes: int  # according to the header
    affine: Floats  # (4, 4) voxel to mm
    zooms: tuple[float, ...]  # voxel size along x, y, z in mm, from the header's pixdim
    dtype: np.dtype[Any]  # of the stored numbers, with their byte order
    slope: float  # value = slope * stored + intercept
    intercept: float
    offset: int  # bytes before the first volume
    repetition_time: float | None  # in seconds; None if the header has none


def load_volumes(path: Path) -> Volumes:
    """Read the header of a 4-D NIfTI file. Raises RunFailed bad_image if it is damaged, not 4-D or
    not real-valued, RunSkipped no_content."""
    check_content(path)
    try:
        image = nib.load(path)
        if not isinstance(image, nib.Nifti1Image):
            raise RunFailed("bad_image", f"{path} is a {type(image).__name__}; expected a 4-D NIfTI image.")
        header = image.header
        shape, dtype = tuple(int(n) for n in image.shape), header.get_data_dtype()
        # Not from the header: nibabel moves the scaling to the data when it loads an image.
        slope, intercept = float(image.dataobj.slope), float(image.dataobj.inter)
        affine = np.asarray(image.affine, dtype=np.float64)
    except DAMAGED as error:
        raise RunFailed("bad_image", f"The header of {path} cannot be read: {one_line(error)}") from error
    if len(shape) != 4 or min(shape) < 1:
        raise RunFailed("bad_image", f"{path} has shape {shape}; expected a 4-D image.")
    if dtype.kind not in "iuf":
        raise RunFailed("bad_image", f"{path} has data of type {dtype}; expected integers or real numbers.")
    if not np.isfinite(affine).all():
        raise RunFailed("bad_image", f"The affine of {path} contains non-finite values.")
    if not 0 <= int(image.dataobj.offset) <= _MAX_OFFSET:
        raise RunFailed(
            "bad_image", f"The header of {path} gives an invalid data offset of {image.dataobj.offset} bytes."
        )
    # A truncated image still reports how many of its volumes are readable; nothing is truncated by this much.
    if math.prod(shape) * dtype.itemsize > MOST_INFLATED * path.stat().st_size:
        raise RunFailed(
            "bad_image",
            f"The header of {path} declares shape {shape} of {dtype}, more than the file can hold.",
            hint="Its header may be damaged.",
        )
    return Volumes(
        path=path,
        shape=(shape[0], shape[1], shape[2]),
        n_volumes=shape[3],
        affine=affine,
        zooms=tuple(float(size) for size in header.get_zooms()[:3]),
        dtype=dtype,
        slope=slope,
        intercept=intercept,
        offset=int(image.dataobj.offset),
        repetition_time=_read_step(header),
    )


def _read_step(header: Any) -> float | None:
    """Read the seconds per volume; None without a time unit, and for 0 and 1, which are used as placeholders."""
    step = float(header.get_zooms()[3])
    try:
        seconds = step * _SECONDS.get(header.get_xyzt_units()[1], np.nan)
    except KeyError:
        return None
    # The header holds float32, in which 0.8 s are 0.80000001.
    return round(seconds, 6) if step != 1 and np.isfinite(seconds) and round(seconds, 6) > 0 else None


def load_mask(path: Path, volumes: Volumes) -> Bools:
    """Read the brain mask (X, Y, Z) of a run: True where not 0. Raises RunFailed bad_image, space_mismatch (not on the
    run's grid) or low_coverage (empty), RunSkipped no_content."""
    check_content(path)
    try:
        image: Any = nib.load(path)
        shape = tuple(int(n) for n in image.shape)
        shape = shape[:3] if set(shape[3:]) <= {1} else shape
        is_same = shape == volumes.shape and np.allclose(image.affine, volumes.affine, rtol=0, atol=_SAME_AFFINE)
        if is_same:
            check_size(path, image.shape, image.get_data_dtype())
        values = np.asanyarray(image.dataobj) if is_same else np.empty(0)
        check_compressed(path)
    except DAMAGED as error:
        raise RunFailed("bad_image", f"The brain mask {path} cannot be read: {one_line(error)}") from error
    if not is_same:
        raise RunFailed(
            "space_mismatch",
            f"The grids of {volumes.path} ({volumes.shape}) and its brain mask {path} ({shape}) differ"
            f"{' in their affines' if shape == volumes.shape else ''}.",
            hint="Both must have the same voxels, to 0.001 mm.",
        )
    inside: Bools = np.asarray(np.nan_to_num(values) != 0).reshape(volumes.shape)
    if not inside.any():
        raise RunFailed("low_coverage", f"The brain mask {path} is empty.")
    return inside


def check_compressed(path: Path) -> None:
    """Decompress a gzip file to its end to verify its checksum: nibabel stops at the last voxel. Raises one of
    `DAMAGED`; uncompressed files are not checked."""
    if path.name.lower().endswith(".gz"):
        with closing(_Inflater(path.open("rb", buffering=0))) as file:
            if error := _drain(file):
                raise error


def one_line(error: Exception) -> str:
    """Return the message of an error without line breaks, or its type if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def read_blocks(volumes: Volumes) -> Iterator[NDArray[Any]]:
    """Yield blocks (volumes, x * y * z) in the stored dtype and Fortran order while a thread decompresses the next. The
    memory of a block is reused for a later one. Raises RunFailed bad_image for a truncated file or wrong checksum; the
    file is read to its end, so damage anywhere is detected."""
    n_bytes = int(np.prod(volumes.shape, dtype=np.int64)) * volumes.dtype.itemsize
    per_block = min(max(1, _BLOCK_BYTES // n_bytes), volumes.n_volumes)
    counts = [min(per_block, volumes.n_volumes - start) for start in range(0, volumes.n_volumes, per_block)]
    buffers = _build_buffers(volumes, min(_BLOCKS_AHEAD + 1, len(counts)), per_block * n_bytes)
    n_read = 0
    ahead: deque[Future[tuple[int, Exception | None]]] = deque()
    with closing(_open(volumes)) as file, ThreadPoolExecutor(1, thread_name_prefix="inflate") as pool:
        before = pool.submit(_fill, file, np.empty(volumes.offset, dtype=np.uint8).data, volumes.offset)
        for block, count in enumerate(counts):
            while len(ahead) < max(1, len(buffers) - 1) and block + len(ahead) < len(counts):
                following = block + len(ahead)
                target = buffers[following % len(buffers)].data[: counts[following] * n_bytes]
                ahead.append(pool.submit(_fill, file, target, n_bytes))
            _check_filled(volumes, before.result(), volumes.offset, n_read=0)
            filled = ahead.popleft().result()
            _check_filled(volumes, filled, count * n_bytes, n_read=n_read + filled[0] // n_bytes)
            n_read += count
            stored = np.frombuffer(buffers[block % len(buffers)], dtype=volumes.dtype)
            yield stored.reshape(per_block, -1)[:count]
        _check_filled(volumes, (0, pool.submit(_drain, file).result()), 0, n_read=n_read)


def _fill(file: FileIO | _Inflater, target: memoryview, n_bytes: int) -> tuple[int, Exception | None]:
    """Read volumes of `n_bytes` each; return the bytes read, and the error that stopped the read."""
    # Chunks end at volume boundaries: a chunk that fails is lost and should not take a readable volume with it.
    done = 0
    try:
        while done < len(target):
            end = min(done + _READ_BYTES, (done // n_bytes + 1) * n_bytes)
            n_new = file.readinto(target[done:end])
            if not n_new:
                break
            done += n_new
    except DAMAGED as error:
        return done, error
    return done, None


def _drain(file: FileIO | _Inflater) -> Exception | None:
    # The checksum is at the end of the compressed file and is verified only there.
    target = memoryview(bytearray(_READ_BYTES))
    try:
        while file.readinto(target):
            pass
    except DAMAGED as error:
        return error
    return None


def _check_filled(volumes: Volumes, filled: tuple[int, Exception | None], expected: int, *, n_read: int) -> None:
    n_bytes, error = filled
    if error is None and n_bytes == expected:
        return
    reason = "it is truncated" if error is None else one_line(error)
    raise RunFailed(
        "bad_image",
        f"{volumes.path} is damaged: {n_read} of {volumes.n_volumes} volumes are readable ({reason}).",
        hint="Copy or recompute it.",
    ) from error


def _build_buffers(volumes: Volumes, n_buffers: int, n_bytes: int) -> list[NDArray[np.uint8]]:
    try:
        # Unlike a zero-filled bytearray, these use memory only for what is read.
        return [np.empty(n_bytes, dtype=np.uint8) for _ in range(n_buffers)]
    except (MemoryError, ValueError) as error:
        raise RunFailed(
            "bad_image",
            f"The header of {volumes.path} declares volumes of {volumes.shape} {volumes.dtype} voxels, too large for "
            "memory.",
            hint="Its header may be damaged.",
        ) from error


def _open(volumes: Volumes) -> FileIO | _Inflater:
    try:
        raw = volumes.path.open("rb", buffering=0)
    except OSError as error:
        raise RunFailed("bad_image", f"{volumes.path} cannot be opened: {one_line(error)}.") from error
    return _Inflater(raw) if volumes.path.name.lower().endswith(".gz") else raw


class _Inflater:
    """A gzip file read once from start to end, checksums verified. Unlike the gzip modules it distinguishes trailing
    bytes, as left by failed transfers, from a truncated file."""

    def __init__(self, raw: FileIO) -> None:
        self._raw = raw
        self._pending = raw.read(_READ_BYTES)
        self._member = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
        self._has_ended = False

    def readinto(self, target: memoryview) -> int:
        while not self._has_ended:
            if not self._pending and self._member.needs_input:
                self._pending = self._raw.read(_READ_BYTES)
                if not self._pending:
                    raise EOFError("the compressed data end before their end-of-stream marker")
            piece = self._member.decompress(self._pending, len(target))
            self._pending = b""
            if self._member.eof:
                self._start_member(self._member.unused_data)
            if piece:
                target[: len(piece)] = piece
                return len(piece)
        return 0

    def _start_member(self, behind: bytes) -> None:
        while len(behind.lstrip(b"\0")) < len(_MAGIC) and (more := self._raw.read(_READ_BYTES)):
            behind = behind.lstrip(b"\0") + more
        self._pending = behind.lstrip(b"\0")
        self._has_ended = not self._pending.startswith(_MAGIC)
        self._member = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)

    def close(self) -> None:
        self._raw.close()
