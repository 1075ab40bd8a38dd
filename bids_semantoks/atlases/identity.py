"""The identity of an atlas: a checksum of the label of each voxel or vertex, independent of file format."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.files import hash_values
from bids_semantoks.records import AtlasVolume

# Affines that differ by less are equal: they are stored in single precision, as quaternions or as text.
_DECIMALS = 3


class Layer(NamedTuple):
    """Parcels in one part of the brain: a voxel grid, the mesh of a hemisphere, or the voxels of a structure."""

    place: tuple[Any, ...]  # identifies the array's axes, in plain values; layers with the same place can be merged
    parcels: NDArray[np.int32]  # position plus 1, 0 for none


def build_grid_layer(labels: NDArray[np.int64], affine: NDArray[np.float64], volume: AtlasVolume, space: str) -> Layer:
    """Build the layer of a label image (X, Y, Z) with its affine (4, 4), for data in `space`."""
    place = (volume.space or space, volume.transform_sha256, *describe_grid(labels.shape, affine))
    return Layer(place, np.ascontiguousarray(look_up(labels, volume)))


def hash_labels(labels: NDArray[np.int64], affine: NDArray[np.float64] | None = None) -> str:
    """Compute the SHA-256 of the labels of an image with its grid, or of the grayordinates of a surface file;
    independent of data type, header, compression and names."""
    grid = describe_grid(labels.shape, affine) if affine is not None else (list(labels.shape),)
    return hash_values([*grid, _hash_array(labels)])


def _hash_array(values: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(values, dtype="<i4").tobytes()).hexdigest()


def look_up(labels: NDArray[np.int64], volume: AtlasVolume) -> NDArray[np.int32]:
    """Convert labels to parcel positions plus 1, 0 for none; negative labels count as none."""
    lookup = np.zeros(max(int(labels.max()), int(volume.values.max())) + 1, dtype=np.int32)
    lookup[volume.values] = volume.parcels + 1
    found: NDArray[np.int32] = lookup[np.maximum(labels, 0)]
    return found


def describe_grid(shape: Sequence[int], affine: NDArray[np.float64]) -> tuple[Any, ...]:
    """Describe a grid in plain values, so that equal grids compare equal."""
    # Adding zero turns -0.0 into 0.0.
    return (list(map(int, shape)), (np.round(affine, _DECIMALS) + 0.0).tolist())


def identify(parcels: Sequence[str], networks: Sequence[str], space: str, layers: Sequence[Layer]) -> str:
    """Compute the identity of an atlas from its table, its space and its layers, of which earlier ones take precedence.

    Layers on one grid are merged: an atlas in two files on the same grid equals the same atlas in one file."""
    merged: list[Layer] = []
    for layer in layers:
        if merged and merged[-1].place == layer.place:
            first = merged.pop().parcels
            layer = Layer(layer.place, np.where(first == 0, layer.parcels, first))  # noqa: PLW2901
        merged.append(layer)
    content = [[*place, _hash_array(values)] for place, values in merged]
    return hash_values({"parcels": parcels, "networks": networks, "space": space, "voxels": content})


def identify_by_files(parcels: Sequence[str], networks: Sequence[str], volumes: Sequence[AtlasVolume]) -> list[str]:
    """Compute the identities that earlier versions gave an atlas, from the checksums of its files: first the local
    files, then others with the same labels. For an atlas without files this is still its identity."""
    found = []
    for sums in itertools.product(*((one.sha256, *one.other_sha256) for one in volumes)):
        labels = [
            [sha256, v.values.tolist(), v.parcels.tolist(), *([v.transform_sha256] if v.transform else [])]
            for sha256, v in zip(sums, volumes, strict=True)
        ]
        found.append(hash_values({"parcels": parcels, "networks": networks, "volumes": labels}))
    return found
