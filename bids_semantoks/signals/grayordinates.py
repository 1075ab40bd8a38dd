"""Vertices and voxels of a surface file by structure (G grayordinates of a file, V vertices of a whole mesh)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

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
