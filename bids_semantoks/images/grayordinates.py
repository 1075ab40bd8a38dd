"""CIFTI-2 files: both axes of the header, and the stored numbers in blocks of rows.
The header's XML is parsed here because nibabel takes 1.2 s for 91,282 grayordinates."""

from __future__ import annotations

import binascii
import re
import struct
import xml.etree.ElementTree as ET
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast
from xml.parsers import expat

import nibabel as nib
import numpy as np
from isal import isal_zlib
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


_PREFIX: Final = "CIFTI_STRUCTURE_"


def read_series_step(axis: ET.Element) -> float | None:
    """Read the time between volumes (s) from a ``SERIES`` axis; None where it is not positive or not in seconds."""
    try:
        step = float(axis.get("SeriesStep", "")) * 10.0 ** int(axis.get("SeriesExponent", "0"))
    except (ValueError, OverflowError):
        return None
    is_time = axis.get("SeriesUnit") == "SECOND" and np.isfinite(step) and step > 0
    return step if is_time else None


def read_grayordinates(axis: ET.Element) -> Grayordinates:
    """Read the vertices and voxels of a ``BRAIN_MODELS`` axis, in file order. Raises CiftiError where models are
    missing, damaged or repeated, or do not follow one another."""
    shape, affine = _read_volume(axis.find("Volume"))
    models = sorted((_read_model(element) for element in axis.iter("BrainModel")), key=lambda model: model.offset)
    grayordinates = Grayordinates(models=tuple(models), shape=shape, affine=affine)
    end = 0
    for model in models:
        limits = (model.n_vertices,) if model.n_vertices else shape
        indices = model.indices.reshape(len(model.indices), -1)
        if model.offset != end or (indices < 0).any() or (indices >= limits).any():
            raise CiftiError(f"has a damaged model of {model.structure}: its indices are out of range or overlap")
        end += len(indices)
    if len({model.structure for model in models}) != len(models) or not models:
        raise CiftiError("has no brain models" if not models else "has a structure twice")
    return grayordinates


def read_label_names(axis: ET.Element) -> dict[int, str]:
    """Read the name of each key in the first map of a ``LABELS`` axis; CiftiError where a key is not a whole number."""
    table = axis.find("NamedMap/LabelTable")
    labels = [] if table is None else table.findall("Label")
    try:
        return {int(label.get("Key", "")): " ".join((label.text or "").split()) for label in labels}
    except ValueError as error:
        raise CiftiError("has a label key that is no whole number") from error


def _read_volume(element: ET.Element | None) -> tuple[tuple[int, int, int], NDArray[np.float64]]:
    if element is None:
        return (0, 0, 0), np.eye(4)
    try:
        x, y, z = (int(n) for n in element.get("VolumeDimensions", "").split(","))
        matrix = element.find("TransformationMatrixVoxelIndicesIJKtoXYZ")
        assert matrix is not None
        affine = np.array((matrix.text or "").split(), dtype=np.float64).reshape(4, 4)
        # Exponent -3 is millimetres.
        affine[:3] *= 10.0 ** (int(matrix.get("MeterExponent", "-3")) + 3)
    except (ValueError, AssertionError) as error:
        raise CiftiError("is damaged: its volume has no three dimensions with a matrix of 16 numbers") from error
    return (x, y, z), affine


def _read_model(element: ET.Element) -> BrainModel:
    structure = element.get("BrainStructure", "").removeprefix(_PREFIX)
    is_surface = element.get("ModelType") == "CIFTI_MODEL_TYPE_SURFACE"
    listed = element.find("VertexIndices" if is_surface else "VoxelIndicesIJK")
    text = "" if listed is None else listed.text or ""
    try:
        indices = np.array(text.split(), dtype=np.int64)
        count, offset = int(element.get("IndexCount", "")), int(element.get("IndexOffset", ""))
        indices = indices if is_surface else indices.reshape(-1, 3)
        n_vertices = int(element.get("SurfaceNumberOfVertices", "")) if is_surface else 0
    except ValueError as error:
        raise CiftiError(f"has a damaged model of {structure or 'no structure'}: {error}") from error
    if len(indices) != count or not count or (is_surface and n_vertices < 1):
        raise CiftiError(f"has a damaged model of {structure}: {len(indices)} indices for {count} values")
    return BrainModel(structure=structure, offset=offset, n_vertices=n_vertices, indices=indices)


_CHUNK: Final = 1 << 18


_TYPES: Final = {
    "NIFTI_TYPE_UINT8": "u1",
    "NIFTI_TYPE_INT16": "i2",
    "NIFTI_TYPE_INT32": "i4",
    "NIFTI_TYPE_FLOAT32": "f4",
    "NIFTI_TYPE_FLOAT64": "f8",
}


_GEOMETRY: Final = ("NIFTI_INTENT_POINTSET", "NIFTI_INTENT_TRIANGLE")


_DAMAGED: Final[tuple[type[Exception], ...]] = (
    binascii.Error,
    zlib.error,
    cast(type[Exception], isal_zlib.IsalError),  # typed as an instance by its stub
    ValueError,
    OSError,
)


_HEMISPHERE: Final = re.compile(r"(?:^|[_.])(?:hemi-)?(L|R|lh|rh)(?=[_.])")


class GiftiError(ValueError):
    """Raised where a file is not a GIFTI time series; the text continues a sentence after its path."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GiftiHeader:
    """Sizes of a file, from its first data array."""

    n_arrays: int  # data arrays that the file promises
    shape: tuple[int, ...]  # of the first array: (V,) for one volume, (V, T) for all at once

    @property
    def n_vertices(self) -> int:
        """Number of vertices of the mesh (V)."""
        return self.shape[0]

    @property
    def n_volumes(self) -> int:
        """Number of volumes (T)."""
        return self.shape[1] if len(self.shape) > 1 and self.n_arrays == 1 else self.n_arrays


def find_hemisphere(name: str) -> str:
    """Find the hemisphere in a file name (``_hemi-L_``, ``lh.``, ``.R.``): ``CORTEX_LEFT``, ``CORTEX_RIGHT``, or
    empty where the name has neither or both."""
    found = {letter[0].upper() for letter in _HEMISPHERE.findall(name)}
    return {"L": LEFT, "R": RIGHT}[found.pop()] if len(found) == 1 else ""


def load_gifti_header(path: Path) -> GiftiHeader:
    """Read the sizes of a ``.func.gii`` file of one hemisphere. Raises GiftiError where it is not GIFTI or holds
    geometry, OSError where it cannot be read."""
    reader = _Reader(path)
    with path.open("rb") as file:
        while not reader.attributes and (chunk := file.read(_CHUNK)):
            reader.feed(chunk, is_last=False)
    if not reader.attributes:
        raise GiftiError("is no GIFTI file with data arrays")
    return reader.header


def read_volumes(path: Path) -> Iterator[NDArray[Any]]:
    """Yield the volumes (V,) of a ``.func.gii`` file in order, in native byte order. Raises GiftiError where the
    file is damaged or its arrays differ in size, OSError where it cannot be read."""
    reader = _Reader(path)
    n_volumes = 0
    with path.open("rb") as file:
        is_last = False
        while not is_last:
            chunk = file.read(_CHUNK)
            is_last = not chunk
            reader.feed(chunk, is_last=is_last)
            while reader.ready:
                array = reader.ready.popleft()
                if array.shape[0] != reader.header.n_vertices:
                    raise GiftiError(
                        f"has {array.shape[0]} vertices in volume {n_volumes + 1} and {reader.header.n_vertices} before"
                    )
                for volume in array.reshape(len(array), -1).T:
                    n_volumes += 1
                    yield volume
    if n_volumes != reader.header.n_volumes:
        raise GiftiError(f"is damaged: {n_volumes} of {reader.header.n_volumes} volumes could be read")


class _Reader:
    """Incremental parser of a GIFTI file that queues its data arrays."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ready: deque[NDArray[Any]] = deque()
        self.attributes: dict[str, str] = {}
        self._first: dict[str, str] = {}
        self._n_arrays = 0
        self._text: list[str] | None = None
        self._parser = expat.ParserCreate()
        self._parser.buffer_text = True
        self._parser.buffer_size = _CHUNK
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._add

    @property
    def header(self) -> GiftiHeader:
        return GiftiHeader(n_arrays=self._n_arrays, shape=_read_shape(self._first))

    def feed(self, chunk: bytes, *, is_last: bool) -> None:
        try:
            self._parser.Parse(chunk, is_last)
        except expat.ExpatError as error:
            raise GiftiError(f"is damaged, or no GIFTI file: {error}") from error

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "GIFTI":
            count = attributes.get("NumberOfDataArrays", "")
            self._n_arrays = int(count) if count.isdecimal() else 0
        elif name == "DataArray":
            self.attributes = attributes
            self._first = self._first or attributes
            if attributes.get("Intent") in _GEOMETRY:
                raise GiftiError("holds the geometry of a surface, no series")
        elif name == "Data" and self.attributes:
            self._text = []

    def _add(self, text: str) -> None:
        if self._text is not None:
            self._text.append(text)

    def _end(self, name: str) -> None:
        if name == "Data" and self._text is not None:
            self.ready.append(_decode("".join(self._text), self.attributes, self.path))
            self._text = None


def _read_shape(attributes: dict[str, str]) -> tuple[int, ...]:
    try:
        shape = tuple(int(attributes[f"Dim{n}"]) for n in range(int(attributes["Dimensionality"])))
    except (KeyError, ValueError) as error:
        raise GiftiError("has a data array without dimensions") from error
    if not 1 <= len(shape) <= 2 or min(shape) < 1:
        raise GiftiError(f"has a data array of the shape {shape}; vertices, or vertices x volumes, are expected")
    return shape


def _decode(text: str, attributes: dict[str, str], path: Path) -> NDArray[Any]:
    """Decode the text of a data array: (V,) or (V, T)."""
    shape = _read_shape(attributes)
    kind, encoding = attributes.get("DataType", ""), attributes.get("Encoding", "")
    if kind not in _TYPES:
        raise GiftiError(f"holds numbers of type {kind or 'unknown'}; one of {', '.join(_TYPES)} is expected")
    order = ">" if attributes.get("Endian") == "BigEndian" else "<"
    dtype = np.dtype(order + _TYPES[kind])
    n_values = int(np.prod(shape, dtype=np.int64))
    try:
        if encoding == "ASCII":
            values = np.array(text.split(), dtype=dtype)
        elif encoding == "Base64Binary":
            values = np.frombuffer(binascii.a2b_base64(text), dtype=dtype)
        elif encoding == "GZipBase64Binary":
            values = np.frombuffer(isal_zlib.decompress(binascii.a2b_base64(text)), dtype=dtype)
        elif encoding == "ExternalFileBinary":
            source = path.parent / attributes.get("ExternalFileName", "")
            offset = int(attributes.get("ExternalFileOffset") or 0)
            values = np.fromfile(source, dtype=dtype, count=n_values, offset=offset)
        else:
            raise GiftiError(f"has data in the unknown encoding {encoding!r}")
    except _DAMAGED as error:
        if isinstance(error, GiftiError):
            raise
        raise GiftiError(f"is damaged: a data array cannot be decoded ({error})") from error
    if values.size != n_values:
        raise GiftiError(f"is damaged: a data array has {values.size} of {n_values} values")
    is_columns = attributes.get("ArrayIndexingOrder") == "ColumnMajorOrder"
    native = values.astype(dtype.newbyteorder("="), copy=False)
    return native.reshape(shape, order="F" if is_columns else "C")


LEFT: Final = "CORTEX_LEFT"


RIGHT: Final = "CORTEX_RIGHT"


CEREBELLAR: Final = ("CEREBELLUM_LEFT", "CEREBELLUM_RIGHT", "CEREBELLUM")


_NAMES: Final = {
    4002: "fsaverage3",
    10242: "fsaverage5",
    32492: "32k",
    40962: "fsaverage6",
    59292: "59k",
    163842: "164k",
}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BrainModel:
    """Vertices or voxels of one structure that a file has values for."""

    structure: str  # CIFTI's name without CIFTI_STRUCTURE_, such as CORTEX_LEFT
    offset: int  # position of the first value in the file
    n_vertices: int  # of the whole mesh (V), including the medial wall; 0 for voxels
    indices: NDArray[np.int64]  # (n,) vertices or (n, 3) voxels i, j, k

    @property
    def place(self) -> slice:
        """Slice of its values in the file."""
        return slice(self.offset, self.offset + len(self.indices))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Grayordinates:
    """All structures of a file."""

    models: tuple[BrainModel, ...]  # in file order
    shape: tuple[int, int, int]  # voxels along x, y, z; zeros without voxels
    affine: NDArray[np.float64]  # (4, 4) voxel to mm

    @property
    def size(self) -> int:
        """Number of values in one volume (G)."""
        return sum(len(model.indices) for model in self.models)

    def find(self, structure: str) -> BrainModel | None:
        """Find a structure, such as ``CORTEX_LEFT``; None where the file has no values for it."""
        return next((model for model in self.models if model.structure == structure), None)


def build_hemispheres(sizes: dict[str, int]) -> Grayordinates:
    """Describe whole meshes without voxels: number of vertices (V) by structure, in the order of the values."""
    models, offset = [], 0
    for structure, size in sizes.items():
        indices = np.arange(size, dtype=np.int64)
        models.append(BrainModel(structure=structure, offset=offset, n_vertices=size, indices=indices))
        offset += size
    return Grayordinates(models=tuple(models), shape=(0, 0, 0), affine=np.eye(4))


def name_mesh(n_vertices: int) -> str:
    """Describe a mesh by its number of vertices and usual name, such as ``32492 vertices (32k)``."""
    usual = _NAMES.get(n_vertices)
    return f"{n_vertices} vertices" + (f" ({usual})" if usual else "")
