"""Where the values of a surface file lie: vertices of cortical meshes and voxels, structure by structure.

Shape letters: G grayordinates of a file, V vertices of a whole mesh.
"""

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
    """The vertices or voxels of one structure that a file has values for.

    Parameters
    ----------
    structure : str
        CIFTI's name without ``CIFTI_STRUCTURE_``, such as ``CORTEX_LEFT``.
    offset : int
        Position of its first value in the file.
    n_vertices : int
        Vertices of the whole mesh (V), the medial wall among them; 0 for voxels.
    indices : NDArray, int64, shape (n,) or (n, 3)
        Vertex of each value, or its voxel's i, j and k.
    """

    structure: str
    offset: int
    n_vertices: int
    indices: NDArray[np.int64]

    @property
    def place(self) -> slice:
        """Where its values lie in the file."""
        return slice(self.offset, self.offset + len(self.indices))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Grayordinates:
    """All structures of a file.

    Parameters
    ----------
    models : tuple of BrainModel
        In the order of the file.
    shape : tuple of int
        Voxels of the grid along x, y, z; zeros without voxels.
    affine : NDArray, float64, shape (4, 4)
        Voxel of that grid to millimetre.
    """

    models: tuple[BrainModel, ...]
    shape: tuple[int, int, int]
    affine: NDArray[np.float64]

    @property
    def size(self) -> int:
        """Values of one volume (G)."""
        return sum(len(model.indices) for model in self.models)

    def find(self, structure: str) -> BrainModel | None:
        """Find a structure.

        Parameters
        ----------
        structure : str
            Such as ``CORTEX_LEFT``.

        Returns
        -------
        BrainModel or None
            None when the file has no values for it.
        """
        return next((model for model in self.models if model.structure == structure), None)


def build_hemispheres(sizes: dict[str, int]) -> Grayordinates:
    """Describe whole meshes, as files of one hemisphere each hold them.

    Parameters
    ----------
    sizes : dict
        Vertices (V) of each structure, in the order of their values.

    Returns
    -------
    Grayordinates
        Without voxels.
    """
    models, offset = [], 0
    for structure, size in sizes.items():
        indices = np.arange(size, dtype=np.int64)
        models.append(BrainModel(structure=structure, offset=offset, n_vertices=size, indices=indices))
        offset += size
    return Grayordinates(models=tuple(models), shape=(0, 0, 0), affine=np.eye(4))


def name_mesh(n_vertices: int) -> str:
    """Say how large a mesh is, and what it is usually called.

    Parameters
    ----------
    n_vertices : int
        Vertices of the whole mesh (V).

    Returns
    -------
    str
        Such as ``32492 vertices (32k)``.
    """
    usual = _NAMES.get(n_vertices)
    return f"{n_vertices} vertices" + (f" ({usual})" if usual else "")
