"""CIFTI-2 files: both axes of the header, and the stored numbers in blocks of rows.
The header's XML is parsed here because nibabel takes 1.2 s for 91,282 grayordinates."""

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
    """Raised where a file is not CIFTI-2 of the expected kind; the text continues a sentence after its path."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CiftiFile:
    """A CIFTI-2 matrix: its two axes and where its numbers are stored."""

    path: Path
    shape: tuple[int, int]  # length of a row (dimension 0, contiguous in the file), number of rows (dimension 1)
    kinds: tuple[str, str]  # of dimensions 0 and 1: SERIES, BRAIN_MODELS, PARCELS, LABELS or SCALARS
    axes: tuple[ET.Element, ET.Element]  # XML of dimensions 0 and 1
    dtype: np.dtype[Any]  # of the stored numbers, with their byte order
    slope: float  # value = slope * stored + intercept
    intercept: float
    offset: int  # bytes before the first number

    def check_kinds(self, along: str, down: str) -> None:
        """Check what dimensions 0 (`along`) and 1 (`down`) map to; CiftiError otherwise."""
        if self.kinds != (along, down):
            raise CiftiError(f"maps {' x '.join(self.kinds)}; {along} x {down} is expected")

    def check_complete(self) -> None:
        """Check that the file is long enough for all rows; CiftiError otherwise."""
        row = self.shape[0] * self.dtype.itemsize
        n_bytes = self.path.stat().st_size - self.offset
        if n_bytes < row * self.shape[1]:
            raise CiftiError(f"is damaged: it ends after {max(0, n_bytes) // row} of {self.shape[1]} rows")


def load_cifti(path: Path) -> CiftiFile:
    """Read the header of an uncompressed CIFTI-2 file. Raises CiftiError where it is damaged, not CIFTI-2 or not of
    two axes, OSError where it cannot be read."""
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
    """Yield (first row, stored numbers in native byte order) in blocks of whole rows, a few MB each.

    Blocks without any `wanted` row (rows,) are skipped. Copy a block to keep it: its memory is reused for the next.
    Raises CiftiError where the file ends early.
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
    """Read the XML between header and numbers."""
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
