"""Parcel means against a NumPy oracle, and damaged images and masks."""

from __future__ import annotations

import gzip
import itertools
import threading
import tracemalloc
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from helpers.bold_files import (
    AFFINE,
    LABELS,
    SHAPE,
    SPACE,
    P,
    T,
    build_series,
    compute_means,
    write_atlas,
    write_bold,
    write_mask,
)
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
from bids_semantoks.images import volumes as volumes_module
from bids_semantoks.images.volumes import load_volumes
from bids_semantoks.signals.volume_means import extract_means, extract_native_means


@pytest.fixture
def atlas(tmp_path):
    return load_atlas(write_atlas(tmp_path / "atlas"), space=SPACE, directory=None)


@pytest.fixture
def mask(tmp_path):
    return write_mask(tmp_path / "mask.nii.gz")


@pytest.fixture
def bold(tmp_path):
    return write_bold(tmp_path / "bold.nii.gz", build_series("i2"))


def average(bold, mask, atlas):
    return extract_means(load_volumes(bold), mask, atlas)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
def test_means_of_every_type(tmp_path, atlas, dtype, endian, suffix):
    stored = build_series(dtype)
    inside = np.random.default_rng(1).random(SHAPE) < 0.7
    bold = write_bold(tmp_path / f"bold{suffix}", stored, slope=0.25, intercept=-3.0, endian=endian)
    means = average(bold, write_mask(tmp_path / "mask.nii.gz", inside), atlas)
    expected, n_used = compute_means(stored, inside=inside, slope=0.25, intercept=-3.0)
    np.testing.assert_allclose(means.values, expected, rtol=1e-13)
    np.testing.assert_array_equal(means.n_used, n_used)
    np.testing.assert_array_equal(means.n_voxels, [30] * P)
    assert means.warnings == ()


def test_means_of_nifti2(tmp_path, atlas, mask):
    stored = build_series("u2")
    bold = write_bold(tmp_path / "bold.nii.gz", stored, header_class=nib.Nifti2Header, slope=2.0)
    np.testing.assert_allclose(average(bold, mask, atlas).values, compute_means(stored, slope=2.0)[0], rtol=1e-13)


def test_integer_sums_are_exact(tmp_path, atlas, mask):
    stored = build_series("i4")
    means = average(write_bold(tmp_path / "bold.nii.gz", stored), mask, atlas)
    sums = stored[LABELS == 1].sum(axis=0, dtype=np.int64)
    np.testing.assert_array_equal(means.values[:, 0], sums / 30)


def test_slope_of_zero_means_none(tmp_path, atlas, mask):
    stored = build_series("i2")
    bold = write_bold(tmp_path / "bold.nii", stored)
    content = bytearray(bold.read_bytes())
    content[112:116] = np.float32(0).tobytes()
    bold.write_bytes(content)
    np.testing.assert_allclose(average(bold, mask, atlas).values, compute_means(stored)[0], rtol=1e-13)


@pytest.mark.parametrize("per_block", [1, 3, 5, 40, 41])
def test_block_size_changes_nothing(tmp_path, atlas, mask, monkeypatch, per_block):
    stored = build_series("f4")
    bold = write_bold(tmp_path / "bold.nii.gz", stored)
    expected = average(bold, mask, atlas).values
    monkeypatch.setattr(volumes_module, "_BLOCK_BYTES", per_block * stored[..., 0].nbytes)
    monkeypatch.setattr(volumes_module, "_READ_BYTES", 100)
    np.testing.assert_array_equal(average(bold, mask, atlas).values, expected)
    np.testing.assert_allclose(expected, compute_means(stored)[0], rtol=1e-13)


@pytest.mark.parametrize("dtype", ["i2", "i8", "f4", "f8"])
@pytest.mark.parametrize("constant", [0, 1234])
def test_constant_voxels_are_left_out(tmp_path, atlas, mask, dtype, constant):
    stored = build_series(dtype) % 100
    stored[:, :, ::2, :] = constant
    means = average(write_bold(tmp_path / "bold.nii.gz", stored), mask, atlas)
    expected, n_used = compute_means(stored)
    assert n_used.min() < 30
    np.testing.assert_allclose(means.values, expected, rtol=1e-13)
    np.testing.assert_array_equal(means.n_used, n_used)
    np.testing.assert_allclose(means.coverage, n_used / 30)


def test_voxel_that_changes_once_counts(tmp_path, atlas, mask):
    stored = np.zeros((*SHAPE, T), dtype=np.int16)
    x, y, z = np.argwhere(LABELS == 2)[3]
    stored[x, y, z, T - 1] = 7
    means = average(write_bold(tmp_path / "bold.nii.gz", stored), mask, atlas)
    np.testing.assert_array_equal(means.n_used, [0, 1, 0, 0])
    assert means.values[T - 1, 1] == 7
    assert np.isnan(means.values[:, [0, 2, 3]]).all()


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("when", [slice(None), slice(0, 1), slice(17, 18), slice(T - 1, T)])
def test_voxels_that_are_not_finite_are_left_out(tmp_path, atlas, mask, broken, when):
    stored = build_series("f4")
    stored[:, 2:4, 1, when] = broken
    means = average(write_bold(tmp_path / "bold.nii.gz", stored), mask, atlas)
    expected, n_used = compute_means(stored)
    np.testing.assert_allclose(means.values, expected, rtol=1e-13)
    np.testing.assert_array_equal(means.n_used, n_used)
    assert f"{120 - n_used.sum()} voxels in parcels are NaN" in str(means.warnings)


def test_a_parcel_of_nothing_but_nan_is_absent(tmp_path, atlas, mask):
    stored = build_series("f8")
    stored[LABELS == 3, :20] = np.nan
    means = average(write_bold(tmp_path / "bold.nii.gz", stored), mask, atlas)
    expected, _ = compute_means(stored)
    np.testing.assert_allclose(means.values, expected, rtol=1e-13)
    np.testing.assert_array_equal(np.isnan(means.values).all(axis=0), [False, False, True, False])


def test_memory_does_not_grow_with_volumes(tmp_path, atlas, mask, monkeypatch):
    monkeypatch.setattr(volumes_module, "_BLOCK_BYTES", 1 << 12)
    peaks = []
    for n_volumes in (200, 2000):
        series = build_series("f8", shape=(*SHAPE, n_volumes))
        bold = write_bold(tmp_path / "bold.nii.gz", series)
        tracemalloc.start()
        average(bold, mask, atlas)
        peaks.append(tracemalloc.get_traced_memory()[1] - 3 * n_volumes * P * 8)
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + series.nbytes // 10


def test_no_thread_is_left_behind(tmp_path, bold, atlas, mask):
    average(bold, mask, atlas)
    bold.write_bytes(bold.read_bytes()[:-500])
    with pytest.raises(RunFailed, match="damaged"):
        average(bold, mask, atlas)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("inflate")]


# Damaged and unsuitable images


@pytest.mark.parametrize("n_whole", [0, 1, 17, 40])
def test_truncated_file_says_how_many_volumes_there_were(tmp_path, atlas, mask, n_whole):
    stored = build_series("i2")
    size = 352 + n_whole * stored[..., 0].nbytes + 200
    path = write_bold(tmp_path / "whole.nii", stored)
    (tmp_path / "cut.nii").write_bytes(path.read_bytes()[:size])
    with gzip.open(tmp_path / "cut.nii.gz", "wb") as file:
        file.write(path.read_bytes()[:size])
    for name in ("cut.nii", "cut.nii.gz"):
        with pytest.raises(RunFailed, match=rf"{name} is damaged: {n_whole} of 41 volumes") as caught:
            average(tmp_path / name, mask, atlas)
        assert caught.value.reason == "bad_image"


def test_truncated_compression(tmp_path, bold, atlas, mask):
    content = bold.read_bytes()
    bold.write_bytes(content[: len(content) // 2])
    with pytest.raises(RunFailed, match=r"(19|20) of 41 volumes .*end-of-stream"):
        average(bold, mask, atlas)


@pytest.mark.parametrize(("n_bytes", "words"), [(4, "end-of-stream"), (8, "end-of-stream")])
def test_missing_checksum(bold, atlas, mask, n_bytes, words):
    bold.write_bytes(bold.read_bytes()[:-n_bytes])
    with pytest.raises(RunFailed, match=words):
        average(bold, mask, atlas)


def test_wrong_checksum(bold, atlas, mask):
    content = bytearray(bold.read_bytes())
    content[-8] ^= 255
    bold.write_bytes(content)
    with pytest.raises(RunFailed, match="Incorrect checksum"):
        average(bold, mask, atlas)


def test_flipped_bits(bold, atlas, mask):
    content = bytearray(bold.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 64] = bytes(64)
    bold.write_bytes(content)
    with pytest.raises(RunFailed, match=r"bold\.nii\.gz is damaged") as caught:
        average(bold, mask, atlas)
    assert caught.value.reason == "bad_image"


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_bytes_behind_the_volumes_are_accepted(tmp_path, atlas, mask, suffix):
    stored = build_series("i2")
    bold = write_bold(tmp_path / f"bold{suffix}", stored, tail=b"x" * 999)
    np.testing.assert_allclose(average(bold, mask, atlas).values, compute_means(stored)[0], rtol=1e-13)


@pytest.mark.parametrize("garbage", [bytes(600), b"not gzip at all" * 40, b"xyz"])
def test_bytes_behind_the_compressed_file_are_accepted(tmp_path, atlas, mask, garbage):
    stored = build_series("i2")
    bold = write_bold(tmp_path / "bold.nii.gz", stored)
    bold.write_bytes(bold.read_bytes() + garbage)
    np.testing.assert_allclose(average(bold, mask, atlas).values, compute_means(stored)[0], rtol=1e-13)


def test_several_gzip_members(tmp_path, atlas, mask):
    stored = build_series("i2")
    content = write_bold(tmp_path / "bold.nii", stored).read_bytes()
    bold = tmp_path / "bold.nii.gz"
    bold.write_bytes(b"".join(gzip.compress(content[n : n + 5000]) for n in range(0, len(content), 5000)))
    np.testing.assert_allclose(average(bold, mask, atlas).values, compute_means(stored)[0], rtol=1e-13)


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"hello world " * 500, gzip.compress(b"hello world " * 500)],
    ids=["empty", "short", "text", "gzipped"],  # bytes as names would hold the hour that gzip writes
)
def test_garbage_is_no_image(tmp_path, atlas, mask, content):
    bold = tmp_path / "bold.nii.gz"
    bold.write_bytes(content)
    with pytest.raises(RunFailed, match=r"The header of .*bold.nii.gz cannot be read") as caught:
        average(bold, mask, atlas)
    assert caught.value.reason == "bad_image"


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (70, np.int16(999)),  # a type that does not exist
        (42, np.int16(-5)),  # a negative size
        (108, np.float32(1e12)),  # volumes far behind the end of the file
    ],
)
def test_wrong_header(tmp_path, atlas, mask, offset, value):
    bold = write_bold(tmp_path / "bold.nii", build_series("i2"))
    content = bytearray(bold.read_bytes())
    content[offset : offset + value.nbytes] = value.tobytes()
    bold.write_bytes(content)
    with pytest.raises(RunFailed, match=r"bold\.nii") as caught:
        average(bold, mask, atlas)
    assert caught.value.reason == "bad_image"


def test_three_dimensions(tmp_path, atlas, mask):
    bold = write_bold(tmp_path / "bold.nii.gz", build_series("i2")[..., 0])
    with pytest.raises(RunFailed, match=r"\(5, 7, 6\);.*4-D"):
        average(bold, mask, atlas)


def test_complex_numbers(tmp_path, atlas, mask):
    bold = write_bold(tmp_path / "bold.nii.gz", build_series("f4").astype(np.complex64))
    with pytest.raises(RunFailed, match="complex64"):
        average(bold, mask, atlas)


@pytest.mark.parametrize(
    ("fill", "words"), [(0, "are 0 in all volumes"), (5, "are constant"), (np.nan, "are NaN or infinite")]
)
def test_nothing_varies(tmp_path, atlas, mask, fill, words):
    bold = write_bold(tmp_path / "bold.nii.gz", np.full((*SHAPE, T), fill, dtype=np.float32))
    with pytest.raises(RunFailed, match=rf"All 120 voxels .* {words}") as caught:
        average(bold, mask, atlas)
    assert caught.value.reason == "bad_image"


# Masks


def test_mask_of_another_shape(tmp_path, bold, atlas):
    mask = write_mask(tmp_path / "other.nii.gz", np.ones((5, 7, 8)))
    with pytest.raises(RunFailed, match=r"\(5, 7, 6\).*\(5, 7, 8\)") as caught:
        average(bold, mask, atlas)
    assert caught.value.reason == "space_mismatch"


def test_mask_with_another_affine(tmp_path, bold, atlas):
    moved = AFFINE.copy()
    moved[0, 3] += 0.01
    with pytest.raises(RunFailed, match="differ in their affines"):
        average(bold, write_mask(tmp_path / "moved.nii.gz", affine=moved), atlas)
    moved[0, 3] -= 0.0098
    assert average(bold, write_mask(tmp_path / "near.nii.gz", affine=moved), atlas).n_used.sum() == 120


def test_empty_and_damaged_masks(tmp_path, bold, atlas):
    mask = write_mask(tmp_path / "mask.nii.gz", np.zeros(SHAPE))
    with pytest.raises(RunFailed, match=r"mask .*mask.nii.gz is empty") as caught:
        average(bold, mask, atlas)
    assert caught.value.reason == "low_coverage"
    mask.write_bytes(mask.read_bytes()[:-30])
    with pytest.raises(RunFailed, match=r"mask\.nii\.gz cannot be read") as caught:
        average(bold, mask, atlas)
    assert caught.value.reason == "bad_image"


@pytest.mark.parametrize("n_bytes", [1, 8, 12])
def test_a_mask_cut_behind_its_last_voxel(tmp_path, bold, atlas, n_bytes):
    mask = write_mask(tmp_path / "mask.nii.gz")
    mask.write_bytes(mask.read_bytes()[:-n_bytes])
    with pytest.raises(RunFailed, match=r"mask\.nii\.gz cannot be read") as caught:
        average(bold, mask, atlas)
    assert caught.value.reason == "bad_image"


def test_a_mask_with_a_wrong_checksum(bold, mask, atlas):
    content = bytearray(mask.read_bytes())
    content[-6] ^= 1
    mask.write_bytes(content)
    with pytest.raises(RunFailed, match=r"mask\.nii\.gz cannot be read") as caught:
        average(bold, mask, atlas)
    assert caught.value.reason == "bad_image"


@pytest.mark.parametrize(("slope", "intercept"), [(1e38, 0), (1e-38, 0), (1, 3e38), (-1e30, 1)])
def test_a_scaling_that_leaves_the_range_of_signals(tmp_path, atlas, mask, slope, intercept):
    bold = write_scaled(tmp_path / "bold.nii", slope, intercept)
    with pytest.raises(RunFailed, match=r"bold\.nii.*(large|small)|too") as caught:
        average(bold, mask, atlas)
    assert caught.value.reason == "bad_image"


@pytest.mark.parametrize("slope", [0, np.nan, np.inf])
def test_a_slope_that_is_none_scales_nothing(tmp_path, bold, atlas, mask, slope):
    scaled = write_scaled(tmp_path / "scaled.nii", slope, 0)
    np.testing.assert_array_equal(average(scaled, mask, atlas).values, average(bold, mask, atlas).values)


def write_scaled(path, slope, intercept):
    write_bold(path, build_series("i2"))
    content = bytearray(path.read_bytes())
    content[112:120] = np.array([slope, intercept], dtype="<f4").tobytes()
    path.write_bytes(content)
    return path


def test_mask_beside_the_atlas(tmp_path, bold, atlas):
    mask = write_mask(tmp_path / "mask.nii.gz", LABELS == 0)
    with pytest.raises(RunFailed, match="No voxel of the atlas Test") as caught:
        average(bold, mask, atlas)
    assert caught.value.reason == "low_coverage"


N_TIMES, N_PARCELS = 12, 5

# Five slabs of labels with a border of none.
NATIVE_LABELS = np.zeros(STANDARD, dtype=np.int16)
NATIVE_LABELS[1:-1, 1:-1] = 1 + np.arange(STANDARD[2]) * N_PARCELS // STANDARD[2]


def build_case(folder, volumes, *, positive=(False, False), is_absolute=False, inside=None, labels=NATIVE_LABELS):
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
    return rng.integers(0, 20000, (*NATIVE, N_TIMES)).astype(dtype)


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
    expected, n_used = resample_and_average(volumes, map_voxels(), NATIVE_LABELS, inside, N_PARCELS)
    np.testing.assert_allclose(means.values, expected, rtol=1e-5)
    np.testing.assert_array_equal(means.n_used, n_used)
    np.testing.assert_array_equal(means.n_voxels, np.bincount(NATIVE_LABELS.ravel())[1:])
    assert 0 < means.coverage.min() < means.coverage.max() < 1
    assert ("absolute coordinates" if is_absolute else "relative displacements") in means.resampling


def test_a_gradient_of_the_native_image_comes_out_at_the_places_of_the_map(tmp_path):
    # Trilinear interpolation is exact for it: the mean is that of the true coordinates.
    x, y, z = np.indices(NATIVE)
    gradient = (3 * x - 5 * y + 7 * z)[..., None] * np.linspace(1, 2, N_TIMES)
    means = extract_native_means(*build_case(tmp_path, gradient.astype("f4"), positive=(True, False)))
    places = map_voxels()
    here = ((places >= 0) & (places <= np.asarray(NATIVE) - 1)).all(axis=-1)
    for parcel in range(N_PARCELS):
        truth = (places[here & (parcel + 1 == NATIVE_LABELS)] @ [3, -5, 7]).mean()
        np.testing.assert_allclose(means.values[:, parcel], truth * np.linspace(1, 2, N_TIMES), rtol=1e-4)


@pytest.mark.parametrize("background", [0, 500])
def test_voxels_that_do_not_vary_count_nowhere(tmp_path, background):
    volumes = build_volumes()
    volumes[:4] = background
    means = extract_native_means(*build_case(tmp_path, volumes))
    expected, n_used = resample_and_average(volumes, map_voxels(), NATIVE_LABELS, np.ones(NATIVE, bool), N_PARCELS)
    np.testing.assert_array_equal(means.n_used, n_used)
    np.testing.assert_allclose(means.values, expected, rtol=1e-5)


def test_voxels_next_to_nan_are_left_out_and_counted(tmp_path):
    volumes = build_volumes("f4")
    volumes[5, 4, 3, 7] = np.nan
    volumes[0, 0] = np.inf
    means = extract_native_means(*build_case(tmp_path, volumes))
    assert np.isfinite(means.values).all()
    (note,) = means.warnings
    _, n_all = resample_and_average(build_volumes("f4"), map_voxels(), NATIVE_LABELS, np.ones(NATIVE, bool), N_PARCELS)
    assert note.startswith(f"{(n_all - means.n_used).sum()} voxels in parcels ")
    assert (n_all - means.n_used).sum() > 5


@pytest.mark.parametrize("share", [1.0, 0.7])
def test_a_volume_of_nan_is_lost_and_spoils_no_other(tmp_path, share):
    volumes = build_volumes("f4")
    whole = extract_native_means(*build_case(tmp_path / "whole", volumes))
    volumes[np.random.default_rng(3).uniform(size=NATIVE) < share, 2] = np.nan
    means = extract_native_means(*build_case(tmp_path / "broken", volumes))
    kept = np.arange(N_TIMES) != 2
    np.testing.assert_allclose(means.values[kept], whole.values[kept], rtol=1e-6)
    assert np.isnan(means.values[2]).all()
    np.testing.assert_array_equal(means.n_used, whole.n_used)
    assert all(part in str(means.warnings) for part in ("1 volumes", "NaN", "n/a: 2", "0)."))


def test_an_atlas_on_another_grid_is_laid_onto_that_of_the_warp(tmp_path):
    volumes, mask, warp, _ = build_case(tmp_path, build_volumes())
    standard = build_affine(STANDARD_SIZE, is_positive=False)
    # The same labels stored from right to left, in voxels half as wide, with a margin.
    fine = np.pad(np.repeat(NATIVE_LABELS, 2, axis=0), ((3, 3), (0, 0), (0, 0)))[::-1]
    halved = standard.copy()
    halved[0, 0] /= -2
    left = standard @ [(STANDARD[0] - 0.5) + 3 / 2 - 0.25, 0, 0, 1]
    halved[0, 3] = left[0]
    other = load_atlas(write_atlas(tmp_path / "fine", fine, halved), space=SPACE, directory=None)
    means = extract_native_means(volumes, mask, warp, other)
    expected, _ = resample_and_average(build_volumes(), map_voxels(), NATIVE_LABELS, np.ones(NATIVE, bool), N_PARCELS)
    np.testing.assert_allclose(means.values, expected, rtol=1e-5)


def test_scaled_integers(tmp_path):
    volumes, mask, warp, atlas = build_case(tmp_path, build_volumes())
    plain = extract_native_means(volumes, mask, warp, atlas).values
    scaled = extract_native_means(replace(volumes, slope=0.5, intercept=-7.0), mask, warp, atlas).values
    np.testing.assert_allclose(scaled, plain * 0.5 - 7, rtol=1e-12)


def test_what_lies_outside_is_refused(tmp_path):
    volumes, mask, warp, _ = build_case(tmp_path, build_volumes())
    far = build_affine(STANDARD_SIZE, is_positive=False, origin=(900, 900, 900))
    outside = load_atlas(write_atlas(tmp_path / "far", NATIVE_LABELS, far), space=SPACE, directory=None)
    with pytest.raises(AtlasError, match=r"warp\.nii\.gz:"):
        extract_native_means(volumes, mask, warp, outside)
    empty = np.zeros(NATIVE)
    empty[0, 0, 0] = 1
    case = build_case(
        tmp_path / "b", build_volumes(), inside=empty, labels=np.where(NATIVE_LABELS == 5, NATIVE_LABELS, 0)
    )
    with pytest.raises(RunFailed, match=r"mask\.nii\.gz"):
        extract_native_means(*case)
    with pytest.raises(RunFailed, match="in parcels and mask are constant"):
        extract_native_means(*build_case(tmp_path / "c", np.full((*NATIVE, N_TIMES), 3, dtype="i2")))
