"""Warp fields of FSL: where each voxel of the standard grid falls in a run's native volumes."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from bids_semantoks.disk import check_content, check_size
from bids_semantoks.errors import RunFailed
from bids_semantoks.images.volumes import DAMAGED, Volumes, check_compressed, one_line
from bids_semantoks.records import Bools, Floats

# NIfTI intent codes of FSL's spline and DCT coefficients (of FNIRT and of TOPUP). The code of a field says nothing
# about its convention, and tools that copy a header may leave an unrelated one.
_COEFFICIENTS: Final = frozenset({2007, 2008, 2009, 2016, 2017})

# Fields are float32 sums: up to this fraction of a voxel beyond the image counts as inside.
_ROUNDING: Final = 1e-3


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FslWarp:
    """A field on the grid of the standard image. FSL's millimetres are voxel index times voxel size, with x counted
    from the other end if the affine has a positive determinant; origin and rotation do not matter."""

    path: Path
    field: NDArray[np.float32]  # (X, Y, Z, 3) FSL's mm
    affine: Floats  # (4, 4) voxel to mm of the standard space
    zooms: tuple[float, ...]  # voxel size (3,), mm
    is_absolute: bool  # the field holds positions in the native image, not displacements

    def locate(self, voxels: NDArray[np.intp], volumes: Volumes) -> Floats:
        """Map voxels (n, 3) of the standard grid to native voxel coordinates (n, 3), possibly outside the image;
        NaN where the field is not finite."""
        places = self.field[tuple(voxels.T)].astype(np.float64)
        if not self.is_absolute:
            places += _mirror(voxels, self.field.shape, self.affine) * self.zooms
        return _mirror(places / volumes.zooms, volumes.shape, volumes.affine)

    def describe(self) -> str:
        """Describe in one sentence what was done, for sidecars."""
        grid = " x ".join(map(str, self.field.shape[:3]))
        kind = "absolute coordinates" if self.is_absolute else "relative displacements"
        return (
            f"Each voxel of the standard grid ({grid}) was interpolated trilinearly in the native volumes at the "
            f"position given by {self.path.name}; the field holds {kind} in FSL's millimetres."
        )


def _mirror(voxels: NDArray[Any], shape: tuple[int, ...], affine: Floats) -> Floats:
    """Flip x where FSL does; the function is its own inverse."""
    mirrored = voxels.astype(np.float64)
    if _is_mirrored(affine):
        mirrored[:, 0] = shape[0] - 1 - mirrored[:, 0]
    return mirrored


def _is_mirrored(affine: Floats) -> bool:
    return bool(np.linalg.det(affine[:3, :3]) > 0)


def load_fsl_warp(path: Path) -> FslWarp:
    """Read a field as written by convertwarp and fnirt --fout. Raises RunFailed bad_image if it is damaged, holds
    coefficients or has no affine to standard space; RunSkipped no_content."""
    check_content(path)
    try:
        image = nib.load(path)
        if not isinstance(image, nib.Nifti1Image):
            raise RunFailed("bad_image", f"The warp {path} is a {type(image).__name__}; expected a NIfTI image.")
        header, shape = image.header, tuple(image.shape)
        intent = int(header["intent_code"])
        is_placed = bool(header["sform_code"] or header["qform_code"])
        zooms = tuple(float(size) for size in header.get_zooms()[:3])
        affine = np.asarray(image.affine, dtype=np.float64)
        check_size(path, shape, image.get_data_dtype())
        field = np.asarray(image.dataobj, dtype=np.float32)
        check_compressed(path)
    except DAMAGED as error:
        raise RunFailed("bad_image", f"The warp {path} cannot be read: {one_line(error)}") from error
    if intent in _COEFFICIENTS:
        raise RunFailed(
            "bad_image",
            f"The warp {path} contains coefficients (intent code {intent}); expected a displacement field.",
            hint="Convert it to a field with fnirtfileutils (--in, --ref, --out, --withaff), or warp the run with "
            "applywarp, which reads both.",
        )
    if len(shape) != 4 or shape[3] != 3 or min(zooms) <= 0 or not np.isfinite(affine).all():
        raise RunFailed("bad_image", f"The warp {path} has shape {shape}; expected (x, y, z, 3).")
    if not is_placed:
        raise RunFailed(
            "bad_image",
            f"The warp {path} has neither sform nor qform, so its position in standard space is unknown.",
            hint="Copy the header from the standard image it was made with (fslcpgeom -d).",
        )
    return FslWarp(path=path, field=field, affine=affine, zooms=zooms, is_absolute=_is_absolute(field, affine, zooms))


def _is_absolute(field: NDArray[np.float32], affine: Floats, zooms: tuple[float, ...]) -> bool:
    """Distinguish positions from displacements as FSL does: displacements vary less than the positions they lead to."""
    spread = np.zeros(2)
    for axis, size in enumerate(zooms):
        stored = np.moveaxis(field[..., axis], axis, 2).astype(np.float64)
        grid = np.arange(field.shape[axis]) * size
        grid = grid[::-1] if axis == 0 and _is_mirrored(affine) else grid
        spread += np.nanstd(stored), np.nanstd(stored - grid)
    return bool(spread[0] > spread[1])


def describe_applywarp(bold: Path, warp: Path) -> str:
    """Return the shell commands that warp a run to FSL's 2 mm standard grid."""
    stem = shlex.quote(bold.name.removesuffix(".gz").removesuffix(".nii"))
    field = shlex.quote(os.path.relpath(warp, bold.parent).removesuffix(".gz").removesuffix(".nii"))
    return (
        f"cd {shlex.quote(str(bold.parent))} && applywarp --in={stem} --ref=$FSLDIR/data/standard/MNI152_T1_2mm "
        f"--warp={field} --out={stem}_stand"
    )


def check_warp(bold: Path, mask: Path | None, warp: Path) -> None:
    """Raise if a run in native space lacks its warp (RunFailed space_mismatch) or brain mask (no_mask)."""
    check_content(warp)
    if mask is not None and warp.is_file():
        return
    # `cd` first: repeating the path in every argument would make the command unreadable.
    field = os.path.relpath(warp, bold.parent)
    lacking = f"its warp to standard space, {field}," if not warp.is_file() else "its brain mask"
    raise RunFailed(
        "space_mismatch" if not warp.is_file() else "no_mask",
        f"{bold.name} is in native space and {lacking} is missing.",
        hint=f"Unpack the whole archive, or warp the run: {describe_applywarp(bold, warp)}",
    )


def find_neighbours(places: Floats, shape: tuple[int, int, int]) -> tuple[NDArray[np.intp], Floats]:
    """Find the eight voxels around each point (n, 3 voxel coordinates, inside the image) and their trilinear weights:
    positions (8, n) in Fortran order, and weights (8, n)."""
    last = np.asarray(shape) - 1
    clipped = np.clip(places, 0, last)
    low = np.floor(clipped).astype(np.intp)
    share = clipped - low
    positions, weights = [], []
    for corner in np.ndindex(2, 2, 2):
        at = np.minimum(low + corner, last)
        positions.append(np.ravel_multi_index(tuple(at.T), shape, order="F"))
        weights.append(np.where(corner, share, 1 - share).prod(axis=1))
    return np.stack(positions), np.stack(weights)


def is_inside(places: Floats, inside: Bools) -> Bools:
    """Select positions (n, 3 voxel coordinates) within the mask's image whose nearest voxel is in the mask."""
    last = np.asarray(inside.shape) - 1
    found = np.asarray(((places >= -_ROUNDING) & (places <= last + _ROUNDING)).all(axis=1))
    nearest = np.floor(np.clip(places[found], 0, last) + 0.5).astype(np.intp)
    found[found] = inside[tuple(nearest.T)]
    return found
