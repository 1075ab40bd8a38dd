"""Atlases, found by name or path, read in the space of the data and resampled onto a run's grid."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.errors import AtlasError
from bids_semantoks.records import Atlas, AtlasVolume
from bids_semantoks.runtime.downloads import check_published, check_recorded
from bids_semantoks.signals.fetching import fetch_missing_transform, name_transform
from bids_semantoks.signals.grids import keep_grid, read_grid
from bids_semantoks.signals.label_images import check_labels, check_landmarks, read_labels
from bids_semantoks.signals.labels import LabelTable, load_label_table, name_some
from bids_semantoks.signals.local_files import find_archived, find_places
from bids_semantoks.signals.obstacles import refuse
from bids_semantoks.signals.orders import rename_to_seven_networks
from bids_semantoks.signals.parts import FETCH_HINT, Part
from bids_semantoks.signals.sources import Source, Sources, find_sources
from bids_semantoks.signals.supply import find_parts
from bids_semantoks.signals.warping import Warp, load_warp

LOG = logging.getLogger("bids_semantoks")

# Coordinates half way between two voxels all go up, however the affines round.
_TIE = 1e-6


def find_atlas_spaces(name_or_path: str | Path, *, directory: Path | None) -> tuple[str, ...]:
    """List the template spaces of an atlas that need no warping: local ones first, then those that can be fetched.
    Raises AtlasError where the atlas is unknown, or its files are neither here nor published."""
    found = find_sources(name_or_path, directory=directory)
    spaces = (*found.spaces, *(found.entry.find_fetchable_spaces() if found.entry else ()))
    if not spaces and found.entry is not None:
        raise refuse(found.entry, found.entry.recipes, find_places(directory, beside=found.entry.path.parent))
    return tuple(dict.fromkeys(spaces))


def load_atlas(name_or_path: str | Path, *, space: str, directory: Path | None, work_dir: Path | None = None) -> Atlas:
    """Load the parcels of an atlas and check its images, fetching what is not here.

    `name_or_path` is a registry name, or the path of a label image, a registry entry (``.json``) or an atlas dataset.
    Files of registry entries are searched in `directory` first; fetched files go to a temporary directory, in
    `work_dir` if given, when the cache is not writable. Raises AtlasError where the atlas is neither found nor fetched,
    has neither this space nor a transform to it, is damaged, or its table and image disagree.
    """
    found = find_sources(name_or_path, directory=directory)
    source = _choose_source(found, space, directory, work_dir)
    table = rename_to_seven_networks(load_label_table(source.table))
    landmarks = found.entry.landmarks if found.entry else {}
    volumes = tuple(_load_volume(part, table, landmarks) for part in source.parts)
    for volume in volumes:
        if volume.transform is not None:
            LOG.info(
                "%s is in %s and is laid onto %s with %s.",
                *(volume.path.name, volume.space, space, volume.transform.name),
            )
    return Atlas(
        name=found.name,
        space=space,
        parcels=table.parcels,
        networks=table.networks,
        volumes=volumes,
        sha256=_compute_checksum(table, volumes),
    )


def _choose_source(found: Sources, space: str, directory: Path | None, work_dir: Path | None) -> Source:
    if found.entry is not None:
        parts = find_parts(found.entry, space, directory=directory, work_dir=work_dir)
        return Source(table=found.entry.table, parts=parts)
    if space in found.spaces:
        return found.spaces[space]
    reason = "no space is named for them"
    for own, source in found.spaces.items() if space else ():
        try:
            transform = find_archived(name_transform(own, space), find_places(directory)) or fetch_missing_transform(
                own, space, work_dir
            )
        except AtlasError as error:
            reason = error.message.rstrip(".")
            continue
        parts = tuple(dataclasses.replace(part, space=own, transform=transform) for part in source.parts)
        return Source(table=source.table, parts=parts)
    spaces = " or ".join(found.spaces)
    raise AtlasError(
        f"The atlas {found.name} is in the space {spaces}, the data in {space or 'none named'}. "
        f"There is no transform between them: {reason}.",
        hint=f"Process the data in {spaces} (--space, or fMRIPrep's --output-spaces), or give an atlas that was warped "
        f"to {space or 'their space'}, or bring the transform: {FETCH_HINT}",
    )


def build_label_grid(atlas: Atlas, shape: tuple[int, int, int], affine: NDArray[np.float64]) -> NDArray[np.int32]:
    """Resample an atlas onto a grid by nearest neighbour -> (X, Y, Z): position of the parcel plus 1, 0 for none.

    `affine` (4, 4) maps voxels of the grid to mm in the atlas' space. The atlas' images may differ from the grid and
    each other in voxels and field of view; where they overlap the first wins. The grid of a warped atlas is cached and
    read-only. Raises AtlasError where no voxel of the grid lies in a parcel.
    """
    if not any(volume.transform for volume in atlas.volumes):
        return _lay(atlas, shape, affine)
    key = hashlib.sha256(repr((atlas.sha256, shape, np.round(affine, 6).tolist())).encode()).hexdigest()
    if (grid := read_grid(key, shape)) is None:
        grid = _lay(atlas, shape, affine)
        keep_grid(key, grid)
    return grid


def _lay(atlas: Atlas, shape: tuple[int, int, int], affine: NDArray[np.float64]) -> NDArray[np.int32]:
    grid = np.zeros(shape, dtype=np.int32)
    warps: dict[Path, Warp] = {}
    for volume in atlas.volumes:
        image, image_affine = read_labels(volume.path)
        parcels = _build_lookup(volume, image)
        if volume.transform is not None and volume.transform not in warps:
            warps[volume.transform] = load_warp(volume.transform)
        warp = warps[volume.transform] if volume.transform is not None else None
        to_image = np.asarray(np.linalg.inv(image_affine), dtype=np.float64)
        # One slab after the other: coordinates of a whole grid would take more memory than the images.
        for x, slab in enumerate(grid):
            if warp is None:
                labels = _sample_slab(parcels, to_image @ affine, x, slab.shape)
            else:
                labels = _sample_warped(parcels, to_image, affine, warp, (x, *slab.shape))
            np.copyto(slab, labels, where=slab == 0)
    if not grid.any():
        raise AtlasError(
            f"The atlas {atlas.name} covers nothing of a grid of {shape} voxels: no parcel lies in its field of view.",
            hint=f"Are the affines of the data and of {atlas.volumes[0].path} both in {atlas.space}?",
        )
    return grid


def _sample_slab(
    parcels: NDArray[np.int32], to_image: NDArray[np.float64], x: int, shape: tuple[int, ...]
) -> NDArray[np.int32]:
    y, z = np.arange(shape[0])[:, None], np.arange(shape[1])[None, :]
    return _look_up(parcels, [(row[1] * y + (row[0] * x + row[3])) + row[2] * z for row in to_image[:3]])


def _sample_warped(
    parcels: NDArray[np.int32],
    to_image: NDArray[np.float64],
    affine: NDArray[np.float64],
    warp: Warp,
    slab: tuple[int, ...],
) -> NDArray[np.int32]:
    voxels = np.indices((1, *slab[1:]), dtype=np.float64).reshape(3, -1) + np.array([[slab[0]], [0], [0]])
    points = warp.map_points((affine[:3, :3] @ voxels + affine[:3, 3:]).T).T
    return _look_up(parcels, list(to_image[:3, :3] @ points + to_image[:3, 3:])).reshape(slab[1:])


def _look_up(parcels: NDArray[np.int32], voxels: list[NDArray[np.float64]]) -> NDArray[np.int32]:
    """Look up labels at voxel coordinates; 0 outside the image."""
    inside = np.ones(voxels[0].shape, dtype=np.bool_)
    index = np.zeros(voxels[0].shape)
    for axis, size in zip(voxels, parcels.shape, strict=True):
        nearest = np.floor(axis + (0.5 + _TIE))
        inside &= (nearest >= 0) & (nearest < size)
        index = index * size + nearest
    index[~inside] = 0
    found = parcels.ravel()[index.astype(np.intp)]
    found[~inside] = 0
    return found


def _load_volume(part: Part, table: LabelTable, landmarks: Mapping[int, tuple[float, ...]]) -> AtlasVolume:
    image, affine = read_labels(part.path)
    sha256 = _hash_file(part.path)
    check_recorded(part.path, sha256)
    check_published(part.path, sha256, part.sha256)
    positions = {value: position for position, value in enumerate(table.values)}
    values, indices = (table.values, table.values) if part.values is None else (part.values, part.indices)
    unlisted = sorted(set(indices) - set(positions))
    if unlisted:
        raise AtlasError(f"{part.listed_in} names the parcels {name_some(unlisted)}, which {table.path} does not list.")
    present = set(np.unique(image).tolist()) - {0}
    check_labels(part, table, present, values)
    lookup = dict(zip(values, indices, strict=True))
    check_landmarks(part, table, (image, affine), {v: landmarks[i] for v, i in lookup.items() if i in landmarks})
    return AtlasVolume(
        path=part.path,
        sha256=sha256,
        values=np.asarray(values, dtype=np.int64),
        parcels=np.asarray([positions[index] for index in indices], dtype=np.int64),
        licence=part.licence,
        space=part.space,
        transform=part.transform,
        transform_sha256=_hash_file(part.transform) if part.transform is not None else "",
    )


def _build_lookup(volume: AtlasVolume, image: NDArray[np.int64]) -> NDArray[np.int32]:
    lookup = np.zeros(max(int(image.max()), int(volume.values.max())) + 1, dtype=np.int32)
    lookup[volume.values] = volume.parcels + 1
    return np.ascontiguousarray(lookup[image])


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _compute_checksum(table: LabelTable, volumes: tuple[AtlasVolume, ...]) -> str:
    content = {
        "parcels": table.parcels,
        "networks": table.networks,
        "volumes": [
            [v.sha256, v.values.tolist(), v.parcels.tolist(), *([v.transform_sha256] if v.transform else [])]
            for v in volumes
        ],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
