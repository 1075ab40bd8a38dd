"""Atlases: found by name or path, read in the space of the data, and laid onto a run's grid."""

from __future__ import annotations

import hashlib
import json
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray

from bids_semantoks.errors import AtlasError
from bids_semantoks.records import Atlas, AtlasVolume
from bids_semantoks.signals.labels import LabelTable, load_label_table, name_some
from bids_semantoks.signals.sources import Part, find_sources

# Coordinates half way between two voxels all go up, however the affines round.
_TIE = 1e-6
# Whole numbers above are not exact in float32, in which many label images are stored.
_MAX_LABEL = 1 << 24


def find_atlas_spaces(name_or_path: str | Path, *, directory: Path | None) -> tuple[str, ...]:
    """Find the template spaces in which an atlas can be had.

    Parameters
    ----------
    name_or_path : str or Path
        Name of a registry entry, or path of a label image, a registry entry (``.json``) or an atlas dataset.
    directory : Path or None
        Where the files of registry entries are looked for first.

    Returns
    -------
    tuple of str
        Template spaces, preferred first; at least one.

    Raises
    ------
    AtlasError
        There is no such atlas, or its files are in none of the places looked at.
    """
    return tuple(find_sources(name_or_path, directory=directory).spaces)


def load_atlas(name_or_path: str | Path, *, space: str, directory: Path | None) -> Atlas:
    """Load the parcels of an atlas and check its images.

    Parameters
    ----------
    name_or_path : str or Path
        As for `find_atlas_spaces`.
    space : str
        Template space of the data.
    directory : Path or None
        Where the files of registry entries are looked for first.

    Returns
    -------
    Atlas
        Parcels in the order of the atlas' table, with checksums of every file.

    Raises
    ------
    AtlasError
        The atlas is not found, not in this space, damaged, or its table and image do not fit each other.
    """
    found = find_sources(name_or_path, directory=directory)
    if space not in found.spaces:
        raise AtlasError(
            f"The atlas {found.name} is in the space {' or '.join(found.spaces)}, the data in {space or 'none named'}.",
            hint=f"Process the data in {' or '.join(found.spaces)} (--space, or fMRIPrep's --output-spaces), "
            f"or give an atlas that was warped to {space or 'their space'}.",
        )
    source = found.spaces[space]
    table = load_label_table(source.table)
    volumes = tuple(_load_volume(part, table) for part in source.parts)
    return Atlas(
        name=found.name,
        space=space,
        parcels=table.parcels,
        networks=table.networks,
        volumes=volumes,
        sha256=_compute_checksum(table, volumes),
    )


def build_label_grid(atlas: Atlas, shape: tuple[int, int, int], affine: NDArray[np.float64]) -> NDArray[np.int32]:
    """Lay an atlas onto a grid: each voxel takes the label of the atlas voxel nearest to its centre.

    Parameters
    ----------
    atlas : Atlas
        Its images may have other grids and fields of view than the run, and than each other.
    shape : tuple of int
        Voxels of the grid along x, y, z.
    affine : NDArray, float64, shape (4, 4)
        Voxel of the grid to millimetre, in the space of the atlas.

    Returns
    -------
    NDArray, int32, shape (X, Y, Z)
        Position of the parcel plus 1; 0 where there is none. Where images overlap the first wins.

    Raises
    ------
    AtlasError
        No voxel of the grid lies in a parcel.
    """
    grid = np.zeros(shape, dtype=np.int32)
    for volume in atlas.volumes:
        image, image_affine = _read_labels(volume.path)
        parcels = _build_lookup(volume, image)
        to_image = np.asarray(np.linalg.inv(image_affine) @ affine, dtype=np.float64)
        # One slab after the other: coordinates of a whole grid would take more memory than the images.
        for x, slab in enumerate(grid):
            np.copyto(slab, _sample_slab(parcels, to_image, x, slab.shape), where=slab == 0)
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
    inside = np.ones(shape, dtype=np.bool_)
    index = np.zeros(shape)
    for row, size in zip(to_image, parcels.shape, strict=False):
        nearest = np.floor((row[1] * y + (row[0] * x + row[3] + 0.5 + _TIE)) + row[2] * z)
        inside &= (nearest >= 0) & (nearest < size)
        index = index * size + nearest
    index[~inside] = 0
    found = parcels.ravel()[index.astype(np.intp)]
    found[~inside] = 0
    return found


def _load_volume(part: Part, table: LabelTable) -> AtlasVolume:
    image, _ = _read_labels(part.path)
    positions = {value: position for position, value in enumerate(table.values)}
    values, indices = (table.values, table.values) if part.values is None else (part.values, part.indices)
    unlisted = sorted(set(indices) - set(positions))
    if unlisted:
        raise AtlasError(f"{part.listed_in} names the parcels {name_some(unlisted)}, which {table.path} does not list.")
    present = set(np.unique(image).tolist()) - {0}
    if part.values is None and present - set(positions):
        unknown = sorted(present - set(positions))
        raise AtlasError(
            f"The atlas image {part.path} holds labels without a row in {table.path}: {name_some(unknown)}.",
            hint="Add a row for each (index, label, network_label; n/a for no network).",
        )
    if not present & set(values):
        raise AtlasError(f"The atlas image {part.path} holds none of the {len(values)} labels of {table.path}.")
    return AtlasVolume(
        path=part.path,
        sha256=_hash_file(part.path),
        values=np.asarray(values, dtype=np.int64),
        parcels=np.asarray([positions[index] for index in indices], dtype=np.int64),
        licence=part.licence,
    )


def _read_labels(path: Path) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    try:
        image: Any = nib.load(path)
        stored = np.asanyarray(image.dataobj)
        affine = np.asarray(image.affine, dtype=np.float64)
        is_singular = not np.isfinite(affine).all() or abs(np.linalg.det(affine)) < 1e-12
    except (ImageFileError, OSError, EOFError, ValueError, AttributeError, zlib.error) as error:
        raise AtlasError(f"The atlas image {path} cannot be read: {error}") from error
    if stored.ndim > 3 and set(stored.shape[3:]) == {1}:
        stored = stored.reshape(stored.shape[:3])
    if stored.ndim != 3 or is_singular:
        raise AtlasError(
            f"The atlas image {path} has the shape {stored.shape}{' and a singular affine' if is_singular else ''}; "
            "a 3-D image of labels is expected."
        )
    labels = np.rint(stored).astype(np.int64) if stored.dtype.kind == "f" else stored.astype(np.int64)
    if not np.array_equal(labels, stored) or labels.min() < 0 or labels.max() > _MAX_LABEL:
        raise AtlasError(
            f"The atlas image {path} holds values that are no labels (whole numbers from 0 to {_MAX_LABEL}).",
            hint="Probability maps must be turned into labels first.",
        )
    return labels, affine


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
        "volumes": [[v.sha256, v.values.tolist(), v.parcels.tolist()] for v in volumes],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
