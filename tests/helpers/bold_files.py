"""Small NIfTI files written byte by byte, and the atlas that goes with them."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np

from bids_semantoks.records import Run

SHAPE = (5, 7, 6)


T, P = 41, 4


SPACE = "MNI152NLin6Asym"


AFFINE = np.array([[2.0, 0, 0, -5.0], [0, 2.0, 0, -8.0], [0, 0, 3.0, -6.0], [0, 0, 0, 1.0]])


#: Every parcel has voxels: blocks of 30 in the order of the array, with 90 voxels left over.
LABELS = np.r_[np.zeros(60), np.repeat([3, 1, 4, 2], 30), np.zeros(30)].reshape(SHAPE).astype(np.int16)


def write_bold(
    path, stored, *, slope=1.0, intercept=0.0, header_class=nib.Nifti1Header, endian="<", step=2.0, tail=b""
):
    """Write numbers exactly as given, with the header describing them; returns the path."""
    stored = np.asarray(stored)
    header = header_class(endianness=endian)
    header.set_data_shape(stored.shape)
    header.set_data_dtype(stored.dtype)
    header.set_zooms((*(2.0, 2.0, 3.0, step)[: stored.ndim],))
    header.set_xyzt_units("mm", "sec")
    header.set_sform(AFFINE, 4)
    header.set_slope_inter(slope, intercept)
    is_second = header_class is nib.Nifti2Header
    header["magic"] = header["magic"] if is_second else b"n+1"
    header["vox_offset"] = 544 if is_second else 352
    block = header.binaryblock
    data = block + bytes(int(header["vox_offset"]) - len(block))
    data += stored.astype(stored.dtype.newbyteorder(endian)).tobytes(order="F") + tail
    path.write_bytes(gzip.compress(data, compresslevel=1) if path.name.endswith(".gz") else data)
    return path


def write_mask(path, inside=None, affine=AFFINE):
    """Write a brain mask (all of the grid unless told otherwise); returns the path."""
    inside = np.ones(SHAPE, dtype=np.uint8) if inside is None else np.asarray(inside, dtype=np.uint8)
    nib.Nifti1Image(inside, affine).to_filename(path)
    return path


def write_atlas(folder, labels=LABELS, affine=AFFINE, *, name="Test", rows=None, space=SPACE, table="same"):
    """Write a label image and its table; returns the path of the image."""
    folder.mkdir(parents=True, exist_ok=True)
    image = folder / f"atlas-{name}_space-{space}_dseg.nii.gz"
    nib.Nifti1Image(np.asarray(labels), affine).to_filename(image)
    if rows is None:
        rows = [(n, f"p{n}", "Vis") for n in range(1, int(np.max(labels)) + 1)]
    lines = ["index\tlabel\tnetwork_label", *("\t".join(map(str, row)) for row in rows)]
    if table == "same":
        (folder / f"atlas-{name}_space-{space}_dseg.tsv").write_text("\n".join(lines) + "\n")
    return image


def build_series(dtype, seed=0, shape=(*SHAPE, T)):
    """Random numbers over the whole range of an integer type, or around 100 for a real one."""
    dtype = np.dtype(dtype)
    rng = np.random.default_rng(seed)
    if dtype.kind == "f":
        return (100 + 9 * rng.standard_normal(shape)).astype(dtype)
    low, high = (np.iinfo(dtype).min, np.iinfo(dtype).max) if dtype.itemsize < 8 else (-(2**40), 2**40)
    return rng.integers(max(low, 0) if dtype.kind == "u" else low, high, shape, dtype=dtype, endpoint=True)


def compute_means(stored, labels=LABELS, inside=None, slope=1.0, intercept=0.0, n_parcels=P):
    """What must come out: load all, leave out what does not count, average; also how many voxels count."""
    series = np.asarray(stored).reshape(-1, stored.shape[-1])
    values = series.astype(np.longdouble)
    counts = np.isfinite(values).all(axis=1) & (series != series[:, :1]).any(axis=1)
    counts &= np.ones(len(values), bool) if inside is None else np.asarray(inside, bool).ravel()
    means = np.full((values.shape[1], n_parcels), np.nan)
    n_used = np.zeros(n_parcels, dtype=int)
    for parcel in range(n_parcels):
        chosen = counts & (labels.ravel() == parcel + 1)
        n_used[parcel] = chosen.sum()
        if chosen.any():
            means[:, parcel] = values[chosen].mean(axis=0) * slope + intercept
    return means, n_used


def build_run(bold: Path, mask: Path, changes: dict | None = None, **more) -> Run:
    """Describe the files as a run in the atlas' space."""
    fields = {
        "entities": (("sub", "01"), ("task", "rest"), ("space", SPACE)),
        "bold": bold,
        "mask": mask,
        "confounds": None,
        "repetition_time": 2.0,
        "pipeline": "test",
        "dataset": bold.parent,
    }
    return Run(**(fields | (changes or {}) | more))
