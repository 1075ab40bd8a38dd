"""CIFTI files: headers and blocks against nibabel, and what is said of damaged ones."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from helpers import surface_files as made
from nibabel.cifti2 import SeriesAxis

from bids_semantoks.images.grayordinates import (
    CiftiError,
    load_cifti,
    read_grayordinate_rows,
    read_grayordinates,
    read_label_names,
    read_series_step,
)

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "atlas"


DLABEL = SHARED / "Schaefer2018_400Parcels_7Networks_order_Tian_Subcortex_S3.dlabel.nii"


def check_same_axis(grayordinates, axis):
    """Every structure with the same place, vertices and voxels as nibabel reads them."""
    listed = list(axis.iter_structures())
    assert [f"CIFTI_STRUCTURE_{model.structure}" for model in grayordinates.models] == [name for name, _, _ in listed]
    for model, (name, place, part) in zip(grayordinates.models, listed, strict=True):
        assert model.offset == place.start
        assert model.n_vertices == part.nvertices.get(name, 0)
        np.testing.assert_array_equal(model.indices, part.vertex if model.n_vertices else part.voxel)
    assert grayordinates.size == len(axis)


@pytest.mark.parametrize("order", [("left", "right", "thalamus", "cerebellum"), ("cerebellum", "right", "left")])
def test_axes_are_those_that_nibabel_reads(tmp_path, order):
    axis = made.build_axis(order)
    path = made.write_dtseries(tmp_path / "a.dtseries.nii", made.build_series(len(axis)), axis, step=1.25)
    file = load_cifti(path)
    assert file.kinds == ("SERIES", "BRAIN_MODELS")
    assert file.shape == (made.T, len(axis))
    grayordinates = read_grayordinates(file.axes[1])
    check_same_axis(grayordinates, nib.load(path).header.get_axis(1))
    assert grayordinates.shape == made.GRID
    np.testing.assert_allclose(grayordinates.affine, made.AFFINE)
    assert read_series_step(file.axes[0]) == 1.25


def test_an_axis_is_read_once_for_runs_of_any_length(tmp_path):
    axis = made.build_axis()
    lengths = (made.T, made.T, made.T + 2)
    files = [
        load_cifti(
            made.write_dtseries(tmp_path / f"{i}.dtseries.nii", made.build_series(len(axis), n_volumes=length), axis)
        )
        for i, length in enumerate(lengths)
    ]
    assert files[0].axes[1] is files[1].axes[1] is files[2].axes[1]
    assert [file.shape[0] for file in files] == list(lengths)
    assert [file.axes[0].number_of_series_points for file in files] == list(lengths)


@pytest.mark.parametrize("dtype", ["<f4", "<f8", "<i2"])
def test_rows_are_the_stored_numbers(tmp_path, dtype, monkeypatch):
    monkeypatch.setattr("bids_semantoks.images.grayordinates._BLOCK_BYTES", 5 * made.T * 8)
    axis = made.build_axis()
    values = made.build_series(len(axis)).round(0)
    path = made.write_dtseries(tmp_path / "a.dtseries.nii", values, axis, dtype=dtype)
    file = load_cifti(path)
    stored = np.concatenate([block.copy() for _, block in read_grayordinate_rows(file)])
    assert stored.dtype == np.dtype(dtype)
    np.testing.assert_allclose(stored.T * file.slope + file.intercept, nib.load(path).get_fdata(), rtol=1e-6)


def test_blocks_without_wanted_rows_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("bids_semantoks.images.grayordinates._BLOCK_BYTES", 10 * made.T * 4)
    axis = made.build_axis()
    file = load_cifti(made.write_dtseries(tmp_path / "a.dtseries.nii", made.build_series(len(axis)), axis))
    wanted = np.zeros(len(axis), dtype=bool)
    wanted[[13, 57]] = True
    assert [start for start, _ in read_grayordinate_rows(file, wanted)] == [10, 50]


def test_kinds_of_axes_and_names_of_labels(tmp_path):
    series = load_cifti(made.write_ptseries(tmp_path / "a.ptseries.nii", made.build_series(3), ["V1 left", "b", "c"]))
    assert series.kinds == ("SERIES", "PARCELS")
    labels = load_cifti(made.write_dlabel(tmp_path / "a.dlabel.nii"))
    assert read_label_names(labels.axes[0]) == {0: "???", **made.NAMES}


@pytest.mark.parametrize(
    ("step", "unit", "expected"),
    [(0.8, "SECOND", 0.8), (0.0, "SECOND", None), (2.0, "HERTZ", None), (np.nan, "SECOND", None)],
)
def test_the_series_step_counts_in_seconds_only(tmp_path, step, unit, expected):
    axis = made.build_axis()
    path = made.write_dtseries(tmp_path / "a.dtseries.nii", made.build_series(len(axis)), axis, step=step, unit=unit)
    assert read_series_step(load_cifti(path).axes[0]) == expected


def test_an_absurd_exponent_gives_no_series_step():
    axis = nib.cifti2.Cifti2MatrixIndicesMap(
        (0,), "CIFTI_INDEX_TYPE_SERIES", series_step=2.0, series_exponent=-3, series_unit="SECOND"
    )
    assert read_series_step(axis) == 0.002
    axis.series_exponent = 999
    assert read_series_step(axis) is None


def test_a_file_that_ends_early_says_how_far_it_goes(tmp_path):
    axis = made.build_axis()
    path = made.write_dtseries(tmp_path / "a.dtseries.nii", made.build_series(len(axis)), axis)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - 3 * made.T * 4 - 1])
    with pytest.raises(CiftiError, match=f"ends after {len(axis) - 4} of {len(axis)} rows"):
        next(read_grayordinate_rows(load_cifti(path)))


def test_what_is_no_cifti_is_refused(tmp_path):
    text = tmp_path / "a.dtseries.nii"
    text.write_bytes(b"no image " * 99)
    with pytest.raises(CiftiError, match="does not begin with a NIfTI-2 header"):
        load_cifti(text)
    plain = tmp_path / "b.nii"
    nib.Nifti2Image(np.zeros((2, 3, 4, 5), np.float32), np.eye(4)).to_filename(plain)
    with pytest.raises(CiftiError, match="has no CIFTI extension"):
        load_cifti(plain)
    first = SHARED / "91k_greyordinates.dscalar.nii"
    if first.is_file():
        with pytest.raises(CiftiError, match=r"CIFTI version 1;.*version 2"):
            load_cifti(first)


def test_other_kinds_of_files_are_named(tmp_path):
    file = load_cifti(made.write_dlabel(tmp_path / "a.dlabel.nii"))
    with pytest.raises(CiftiError, match=r"LABELS x BRAIN_MODELS;.*SERIES x BRAIN_MODELS"):
        file.check_kinds("SERIES", "BRAIN_MODELS")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'IndexCount="34"', b'IndexCount="33"', "CORTEX_LEFT: 34 indices for 33 values"),
        (b'IndexOffset="34"', b'IndexOffset="35"', "CORTEX_RIGHT:"),
        (b'SurfaceNumberOfVertices="37"', b'SurfaceNumberOfVertices="12"', "CORTEX_LEFT"),
        (b'VolumeDimensions="6,7,8"', b'VolumeDimensions="6,7  "', "three dimensions"),
        (b'IndexOffset="34"', b'IndexOffsat="34"', "CORTEX_RIGHT"),
        (b'IndexCount="34"', b'IndexCount="3a"', r"its CIFTI header cannot be read \(invalid literal"),
        (b"_STRUCTURE_CORTEX_LEFT", b"_STRUCTURE_CORTEX_NONE", "its CIFTI header cannot be read"),
        (b"</CIFTI>", b"<CIFTI/>", "CIFTI.*XML"),
    ],
)
def test_damaged_headers_are_refused(tmp_path, old, new, message):
    axis = made.build_axis()
    path = made.write_dtseries(tmp_path / "a.dtseries.nii", made.build_series(len(axis)), axis)
    content = path.read_bytes()
    # A header of another length would move the numbers.
    assert old in content
    assert len(old) == len(new)
    path.write_bytes(content.replace(old, new))
    with pytest.raises(CiftiError, match=message):
        read_grayordinates(load_cifti(path).axes[1])


@pytest.mark.skipif(not DLABEL.is_file(), reason="needs ../shared/atlas")
def test_the_real_grayordinates_are_those_that_nibabel_reads(tmp_path):
    axis = nib.load(DLABEL).header.get_axis(1)
    values = np.random.default_rng(0).standard_normal((3, 91282)).astype(np.float32)
    path = tmp_path / "a.dtseries.nii"
    nib.save(nib.Cifti2Image(values, (SeriesAxis(0.0, 0.72, 3), axis)), path)
    file = load_cifti(path)
    check_same_axis(read_grayordinates(file.axes[1]), axis)
    np.testing.assert_array_equal(np.concatenate([block.copy() for _, block in read_grayordinate_rows(file)]).T, values)
