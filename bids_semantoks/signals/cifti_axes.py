"""Axes of a CIFTI-2 file: time, grayordinates or labels."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.signals.cifti import CiftiError
from bids_semantoks.signals.grayordinates import BrainModel, Grayordinates

_PREFIX: Final = "CIFTI_STRUCTURE_"


def read_series_step(axis: ET.Element) -> float | None:
    """Read the time between volumes (s) from a ``SERIES`` axis; None where it is not positive or not in seconds."""
    try:
        step = float(axis.get("SeriesStep", "")) * 10.0 ** int(axis.get("SeriesExponent", "0"))
    except (ValueError, OverflowError):
        return None
    is_time = axis.get("SeriesUnit") == "SECOND" and np.isfinite(step) and step > 0
    return step if is_time else None


def read_grayordinates(axis: ET.Element) -> Grayordinates:
    """Read the vertices and voxels of a ``BRAIN_MODELS`` axis, in file order. Raises CiftiError where models are
    missing, damaged or repeated, or do not follow one another."""
    shape, affine = _read_volume(axis.find("Volume"))
    models = sorted((_read_model(element) for element in axis.iter("BrainModel")), key=lambda model: model.offset)
    grayordinates = Grayordinates(models=tuple(models), shape=shape, affine=affine)
    end = 0
    for model in models:
        limits = (model.n_vertices,) if model.n_vertices else shape
        indices = model.indices.reshape(len(model.indices), -1)
        if model.offset != end or (indices < 0).any() or (indices >= limits).any():
            raise CiftiError(f"has a damaged model of {model.structure}: its indices are out of range or overlap")
        end += len(indices)
    if len({model.structure for model in models}) != len(models) or not models:
        raise CiftiError("has no brain models" if not models else "has a structure twice")
    return grayordinates


def read_label_names(axis: ET.Element) -> dict[int, str]:
    """Read the name of each key in the first map of a ``LABELS`` axis; CiftiError where a key is not a whole number."""
    table = axis.find("NamedMap/LabelTable")
    labels = [] if table is None else table.findall("Label")
    try:
        return {int(label.get("Key", "")): " ".join((label.text or "").split()) for label in labels}
    except ValueError as error:
        raise CiftiError("has a label key that is no whole number") from error


def _read_volume(element: ET.Element | None) -> tuple[tuple[int, int, int], NDArray[np.float64]]:
    if element is None:
        return (0, 0, 0), np.eye(4)
    try:
        x, y, z = (int(n) for n in element.get("VolumeDimensions", "").split(","))
        matrix = element.find("TransformationMatrixVoxelIndicesIJKtoXYZ")
        assert matrix is not None
        affine = np.array((matrix.text or "").split(), dtype=np.float64).reshape(4, 4)
        # Exponent -3 is millimetres.
        affine[:3] *= 10.0 ** (int(matrix.get("MeterExponent", "-3")) + 3)
    except (ValueError, AssertionError) as error:
        raise CiftiError("is damaged: its volume has no three dimensions with a matrix of 16 numbers") from error
    return (x, y, z), affine


def _read_model(element: ET.Element) -> BrainModel:
    structure = element.get("BrainStructure", "").removeprefix(_PREFIX)
    is_surface = element.get("ModelType") == "CIFTI_MODEL_TYPE_SURFACE"
    listed = element.find("VertexIndices" if is_surface else "VoxelIndicesIJK")
    text = "" if listed is None else listed.text or ""
    try:
        indices = np.array(text.split(), dtype=np.int64)
        count, offset = int(element.get("IndexCount", "")), int(element.get("IndexOffset", ""))
        indices = indices if is_surface else indices.reshape(-1, 3)
        n_vertices = int(element.get("SurfaceNumberOfVertices", "")) if is_surface else 0
    except ValueError as error:
        raise CiftiError(f"has a damaged model of {structure or 'no structure'}: {error}") from error
    if len(indices) != count or not count or (is_surface and n_vertices < 1):
        raise CiftiError(f"has a damaged model of {structure}: {len(indices)} indices for {count} values")
    return BrainModel(structure=structure, offset=offset, n_vertices=n_vertices, indices=indices)
