"""Volumes of a NIfTI file, inflated in blocks ahead of the arithmetic."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np
from isal import igzip_lib
from numpy.typing import NDArray

from bids_semantoks.errors import RunFailed
from bids_semantoks.signals.images import DAMAGED, Volumes, one_line

# Small enough to stay in a core's cache between inflating and summing, large enough to hide the cost of a step.
_BLOCK_BYTES = 4 << 20
_BLOCKS_AHEAD = 2
_READ_BYTES = 1 << 18
_MAGIC = b"\x1f\x8b"


class _Readable(Protocol):
    def readinto(self, target: memoryview, /) -> int | None: ...

    def close(self) -> None: ...


def read_blocks(volumes: Volumes) -> Iterator[NDArray[Any]]:
    """Yield blocks (volumes, x * y * z) in the stored dtype and Fortran order while a thread inflates the next.

    The memory of a block is reused for a later one. Raises RunFailed bad_image for a truncated file or wrong checksum;
    the file is read to its end, so damage anywhere is found.
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
    """Bytes read, and the error that stopped the read."""

    n_bytes: int
    error: Exception | None


def _fill(file: _Readable, target: memoryview, n_bytes: int) -> _Filled:
    # Pieces end with volumes: a piece that fails is lost, and should not take a whole volume with it.
    done = 0
    try:
        while done < len(target):
            end = min(done + _READ_BYTES, (done // n_bytes + 1) * n_bytes)
            n_new = file.readinto(target[done:end])
            if not n_new:
                return _Filled(done, None)
            done += n_new
    except DAMAGED as error:
        return _Filled(done, error)
    return _Filled(done, None)


def _drain(file: _Readable) -> _Filled:
    # The checksum stands at the end of the compressed file and is compared only when that is reached.
    target = memoryview(bytearray(_READ_BYTES))
    try:
        while file.readinto(target):
            pass
    except DAMAGED as error:
        return _Filled(0, error)
    return _Filled(0, None)


def _check_filled(volumes: Volumes, filled: _Filled, expected: int, *, n_read: int) -> None:
    if filled.error is None and filled.n_bytes == expected:
        return
    reason = "it ends early" if filled.error is None else one_line(filled.error)
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


def _open(volumes: Volumes) -> _Readable:
    try:
        raw = volumes.path.open("rb", buffering=0)
    except OSError as error:
        raise RunFailed("bad_image", f"{volumes.path} cannot be opened: {one_line(error)}.") from error
    return _Inflater(raw) if volumes.path.name.lower().endswith(".gz") else raw


class _Inflater:
    """A gzip file read once from start to end, checksums verified.
    Unlike the gzip modules it tells trailing bytes, as failed transfers leave them, from a truncated file."""

    def __init__(self, raw: BinaryIO) -> None:
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
