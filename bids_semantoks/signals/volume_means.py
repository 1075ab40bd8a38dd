"""Mean of each parcel's voxels in every volume, summed while the file is decompressed. T volumes, P parcels, V voxels
in a parcel and in the brain mask, Q parcels with such voxels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.atlases.label_images import build_label_grid
from bids_semantoks.errors import AtlasError, RunFailed, name_some
from bids_semantoks.images.fsl_warps import find_neighbours, is_inside, load_fsl_warp
from bids_semantoks.images.volumes import Volumes, load_mask, read_blocks
from bids_semantoks.records import Atlas
from bids_semantoks.signals.cleaning import is_in_range


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ParcelMeans:
    """Mean signals of one run's parcels."""

    values: NDArray[np.float64]  # (T, P) in the image's units; NaN for lost volumes and parcels without a usable voxel
    n_used: NDArray[np.int64]  # (P,) voxels that are in the mask, vary in time and are finite
    n_voxels: NDArray[np.int64]  # (P,) all voxels of a parcel on the run's grid
    warnings: tuple[str, ...]
    resampling: str = ""  # how volumes were interpolated, in one sentence; empty if they were not

    @property
    def coverage(self) -> NDArray[np.float64]:
        """Share of each parcel's voxels that were used (P,); 0 for a parcel without voxels."""
        return self.n_used / np.maximum(self.n_voxels, 1)


def scale_sums(
    path: Path, sums: NDArray[Any], n_used: NDArray[np.int64], slope: float, intercept: float
) -> NDArray[np.float64]:
    """Turn sums (T, parcels with n_used > 0) into means (T, P) in the image's units; NaN for the other parcels. Raises
    RunFailed bad_image if one is not finite or beyond the range of float32, as caused by damaged scaling factors."""
    present = n_used > 0
    values = np.full((len(sums), n_used.size), np.nan)
    values[:, present] = sums / n_used[present] * slope + intercept
    if not np.isfinite(values[:, present]).all() or not is_in_range(values):
        raise RunFailed(
            "bad_image",
            f"{path} has implausibly large or small values (maximum {np.nanmax(np.abs(values)):.3g}; slope {slope:g}, "
            f"intercept {intercept:g}).",
            hint="Its header may be damaged.",
        )
    return values


def extract_means(volumes: Volumes, mask: Path | None, atlas: Atlas) -> ParcelMeans:
    """Average the voxels of each parcel that are in the brain mask and vary in time: 4-D image -> (T, P).

    The file is streamed in blocks. Sums are exact for integers of up to 32 bits, float64 otherwise; voxels that are
    constant or ever NaN or infinite are not used. A volume in which half of the otherwise finite voxels are not finite
    is lost, so that they remain usable. The file is read a second time only if an unusable voxel entered a sum of real
    numbers, from which it cannot be removed exactly. `mask` may be None for an image that is constant outside the
    brain. Raises AtlasError if the atlas covers nothing of the image, RunSkipped no_content, RunFailed bad_image,
    space_mismatch (image and mask) or low_coverage (no voxel of a parcel is in the mask).
    """
    inside = np.ones(volumes.shape, dtype=np.bool_) if mask is None else load_mask(mask, volumes)
    try:
        grid = build_label_grid(atlas, volumes.shape, volumes.affine)
    except AtlasError as error:
        raise AtlasError(f"{volumes.path}: {error.message}", hint=error.hint) from error
    n_parcels = len(atlas.parcels)
    labels = grid.ravel(order="F")
    n_voxels = np.bincount(labels, minlength=n_parcels + 1)[1:]
    voxels = np.flatnonzero((labels > 0) & inside.ravel(order="F"))
    if voxels.size == 0:
        raise RunFailed("low_coverage", f"No voxel of the atlas {atlas.name} is in the brain mask {mask}.")
    # Sorted by parcel, a parcel's voxels are one slice and their sums one pass over memory.
    voxels = voxels[np.argsort(labels[voxels], kind="stable")]
    parcels = labels[voxels] - 1
    totals, usable, lost, notes = _sum_usable(volumes, voxels, parcels)
    n_used = np.bincount(parcels[usable], minlength=n_parcels)
    sums = totals[:, n_used[np.unique(parcels)] > 0]
    values = scale_sums(volumes.path, sums, n_used, volumes.slope, volumes.intercept)
    values[lost] = np.nan
    return ParcelMeans(values=values, n_used=n_used, n_voxels=n_voxels, warnings=notes)


def find_lost(n_finite: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Find the volumes (T,) with less than half of the finite values (T,) that the best volume has."""
    return np.asarray(n_finite * 2 < n_finite.max(initial=0))


def describe_lost(lost: NDArray[np.bool_]) -> tuple[str, ...]:
    """Name the volumes (T,) that are lost, in a warning."""
    if not lost.any():
        return ()
    listed = name_some(np.flatnonzero(lost).tolist())
    return (f"{int(lost.sum())} volumes contain NaN or infinite values and are set to n/a: {listed} (counted from 0).",)


def _sum_usable(
    volumes: Volumes, voxels: NDArray[np.intp], parcels: NDArray[np.int32]
) -> tuple[NDArray[Any], NDArray[np.bool_], NDArray[np.bool_], tuple[str, ...]]:
    """Sum the usable voxels: totals (T, Q), which voxels (V,) are usable, which volumes (T,) are lost, and warnings."""
    first = _sum_parcels(volumes, voxels, parcels)
    if (lost := find_lost(first.n_finite)).any():
        first = _sum_parcels(volumes, voxels, parcels, lost)
    constant = ~first.varies & first.always_finite
    usable = first.varies & first.always_finite
    n_broken = int((~first.always_finite).sum())
    if not usable.any():
        what = "are NaN or infinite" if n_broken else f"are constant ({np.unique(first.start).size} different values)"
        if not n_broken and not first.start.any():
            what = "are 0 in all volumes"
        raise RunFailed("bad_image", f"All {voxels.size} voxels of {volumes.path} in parcels and mask {what}.")
    notes = (f"{n_broken} voxels in parcels are NaN or infinite in some volume and were excluded.",) if n_broken else ()
    notes = (*notes, *describe_lost(lost))
    starts = _starts(parcels)
    if volumes.dtype.kind != "f" and first.totals.dtype.kind == "i":
        totals = first.totals - np.add.reduceat(np.where(constant, first.start, 0), starts, dtype=np.int64)
        return totals, usable, lost, notes
    if not (constant & (first.start != 0)).any() and not (first.ever_finite & ~first.always_finite).any():
        return first.totals, usable, lost, notes
    again = _sum_parcels(volumes, voxels[usable], parcels[usable], lost)
    totals = np.zeros_like(first.totals)
    totals[:, np.isin(parcels[starts], parcels[usable])] = again.totals
    return totals, usable, lost, notes


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class VoxelSums:
    """One pass over the file: sums (T, Q) and counts (T,) of finite values; first value and flags of voxels (V,)."""

    totals: NDArray[Any]
    start: NDArray[Any]
    varies: NDArray[np.bool_]
    ever_finite: NDArray[np.bool_]
    always_finite: NDArray[np.bool_]
    n_finite: NDArray[np.int64]


def _sum_parcels(
    volumes: Volumes, voxels: NDArray[np.intp], parcels: NDArray[np.int32], lost: NDArray[np.bool_] | None = None
) -> VoxelSums:
    """Sum all volumes but the `lost` (T,), whose sums are 0."""
    starts = _starts(parcels)
    # 2**63 is far beyond any sum of 32-bit voxels, but not of 64-bit ones.
    exact = np.dtype(np.float64 if volumes.dtype.kind == "f" or volumes.dtype.itemsize == 8 else np.int64)
    totals = np.empty((volumes.n_volumes, starts.size), dtype=exact)

    def add_up(values: NDArray[Any], out: NDArray[Any]) -> None:
        np.add.reduceat(values, starts, dtype=exact, out=out)

    return sum_volumes(volumes, voxels, totals, add_up, lost)


def sum_volumes(
    volumes: Volumes,
    voxels: NDArray[np.intp],
    totals: NDArray[Any],
    add_up: Callable[[NDArray[Any], NDArray[Any]], None],
    lost: NDArray[np.bool_] | None = None,
) -> VoxelSums:
    """Stream a file once. `add_up` writes the sums of one volume's voxels (V,), 0 where not finite, into a row of
    `totals` (T, Q); `voxels` are positions in Fortran order. `lost` volumes (T,) are skipped, their sums are 0."""
    native = volumes.dtype.newbyteorder("=")
    is_real = volumes.dtype.kind == "f"
    stored = np.empty(voxels.size, dtype=volumes.dtype)
    varies, ever_finite = np.zeros((2, voxels.size), dtype=np.bool_)
    always_finite = np.ones(voxels.size, dtype=np.bool_)
    steady = np.arange(voxels.size)
    start = np.empty(0, dtype=native)
    n_finite = np.full(volumes.n_volumes, voxels.size)
    volume = -1
    for block in read_blocks(volumes):
        for row in block:
            volume += 1
            if lost is not None and lost[volume]:
                totals[volume] = 0
                continue
            # Indices are in range by construction; without mode="clip" numpy would buffer the output.
            np.take(row, voxels, out=stored, mode="clip")
            values = stored.astype(native, copy=False)
            if not start.size:
                start = values.copy()
            # Nearly all voxels have changed after two volumes; only the others are compared from then on.
            changed = values[steady] != start[steady]
            varies[steady[changed]] = True
            steady = steady[~changed]
            if is_real:
                finite = np.isfinite(values)
                ever_finite |= finite
                if not finite.all():
                    n_finite[volume] = finite.sum()
                    always_finite &= finite
                    values = np.where(finite, values, 0)
            add_up(values, totals[volume])
    return VoxelSums(
        totals=totals,
        start=start,
        varies=varies,
        ever_finite=ever_finite if is_real else always_finite,
        always_finite=always_finite,
        n_finite=n_finite,
    )


def _starts(parcels: NDArray[np.int32]) -> NDArray[np.intp]:
    return np.flatnonzero(np.diff(parcels, prepend=-1))


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
    sums, usable, lost, notes = _sum_interpolated(volumes, voxels, shares, parcels, len(atlas.parcels))
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


def _sum_interpolated(
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
