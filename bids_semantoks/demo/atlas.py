"""The Demo457 atlas: 457 blocks in an ellipsoidal brain, not anatomical, so that no atlas need be downloaded.

Only the number of parcels, their order and the network sizes match the published model.
"""

from __future__ import annotations

import gzip
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.files import write_records
from bids_semantoks.records import CANONICAL_NETWORKS, Bools, Floats, Indices

ATLAS_NAME: Final = "Demo457"
SPACE: Final = "MNI152NLin2009cAsym"
GRID_SHAPE: Final = (33, 39, 33)
VOXEL_SIZE: Final = 6.0
GRID_ORIGIN: Final = (-96.0, -132.0, -78.0)

# Parcels of each cortical network, left and right, in the canonical order (Vis ... Default).
LEFT_COUNTS: Final = (31, 37, 23, 22, 13, 22, 52)
RIGHT_COUNTS: Final = (30, 40, 23, 25, 13, 30, 39)
SUBCORTEX_PER_HEMISPHERE: Final = 25
CEREBELLUM_COUNT: Final = 7

# From the back of the head to the front, so that networks lie roughly where they do in real brains.
_BACK_TO_FRONT: Final = (0, 2, 1, 6, 3, 5, 4)


class Anatomy(NamedTuple):
    """Masks and labels, each of shape `GRID_SHAPE`."""

    labels: NDArray[np.int16]  # parcel number 1..457; 0 outside all parcels
    brain: Bools
    white_matter: Bools
    csf: Bools
    edge: Bools  # shell of voxels around the brain


def build_affine() -> Floats:
    """Build the affine (4, 4) of the demo grid, voxel indices to millimetres (RAS)."""
    affine = np.diag([VOXEL_SIZE, VOXEL_SIZE, VOXEL_SIZE, 1.0])
    affine[:3, 3] = GRID_ORIGIN
    return affine


def build_table() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Build the names (``Demo_LH_Vis_1``) and networks (``Vis``) of the 457 parcels, in the model's order."""
    blocks = [("LH_", network, count) for network, count in zip(CANONICAL_NETWORKS, LEFT_COUNTS, strict=False)]
    blocks += [("RH_", network, count) for network, count in zip(CANONICAL_NETWORKS, RIGHT_COUNTS, strict=False)]
    blocks += [("RH_", "Subcortex", SUBCORTEX_PER_HEMISPHERE), ("LH_", "Subcortex", SUBCORTEX_PER_HEMISPHERE)]
    blocks += [("", "Cerebellum", CEREBELLUM_COUNT)]
    parcels = tuple(f"Demo_{side}{network}_{i + 1}" for side, network, count in blocks for i in range(count))
    networks = tuple(network for _, network, count in blocks for _ in range(count))
    return parcels, networks


@cache
def build_anatomy() -> Anatomy:
    """Lay out tissues and parcels on the demo grid; the arrays are read-only and the same on every machine."""
    cerebrum = _ellipsoid((0, -18, 10), (69, 87, 64)) & ~_ellipsoid((0, -66, -48), (54, 42, 34))
    inner = _ellipsoid((0, -18, 10), (49, 66, 44))
    cerebellum = _ellipsoid((0, -66, -42), (48, 36, 24)) & ~cerebrum
    deep = _ellipsoid((0, -14, 6), (34, 38, 22))
    ventricles = _ellipsoid((0, -14, 12), (11, 34, 10))
    x = np.broadcast_to((np.arange(GRID_SHAPE[0]) * VOXEL_SIZE + GRID_ORIGIN[0])[:, None, None], GRID_SHAPE)
    brain = cerebrum | cerebellum
    fissure = cerebrum & ~inner & (x == 0)
    labels = np.zeros(GRID_SHAPE, np.int16)
    cortex, nuclei = cerebrum & ~inner, deep & ~ventricles
    for region, parcels in (
        (cortex & (x < 0), _cortical_order(LEFT_COUNTS, 1)),
        (cortex & (x > 0), _cortical_order(RIGHT_COUNTS, 201)),
        (nuclei & (x > 0), np.arange(401, 426)),
        (nuclei & (x < 0), np.arange(426, 451)),
        (cerebellum, np.arange(451, 458)),
    ):
        _divide(labels, np.argwhere(region), parcels)
    csf = (ventricles | fissure) & (labels == 0)
    white_matter = brain & ~csf & (labels == 0)
    edge = _dilate(brain) & ~brain
    anatomy = Anatomy(labels, brain, white_matter, csf, edge)
    for array in anatomy:
        array.setflags(write=False)
    return anatomy


def write_parcel_table(path: Path) -> None:
    """Write the table of parcels, in BIDS form."""
    rows = [(i + 1, parcel, network) for i, (parcel, network) in enumerate(zip(*build_table(), strict=True))]
    write_records(path, ("index", "label", "network_label"), rows)


def write_image(
    path: Path,
    values: NDArray[np.int16] | NDArray[np.uint8],
    *,
    slope: float = 1.0,
    repetition_time: float | None = None,
) -> None:
    """Write a gzipped NIfTI-1 image of stored integers (X, Y, Z[, T]) on the demo grid; its bytes depend on these
    alone. `slope` is the intensity of one stored unit."""
    from nibabel.nifti1 import Nifti1Header  # noqa: PLC0415 - series without voxels need none

    header = Nifti1Header()
    header.set_data_dtype(values.dtype)
    header.set_data_shape(values.shape)
    header.set_qform(build_affine(), code=4)
    header.set_sform(build_affine(), code=4)
    header.set_xyzt_units("mm", "sec" if repetition_time else "unknown")
    header["scl_slope"], header["scl_inter"], header["vox_offset"] = slope, 0.0, 352
    if repetition_time:
        header["pixdim"][4] = repetition_time
    path.parent.mkdir(parents=True, exist_ok=True)
    # No time stamp and no name inside the gzip, or two equal studies would differ.
    with (
        path.open("wb") as file,
        gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=file, mtime=0) as zipped,
    ):
        zipped.write(header.binaryblock + b"\0\0\0\0")
        zipped.write(values.tobytes(order="F"))


def _ellipsoid(centre: tuple[float, ...], semi_axes: tuple[float, ...]) -> Bools:
    """Mark the voxels whose centre lies in an ellipsoid given in millimetres."""
    inside = np.zeros(GRID_SHAPE)
    for axis, (size, origin, middle, half) in enumerate(zip(GRID_SHAPE, GRID_ORIGIN, centre, semi_axes, strict=True)):
        distance = ((np.arange(size) * VOXEL_SIZE + origin - middle) / half) ** 2
        inside = inside + distance.reshape([-1 if a == axis else 1 for a in range(3)])
    return np.asarray(inside <= 1.0)


def _dilate(mask: Bools) -> Bools:
    """Grow a mask by one voxel along each axis; the mask must not touch the border of the grid."""
    grown = mask.copy()
    for axis in range(3):
        grown |= np.roll(mask, 1, axis) | np.roll(mask, -1, axis)
    return grown


def _cortical_order(counts: tuple[int, ...], first: int) -> Indices:
    """List the parcel numbers of one hemisphere from the back of the head to the front."""
    starts = first + np.concatenate([[0], np.cumsum(counts)[:-1]])
    return np.concatenate([np.arange(starts[n], starts[n] + counts[n]) for n in _BACK_TO_FRONT])


def _divide(labels: NDArray[np.int16], voxels: Indices, parcels: Indices) -> None:
    """Divide voxels (V, 3) among parcels by repeated halving across their longest side. Halving keeps parcel sizes
    within one voxel, which nearest-seed blocks would not; comparing only integers makes the result the same on every
    machine."""
    if len(parcels) == 1:
        labels[tuple(voxels.T)] = parcels[0]
        return
    extent = voxels.max(axis=0) - voxels.min(axis=0)
    longest = int(np.argmax(extent == extent.max()))
    others = [axis for axis in (0, 1, 2) if axis != longest]
    voxels = voxels[np.lexsort((voxels[:, others[1]], voxels[:, others[0]], voxels[:, longest]))]
    half = len(parcels) // 2
    cut = len(voxels) * half // len(parcels)
    _divide(labels, voxels[:cut], parcels[:half])
    _divide(labels, voxels[cut:], parcels[half:])
