"""Parcellated CIFTI series: the content of a table of series in a NIfTI-2 file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from bids_semantoks.atlases.label_tables import name_some
from bids_semantoks.errors import RunFailed
from bids_semantoks.images.volumes import DAMAGED, check_content, one_line

PTSERIES: Final = ".ptseries.nii"


def load_parcel_series(path: Path) -> tuple[tuple[str, ...], NDArray[np.float64], float | None]:
    """Load a ``*.ptseries.nii``: parcel names (C,), values (T, C) with NaN where missing, and seconds per volume.
    The time is None for a series not in seconds. Raises RunSkipped no_content, RunFailed bad_image."""
    check_content(path)
    try:
        image: Any = nib.load(path)
        axes = [image.header.get_axis(number) for number in range(image.ndim)]
        values = np.asarray(image.get_fdata(dtype=np.float64))
    except DAMAGED as error:
        raise RunFailed("bad_image", f"{path} cannot be read as CIFTI: {one_line(error)}") from error
    kinds = [type(axis).__name__ for axis in axes]
    if kinds != ["SeriesAxis", "ParcelsAxis"]:
        raise RunFailed("bad_image", f"{path} has the axes {', '.join(kinds)}; a series of parcels is expected.")
    columns = tuple(str(name) for name in axes[1].name)
    if len(set(columns)) < len(columns):
        twice = sorted({name for name in columns if columns.count(name) > 1})
        raise RunFailed("bad_image", f"{path} has parcels twice: {name_some(twice)}.")
    values[np.isinf(values)] = np.nan
    # Pipelines write zeros for parcels without data, which n/a stands for in their tables.
    values[:, (values == 0).all(axis=0)] = np.nan
    step = float(axes[0].step)
    return columns, values, step if axes[0].unit == "SECOND" and step > 0 else None
