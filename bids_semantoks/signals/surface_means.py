"""Mean signal of each parcel's grayordinates (CIFTI or GIFTI pair). T volumes, P parcels, G grayordinates of the run.
CIFTI stores one grayordinate after the other, GIFTI one volume after the other; both are streamed in file order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.atlases.label_images import read_label_image
from bids_semantoks.atlases.label_surfaces import load_surface_labels
from bids_semantoks.atlases.label_tables import look_up
from bids_semantoks.atlases.registry import is_surface_atlas
from bids_semantoks.disk import check_content
from bids_semantoks.errors import RunFailed
from bids_semantoks.images.gifti import GiftiError, GiftiHeader, find_hemisphere, load_gifti_header, read_volumes
from bids_semantoks.images.grayordinates import (
    CEREBELLAR,
    LEFT,
    RIGHT,
    BrainModel,
    CiftiError,
    CiftiFile,
    Grayordinates,
    build_hemispheres,
    load_cifti,
    name_mesh,
    read_grayordinate_rows,
    read_grayordinates,
    read_series_step,
)
from bids_semantoks.records import Atlas, AtlasVolume, Run
from bids_semantoks.signals.volume_means import (
    ParcelMeans,
    UsableSums,
    describe_lost,
    find_lost,
    list_voxels,
    scale_sums,
    sum_usable,
)

Labels = tuple[NDArray[np.int64], NDArray[np.int64], tuple[str, ...]]
_SAME_AFFINE: Final = 1e-3
# Coordinates halfway between two voxels are always rounded up, whatever the rounding error of the affines.
_TIE: Final = 1e-6
# Cached: labelling 91,282 grayordinates takes as long as averaging a short run and is the same throughout a study.
_KEPT: Final[dict[tuple[str, Any, int], Labels]] = {}
_N_KEPT: Final = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class SurfaceSeries:
    """The opened headers of a run on surfaces."""

    path: Path  # of the run's first file, for messages
    n_volumes: int  # T
    repetition_time: float | None  # seconds; None if the header has none
    cifti: CiftiFile | None
    pair: tuple[tuple[str, Path, GiftiHeader], ...] = ()  # structure, file and header of both hemispheres, left first


def load_surface_series(run: Run) -> SurfaceSeries:
    """Read the header of a run: a CIFTI series or a GIFTI pair. Raises RunSkipped no_content; RunFailed bad_image for a
    damaged or wrong file, or a missing hemisphere."""
    if not run.bold.name.endswith(".dtseries.nii"):
        pair = _load_pair(run)
        n_volumes = pair[0][2].n_volumes
        return SurfaceSeries(path=run.bold, n_volumes=n_volumes, repetition_time=None, cifti=None, pair=pair)
    check_content(run.bold)
    with _damage(run.bold):
        file = load_cifti(run.bold)
        file.check_kinds("SERIES", "BRAIN_MODELS")
    step = read_series_step(file.axes[0])
    return SurfaceSeries(path=run.bold, n_volumes=file.shape[0], repetition_time=step, cifti=file)


def extract_surface_means(series: SurfaceSeries, atlas: Atlas) -> ParcelMeans:
    """Average the grayordinates of each parcel that vary in time: (T, P), with the counts used and in the atlas.

    Grayordinates match by structure and vertex or voxel, whatever their order in the files; images in the atlas
    label CIFTI voxels by coordinates. Grayordinates that are constant, missing (medial wall) or ever non-finite are
    not used. Raises AtlasError (damaged label file), RunSkipped no_content, RunFailed bad_image, space_mismatch
    (mesh or grid differs) or low_coverage (no overlap).
    """
    return _extract_pair(series, atlas) if series.cifti is None else _extract_cifti(series.cifti, atlas)


def _extract_cifti(file: CiftiFile, atlas: Atlas) -> ParcelMeans:
    path = file.path
    with _damage(path):
        labels, n_atlas, missing = label_file(atlas, file)
        file.check_complete()
    _check_labelled(labels, atlas, path)
    with _damage(path):
        found, n_finite = _sum_rows(file, labels, len(atlas.parcels), np.zeros(file.shape[0], np.bool_))
        if (lost := find_lost(n_finite)).any():
            found, _ = _sum_rows(file, labels, len(atlas.parcels), lost)
    return _build_means(path, found, n_atlas, missing, (file.slope, file.intercept))


def _sum_rows(
    file: CiftiFile, labels: NDArray[np.int64], n_parcels: int, lost: NDArray[np.bool_]
) -> tuple[UsableSums, NDArray[np.int64]]:
    """Sum the usable grayordinates over all volumes but the `lost`; count the finite values of each volume (T,)."""
    from scipy.sparse import csr_matrix

    totals = np.zeros((n_parcels, file.shape[0]))
    n_used = np.zeros(n_parcels, dtype=np.int64)
    n_finite = np.zeros(file.shape[0], dtype=np.int64)
    n_broken = 0
    whole = slice(None) if not lost.any() else ~lost
    for start, stored in read_grayordinate_rows(file, labels > 0):
        block = stored[:, whole]
        own = labels[start : start + len(block)]
        low, high = block.min(axis=1), block.max(axis=1)
        # A single NaN makes minimum and maximum NaN.
        finite = np.isfinite(low) & np.isfinite(high)
        rows = np.flatnonzero((own > 0) & finite & (high > low))
        broken = np.flatnonzero((own > 0) & ~finite)
        n_broken += broken.size
        n_finite += int(((own > 0) & finite).sum())
        n_finite[whole] += np.isfinite(block[broken]).sum(axis=0)
        n_used += np.bincount(own[rows], minlength=n_parcels + 1)[1:]
        shape = (n_parcels, len(block))
        # Excluded rows have no entry: with a zero weight their NaN would still make the sum NaN.
        totals[:, whole] += csr_matrix((np.ones(rows.size), (own[rows] - 1, rows)), shape=shape) @ block
    return UsableSums(totals.T, n_used, lost, n_broken, np.empty(0)), n_finite


def _extract_pair(series: SurfaceSeries, atlas: Atlas) -> ParcelMeans:
    grayordinates = build_hemispheres({side: header.n_vertices for side, _, header in series.pair})
    labels, n_atlas, missing = label_grayordinates(atlas, grayordinates, series.path)
    _check_labelled(labels, atlas, series.path)
    sides = [
        list_voxels(labels[model.place], partial(_read_side, path), series.n_volumes)
        for (_, path, _), model in zip(series.pair, grayordinates.models, strict=True)
    ]
    return _build_means(series.path, sum_usable(sides, len(atlas.parcels)), n_atlas, missing, (1.0, 0.0))


def _read_side(path: Path) -> Iterator[NDArray[Any]]:
    with _damage(path):
        yield from read_volumes(path)


def _build_means(
    path: Path, found: UsableSums, n_atlas: NDArray[np.int64], missing: Sequence[str], scale: tuple[float, float]
) -> ParcelMeans:
    if not found.n_used.any():
        what = "are NaN or infinite" if found.n_broken else "are constant"
        raise RunFailed("bad_image", f"All grayordinates of {path} in parcels {what}.")
    values = scale_sums(path, found.totals, found.n_used, found.lost, scale)
    notes = [*describe_lost(found.lost)]
    if found.n_broken:
        notes.append(f"{found.n_broken} grayordinates in parcels are NaN or infinite and were excluded.")
    if missing:
        notes.append(f"The run has no values in {', '.join(missing)}, where the atlas has parcels.")
    return ParcelMeans(values=values, n_used=found.n_used, n_voxels=n_atlas, warnings=tuple(notes))


def _check_labelled(labels: NDArray[np.int64], atlas: Atlas, path: Path) -> None:
    if not labels.any():
        raise RunFailed("low_coverage", f"No grayordinate of {path} is in a parcel of the atlas {atlas.name}.")


def _load_pair(run: Run) -> tuple[tuple[str, Path, GiftiHeader], ...]:
    """Read the headers of both hemispheres, left first."""
    paths = [run.bold] if run.partner is None else [run.bold, run.partner]
    sides = {find_hemisphere(path.name): path for path in paths}
    if set(sides) != {LEFT, RIGHT}:
        here = " and ".join(path.name for path in paths)
        raise RunFailed(
            "bad_image",
            f"Surface runs need both hemispheres (hemi-L and hemi-R); {run.bold.parent} contains only {here}.",
            hint="Copy or recompute the other hemisphere.",
        )
    pair = []
    for side in (LEFT, RIGHT):
        check_content(sides[side])
        with _damage(sides[side]):
            pair.append((side, sides[side], load_gifti_header(sides[side])))
    left, right = pair[0][2].n_volumes, pair[1][2].n_volumes
    if left != right:
        raise RunFailed("bad_image", f"{run.bold} has {left} volumes, its other hemisphere {right}.")
    return tuple(pair)


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Turn read errors of a file into RunFailed bad_image."""
    try:
        yield
    except (CiftiError, GiftiError) as error:
        raise RunFailed("bad_image", f"{path} {error}.") from error
    except OSError as error:
        raise RunFailed("bad_image", f"{path} cannot be read: {error.strerror or error}.") from error


def label_file(atlas: Atlas, file: CiftiFile) -> Labels:
    """Label a CIFTI series as `label_grayordinates` does, once for all files with the same axis (read-only arrays).
    Raises CiftiError if the file holds another number of grayordinates than it describes."""
    key = (atlas.sha256, file.axes[1], file.shape[1])
    if key not in _KEPT:
        grayordinates = read_grayordinates(file.axes[1])
        if grayordinates.size != file.shape[1]:
            raise CiftiError(f"describes {grayordinates.size} grayordinates but has {file.shape[1]}")
        found = label_grayordinates(atlas, grayordinates, file.path)
        for array in found[:2]:
            array.flags.writeable = False
        while len(_KEPT) >= _N_KEPT:
            del _KEPT[next(iter(_KEPT))]
        _KEPT[key] = found
    return _KEPT[key]


def label_grayordinates(atlas: Atlas, grayordinates: Grayordinates, path: Path) -> Labels:
    """Find the parcel of each grayordinate of a run: labels (G,), n_atlas (P,), missing.

    `labels` is the position of the parcel plus 1, 0 for none; where files of the atlas overlap the first
    wins. `n_atlas` counts the grayordinates of each parcel, including those that the run lacks; `missing`
    lists structures with parcels that the run lacks. Raises RunFailed space_mismatch, or bad_image if
    the run lacks a hemisphere of the atlas.
    """
    labels = np.zeros(grayordinates.size, dtype=np.int64)
    n_atlas = np.zeros(len(atlas.parcels), dtype=np.int64)
    missing: list[str] = []
    for volume in atlas.volumes:
        if not is_surface_atlas(volume.path):
            _label_by_coordinates(labels, volume, atlas, grayordinates)
            continue
        file = load_surface_labels(volume.path, volume.map_index)
        found = look_up(file.keys, volume).astype(np.int64)
        for model in file.grayordinates.models:
            own = found[model.place]
            if not own.any():
                continue
            here = grayordinates.find(model.structure)
            if here is None:
                missing.append(model.structure)
                absent = own
            else:
                absent = _label_structure(labels, here, model, own, (grayordinates, file.grayordinates, volume, path))
            n_atlas += np.bincount(absent, minlength=n_atlas.size + 1)[1:]
    n_atlas += np.bincount(labels, minlength=n_atlas.size + 1)[1:]
    if hemispheres := sorted({LEFT, RIGHT} & set(missing)):
        there = ", ".join(model.structure for model in grayordinates.models[:3])
        raise RunFailed(
            "bad_image",
            f"{path} has no values in {' and '.join(hemispheres)}, where the atlas {atlas.name} has parcels; "
            f"it has {there}{' ...' if len(grayordinates.models) > 3 else ''}.",
            hint="Both hemispheres are required.",
        )
    return labels, n_atlas, tuple(missing)


def _label_structure(
    labels: NDArray[np.int64],
    here: BrainModel,
    there: BrainModel,
    found: NDArray[np.int64],
    context: tuple[Grayordinates, Grayordinates, AtlasVolume, Path],
) -> NDArray[np.int64]:
    """Label one structure of a run in place; return the labels of the atlas' grayordinates that the run lacks."""
    own, other, volume, path = context
    if here.n_vertices != there.n_vertices:
        raise RunFailed(
            "space_mismatch",
            f"The mesh of {path} has {name_mesh(here.n_vertices)} in {here.structure}, that of the atlas "
            f"{volume.path} {name_mesh(there.n_vertices)}.",
            hint="Data and atlas must have the same density; choose data with --space NAME:den-91k, or another atlas.",
        )
    if here.n_vertices:
        size = here.n_vertices
        mine, theirs = here.indices, there.indices
    else:
        if own.shape != other.shape or not np.allclose(own.affine, other.affine, rtol=0, atol=_SAME_AFFINE):
            raise RunFailed(
                "space_mismatch",
                f"The voxels of {path} are on a grid of {own.shape}, those of the atlas {volume.path} on one of "
                f"{other.shape}{' with another affine' if own.shape == other.shape else ''}.",
                hint="Data and atlas must have the same density.",
            )
        size = int(np.prod(own.shape))
        mine = np.ravel_multi_index(tuple(here.indices.T), own.shape)
        theirs = np.ravel_multi_index(tuple(there.indices.T), own.shape)
    lookup = np.zeros(size, dtype=np.int64)
    lookup[theirs] = found
    place = labels[here.place]
    np.copyto(place, lookup[mine], where=place == 0)
    lookup[mine] = 0
    return lookup[theirs]


def _label_by_coordinates(
    labels: NDArray[np.int64], volume: AtlasVolume, atlas: Atlas, grayordinates: Grayordinates
) -> None:
    """Label voxels that have no label yet, in place, by the voxel of an atlas image nearest to their centre."""
    labels_of_image, affine = read_label_image(volume.path)
    stored = look_up(labels_of_image, volume)
    to_image = np.linalg.inv(affine) @ grayordinates.affine
    is_cerebellar = np.array([False, *(network == "Cerebellum" for network in atlas.networks)])
    for model in grayordinates.models:
        if model.n_vertices:
            continue
        nearest = np.floor(model.indices @ to_image[:3, :3].T + to_image[:3, 3] + 0.5 + _TIE).astype(np.int64)
        inside = ((nearest >= 0) & (nearest < stored.shape)).all(axis=1)
        found = np.zeros(len(nearest), dtype=np.int64)
        found[inside] = stored[tuple(nearest[inside].T)]
        if model.structure not in CEREBELLAR:
            # At its border, a cerebellum image extends into what is brain stem in CIFTI.
            found[is_cerebellar[found]] = 0
        place = labels[model.place]
        np.copyto(place, found, where=place == 0)
