"""Label images of an atlas: read, check, warp, and resample them onto the grid of a run; grids are cached."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from bids_semantoks.atlases.label_tables import LabelTable, Layer, build_grid_layer, hash_labels, look_up
from bids_semantoks.atlases.supply import Part, check_published
from bids_semantoks.disk import check_size, read_array
from bids_semantoks.errors import AtlasError, name_some
from bids_semantoks.files import hash_text, write_array
from bids_semantoks.images.volumes import DAMAGED, check_compressed, one_line
from bids_semantoks.records import Atlas, AtlasVolume, Floats, Indices
from bids_semantoks.runtime.downloads import GRIDS, check_file, find_cache

LOG = logging.getLogger("bids_semantoks")

# Larger integers are not exact in float32, in which many label images are stored.
_MAX_LABEL: Final = 1 << 24

# Scaled integers and resaved images deviate from integers by up to this; averages of two labels by more.
_NOISE: Final = 0.01

# Templates differ by a few millimetres, landmarks of another label order by tens.
_NEAR: Final = 12.0

# Even without a writable cache, a process resamples each of its two grids (runs, figures) only once.
_HERE: Final[dict[str, NDArray[np.int32]]] = {}

_N_HERE: Final = 2

# Coordinates halfway between two voxels are always rounded up, whatever the rounding error of the affines.
_TIE = 1e-6


def load_volume(
    part: Part, table: LabelTable, landmarks: Mapping[int, tuple[float, ...]], *, space: str
) -> tuple[AtlasVolume, list[Layer]]:
    """Read and check one image of an atlas for data in `space`; `landmarks` are by index in the table. Raises
    AtlasError if the image contradicts its table or the landmarks."""
    sha256 = check_file(part.path)
    image, affine = read_label_image(part.path)
    check_published(part, sha256, hash_labels(image, affine))
    file = part.file
    values, indices = (table.values, table.values) if file.values is None else (file.values, file.indices)
    positions = find_positions(part, table, indices)
    present = set(np.unique(image).tolist()) - {0}
    check_labels(part, table, present, values)
    lookup = dict(zip(values, indices, strict=True))
    check_landmarks(part, table, (image, affine), {v: landmarks[i] for v, i in lookup.items() if i in landmarks})
    volume = part.as_volume(sha256, values, positions)
    return volume, [build_grid_layer(image, affine, volume, space)]


def find_positions(part: Part, table: LabelTable, indices: Sequence[int]) -> list[int]:
    """Find the rows of a table with these indices of a part. Raises AtlasError if it lacks some."""
    position = {index: i for i, index in enumerate(table.values)}
    if unlisted := sorted(set(indices) - set(position)):
        raise AtlasError(f"{part.listed_in} refers to parcels {name_some(unlisted)}, which are not in {table.path}.")
    return [position[index] for index in indices]


def read_label_image(path: Path) -> tuple[Indices, Floats]:
    """Read a 3-D label image: labels (X, Y, Z), 0 for none, and affine (4, 4), voxel to mm. Raises AtlasError if it
    is damaged or contains anything but labels."""
    try:
        image: Any = nib.load(path)
        check_size(path, image.shape, image.get_data_dtype())
        stored = np.asanyarray(image.dataobj)
        check_compressed(path)
        affine = np.asarray(image.affine, dtype=np.float64)
        is_singular = not np.isfinite(affine).all() or abs(np.linalg.det(affine)) < 1e-12
    except DAMAGED as error:
        raise AtlasError(f"The atlas image {path} cannot be read: {one_line(error)}") from error
    if stored.ndim > 3 and set(stored.shape[3:]) == {1}:
        stored = stored.reshape(stored.shape[:3])
    if stored.ndim > 3:
        raise AtlasError(
            f"The atlas image {path} has shape {stored.shape} (a probability map or several label maps); expected 3-D.",
            hint="Give a 3-D label image; convert probability maps to labels first.",
        )
    if stored.ndim != 3 or is_singular:
        raise AtlasError(
            f"The atlas image {path} has shape {stored.shape}{' and a singular affine' if is_singular else ''}; "
            "expected a 3-D label image."
        )
    return _round_labels(stored, path), affine


def _round_labels(stored: NDArray[Any], path: Path) -> Indices:
    """Convert stored numbers to labels: NaN, and a single distinct negative number (usually -1), are background."""
    finite = stored
    if stored.dtype.kind == "f":
        # Infinite and non-integer values are not labels.
        finite = np.nan_to_num(stored, nan=0.0, posinf=0.5, neginf=0.5)
    labels: Indices = np.rint(finite).astype(np.int64)
    if np.unique(negative := labels[labels < 0]).size == 1:
        LOG.info("%s has %d voxels with value %d, treated as background.", path.name, negative.size, negative[0])
        finite, labels = np.where(labels < 0, 0, finite), np.maximum(labels, 0)
    is_wrong = (np.abs(finite - labels) > _NOISE) | (labels < 0) | (labels > _MAX_LABEL)
    if is_wrong.any():
        voxel = tuple(map(int, np.argwhere(is_wrong)[0]))
        raise AtlasError(
            f"The atlas image {path} has {np.count_nonzero(is_wrong)} values that are not labels (integers from "
            f"0 to {_MAX_LABEL}), such as {stored[voxel]:g} in voxel {voxel}.",
            hint="If the image was resampled, use nearest-neighbour interpolation.",
        )
    return labels


def check_labels(part: Part, table: LabelTable, present: set[int], values: Sequence[int]) -> None:
    """Check the labels `present` in an image, of which `values` are used. Raises AtlasError if some have no row in the
    table, none of `values` is present, or the labels differ from the published set."""
    if part.file.values is None and present - set(table.values):
        unknown = sorted(present - set(table.values))
        raise AtlasError(
            f"The atlas image {part.path} has labels without a row in {table.path}: {name_some(unknown)}.",
            hint="Add a row for each (index, label, network_label; n/a if it has no network).",
        )
    if not present & set(values):
        raise AtlasError(f"The atlas image {part.path} has none of the {len(values)} labels in {table.path}.")
    expected = set(range(1, part.file.n_labels + 1))
    if expected and present != expected:
        lacking, foreign = sorted(expected - present), sorted(present - expected)
        raise AtlasError(
            f"The atlas image {part.path} must have labels 1 to {part.file.n_labels}"
            f"{f'; missing: {name_some(lacking)}' if lacking else ''}"
            f"{f'; unexpected: {name_some(foreign)}' if foreign else ''}.",
            hint=f"It is not the file described in {part.listed_in.name}. Fetch it again, or rename it.",
        )


def check_landmarks(
    part: Part, table: LabelTable, image: tuple[Indices, Floats], landmarks: Mapping[int, tuple[float, ...]]
) -> None:
    """Raise AtlasError unless the centres of some labels are within 12 mm of `landmarks` (mm), which detects labels in
    another order and flipped images. `image` is labels (X, Y, Z) and affine (4, 4), voxel to mm."""
    labels, affine = image
    names = dict(zip(table.values, table.parcels, strict=True))
    indices = dict(zip(part.file.values or (), part.file.indices, strict=True))
    for value, expected in landmarks.items():
        voxels = np.argwhere(labels == value)
        if not len(voxels):
            continue
        found = affine[:3, :3] @ voxels.mean(axis=0) + affine[:3, 3]
        distance = float(np.linalg.norm(found - expected))
        if distance > _NEAR:
            at, wanted = (", ".join(f"{c:.0f}" for c in point) for point in (found, expected))
            raise AtlasError(
                f"Label {value} of {part.path} is centred at ({at}) mm; expected {names[indices[value]]} at "
                f"({wanted}). Its labels are in another order, or the image is flipped or in another space.",
                hint=f"The expected order is described in {part.listed_in.name}.",
            )


def build_label_grid(atlas: Atlas, shape: tuple[int, int, int], affine: Floats) -> NDArray[np.int32]:
    """Resample an atlas onto a grid by nearest neighbour -> (X, Y, Z): position of the parcel plus 1, 0 for none.
    `affine` (4, 4) maps voxels of the grid to mm in the atlas' space. The atlas images may differ from the grid and
    each other in voxel size and field of view; where they overlap, the first wins. The grid of a warped atlas is cached
    and read-only. Raises AtlasError if no voxel of the grid is in a parcel."""
    if not any(volume.transform for volume in atlas.volumes):
        return _lay(atlas, shape, affine)
    key = hash_text(repr((atlas.sha256, shape, np.round(affine, 6).tolist())))
    if (grid := read_grid(key, shape)) is None:
        grid = _lay(atlas, shape, affine)
        keep_grid(key, grid)
    return grid


def _lay(atlas: Atlas, shape: tuple[int, int, int], affine: Floats) -> NDArray[np.int32]:
    grid = np.zeros(shape, dtype=np.int32)
    warps = {path: load_warp(path) for path in dict.fromkeys(one.transform for one in atlas.volumes) if path}
    for volume in atlas.volumes:
        image, image_affine = read_label_image(volume.path)
        parcels = np.ascontiguousarray(look_up(image, volume))
        to_image = np.asarray(np.linalg.inv(image_affine), dtype=np.float64)
        # Slab by slab: the coordinates of a whole grid would take more memory than the images.
        for x, slab in enumerate(grid):
            if volume.transform is None:
                voxels = _locate_slab(to_image @ affine, x, slab.shape)
            else:
                voxels = _locate_warped(to_image, affine, warps[volume.transform], (x, *slab.shape))
            np.copyto(slab, _look_up(parcels, voxels).reshape(slab.shape), where=slab == 0)
    if not grid.any():
        raise AtlasError(
            f"The atlas {atlas.name} does not overlap the data: no parcel is inside the grid of {shape} voxels.",
            hint=f"Check that the affines of the data and of {atlas.volumes[0].path} are both in {atlas.space}.",
        )
    return grid


def _locate_slab(to_image: Floats, x: int, shape: tuple[int, ...]) -> list[Floats]:
    y, z = np.arange(shape[0])[:, None], np.arange(shape[1])[None, :]
    return [(row[1] * y + (row[0] * x + row[3])) + row[2] * z for row in to_image[:3]]


def _locate_warped(to_image: Floats, affine: Floats, warp: Warp, slab: tuple[int, ...]) -> list[Floats]:
    voxels = np.indices((1, *slab[1:]), dtype=np.float64).reshape(3, -1) + np.array([[slab[0]], [0], [0]])
    points = map_points((affine[:3, :3] @ voxels + affine[:3, 3:]).T, warp).T
    return list(to_image[:3, :3] @ points + to_image[:3, 3:])


def _look_up(parcels: NDArray[np.int32], voxels: list[Floats]) -> NDArray[np.int32]:
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


def _name_grid(key: str) -> Path | None:
    cache = find_cache()
    return cache / GRIDS / f"{key}.npy" if cache else None


def read_grid(key: str, shape: tuple[int, int, int]) -> NDArray[np.int32] | None:
    """Return a grid (X, Y, Z), read-only, from this process or the disk cache; None if it is missing or damaged."""
    if key in _HERE:
        return _HERE[key]
    with contextlib.suppress(OSError, ValueError, EOFError):
        if (path := _name_grid(key)) and (grid := read_array(path)).shape == shape and grid.dtype == np.int32:
            return _keep_here(key, grid)
    return None


def _keep_here(key: str, grid: NDArray[np.int32]) -> NDArray[np.int32]:
    grid.flags.writeable = False
    while len(_HERE) >= _N_HERE:
        del _HERE[next(iter(_HERE))]
    _HERE[key] = grid
    return grid


def keep_grid(key: str, grid: NDArray[np.int32]) -> None:
    """Cache a grid (X, Y, Z) in this process (read-only), and on disk if the cache is writable."""
    _keep_here(key, grid)
    if path := _name_grid(key):
        # If the cache is full, the next call takes some seconds longer; this run must not fail.
        with contextlib.suppress(OSError):
            write_array(path, grid)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Field:
    """A displacement field."""

    displacements: NDArray[np.float32]  # (X, Y, Z, 3) mm
    to_voxels: Floats  # (4, 4), mm to voxels


# A point transform between two spaces: matrices (4, 4) and displacement fields, in order of application.
Warp = tuple[NDArray[np.float64] | _Field, ...]


def map_points(points: Floats, warp: Warp) -> Floats:
    """Map points (n, 3) in RAS mm from the space into which images are resampled to their own.
    Displacements are interpolated linearly and zero outside their field, as in ANTs."""
    for step in warp:
        points = _displace(points, step) if isinstance(step, _Field) else _multiply(step, points)
    return points


def _multiply(matrix: Floats, points: Floats) -> Floats:
    moved: Floats = points @ matrix[:3, :3].T + matrix[:3, 3]
    return moved


def _displace(points: Floats, field: _Field) -> Floats:
    from scipy.ndimage import map_coordinates

    voxels = _multiply(field.to_voxels, points)
    shape = field.displacements.shape[:3]
    # A field extends half a voxel beyond the centres of its outermost voxels.
    inside = np.asarray((voxels >= -0.5) & (voxels < np.asarray(shape) - 0.5)).all(axis=1)
    moved = points.copy()
    for axis in range(3):
        component = field.displacements[..., axis]
        moved[inside, axis] += map_coordinates(component, voxels[inside].T, order=1, mode="nearest", output=np.float64)
    return moved


def load_warp(path: Path) -> Warp:
    """Read a composite ANTs transform of affine and displacement parts (HDF5 ``.h5``), with points as in `map_points`.
    Raises AtlasError if the file is damaged, empty or has transforms of another kind."""
    # Imported late: slow to import, and few calls warp anything.
    from nitransforms.io.itk import ITKCompositeH5

    try:
        parts = ITKCompositeH5.from_filename(path)
        # ITK uses a stack: the last transform pushed is applied first.
        steps = tuple(_to_step(part) for part in reversed(parts))
    except (OSError, KeyError, ValueError, TypeError, IndexError) as error:
        raise AtlasError(
            f"The transform {path} cannot be read: {' '.join(str(error).split()) or type(error).__name__}.",
            hint="Expected a composite ANTs transform in HDF5, such as TemplateFlow's *_mode-image_xfm.h5.",
        ) from error
    if not steps:
        raise AtlasError(f"The transform {path} is empty.")
    return steps


def _to_step(part: Any) -> Floats | _Field:
    if hasattr(part, "to_ras"):
        return np.asarray(part.to_ras(), dtype=np.float64)
    displacements = np.asarray(part.dataobj, dtype=np.float32)
    return _Field(displacements=displacements, to_voxels=np.linalg.inv(np.asarray(part.affine, dtype=np.float64)))
