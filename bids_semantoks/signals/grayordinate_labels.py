"""Parcels of grayordinates, matched by structure and vertex or voxel, never by position alone.
G grayordinates of the run, P parcels."""

from __future__ import annotations

import hashlib
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any, Final

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from bids_semantoks.atlases.label_surfaces import is_surface_atlas, load_surface_labels
from bids_semantoks.errors import RunFailed
from bids_semantoks.images.grayordinates import (
    CEREBELLAR,
    LEFT,
    RIGHT,
    BrainModel,
    CiftiError,
    CiftiFile,
    Grayordinates,
    name_mesh,
    read_grayordinates,
)
from bids_semantoks.records import Atlas, AtlasVolume

_SAME_AFFINE: Final = 1e-3
# Coordinates half way between two voxels all go up, however the affines round.
_TIE: Final = 1e-6
Labels = tuple[NDArray[np.int64], NDArray[np.int64], tuple[str, ...]]
# Reading and labelling 91,282 grayordinates takes as long as averaging a short run, and is the same for all of a study.
_KEPT: Final[dict[tuple[str, str, int], Labels]] = {}
_N_KEPT: Final = 2


def label_file(atlas: Atlas, file: CiftiFile) -> Labels:
    """Label a CIFTI series as `label_grayordinates` does, once for all files with the same axis (read-only arrays).
    Raises CiftiError where the file holds another number of grayordinates than it describes."""
    key = (atlas.sha256, hashlib.sha256(ET.tostring(file.axes[1])).hexdigest(), file.shape[1])
    if key not in _KEPT:
        grayordinates = read_grayordinates(file.axes[1])
        if grayordinates.size != file.shape[1]:
            raise CiftiError(f"describes {grayordinates.size} grayordinates and holds {file.shape[1]}")
        found = label_grayordinates(atlas, grayordinates, file.path)
        for array in found[:2]:
            array.flags.writeable = False
        while len(_KEPT) >= _N_KEPT:
            del _KEPT[next(iter(_KEPT))]
        _KEPT[key] = found
    return _KEPT[key]


def label_grayordinates(atlas: Atlas, grayordinates: Grayordinates, path: Path) -> Labels:
    """Find the parcel of each grayordinate of a run: labels (G,), n_atlas (P,), missing.

    `labels` is the position of the parcel plus 1, 0 for none; where files of the atlas overlap the first wins.
    `n_atlas` counts the grayordinates of each parcel, including those that the run lacks; `missing` names structures
    with parcels that the run lacks. Raises RunFailed space_mismatch, or bad_image where the run lacks a hemisphere of
    the atlas.
    """
    labels = np.zeros(grayordinates.size, dtype=np.int64)
    n_atlas = np.zeros(len(atlas.parcels), dtype=np.int64)
    missing: list[str] = []
    for volume in atlas.volumes:
        if not is_surface_atlas(volume.path):
            _label_by_coordinates(labels, volume, atlas, grayordinates)
            continue
        file = load_surface_labels(volume.path)
        lookup = np.zeros(max(int(file.keys.max()), int(volume.values.max())) + 1, dtype=np.int64)
        lookup[volume.values] = volume.parcels + 1
        found = lookup[np.where(file.keys < 0, 0, file.keys)]
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
            hint="Both hemispheres are needed.",
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
            hint="Data and atlas must have the same density; choose the data with --space NAME:den-91k, "
            "or another atlas.",
        )
    if here.n_vertices:
        size = here.n_vertices
        mine, theirs = here.indices, there.indices
    else:
        if own.shape != other.shape or not np.allclose(own.affine, other.affine, rtol=0, atol=_SAME_AFFINE):
            raise RunFailed(
                "space_mismatch",
                f"The voxels of {path} lie on a grid of {own.shape}, those of the atlas {volume.path} on one of "
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
    image: Any = nib.load(volume.path)
    stored = np.rint(np.asanyarray(image.dataobj)).astype(np.int64).reshape(image.shape[:3])
    to_image = np.linalg.inv(image.affine) @ grayordinates.affine
    lookup = np.zeros(max(int(stored.max()), int(volume.values.max())) + 1, dtype=np.int64)
    lookup[volume.values] = volume.parcels + 1
    is_cerebellar = np.array([False, *(network == "Cerebellum" for network in atlas.networks)])
    for model in grayordinates.models:
        if model.n_vertices:
            continue
        nearest = np.floor(model.indices @ to_image[:3, :3].T + to_image[:3, 3] + 0.5 + _TIE).astype(np.int64)
        inside = ((nearest >= 0) & (nearest < stored.shape)).all(axis=1)
        found = np.zeros(len(nearest), dtype=np.int64)
        found[inside] = lookup[stored[tuple(nearest[inside].T)]]
        if model.structure not in CEREBELLAR:
            # At its border an image of the cerebellum reaches into what CIFTI knows to be the brain stem.
            found[is_cerebellar[found]] = 0
        place = labels[model.place]
        np.copyto(place, found, where=place == 0)
