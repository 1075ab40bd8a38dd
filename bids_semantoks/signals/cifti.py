"""CIFTI-2 files: what their header says of both axes, and their numbers in blocks.

The header's XML is read here and not by nibabel, which takes 1.2 s for 91,282 grayordinates: longer than reading and
averaging ten minutes of data.

Shape letters: T volumes, G grayordinates.
"""

from __future__ import annotations

import struct
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

# The one extension code of NIfTI that means CIFTI.
_ECODE: Final = 32
_MAX_XML: Final = 1 << 28
_BLOCK_BYTES: Final = 4 << 20
_TYPE: Final = "CIFTI_INDEX_TYPE_"


class CiftiError(ValueError):
    """A file is no CIFTI-2 file of the kind expected; the text goes on after the file's path."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CiftiFile:
    """A CIFTI-2 matrix: its two axes, and where its numbers lie.

    Parameters
    ----------
    path : Path
        The file.
    shape : tuple of (int, int)
        Length of the axis along a row (dimension 0, contiguous in the file), and along a column (dimension 1).
    kinds : tuple of (str, str)
        What each axis maps to: ``SERIES``, ``BRAIN_MODELS``, ``PARCELS``, ``LABELS`` or ``SCALARS``.
    axes : tuple of (Element, Element)
        XML of each axis.
    dtype : np.dtype
        Of the stored numbers, with their byte order.
    slope, intercept : float
        Turn stored numbers into values.
    offset : int
        Bytes before the first number.
    """

    path: Path
    shape: tuple[int, int]
    kinds: tuple[str, str]
    axes: tuple[ET.Element, ET.Element]
    dtype: np.dtype[Any]
    slope: float
    intercept: float
    offset: int

    def check_kinds(self, along: str, down: str) -> None:
        """Check what the axes map to.

        Parameters
        ----------
        along, down : str
            Expected of dimension 0 and of dimension 1.

        Raises
        ------
        CiftiError
            When it is something else.
        """
        if self.kinds != (along, down):
            raise CiftiError(f"maps {' x '.join(self.kinds)}; {along} x {down} is expected")

    def check_complete(self) -> None:
        """Check that all numbers are there.

        Raises
        ------
        CiftiError
            When the file ends early.
        """
        row = self.shape[0] * self.dtype.itemsize
        n_bytes = self.path.stat().st_size - self.offset
        if n_bytes < row * self.shape[1]:
            raise CiftiError(f"is damaged: it ends after {max(0, n_bytes) // row} of {self.shape[1]} rows")


def load_cifti(path: Path) -> CiftiFile:
    """Read the header of a CIFTI-2 file.

    Parameters
    ----------
    path : Path
        Uncompressed NIfTI-2 file with the CIFTI extension.

    Returns
    -------
    CiftiFile
        Both axes.

    Raises
    ------
    CiftiError
        When it is no CIFTI-2 file, is damaged, or has another number of axes than two.
    OSError
        When it cannot be read.
    """
    with path.open("rb") as file:
        header = _read_header(file.read(540))
        root = _parse(_find_extension(file, header))
    if not root.get("Version", "").startswith("2"):
        raise CiftiError(f"is CIFTI version {root.get('Version', 'unknown')}; version 2 is expected")
    dims = [int(n) for n in header["dim"]]
    if dims[0] != 6 or dims[1:5] != [1, 1, 1, 1] or min(dims[5:7]) < 1:
        raise CiftiError(f"has the dimensions {dims[1 : dims[0] + 1]}; 1, 1, 1, 1 and two more are expected")
    maps = {
        number: element
        for element in root.iter("MatrixIndicesMap")
        for number in element.get("AppliesToMatrixDimension", "").split(",")
    }
    if set(maps) != {"0", "1"}:
        raise CiftiError(f"describes the dimensions {', '.join(sorted(maps)) or 'none'}; 0 and 1 are expected")
    kinds = [maps[number].get("IndicesMapToDataType", "").removeprefix(_TYPE) for number in ("0", "1")]
    dtype = header.get_data_dtype()
    if dtype.kind not in "iuf":
        raise CiftiError(f"holds numbers of type {dtype}; integers or real numbers are expected")
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    is_scaled = np.isfinite(slope) and slope != 0
    return CiftiFile(
        path=path,
        shape=(dims[5], dims[6]),
        kinds=(kinds[0], kinds[1]),
        axes=(maps["0"], maps["1"]),
        dtype=dtype,
        slope=slope if is_scaled else 1.0,
        intercept=intercept if is_scaled and np.isfinite(intercept) else 0.0,
        offset=int(header["vox_offset"]),
    )


def read_rows(file: CiftiFile, wanted: NDArray[np.bool_] | None = None) -> Iterator[tuple[int, NDArray[Any]]]:
    """Give the stored numbers in blocks of whole rows, a few megabytes each.

    Parameters
    ----------
    file : CiftiFile
        From `load_cifti`.
    wanted : NDArray, bool, shape (rows,), or None
        Blocks without any wanted row are not read; None for all.

    Yields
    ------
    start : int
        First row of the block.
    block : NDArray, native byte order, shape (rows of the block, row length)
        The memory is used again for the next block.

    Raises
    ------
    CiftiError
        When the file ends early.
    """
    file.check_complete()
    length, n_rows = file.shape
    row_bytes = length * file.dtype.itemsize
    per_block = max(1, min(_BLOCK_BYTES // row_bytes, n_rows))
    memory = bytearray(per_block * row_bytes)
    with file.path.open("rb", buffering=0) as stream:
        for start in range(0, n_rows, per_block):
            stop = min(start + per_block, n_rows)
            if wanted is not None and not wanted[start:stop].any():
                continue
            stream.seek(file.offset + start * row_bytes)
            view = memoryview(memory)[: (stop - start) * row_bytes]
            _fill(stream, view, start)
            stored = np.frombuffer(view, dtype=file.dtype).reshape(stop - start, length)
            yield start, stored.astype(file.dtype.newbyteorder("="), copy=False)


def _read_header(block: bytes) -> Any:
    header = nib.Nifti2Header(block.ljust(540, b"\0"), check=False)
    if (
        len(block) < 540
        or int(header["sizeof_hdr"]) != 540
        or bytes(header["magic"].item()).rstrip(b"\r\n\x1a\0") != b"n+2"
    ):
        raise CiftiError("is no CIFTI-2 file: it does not begin with a NIfTI-2 header")
    return header


def _find_extension(file: Any, header: Any) -> bytes:
    """Read the XML that stands between header and numbers."""
    end = int(header["vox_offset"])
    has_extension = file.read(4)[:1] == b"\1" and 544 < end < _MAX_XML
    while has_extension and file.tell() + 8 <= end:
        size, code = struct.unpack(f"{header.endianness}ii", file.read(8))
        if not 8 <= size <= end - file.tell() + 8:
            break
        content: bytes = file.read(size - 8)
        if code == _ECODE:
            return content.rstrip(b"\0 ")
    raise CiftiError("is no CIFTI-2 file: its NIfTI-2 header has no CIFTI extension")


def _parse(content: bytes) -> ET.Element:
    try:
        return ET.fromstring(content)
    except ET.ParseError as error:
        raise CiftiError(f"is damaged: its CIFTI header is no XML ({error})") from error


def _fill(stream: Any, view: memoryview, start: int) -> None:
    done = 0
    while done < len(view):
        n_new = stream.readinto(view[done:])
        if not n_new:
            raise CiftiError(f"is damaged: it ends early, in or after row {start}")
        done += n_new
