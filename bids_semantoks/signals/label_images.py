"""Label images: reading, and checks of their labels and where these lie."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray

from bids_semantoks.errors import AtlasError
from bids_semantoks.signals.labels import LabelTable, name_some
from bids_semantoks.signals.parts import Part

# Whole numbers above are not exact in float32, in which many label images are stored.
_MAX_LABEL: Final = 1 << 24
# Templates differ by a few millimetres; the landmarks of an order of labels by tens.
_NEAR: Final = 12.0


def read_labels(path: Path) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Read a 3-D label image: labels (X, Y, Z), 0 for none, and affine (4, 4), voxel to mm. Raises AtlasError where
    it is damaged or holds anything but labels."""
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


def check_labels(part: Part, table: LabelTable, present: set[int], values: Sequence[int]) -> None:
    """Check the labels `present` in an image, of which `values` count. Raises AtlasError where some have no row in
    the table, none that counts is there, or the image must hold a known set and does not."""
    if part.values is None and present - set(table.values):
        unknown = sorted(present - set(table.values))
        raise AtlasError(
            f"The atlas image {part.path} holds labels without a row in {table.path}: {name_some(unknown)}.",
            hint="Add a row for each (index, label, network_label; n/a for no network).",
        )
    if not present & set(values):
        raise AtlasError(f"The atlas image {part.path} holds none of the {len(values)} labels of {table.path}.")
    expected = set(range(1, part.n_labels + 1))
    if expected and present != expected:
        lacking, foreign = sorted(expected - present), sorted(present - expected)
        raise AtlasError(
            f"The atlas image {part.path} must hold the labels 1 to {part.n_labels}"
            f"{f', it lacks {name_some(lacking)}' if lacking else ''}"
            f"{f', it also holds {name_some(foreign)}' if foreign else ''}.",
            hint=f"It is not the file that {part.listed_in.name} describes. Fetch it again, or use another name.",
        )


def check_landmarks(
    part: Part,
    table: LabelTable,
    image: tuple[NDArray[np.int64], NDArray[np.float64]],
    landmarks: Mapping[int, tuple[float, ...]],
) -> None:
    """Check that some labels have their centres within 12 mm of `landmarks` (mm), else AtlasError: labels in another
    order or a flipped image show at once. `image` is labels (X, Y, Z) and affine (4, 4), voxel to mm."""
    labels, affine = image
    names = dict(zip(table.values, table.parcels, strict=True))
    indices = dict(zip(part.values or (), part.indices, strict=True))
    for value, expected in landmarks.items():
        voxels = np.argwhere(labels == value)
        if not len(voxels):
            continue
        found = affine[:3, :3] @ voxels.mean(axis=0) + affine[:3, 3]
        distance = float(np.linalg.norm(found - expected))
        if distance > _NEAR:
            at, wanted = (", ".join(f"{c:.0f}" for c in point) for point in (found, expected))
            raise AtlasError(
                f"The label {value} of {part.path} lies at ({at}) mm, but {names[indices[value]]} is expected at "
                f"({wanted}): its labels are in another order, or the image is flipped or in another space.",
                hint=f"Expected is the order that {part.listed_in.name} describes.",
            )
