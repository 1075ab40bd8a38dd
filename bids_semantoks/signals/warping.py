"""Map points between template spaces with ANTs transforms, as TemplateFlow publishes them. n points, X, Y, Z voxels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from bids_semantoks.errors import AtlasError


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Field:
    """A displacement field."""

    displacements: NDArray[np.float32]  # (X, Y, Z, 3) mm
    to_voxels: NDArray[np.float64]  # (4, 4), mm to voxels


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Warp:
    """Transform of points between two spaces."""

    steps: tuple[NDArray[np.float64] | _Field, ...]  # matrices (4, 4) and displacement fields, in order of application

    def map_points(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map points (n, 3) in RAS mm from the space that images are resampled into to the one they come from.
        Displacements are interpolated linearly and zero outside their field, as in ANTs."""
        for step in self.steps:
            points = _displace(points, step) if isinstance(step, _Field) else _multiply(step, points)
        return points


def _multiply(matrix: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    moved: NDArray[np.float64] = points @ matrix[:3, :3].T + matrix[:3, 3]
    return moved


def _displace(points: NDArray[np.float64], field: _Field) -> NDArray[np.float64]:
    voxels = _multiply(field.to_voxels, points)
    shape = field.displacements.shape[:3]
    # A field reaches half a voxel beyond the centres of its outermost voxels.
    inside = np.asarray((voxels >= -0.5) & (voxels < np.asarray(shape) - 0.5)).all(axis=1)
    moved = points.copy()
    for axis in range(3):
        component = field.displacements[..., axis]
        moved[inside, axis] += map_coordinates(component, voxels[inside].T, order=1, mode="nearest", output=np.float64)
    return moved


def load_warp(path: Path) -> Warp:
    """Read a composite ANTs transform of affine and displacement parts (HDF5 ``.h5``), with points as in `map_points`.
    Raises AtlasError if the file is damaged, empty or holds other transforms."""
    # Loading it takes a moment, and few calls warp anything.
    from nitransforms.io.itk import ITKCompositeH5  # noqa: PLC0415

    try:
        parts = ITKCompositeH5.from_filename(path)
        # ITK keeps a stack: what was put on it last is applied first.
        steps = tuple(_to_step(part) for part in reversed(parts))
    except (OSError, KeyError, ValueError, TypeError, IndexError) as error:
        raise AtlasError(
            f"The transform {path} cannot be read: {' '.join(str(error).split()) or type(error).__name__}.",
            hint="A composite transform of ANTs in HDF5 is expected, such as TemplateFlow's *_mode-image_xfm.h5.",
        ) from error
    if not steps:
        raise AtlasError(f"The transform {path} is empty.")
    return Warp(steps=steps)


def _to_step(part: Any) -> NDArray[np.float64] | _Field:
    if hasattr(part, "to_ras"):
        return np.asarray(part.to_ras(), dtype=np.float64)
    displacements = np.asarray(part.dataobj, dtype=np.float32)
    return _Field(displacements=displacements, to_voxels=np.linalg.inv(np.asarray(part.affine, dtype=np.float64)))
