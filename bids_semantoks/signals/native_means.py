"""Mean of each parcel in volumes that are still in native space, with FSL's warp to the standard grid.

Interpolation and mean are linear, so one sparse matrix (parcels x native voxels) is equivalent to resampling and
averaging every volume. T volumes, P parcels, S standard voxels in parcels and mask, V native voxels around them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.atlases.label_images import build_label_grid
from bids_semantoks.errors import AtlasError, RunFailed
from bids_semantoks.images.fsl_warps import find_neighbours, is_inside, load_fsl_warp
from bids_semantoks.images.volumes import Volumes, load_mask
from bids_semantoks.records import Atlas
from bids_semantoks.signals.volume_means import (
    ParcelMeans,
    VoxelSums,
    describe_lost,
    find_lost,
    scale_sums,
    sum_volumes,
)


def extract_native_means(volumes: Volumes, mask: Path, warp_path: Path, atlas: Atlas) -> ParcelMeans:
    """Average each parcel over its voxels of the warp's standard grid: native 4-D image -> (T, P).

    A standard voxel is used if it falls inside the native image and mask, one of its native neighbours varies in time
    and all are finite except in lost volumes. The file is streamed in blocks, and a second time only if an unusable
    voxel entered a sum or a volume is lost. Raises AtlasError if the atlas covers nothing of the standard grid,
    RunSkipped no_content, RunFailed bad_image, space_mismatch (image and mask) or low_coverage (no voxel of a parcel is
    in the mask).
    """
    inside, warp = load_mask(mask, volumes), load_fsl_warp(warp_path)
    try:
        grid = build_label_grid(atlas, warp.field.shape[:3], warp.affine)
    except AtlasError as error:
        raise AtlasError(f"{warp_path}: {error.message}", hint=error.hint) from error
    standard = np.argwhere(grid)
    parcels = grid[tuple(standard.T)] - 1
    n_voxels = np.bincount(parcels, minlength=len(atlas.parcels))
    places = warp.locate(standard, volumes)
    here = is_inside(places, inside)
    if not here.any():
        raise RunFailed(
            "low_coverage",
            f"No voxel of the atlas {atlas.name} is in the brain mask {mask} after applying the warp {warp_path}.",
        )
    parcels = parcels[here]
    shares, voxels = _build_shares(places[here], volumes.shape)
    sums, usable, lost, notes = _sum_usable(volumes, voxels, shares, parcels, len(atlas.parcels))
    n_used = np.bincount(parcels[usable], minlength=len(atlas.parcels))
    values = scale_sums(volumes.path, sums[:, n_used > 0], n_used, volumes.slope, volumes.intercept)
    values[lost] = np.nan
    return ParcelMeans(values=values, n_used=n_used, n_voxels=n_voxels, warnings=notes, resampling=warp.describe())


def _build_shares(places: NDArray[np.float64], shape: tuple[int, int, int]) -> tuple[Any, NDArray[np.intp]]:
    """Build the matrix (S, V) that interpolates at places (S, 3), and find its native voxels (V,), Fortran order."""
    from scipy.sparse import csr_array

    positions, weights = find_neighbours(places, shape)
    is_used = weights > 0
    rows, positions = np.broadcast_to(np.arange(len(places)), positions.shape)[is_used], positions[is_used]
    # Flagging each voxel is much faster than sorting a million positions.
    is_seen = np.zeros(np.prod(shape), dtype=np.bool_)
    is_seen[positions] = True
    columns = (np.cumsum(is_seen) - 1)[positions]
    voxels = np.flatnonzero(is_seen)
    return csr_array((weights[is_used], (rows, columns)), shape=(len(places), voxels.size)), voxels


def _sum_usable(
    volumes: Volumes, voxels: NDArray[np.intp], shares: Any, parcels: NDArray[np.int32], n_parcels: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], tuple[str, ...]]:
    """Sum the standard voxels that count: sums (T, P), which count (S,), which volumes are lost (T,), and warnings."""
    sums, found = _stream(volumes, voxels, shares, parcels, n_parcels)
    if (lost := find_lost(found.n_finite)).any():
        sums, found = _stream(volumes, voxels, shares, parcels, n_parcels, lost)
    broken = shares @ ~found.always_finite > 0
    usable = (shares @ found.varies > 0) & ~broken
    if not usable.any():
        what = "next to NaN or infinite values" if broken.any() else "constant"
        raise RunFailed("bad_image", f"All {usable.size} voxels of {volumes.path} in parcels and mask are {what}.")
    # Most unusable voxels are 0 in all volumes and do not affect the sums.
    if broken.any() or np.any(shares[~usable] @ found.start):
        sums, _ = _stream(volumes, voxels, shares[usable], parcels[usable], n_parcels, lost)
    n_broken = int(broken.sum())
    notes = (f"{n_broken} voxels in parcels are next to NaN or infinite values and were excluded.",) if n_broken else ()
    return sums, usable, lost, (*notes, *describe_lost(lost))


def _stream(
    volumes: Volumes,
    voxels: NDArray[np.intp],
    shares: Any,
    parcels: NDArray[np.int32],
    n_parcels: int,
    lost: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.float64], VoxelSums]:
    from scipy.sparse import csr_array

    n_standard = parcels.size
    members = csr_array((np.ones(n_standard), (parcels, np.arange(n_standard))), shape=(n_parcels, n_standard))
    weights = members @ shares

    def add_up(values: NDArray[Any], out: NDArray[Any]) -> None:
        out[:] = weights @ values

    found = sum_volumes(volumes, voxels, np.empty((volumes.n_volumes, n_parcels)), add_up, lost)
    return found.totals, found
