"""Small surface files made by code: CIFTI with two cortices and voxels, GIFTI pairs, and their atlases."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.cifti2 import BrainModelAxis, LabelAxis, ParcelsAxis, SeriesAxis

from bids_semantoks.records import Run

T = 41


N_LEFT, N_RIGHT = 37, 43


GRID = (6, 7, 8)


AFFINE = np.array([[2.0, 0, 0, -5.0], [0, 2.0, 0, -8.0], [0, 0, 2.0, -6.0], [0, 0, 0, 1.0]])


#: Vertices without the medial wall, and voxels of two structures.
LEFT = np.setdiff1d(np.arange(N_LEFT), [3, 4, 20])


RIGHT = np.setdiff1d(np.arange(N_RIGHT), [0, 7])


THALAMUS = np.array([[x, y, 2] for x in range(3) for y in range(4)])


CEREBELLUM = np.array([[x, y, 6] for x in range(2) for y in range(5)])


NAMES = {
    1: "7Networks_LH_Vis_1",
    2: "7Networks_LH_Cont_1",
    3: "7Networks_RH_Vis_1",
    4: "7Networks_RH_Default_1",
    5: "THA-lh",
}


def build_axis(order=("left", "right", "thalamus", "cerebellum"), *, n_left=N_LEFT, affine=AFFINE, grid=GRID):
    """The brain models in the order asked for; indices within a structure are shuffled when it says so."""
    parts = {
        "left": BrainModelAxis.from_surface(LEFT, n_left, "CortexLeft"),
        "right": BrainModelAxis.from_surface(RIGHT, N_RIGHT, "CortexRight"),
        "thalamus": build_voxels(THALAMUS, "thalamus_left", affine, grid),
        "cerebellum": build_voxels(CEREBELLUM, "cerebellum_left", affine, grid),
    }
    axis = parts[order[0]]
    for name in order[1:]:
        axis = axis + parts[name]
    return axis


def build_voxels(voxels, name, affine=AFFINE, grid=GRID):
    structure = BrainModelAxis.to_cifti_brain_structure_name(name)
    return BrainModelAxis(name=[structure] * len(voxels), voxel=voxels, affine=affine, volume_shape=grid)


def build_keys(axis):
    """Key of each grayordinate, from its vertex or voxel alone, so that any order of the axis gives the same."""
    keys = np.zeros(len(axis), dtype=int)
    for i in range(len(axis)):
        kind, where, name = axis[i]
        side = str(name)
        if kind == "CIFTI_MODEL_TYPE_SURFACE" and side.endswith("LEFT"):
            keys[i] = 0 if where % 9 == 0 else 1 + (where % 2)
        elif kind == "CIFTI_MODEL_TYPE_SURFACE":
            keys[i] = 0 if where % 11 == 0 else 3 + (where % 3 > 0)
        elif "THALAMUS" in side:
            keys[i] = 5 if where[0] > 0 else 0
    return keys


def write_dtseries(path, values, axis=None, *, step=2.0, unit="SECOND", dtype=None):
    """Write (T, G) as a CIFTI series; returns the path."""
    axis = build_axis() if axis is None else axis
    series = SeriesAxis(start=0.0, step=step, size=len(values), unit=unit)
    image = nib.Cifti2Image(np.asarray(values), (series, axis))
    if dtype is not None:
        image.nifti_header.set_data_dtype(dtype)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


def write_ptseries(path, values, names, *, step=2.0):
    """Write (T, C) as a parcellated CIFTI series; returns the path."""
    model = BrainModelAxis.from_surface(np.arange(len(names)), 50, "CortexLeft")
    parcels = ParcelsAxis.from_brain_models([(name, model[[i]]) for i, name in enumerate(names)])
    image = nib.Cifti2Image(np.asarray(values), (SeriesAxis(start=0.0, step=step, size=len(values)), parcels))
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


def write_dlabel(path, axis=None, names=None, keys=None):
    """Write the keys of an axis as a label file; returns the path."""
    axis = build_axis() if axis is None else axis
    keys = build_keys(axis) if keys is None else np.asarray(keys)
    table = {0: ("???", (1.0, 1.0, 1.0, 0.0))}
    table |= {key: (name, (0.5, 0.5, 0.5, 1.0)) for key, name in (names or NAMES).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Cifti2Image(keys[None].astype(np.float32), (LabelAxis(["parcels"], [table]), axis)), path)
    return path


def write_func(path, values, *, encoding="GIFTI_ENCODING_B64GZ", whole=False):
    """Write (T, V) as a GIFTI series of one hemisphere; returns the path."""
    values = np.asarray(values, dtype=np.float32)
    arrays = [values.T.copy()] if whole else list(values)
    image = nib.GiftiImage(
        darrays=[
            nib.gifti.GiftiDataArray(
                array, intent="NIFTI_INTENT_TIME_SERIES", datatype="NIFTI_TYPE_FLOAT32", encoding=encoding
            )
            for array in arrays
        ]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


def write_label(path, keys, names):
    """Write a label file of one hemisphere; returns the path."""
    table = nib.gifti.GiftiLabelTable()
    for key, name in {0: "???", **names}.items():
        label = nib.gifti.GiftiLabel(key=key, red=0.5, green=0.5, blue=0.5, alpha=1.0)
        label.label = name
        table.labels.append(label)
    array = nib.gifti.GiftiDataArray(
        np.asarray(keys, dtype=np.int32), intent="NIFTI_INTENT_LABEL", datatype="NIFTI_TYPE_INT32"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.GiftiImage(darrays=[array], labeltable=table), path)
    return path


def write_annot(path, keys, names):
    """Write a FreeSurfer annotation; returns the path."""
    colours = np.array([[40 + i, 7 * i % 256, 3, 0] for i in range(len(names))])
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.freesurfer.write_annot(path, np.asarray(keys), colours, list(names), fill_ctab=True)
    return path


def build_series(n, seed=0, n_volumes=T):
    return (100 + 9 * np.random.default_rng(seed).standard_normal((n_volumes, n))).astype(np.float32)


def compute_means(values, labels, n_parcels):
    """What must come out of (T, G): leave out what does not count, average; also how many count."""
    values = np.asarray(values).astype(np.longdouble)
    counts = np.isfinite(values).all(axis=0) & (values != values[:1]).any(axis=0)
    means = np.full((len(values), n_parcels), np.nan)
    n_used = np.zeros(n_parcels, dtype=int)
    for parcel in range(n_parcels):
        chosen = counts & (labels == parcel + 1)
        n_used[parcel] = chosen.sum()
        if chosen.any():
            means[:, parcel] = values[:, chosen].mean(axis=1)
    return means, n_used


def build_run(bold: Path, space="fsLR", **more) -> Run:
    fields = {
        "entities": (("sub", "01"), ("task", "rest"), ("space", space)),
        "bold": bold,
        "mask": None,
        "confounds": None,
        "repetition_time": 2.0,
        "pipeline": "test",
        "dataset": bold.parent,
    }
    return Run(**(fields | more))
