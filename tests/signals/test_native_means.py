"""Parcel means of native volumes against resampling every volume and averaging."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from helpers.bold_files import SPACE, write_atlas
from helpers.fsl_files import (
    NATIVE,
    NATIVE_SIZE,
    STANDARD,
    STANDARD_SIZE,
    build_affine,
    map_voxels,
    resample_and_average,
    write_native_run,
    write_warp,
)

from bids_semantoks.atlases.load import load_atlas
from bids_semantoks.errors import AtlasError, RunFailed
from bids_semantoks.images.volumes import load_volumes
from bids_semantoks.signals.native_means import extract_native_means

T, P = 12, 5

# Five slabs of labels with a border of none.
LABELS = np.zeros(STANDARD, dtype=np.int16)
LABELS[1:-1, 1:-1] = 1 + np.arange(STANDARD[2]) * P // STANDARD[2]


def build_case(folder, volumes, *, positive=(False, False), is_absolute=False, inside=None, labels=LABELS):
    """Write a run with its warp and the atlas on the standard grid."""
    native, standard = (
        build_affine(size, is_positive=sign) for size, sign in zip((NATIVE_SIZE, STANDARD_SIZE), positive, strict=True)
    )
    bold, mask = write_native_run(folder, volumes, affine=native, inside=inside)
    warp = write_warp(
        folder / "reg/warp.nii.gz",
        map_voxels(),
        native_affine=native,
        standard_affine=standard,
        is_absolute=is_absolute,
    )
    atlas = load_atlas(write_atlas(folder / "atlas", labels, standard), space=SPACE, directory=None)
    return load_volumes(bold), mask, warp, atlas


def build_volumes(dtype="i2"):
    rng = np.random.default_rng(0)
    return rng.integers(0, 20000, (*NATIVE, T)).astype(dtype)


def build_mask():
    inside = np.ones(NATIVE, dtype=bool)
    inside[:2, :3] = False
    inside[6:, :, 5:] = False
    return inside


@pytest.mark.parametrize("is_absolute", [False, True])
@pytest.mark.parametrize("positive", list(itertools.product([False, True], repeat=2)))
def test_every_orientation_equals_resampling_each_volume(tmp_path, positive, is_absolute):
    volumes, inside = build_volumes(), build_mask()
    means = extract_native_means(
        *build_case(tmp_path, volumes, positive=positive, is_absolute=is_absolute, inside=inside)
    )
    expected, n_used = resample_and_average(volumes, map_voxels(), LABELS, inside, P)
    np.testing.assert_allclose(means.values, expected, rtol=1e-5)
    np.testing.assert_array_equal(means.n_used, n_used)
    np.testing.assert_array_equal(means.n_voxels, np.bincount(LABELS.ravel())[1:])
    assert 0 < means.coverage.min() < means.coverage.max() < 1
    assert ("absolute coordinates" if is_absolute else "relative displacements") in means.resampling


def test_a_gradient_of_the_native_image_comes_out_at_the_places_of_the_map(tmp_path):
    # Trilinear interpolation is exact for it: the mean is that of the true coordinates.
    x, y, z = np.indices(NATIVE)
    gradient = (3 * x - 5 * y + 7 * z)[..., None] * np.linspace(1, 2, T)
    means = extract_native_means(*build_case(tmp_path, gradient.astype("f4"), positive=(True, False)))
    places = map_voxels()
    here = ((places >= 0) & (places <= np.asarray(NATIVE) - 1)).all(axis=-1)
    for parcel in range(P):
        truth = (places[here & (parcel + 1 == LABELS)] @ [3, -5, 7]).mean()
        np.testing.assert_allclose(means.values[:, parcel], truth * np.linspace(1, 2, T), rtol=1e-4)


@pytest.mark.parametrize("background", [0, 500])
def test_voxels_that_do_not_vary_count_nowhere(tmp_path, background):
    volumes = build_volumes()
    volumes[:4] = background
    means = extract_native_means(*build_case(tmp_path, volumes))
    expected, n_used = resample_and_average(volumes, map_voxels(), LABELS, np.ones(NATIVE, bool), P)
    np.testing.assert_array_equal(means.n_used, n_used)
    np.testing.assert_allclose(means.values, expected, rtol=1e-5)


def test_voxels_next_to_nan_are_left_out_and_counted(tmp_path):
    volumes = build_volumes("f4")
    volumes[5, 4, 3, 7] = np.nan
    volumes[0, 0] = np.inf
    means = extract_native_means(*build_case(tmp_path, volumes))
    assert np.isfinite(means.values).all()
    (note,) = means.warnings
    _, n_all = resample_and_average(build_volumes("f4"), map_voxels(), LABELS, np.ones(NATIVE, bool), P)
    assert note.startswith(f"{(n_all - means.n_used).sum()} voxels in parcels ")
    assert (n_all - means.n_used).sum() > 5


@pytest.mark.parametrize("share", [1.0, 0.7])
def test_a_volume_of_nan_is_lost_and_spoils_no_other(tmp_path, share):
    volumes = build_volumes("f4")
    whole = extract_native_means(*build_case(tmp_path / "whole", volumes))
    volumes[np.random.default_rng(3).uniform(size=NATIVE) < share, 2] = np.nan
    means = extract_native_means(*build_case(tmp_path / "broken", volumes))
    kept = np.arange(T) != 2
    np.testing.assert_allclose(means.values[kept], whole.values[kept], rtol=1e-6)
    assert np.isnan(means.values[2]).all()
    np.testing.assert_array_equal(means.n_used, whole.n_used)
    assert all(part in str(means.warnings) for part in ("1 volumes", "NaN", "n/a: 2", "0)."))


def test_an_atlas_on_another_grid_is_laid_onto_that_of_the_warp(tmp_path):
    volumes, mask, warp, _ = build_case(tmp_path, build_volumes())
    standard = build_affine(STANDARD_SIZE, is_positive=False)
    # The same labels stored from right to left, in voxels half as wide, with a margin.
    fine = np.pad(np.repeat(LABELS, 2, axis=0), ((3, 3), (0, 0), (0, 0)))[::-1]
    halved = standard.copy()
    halved[0, 0] /= -2
    left = standard @ [(STANDARD[0] - 0.5) + 3 / 2 - 0.25, 0, 0, 1]
    halved[0, 3] = left[0]
    other = load_atlas(write_atlas(tmp_path / "fine", fine, halved), space=SPACE, directory=None)
    means = extract_native_means(volumes, mask, warp, other)
    expected, _ = resample_and_average(build_volumes(), map_voxels(), LABELS, np.ones(NATIVE, bool), P)
    np.testing.assert_allclose(means.values, expected, rtol=1e-5)


def test_scaled_integers(tmp_path):
    volumes, mask, warp, atlas = build_case(tmp_path, build_volumes())
    plain = extract_native_means(volumes, mask, warp, atlas).values
    scaled = extract_native_means(replace(volumes, slope=0.5, intercept=-7.0), mask, warp, atlas).values
    np.testing.assert_allclose(scaled, plain * 0.5 - 7, rtol=1e-12)


def test_what_lies_outside_is_refused(tmp_path):
    volumes, mask, warp, _ = build_case(tmp_path, build_volumes())
    far = build_affine(STANDARD_SIZE, is_positive=False, origin=(900, 900, 900))
    outside = load_atlas(write_atlas(tmp_path / "far", LABELS, far), space=SPACE, directory=None)
    with pytest.raises(AtlasError, match=r"warp\.nii\.gz:"):
        extract_native_means(volumes, mask, warp, outside)
    empty = np.zeros(NATIVE)
    empty[0, 0, 0] = 1
    case = build_case(tmp_path / "b", build_volumes(), inside=empty, labels=np.where(LABELS == 5, LABELS, 0))
    with pytest.raises(RunFailed, match=r"mask\.nii\.gz"):
        extract_native_means(*case)
    with pytest.raises(RunFailed, match="in parcels and mask are constant"):
        extract_native_means(*build_case(tmp_path / "c", np.full((*NATIVE, T), 3, dtype="i2")))
