"""Mean of each parcel's voxels in every volume, summed while the file is decompressed. T volumes, P parcels, V voxels
in a parcel and in the brain mask, Q parcels with such voxels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

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
    path: Path, sums: NDArray[Any], n_used: NDArray[np.int64], lost: NDArray[np.bool_], scale: tuple[float, float]
) -> NDArray[np.float64]:
    """Turn sums (T, P) into means in the image's units by its slope and intercept; NaN where nothing was used or in
    `lost` volumes (T,). Raises RunFailed bad_image if one is not finite or beyond the range of float32, as caused by
    damaged scaling factors."""
    present, (slope, intercept) = n_used > 0, scale
    values = np.full(sums.shape, np.nan)
    values[:, present] = sums[:, present] / n_used[present] * slope + intercept
    if not np.isfinite(values[:, present]).all() or not is_in_range(values):
        raise RunFailed(
            "bad_image",
            f"{path} has implausibly large or small values (maximum {np.nanmax(np.abs(values)):.3g}; slope {slope:g}, "
            f"intercept {intercept:g}).",
            hint="Its header may be damaged.",
        )
    values[lost] = np.nan
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
    grid = _build_grid(atlas, volumes.shape, volumes.affine, volumes.path)
    n_parcels = len(atlas.parcels)
    labels = grid.ravel(order="F")
    n_voxels = np.bincount(labels, minlength=n_parcels + 1)[1:]
    # 2**63 is far beyond any sum of 32-bit voxels, but not of 64-bit ones.
    exact = np.float64 if volumes.dtype.kind == "f" or volumes.dtype.itemsize == 8 else np.int64
    labels = np.where(inside.ravel(order="F"), labels, 0)
    file = list_voxels(labels, partial(_read_volumes, volumes), volumes.n_volumes, exact)
    if not file.voxels.size:
        raise RunFailed("low_coverage", f"No voxel of the atlas {atlas.name} is in the brain mask {mask}.")
    found = sum_usable([file], n_parcels)
    if not found.n_used.any():
        different = np.unique(found.start).size
        what = "are NaN or infinite" if found.n_broken else f"are constant ({different} different values)"
        if not found.n_broken and not found.start.any():
            what = "are 0 in all volumes"
        raise RunFailed("bad_image", f"All {file.voxels.size} voxels of {volumes.path} in parcels and mask {what}.")
    notes = describe_lost(found.lost)
    if found.n_broken:
        notes = (f"{found.n_broken} voxels in parcels are NaN or infinite in some volume and were excluded.", *notes)
    scale = (volumes.slope, volumes.intercept)
    values = scale_sums(volumes.path, found.totals, found.n_used, found.lost, scale)
    return ParcelMeans(values=values, n_used=found.n_used, n_voxels=n_voxels, warnings=notes)


def _build_grid(
    atlas: Atlas, shape: tuple[int, int, int], affine: NDArray[np.float64], path: Path
) -> NDArray[np.int32]:
    try:
        return build_label_grid(atlas, shape, affine)
    except AtlasError as error:
        raise AtlasError(f"{path}: {error.message}", hint=error.hint) from error


def _read_volumes(volumes: Volumes) -> Iterator[NDArray[Any]]:
    """Yield the voxels of each volume, in Fortran order; their memory is reused for later ones."""
    for block in read_blocks(volumes):
        yield from block


def find_lost(n_finite: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Find the volumes (T,) with less than half of the finite values (T,) that the best volume has."""
    return np.asarray(n_finite * 2 < n_finite.max(initial=0))


def describe_lost(lost: NDArray[np.bool_]) -> tuple[str, ...]:
    """Name the volumes (T,) that are lost, in a warning."""
    if not lost.any():
        return ()
    listed = name_some(np.flatnonzero(lost).tolist())
    return (f"{int(lost.sum())} volumes contain NaN or infinite values and are set to n/a: {listed} (counted from 0).",)


class FileVoxels(NamedTuple):
    """The voxels (or vertices) of one file that are in parcels, sorted by parcel."""

    voxels: NDArray[np.intp]  # (V,) places in a volume
    parcels: NDArray[Any]  # (V,) from 0
    read: Callable[[], Iterator[NDArray[Any]]]  # the volumes in turn, with all voxels
    n_volumes: int
    exact: type  # of sums


def list_voxels(
    labels: NDArray[Any], read: Callable[[], Iterator[NDArray[Any]]], n_volumes: int, exact: type = np.float64
) -> FileVoxels:
    """List the voxels of a file by their labels, from 1, 0 for none."""
    voxels = np.flatnonzero(labels)
    # Sorted by parcel, a parcel's voxels are one slice and their sums one pass over memory.
    voxels = voxels[np.argsort(labels[voxels], kind="stable")]
    return FileVoxels(voxels, labels[voxels] - 1, read, n_volumes, exact)


class UsableSums(NamedTuple):
    """Sums of the voxels that vary and are finite in all volumes but the lost."""

    totals: NDArray[Any]  # (T, P)
    n_used: NDArray[np.int64]  # (P,)
    lost: NDArray[np.bool_]  # (T,)
    n_broken: int  # voxels in parcels that are not finite in some volume
    start: NDArray[Any]  # first value of each voxel in parcels


def sum_usable(files: Sequence[FileVoxels], n_parcels: int) -> UsableSums:
    """Sum the usable voxels of files that hold the same volumes. A file is read again only for lost volumes, or if an
    unusable voxel entered a sum of real numbers."""
    found = [_sum_parcels(file) for file in files]
    lost = find_lost(np.sum([one.n_finite for one in found], axis=0))
    if lost.any():
        found = [_sum_parcels(file, lost) for file in files]
    totals = np.zeros((lost.size, n_parcels), dtype=np.result_type(*(one.totals for one in found)))
    n_used = np.zeros(n_parcels, dtype=np.int64)
    for file, one in zip(files, found, strict=True):
        usable = one.varies & one.always_finite
        if usable.any():
            totals[:, np.unique(file.parcels)] += _exclude_unusable(file, one, lost)
            n_used += np.bincount(file.parcels[usable], minlength=n_parcels)
    n_broken = sum(int((~one.always_finite).sum()) for one in found)
    return UsableSums(totals, n_used, lost, n_broken, np.concatenate([one.start for one in found]))


def _exclude_unusable(file: FileVoxels, first: VoxelSums, lost: NDArray[np.bool_]) -> NDArray[Any]:
    """Take constant and broken voxels out of the sums (T, Q) of a first pass, by a second one if need be."""
    constant, usable = ~first.varies & first.always_finite, first.varies & first.always_finite
    starts = _starts(file.parcels)
    if first.totals.dtype.kind == "i":
        return first.totals - np.add.reduceat(np.where(constant, first.start, 0), starts, dtype=np.int64)
    if not (constant & (first.start != 0)).any() and not (first.ever_finite & ~first.always_finite).any():
        return first.totals
    again = file._replace(voxels=file.voxels[usable], parcels=file.parcels[usable])
    totals = np.zeros_like(first.totals)
    totals[:, np.isin(file.parcels[starts], again.parcels)] = _sum_parcels(again, lost).totals
    return totals


class VoxelSums(NamedTuple):
    """One pass over a file."""

    totals: NDArray[Any]  # (T, Q)
    start: NDArray[Any]  # (V,) first values
    varies: NDArray[np.bool_]  # (V,)
    ever_finite: NDArray[np.bool_]  # (V,)
    always_finite: NDArray[np.bool_]  # (V,)
    n_finite: NDArray[np.int64]  # (T,) voxels with a finite value


def _sum_parcels(file: FileVoxels, lost: NDArray[np.bool_] | None = None) -> VoxelSums:
    """Sum all volumes but the `lost` (T,), whose sums are 0."""
    starts = _starts(file.parcels)

    def add_up(values: NDArray[Any], out: NDArray[Any]) -> None:
        np.add.reduceat(values, starts, dtype=file.exact, out=out)

    return sum_volumes(file, np.empty((file.n_volumes, starts.size), dtype=file.exact), add_up, lost)


def sum_volumes(
    file: FileVoxels,
    totals: NDArray[Any],
    add_up: Callable[[NDArray[Any], NDArray[Any]], None],
    lost: NDArray[np.bool_] | None = None,
) -> VoxelSums:
    """Stream a file once. `add_up` writes the sums of one volume's voxels (V,), 0 where not finite, into a row of
    `totals` (T, Q); `lost` volumes (T,) are skipped, their sums are 0."""
    n_voxels = file.voxels.size
    varies, ever_finite = np.zeros((2, n_voxels), dtype=np.bool_)
    always_finite = np.ones(n_voxels, dtype=np.bool_)
    steady = np.arange(n_voxels)
    start = np.empty(0)
    n_finite = np.full(file.n_volumes, n_voxels)
    for volume, row in enumerate(file.read()):
        if lost is not None and lost[volume]:
            totals[volume] = 0
            continue
        # Indices are in range by construction, and clipping is faster than a check.
        values = np.take(row, file.voxels, mode="clip")
        values = values.astype(values.dtype.newbyteorder("="), copy=False)
        if not start.size:
            start = values
        # Nearly all voxels have changed after two volumes; only the others are compared from then on.
        changed = values[steady] != start[steady]
        varies[steady[changed]] = True
        steady = steady[~changed]
        if values.dtype.kind == "f":
            finite = np.isfinite(values)
            ever_finite |= finite
            if not finite.all():
                n_finite[volume] = finite.sum()
                always_finite &= finite
                values = np.where(finite, values, 0)
        add_up(values, totals[volume])
    return VoxelSums(totals, start, varies, ever_finite | always_finite, always_finite, n_finite)


def _starts(parcels: NDArray[Any]) -> NDArray[np.intp]:
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
    grid = _build_grid(atlas, warp.field.shape[:3], warp.affine, warp_path)
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
    file = FileVoxels(voxels, parcels, partial(_read_volumes, volumes), volumes.n_volumes, np.float64)
    sums, usable, lost, notes = _sum_interpolated(volumes.path, file, shares, n_voxels.size)
    n_used = np.bincount(parcels[usable], minlength=n_voxels.size)
    values = scale_sums(volumes.path, sums, n_used, lost, (volumes.slope, volumes.intercept))
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
    path: Path, file: FileVoxels, shares: Any, n_parcels: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], tuple[str, ...]]:
    """Sum the standard voxels that count: sums (T, P), which count (S,), which volumes are lost (T,), and warnings.
    `file` has native voxels with the parcels (S,) of standard ones, and `shares` (S, V) interpolates."""
    found = _sum_weighted(file, shares, file.parcels, n_parcels)
    if (lost := find_lost(found.n_finite)).any():
        found = _sum_weighted(file, shares, file.parcels, n_parcels, lost)
    broken = shares @ ~found.always_finite > 0
    usable = (shares @ found.varies > 0) & ~broken
    if not usable.any():
        what = "next to NaN or infinite values" if broken.any() else "constant"
        raise RunFailed("bad_image", f"All {usable.size} voxels of {path} in parcels and mask are {what}.")
    totals = found.totals
    # Most unusable voxels are 0 in all volumes and do not affect the sums.
    if broken.any() or np.any(shares[~usable] @ found.start):
        totals = _sum_weighted(file, shares[usable], file.parcels[usable], n_parcels, lost).totals
    n_broken = int(broken.sum())
    notes = (f"{n_broken} voxels in parcels are next to NaN or infinite values and were excluded.",) if n_broken else ()
    return totals, usable, lost, (*notes, *describe_lost(lost))


def _sum_weighted(
    file: FileVoxels, shares: Any, parcels: NDArray[np.int64], n_parcels: int, lost: NDArray[np.bool_] | None = None
) -> VoxelSums:
    from scipy.sparse import csr_array

    n_standard = parcels.size
    members = csr_array((np.ones(n_standard), (parcels, np.arange(n_standard))), shape=(n_parcels, n_standard))
    weights = members @ shares

    def add_up(values: NDArray[Any], out: NDArray[Any]) -> None:
        out[:] = weights @ values

    return sum_volumes(file, np.empty((file.n_volumes, n_parcels)), add_up, lost)
