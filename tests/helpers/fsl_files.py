"""A run in native space with FSL's warp to a standard grid, from a mapping that is known voxel by voxel."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.ndimage import map_coordinates

STANDARD, NATIVE = (11, 13, 9), (10, 8, 7)
STANDARD_SIZE, NATIVE_SIZE = (2.0, 2.5, 3.0), (2.4, 3.0, 2.7)


def build_affine(size, *, is_positive, origin=(-9.0, -14.0, -11.0)):
    """Voxel to mm, with a determinant of this sign: a negative one turns x around, as in FSL's template."""
    affine = np.diag([*size, 1.0])
    affine[:3, 3] = origin
    if not is_positive:
        affine[0] *= -1
    return affine


def to_fsl(shape, size, affine):
    """Voxel to FSL's millimetres as one matrix (4, 4)."""
    matrix = np.diag([*size, 1.0])
    if np.linalg.det(affine) > 0:
        matrix[0, 0], matrix[0, 3] = -size[0], (shape[0] - 1) * size[0]
    return matrix


def map_voxels():
    """Where each standard voxel lies in the native image (X, Y, Z, 3): smooth, not linear, at the edges outside."""
    x, y, z = np.indices(STANDARD, dtype=float)
    return np.stack(
        [
            -0.6 + 0.95 * x + 0.4 * np.sin(y / 3),
            0.3 + 0.6 * y + 0.3 * np.cos(x / 4) + 0.02 * z,
            -0.33 + 0.75 * z + 0.3 * np.sin(x * y / 40),
        ],
        axis=-1,
    )


def write_warp(path, places, *, native_affine, standard_affine, is_absolute, intent=0, code=4):
    """Write the field that maps standard voxels to native `places`; returns the path."""
    native = to_fsl(NATIVE, NATIVE_SIZE, native_affine)
    standard = to_fsl(STANDARD, STANDARD_SIZE, standard_affine)
    field = places @ native[:3, :3].T + native[:3, 3]
    if not is_absolute:
        field = field - (np.moveaxis(np.indices(STANDARD), 0, -1) @ standard[:3, :3].T + standard[:3, 3])
    image = nib.Nifti1Image(field.astype(np.float32), standard_affine)
    image.set_sform(standard_affine, code)
    image.set_qform(standard_affine, code)
    image.header["intent_code"] = intent
    path.parent.mkdir(parents=True, exist_ok=True)
    image.to_filename(path)
    return path


def resample_and_average(volumes, places, labels, inside, n_parcels):
    """What must come out: resample every volume, keep the voxels in the native mask that vary, average."""
    last = np.asarray(volumes.shape[:3]) - 1
    flat = places.reshape(-1, 3)
    here = ((flat >= 0) & (flat <= last)).all(axis=1)
    nearest = np.clip(np.rint(flat), 0, last).astype(int)
    here &= inside[tuple(nearest.T)]
    series = np.stack([map_coordinates(one.astype(float), flat.T, order=1) for one in np.moveaxis(volumes, -1, 0)])
    with np.errstate(invalid="ignore"):
        here &= np.isfinite(series).all(axis=0) & (np.ptp(series, axis=0) > 1e-9)
    means, n_used = np.full((len(series), n_parcels), np.nan), np.zeros(n_parcels, dtype=int)
    for parcel in range(n_parcels):
        chosen = here & (labels.ravel() == parcel + 1)
        n_used[parcel] = chosen.sum()
        if chosen.any():
            means[:, parcel] = series[:, chosen].mean(axis=1)
    return means, n_used


def write_native_run(folder: Path, volumes, *, affine, inside=None, step=2.0, zooms=NATIVE_SIZE) -> tuple[Path, Path]:
    """Write volumes and mask under the names that FSL's pipelines give them; returns both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    bold, mask = folder / "filtered_func_data_clean.nii.gz", folder / "mask.nii.gz"
    image = nib.Nifti1Image(volumes, affine)
    image.header.set_zooms((*zooms, step))
    image.header.set_xyzt_units("mm", "sec")
    image.to_filename(bold)
    inside = np.ones(volumes.shape[:3]) if inside is None else inside
    nib.Nifti1Image(inside.astype(np.uint8), affine).to_filename(mask)
    return bold, mask
