"""CIFTI-2 files: axes, data in blocks of rows, and the vertices and voxels that surface files describe."""

from __future__ import annotations

import functools
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from xml.parsers import expat

import nibabel as nib
import numpy as np
from nibabel.cifti2 import Cifti2BrainModel, Cifti2Header, Cifti2HeaderError, Cifti2MatrixIndicesMap
from nibabel.cifti2.parse_cifti2 import Cifti2Extension
from numpy.typing import NDArray

from bids_semantoks.records import Bools, Floats, Indices

LEFT: Final = "CORTEX_LEFT"
RIGHT: Final = "CORTEX_RIGHT"
CEREBELLAR: Final = ("CEREBELLUM_LEFT", "CEREBELLUM_RIGHT", "CEREBELLUM")
_MAX_XML: Final = 1 << 28
_BLOCK_BYTES: Final = 4 << 20
_MAP: Final = re.compile(rb"<MatrixIndicesMap\b[^>]*?(?:/>|>.*?</MatrixIndicesMap>)", re.DOTALL)

_MESHES: Final = {
    4002: "fsaverage3",
    10242: "fsaverage5",
    32492: "32k",
    40962: "fsaverage6",
    59292: "59k",
    163842: "164k",
}


class CiftiError(ValueError):
    """Raised if a file is not CIFTI-2 of the expected kind; the message follows the path in a sentence."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BrainModel:
    """Vertices or voxels of one structure for which a file has values."""

    structure: str  # CIFTI's name without CIFTI_STRUCTURE_, such as CORTEX_LEFT
    offset: int  # position of the first value in the file
    n_vertices: int  # of the whole mesh (V), including the medial wall; 0 for voxels
    indices: Indices  # (n,) vertices or (n, 3) voxels i, j, k

    @property
    def place(self) -> slice:
        """Slice of its values in the file."""
        return slice(self.offset, self.offset + len(self.indices))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Grayordinates:
    """All structures of a file."""

    models: tuple[BrainModel, ...]  # in file order
    shape: tuple[int, int, int]  # voxels along x, y, z; zeros without voxels
    affine: Floats  # (4, 4) voxel to mm

    @property
    def size(self) -> int:
        """Number of values in one volume (G)."""
        return sum(len(model.indices) for model in self.models)

    def find(self, structure: str) -> BrainModel | None:
        """Find a structure, such as ``CORTEX_LEFT``; None if the file has no values for it."""
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
    usual = _MESHES.get(n_vertices)
    return f"{n_vertices} vertices" + (f" ({usual})" if usual else "")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CiftiFile:
    """A CIFTI-2 matrix: its two axes and where its numbers are stored."""

    path: Path
    shape: tuple[int, int]  # length of a row (dimension 0, contiguous in the file), number of rows (dimension 1)
    axes: tuple[Cifti2MatrixIndicesMap, Cifti2MatrixIndicesMap]  # of dimensions 0 and 1
    dtype: np.dtype[Any]  # of the stored numbers, with their byte order
    slope: float  # value = slope * stored + intercept
    intercept: float
    offset: int  # bytes before the first number

    @property
    def kinds(self) -> tuple[str, str]:
        """Kinds of dimensions 0 and 1: SERIES, BRAIN_MODELS, PARCELS, LABELS or SCALARS."""
        along, down = (axis.indices_map_to_data_type.removeprefix("CIFTI_INDEX_TYPE_") for axis in self.axes)
        return along, down

    def check_kinds(self, along: str, down: str) -> None:
        """Raise CiftiError unless dimensions 0 (`along`) and 1 (`down`) are of these kinds."""
        if self.kinds != (along, down):
            raise CiftiError(f"maps {' x '.join(self.kinds)}; expected {along} x {down}")

    def check_complete(self) -> None:
        """Raise CiftiError if the file is too short for its rows."""
        row = self.shape[0] * self.dtype.itemsize
        n_bytes = self.path.stat().st_size - self.offset
        if n_bytes < row * self.shape[1]:
            raise CiftiError(f"is damaged: it ends after {max(0, n_bytes) // row} of {self.shape[1]} rows")


def load_cifti(path: Path) -> CiftiFile:
    """Read the header of an uncompressed CIFTI-2 file. Raises CiftiError if it is damaged, not CIFTI-2 or does
    not have two axes, OSError if it cannot be read."""
    with path.open("rb") as file:
        header = _read_header(file.read(540))
        content = _find_extension(file, header)
    _check_version(content)
    dims = [int(n) for n in header["dim"]]
    if dims[0] != 6 or dims[1:5] != [1, 1, 1, 1] or min(dims[5:7]) < 1:
        raise CiftiError(f"has dimensions {dims[1 : dims[0] + 1]}; expected 1, 1, 1, 1 and two more")
    axes = {
        number: axis for axis in map(_read_axis, _MAP.findall(content)) for number in axis.applies_to_matrix_dimension
    }
    if set(axes) != {0, 1}:
        raise CiftiError(f"describes dimensions {', '.join(map(str, sorted(axes))) or 'none'}; expected 0 and 1")
    dtype = header.get_data_dtype()
    if dtype.kind not in "iuf":
        raise CiftiError(f"has data of type {dtype}; expected integers or real numbers")
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    is_scaled = np.isfinite(slope) and slope != 0
    return CiftiFile(
        path=path,
        shape=(dims[5], dims[6]),
        axes=(axes[0], axes[1]),
        dtype=dtype,
        slope=slope if is_scaled else 1.0,
        intercept=intercept if is_scaled and np.isfinite(intercept) else 0.0,
        offset=int(header["vox_offset"]),
    )


def read_grayordinate_rows(file: CiftiFile, wanted: Bools | None = None) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield (first row, stored numbers in native byte order) in blocks of whole rows, a few MB each. Blocks without any
    `wanted` row (rows,) are skipped. Copy a block to keep it: its memory is reused for the next. Raises CiftiError if
    the file is truncated."""
    file.check_complete()
    length, n_rows = file.shape
    row_bytes = length * file.dtype.itemsize
    per_block = max(1, min(_BLOCK_BYTES // row_bytes, n_rows))
    memory = bytearray(per_block * row_bytes)
    with file.path.open("rb") as stream:
        for start in range(0, n_rows, per_block):
            stop = min(start + per_block, n_rows)
            if wanted is not None and not wanted[start:stop].any():
                continue
            stream.seek(file.offset + start * row_bytes)
            view = memoryview(memory)[: (stop - start) * row_bytes]
            if stream.readinto(view) < len(view):
                raise CiftiError(f"is truncated in or after row {start}")
            stored = np.frombuffer(view, dtype=file.dtype).reshape(stop - start, length)
            yield start, stored.astype(file.dtype.newbyteorder("="), copy=False)


def _read_header(block: bytes) -> Any:
    header = nib.Nifti2Header(block.ljust(540, b"\0"), check=False)
    if (
        len(block) < 540
        or int(header["sizeof_hdr"]) != 540
        or bytes(header["magic"].item()).rstrip(b"\r\n\x1a\0") != b"n+2"
    ):
        raise CiftiError("is not a CIFTI-2 file: it does not begin with a NIfTI-2 header")
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
        if code == Cifti2Extension.code:
            return content.rstrip(b"\0 ")
    raise CiftiError("is not a CIFTI-2 file: its NIfTI-2 header has no CIFTI extension")


def _check_version(content: bytes) -> None:
    """Raise CiftiError unless the header is CIFTI-2 XML."""
    elements: list[dict[str, str]] = []
    parser = expat.ParserCreate()
    parser.StartElementHandler = lambda _, attributes: elements.append(attributes)
    try:
        parser.Parse(content, True)
    except expat.ExpatError as error:
        raise CiftiError(f"is damaged: its CIFTI header is not valid XML ({error})") from error
    version = elements[0].get("Version", "unknown")
    if not version.startswith("2"):
        raise CiftiError(f"is CIFTI version {version}; expected version 2")


# Parsing the brain models takes as long as averaging a run, and all runs of a study share them.
@functools.lru_cache(maxsize=8)
def _read_axis(content: bytes) -> Cifti2MatrixIndicesMap:
    whole = b'<CIFTI Version="2"><Matrix>%s</Matrix></CIFTI>' % content
    try:
        header: Cifti2Header = Cifti2Extension(Cifti2Extension.code, whole).get_content()
    except (Cifti2HeaderError, ValueError, KeyError) as error:
        raise CiftiError(f"is damaged: its CIFTI header cannot be read ({error})") from error
    return header.matrix[0]


def read_series_step(axis: Cifti2MatrixIndicesMap) -> float | None:
    """Read the time between volumes (s) from a ``SERIES`` axis; None if it is not positive or not in seconds."""
    if axis.series_step is None or axis.series_unit != "SECOND":
        return None
    try:
        step: float = axis.series_step * 10.0 ** (axis.series_exponent or 0)
    except OverflowError:
        return None
    return step if np.isfinite(step) and step > 0 else None


def read_grayordinates(axis: Cifti2MatrixIndicesMap) -> Grayordinates:
    """Read the vertices and voxels of a ``BRAIN_MODELS`` axis, in file order. Raises CiftiError if models are
    missing, damaged, repeated or not contiguous."""
    shape, affine = _read_volume(axis.volume)
    models = sorted(map(_read_model, axis.brain_models), key=lambda model: model.offset)
    grayordinates = Grayordinates(models=tuple(models), shape=shape, affine=affine)
    end = 0
    for model in models:
        limits = (model.n_vertices,) if model.n_vertices else shape
        indices = model.indices.reshape(len(model.indices), -1)
        if model.offset != end or (indices < 0).any() or (indices >= limits).any():
            raise CiftiError(
                f"has a damaged brain model for {model.structure}: its indices are out of range or overlap"
            )
        end += len(indices)
    if len({model.structure for model in models}) != len(models) or not models:
        raise CiftiError("has no brain models" if not models else "has two brain models for one structure")
    return grayordinates


def read_label_names(axis: Cifti2MatrixIndicesMap, map_index: int = 0) -> dict[int, str]:
    """Read the name of each key in a map of a ``LABELS`` axis."""
    tables = [one.label_table for one in axis.named_maps]
    table = tables[map_index] if map_index < len(tables) else None
    return {key: " ".join((label.label or "").split()) for key, label in (table or {}).items()}


def _read_volume(volume: Any) -> tuple[tuple[int, int, int], Floats]:
    if volume is None:
        return (0, 0, 0), np.eye(4)
    transform = volume.transformation_matrix_voxel_indices_ijk_to_xyz
    if len(volume.volume_dimensions) != 3 or transform is None or transform.matrix is None:
        raise CiftiError("is damaged: its Volume element lacks three dimensions or a 4 x 4 matrix")
    x, y, z = volume.volume_dimensions
    affine = np.array(transform.matrix, dtype=np.float64)
    # Exponent -3 is millimetres.
    affine[:3] *= 10.0 ** (transform.meter_exponent + 3)
    return (x, y, z), affine


def _read_model(model: Cifti2BrainModel) -> BrainModel:
    structure = model.brain_structure.removeprefix("CIFTI_STRUCTURE_")
    is_surface = model.model_type == "CIFTI_MODEL_TYPE_SURFACE"
    listed = model.vertex_indices if is_surface else model.voxel_indices_ijk
    indices = np.array(listed or [], dtype=np.int64).reshape((-1,) if is_surface else (-1, 3))
    n_vertices = (model.surface_number_of_vertices or 0) if is_surface else 0
    is_placed = model.index_offset is not None and bool(model.index_count)
    if len(indices) != model.index_count or not is_placed or (is_surface and n_vertices < 1):
        raise CiftiError(
            f"has a damaged brain model for {structure}: {len(indices)} indices for {model.index_count} values"
        )
    return BrainModel(structure=structure, offset=model.index_offset, n_vertices=n_vertices, indices=indices)
