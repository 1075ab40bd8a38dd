"""Mean signal of each parcel's grayordinates (CIFTI or GIFTI pair). T volumes, P parcels, G grayordinates of the run.
CIFTI stores one grayordinate after the other, GIFTI one volume after the other; both are streamed in file order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from bids_semantoks.errors import RunFailed
from bids_semantoks.images.grayordinates import (
    LEFT,
    RIGHT,
    CiftiError,
    CiftiFile,
    GiftiError,
    GiftiHeader,
    build_hemispheres,
    find_hemisphere,
    load_cifti,
    load_gifti_header,
    read_rows,
    read_series_step,
    read_volumes,
)
from bids_semantoks.images.volumes import check_content
from bids_semantoks.records import Atlas, Run
from bids_semantoks.signals.grayordinate_labels import label_file, label_grayordinates
from bids_semantoks.signals.means import ParcelMeans


@dataclass(frozen=True, kw_only=True, slots=True)
class SurfaceHeader:
    """Header facts of a run on surfaces."""

    n_volumes: int  # T
    repetition_time: float | None  # seconds; None if the header has none


def is_surface(path: Path) -> bool:
    """Tell a surface series (dtseries, func.gii) from a volumetric image by its suffix."""
    return path.name.endswith((".dtseries.nii", ".func.gii"))


def load_surface_header(run: Run) -> SurfaceHeader:
    """Read the header of a run: a CIFTI series or a GIFTI pair.
    Raises RunSkipped no_content; RunFailed bad_image for a damaged or wrong file, or a missing hemisphere."""
    if run.bold.name.endswith(".dtseries.nii"):
        file = _load_series(run.bold)
        return SurfaceHeader(n_volumes=file.shape[0], repetition_time=read_series_step(file.axes[0]))
    headers = _load_pair(run)
    return SurfaceHeader(n_volumes=headers[0][2].n_volumes, repetition_time=None)


def extract_surface_means(run: Run, atlas: Atlas) -> ParcelMeans:
    """Average the grayordinates of each parcel that vary in time: (T, P), with the counts used and in the atlas.

    Grayordinates match by structure and vertex or voxel, whatever their order in the files; images in the atlas label
    CIFTI voxels by coordinates. Constant, not always finite or missing ones (medial wall) count in no volume. Raises
    AtlasError (damaged label file), RunSkipped no_content, RunFailed bad_image, space_mismatch (mesh or grid differs)
    or low_coverage (no overlap).
    """
    if run.bold.name.endswith(".dtseries.nii"):
        return _extract_cifti(run.bold, atlas)
    return _extract_pair(run, atlas)


def _extract_cifti(path: Path, atlas: Atlas) -> ParcelMeans:
    file = _load_series(path)
    with _damage(path):
        labels, n_atlas, missing = label_file(atlas, file)
        file.check_complete()
    _check_labelled(labels, atlas, path)
    n_parcels = len(atlas.parcels)
    totals = np.zeros((n_parcels, file.shape[0]))
    n_used = np.zeros(n_parcels, dtype=np.int64)
    n_broken = 0
    with _damage(path):
        for start, block in read_rows(file, labels > 0):
            own = labels[start : start + len(block)]
            low, high = block.min(axis=1), block.max(axis=1)
            # A single NaN makes both of them NaN.
            finite = np.isfinite(low) & np.isfinite(high)
            rows = np.flatnonzero((own > 0) & finite & (high > low))
            n_broken += int(((own > 0) & ~finite).sum())
            n_used += np.bincount(own[rows], minlength=n_parcels + 1)[1:]
            shape = (n_parcels, len(block))
            # Rows left out have no entry: a zero would turn their NaN into a NaN of the sum.
            totals += csr_matrix((np.ones(rows.size), (own[rows] - 1, rows)), shape=shape) @ block
    scale = (file.slope, file.intercept)
    return _build_means(totals.T, n_used, n_atlas, (path, n_broken, missing), scale)


def _extract_pair(run: Run, atlas: Atlas) -> ParcelMeans:
    pair = _load_pair(run)
    grayordinates = build_hemispheres({side: header.n_vertices for side, _, header in pair})
    labels, n_atlas, missing = label_grayordinates(atlas, grayordinates, run.bold)
    _check_labelled(labels, atlas, run.bold)
    n_parcels = len(atlas.parcels)
    totals = np.zeros((pair[0][2].n_volumes, n_parcels))
    n_used = np.zeros(n_parcels, dtype=np.int64)
    n_broken = 0
    for (_, path, _), model in zip(pair, grayordinates.models, strict=True):
        own = labels[model.place]
        with _damage(path):
            usable, broken = _sum_hemisphere(path, own, totals)
        n_broken += broken
        n_used += np.bincount(own[usable], minlength=n_parcels + 1)[1:]
    return _build_means(totals, n_used, n_atlas, (run.bold, n_broken, missing), (1.0, 0.0))


def _sum_hemisphere(path: Path, labels: NDArray[np.int64], totals: NDArray[np.float64]) -> tuple[NDArray[np.intp], int]:
    """Add the sums of one hemisphere to `totals` (T, P); return the vertices used and how many were not finite."""
    vertices = np.flatnonzero(labels)
    sums, usable, is_exact = _sum_vertices(path, labels, vertices, totals.shape)
    n_broken = int((~usable[1]).sum())
    used = vertices[usable[0]]
    if not is_exact:
        # A vertex that is constant, or now and then not finite, is in these sums and cannot be taken out of them.
        sums = _sum_vertices(path, labels, used, totals.shape)[0]
    totals += sums
    return used, n_broken


def _sum_vertices(
    path: Path, labels: NDArray[np.int64], vertices: NDArray[np.intp], shape: tuple[int, ...]
) -> tuple[NDArray[np.float64], tuple[NDArray[np.bool_], NDArray[np.bool_]], bool]:
    """Sum vertices by parcel (T, P); return also which are usable, which are finite, and whether the sums are exact.
    Sums are inexact where unusable vertices contributed."""
    vertices = vertices[np.argsort(labels[vertices], kind="stable")]
    own = labels[vertices]
    starts = np.flatnonzero(np.diff(own, prepend=-1))
    sums = np.zeros(shape)
    always, ever = np.ones(vertices.size, dtype=np.bool_), np.zeros(vertices.size, dtype=np.bool_)
    varies = np.zeros(vertices.size, dtype=np.bool_)
    first = np.empty(0)
    for number, volume in enumerate(read_volumes(path)):
        values = volume[vertices]
        first = values.copy() if number == 0 else first
        finite = np.isfinite(values)
        varies |= values != first
        always &= finite
        ever |= finite
        if starts.size:
            sums[number, own[starts] - 1] = np.add.reduceat(np.where(finite, values, 0), starts, dtype=np.float64)
    usable = varies & always
    is_exact = not ((always & ~varies & (first != 0)) | (ever & ~always)).any()
    back = np.argsort(vertices)
    return sums, (usable[back], always[back]), is_exact


def _build_means(
    totals: NDArray[np.float64],
    n_used: NDArray[np.int64],
    n_atlas: NDArray[np.int64],
    facts: tuple[Path, int, Sequence[str]],
    scale: tuple[float, float],
) -> ParcelMeans:
    path, n_broken, missing = facts
    present = n_used > 0
    if not present.any():
        what = "are NaN or infinite" if n_broken else "are constant"
        raise RunFailed("bad_image", f"All grayordinates of {path} in parcels {what}.")
    values = np.full(totals.shape, np.nan)
    slope, intercept = scale
    values[:, present] = totals[:, present] / n_used[present] * slope + intercept
    if not np.isfinite(values[:, present]).all():
        raise RunFailed("bad_image", f"{path} holds values too large to be averaged.", hint="Is its header damaged?")
    notes = []
    if n_broken:
        notes.append(f"{n_broken} grayordinates in parcels are NaN or infinite and were left out.")
    if missing:
        notes.append(f"The run has no values in {', '.join(missing)}, where the atlas has parcels.")
    return ParcelMeans(values=values, n_used=n_used, n_voxels=n_atlas, warnings=tuple(notes))


def _check_labelled(labels: NDArray[np.int64], atlas: Atlas, path: Path) -> None:
    if not labels.any():
        raise RunFailed("low_coverage", f"No grayordinate of {path} lies in a parcel of the atlas {atlas.name}.")


def _load_series(path: Path) -> CiftiFile:
    check_content(path)
    with _damage(path):
        file = load_cifti(path)
        file.check_kinds("SERIES", "BRAIN_MODELS")
    return file


def _load_pair(run: Run) -> list[tuple[str, Path, GiftiHeader]]:
    """Read the headers of both hemispheres, left first."""
    paths = [run.bold] if run.partner is None else [run.bold, run.partner]
    sides = {find_hemisphere(path.name): path for path in paths}
    if set(sides) != {LEFT, RIGHT}:
        here = " and ".join(path.name for path in paths)
        raise RunFailed(
            "bad_image",
            f"A run on surfaces needs both hemispheres (hemi-L and hemi-R); {run.bold.parent} holds {here} only.",
            hint="Copy or compute the other hemisphere again.",
        )
    pair = []
    for side in (LEFT, RIGHT):
        check_content(sides[side])
        with _damage(sides[side]):
            pair.append((side, sides[side], load_gifti_header(sides[side])))
    left, right = pair[0][2].n_volumes, pair[1][2].n_volumes
    if left != right:
        raise RunFailed("bad_image", f"{run.bold} has {left} volumes, its other hemisphere {right}.")
    return pair


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Turn read errors of a file into RunFailed bad_image."""
    try:
        yield
    except (CiftiError, GiftiError) as error:
        raise RunFailed("bad_image", f"{path} {error}.") from error
    except OSError as error:
        raise RunFailed("bad_image", f"{path} cannot be read: {error.strerror or error}.") from error
