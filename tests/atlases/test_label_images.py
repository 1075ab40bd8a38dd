"""Atlases on the grid of a run, or warped between spaces, against ITK's conventions written out voxel by voxel."""

from __future__ import annotations

import logging
import os
import resource
import shutil

import h5py
import nibabel as nib
import numpy as np
import pytest
from helpers.bold_files import AFFINE, LABELS, SHAPE, SPACE, write_atlas
from helpers.transforms import Composite

from bids_semantoks.atlases import label_images
from bids_semantoks.atlases.label_images import build_label_grid, load_warp, map_points, read_label_image
from bids_semantoks.atlases.load import load_atlas
from bids_semantoks.errors import AtlasError

OTHER = "MNI152NLin2009cAsym"


NAME = f"tpl-{OTHER}_from-{SPACE}_mode-image_xfm.h5"


@pytest.fixture(autouse=True)
def places(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("BIDS_SEMANTOKS_ATLAS_DIR", raising=False)
    monkeypatch.setenv("BIDS_SEMANTOKS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(tmp_path / "templateflow"))


def warp_brute_force(labels, labels_affine, shape, affine, composite):
    grid = np.zeros(shape, dtype=int)
    for index in np.ndindex(shape):
        point = composite.map_point((affine @ [*index, 1.0])[:3])
        nearest = np.floor(np.linalg.solve(labels_affine, [*point, 1.0])[:3] + 0.5 + 1e-6).astype(int)
        if (nearest >= 0).all() and (nearest < labels.shape).all():
            grid[index] = labels[tuple(nearest)]
    return grid


def test_points_go_where_itk_takes_them(tmp_path):
    composite = Composite()
    points = np.random.default_rng(1).uniform(-35, 35, (401, 3))
    found = map_points(points, load_warp(composite.write(tmp_path / "any.h5")))
    expected = np.array([composite.map_point(point) for point in points])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    displaced = np.linalg.norm(expected - points, axis=1)
    assert displaced.min() > 0.5
    inside = np.abs(points) < np.array([26, 27.5, 27])
    assert 0.1 < inside.all(axis=1).mean() < 0.9


@pytest.mark.parametrize("home", ["templateflow", "cache/templateflow", "given"])
def test_an_atlas_of_another_space_is_warped(tmp_path, monkeypatch, caplog, home):
    composite = Composite(seed=2, spacing=(1.5, 1.6, 2.2), size=2.5)
    composite.write(tmp_path / home / f"tpl-{OTHER}" / NAME)
    directory = tmp_path / home if home == "given" else None
    with caplog.at_level(logging.INFO, "bids_semantoks"):
        atlas = load_atlas(write_atlas(tmp_path / "atlas"), space=OTHER, directory=directory)
    (volume,) = atlas.volumes
    assert (atlas.space, volume.space, volume.transform.name) == (OTHER, SPACE, NAME)
    assert all(part in caplog.text for part in (f"{SPACE}", f"{OTHER} with {NAME}"))
    shape, affine = (7, 9, 8), AFFINE @ np.diag([0.8, 0.9, 0.7, 1])
    expected = warp_brute_force(LABELS, AFFINE, shape, affine, composite)
    assert set(np.unique(expected)) == {0, 1, 2, 3, 4}
    np.testing.assert_array_equal(build_label_grid(atlas, shape, affine), expected)
    unwarped = load_atlas(write_atlas(tmp_path / "atlas"), space=SPACE, directory=None)
    assert (build_label_grid(unwarped, shape, affine) != expected).mean() > 0.2
    assert unwarped.sha256 != atlas.sha256


def invert_point(composite, point):
    """The point that the transform takes to `point`, by fixed-point iteration."""
    x = point.copy()
    for _ in range(200):
        x = x - 0.5 * (composite.map_point(x) - point)
    assert np.linalg.norm(composite.map_point(x) - point) < 1e-6
    return x


def test_the_opposite_transform_gives_another_grid(tmp_path):
    """A wrong direction cannot pass: only the file named for this direction is taken, and it is not its own inverse."""
    composite = Composite(seed=3, spacing=(1.5, 1.6, 2.2))
    composite.write(tmp_path / "templateflow" / f"tpl-{SPACE}" / f"tpl-{SPACE}_from-{OTHER}_mode-image_xfm.h5")
    with pytest.raises(AtlasError, match=f"{SPACE}, the data in {OTHER}.*{NAME}.*--space"):
        load_atlas(write_atlas(tmp_path / "atlas"), space=OTHER, directory=None)
    point = np.array([5.0, -7.0, 3.0])
    forth = composite.map_point(point)
    back = invert_point(composite, point)
    assert np.linalg.norm(forth - back) > 2


def test_a_laid_grid_is_kept_for_other_processes(tmp_path, monkeypatch):
    Composite(seed=2, spacing=(1.5, 1.6, 2.2)).write(tmp_path / "templateflow" / f"tpl-{OTHER}" / NAME)
    atlas = load_atlas(write_atlas(tmp_path / "atlas"), space=OTHER, directory=None)
    first = build_label_grid(atlas, SHAPE, AFFINE)
    (kept,) = (tmp_path / "cache" / "grids").iterdir()
    reads = []
    monkeypatch.setattr(label_images, "load_warp", lambda path: reads.append(path) or load_warp(path))
    label_images._HERE.clear()
    np.testing.assert_array_equal(build_label_grid(atlas, SHAPE, AFFINE), first)
    assert not reads
    kept.write_bytes(kept.read_bytes()[:-100])
    label_images._HERE.clear()
    np.testing.assert_array_equal(build_label_grid(atlas, SHAPE, AFFINE), first)
    assert len(reads) == 1
    other = build_label_grid(atlas, (6, 7, 6), AFFINE)
    assert other.shape == (6, 7, 6)
    assert len(reads) == 2


def test_others_may_read_what_is_kept(tmp_path):
    before = os.umask(0o022)
    try:
        label_images.keep_grid("a1", np.ones(SHAPE, dtype=np.int32))
    finally:
        os.umask(before)
    (kept,) = (tmp_path / "cache" / "grids").iterdir()
    assert kept.name == "a1.npy"
    assert kept.stat().st_mode & 0o777 == 0o644


def test_a_full_cache_costs_no_run(tmp_path):
    grid = np.ones(SHAPE, dtype=np.int32)
    (tmp_path / "cache" / "grids").mkdir(parents=True)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (grid.nbytes // 2, hard))
    try:
        label_images.keep_grid("b2", grid)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((tmp_path / "cache" / "grids").iterdir())
    np.testing.assert_array_equal(label_images.read_grid("b2", SHAPE), grid)


def test_without_a_cache_each_process_lays_a_grid_once(tmp_path, monkeypatch):
    Composite(seed=2, spacing=(1.5, 1.6, 2.2)).write(tmp_path / "templateflow" / f"tpl-{OTHER}" / NAME)
    atlas = load_atlas(write_atlas(tmp_path / "atlas"), space=OTHER, directory=None)
    expected = build_label_grid(atlas, SHAPE, AFFINE)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BIDS_SEMANTOKS_CACHE_DIR", str(tmp_path / "file" / "cache"))
    label_images._HERE.clear()
    reads = []
    monkeypatch.setattr(label_images, "load_warp", lambda path: reads.append(path) or load_warp(path))
    for _ in range(3):
        np.testing.assert_array_equal(build_label_grid(atlas, SHAPE, AFFINE), expected)
    assert len(reads) == 1
    for size in (5, 6, 7):
        build_label_grid(atlas, (size, 7, 6), AFFINE)
    assert len(label_images._HERE) == 2


@pytest.mark.parametrize("damage", ["text", "cut", "foreign"])
def test_damaged_transforms_are_named(tmp_path, damage):
    path = Composite().write(tmp_path / "xfm.h5")
    if damage == "text":
        path.write_text("no transform")
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:600])
    else:
        with h5py.File(path, "a") as file:
            file["TransformGroup/1/TransformType"][0] = "BSplineTransform_double_3_3"
    with pytest.raises(AtlasError, match=r"The transform .*xfm\.h5 cannot be read"):
        load_warp(path)


def test_parts_of_two_spaces_meet_in_the_space_of_the_data(shared, tmp_path):
    """Cortex and subcortex are there in the space of the data; only the cerebellum is warped."""
    for name in (
        "Schaefer2018_400Parcels_7Networks_order_Tian_Subcortex_S3_3T_MNI152NLin2009cAsym_2mm.nii.gz",
        "atl-Buckner7_space-MNI_dseg.nii.gz",
    ):
        shutil.copy(shared / "atlas" / name, tmp_path / name)
    composite = Composite(shape=(21, 25, 21), spacing=(10.0, 10.0, 10.0), size=4.0)
    composite.matrix, composite.center = np.eye(3), np.zeros(3)
    composite.write(tmp_path / f"tpl-{OTHER}" / NAME)
    atlas = load_atlas("Schaefer400Tian3Buckner7", space=OTHER, directory=tmp_path)
    assert [volume.space for volume in atlas.volumes] == ["", SPACE]
    affine = np.diag([7.0, 6.0, 5.0, 1.0])
    affine[:3, 3] = [-60, -96, -62]
    grid = build_label_grid(atlas, (17, 13, 11), affine)
    assert set(range(451, 458)) <= set(np.unique(grid))
    image = nib.load(tmp_path / "atl-Buckner7_space-MNI_dseg.nii.gz")
    expected = warp_brute_force(np.asarray(image.dataobj), image.affine, grid.shape, affine, composite)
    whole = load_atlas("Schaefer400Tian3Buckner7", space="MNI152NLin6Asym", directory=shared / "atlas")
    assert whole.sha256 != atlas.sha256
    free = ~np.isin(grid, range(1, 451))
    np.testing.assert_array_equal(grid[free] - 450, np.where(expected[free] > 0, expected[free], -450))


# Grids


def lay_brute_force(labels, labels_affine, shape, affine):
    """One voxel after the other: the nearest label, positions half way going up."""
    grid = np.zeros(shape, dtype=int)
    for index in np.ndindex(shape):
        world = affine @ [*index, 1.0]
        nearest = np.floor(np.linalg.solve(labels_affine, world)[:3] + 0.5 + 1e-6).astype(int)
        if (nearest >= 0).all() and (nearest < labels.shape).all():
            grid[index] = labels[tuple(nearest)]
    return grid


@pytest.mark.parametrize("case", ["flipped", "shifted", "finer", "coarser", "rotated", "permuted"])
def test_grid_by_affine(tmp_path, case):
    labels_affine = AFFINE.copy()
    shape, affine = (6, 9, 8), AFFINE.copy()
    angle = np.deg2rad(25)
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0, 0], [np.sin(angle), np.cos(angle), 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    )
    if case == "flipped":
        labels_affine = AFFINE @ np.diag([-1.0, 1, -1, 1])
        labels_affine[:3, 3] += [8, 0, 15]
    elif case == "shifted":
        affine[:3, 3] += [3.0, -2.0, 1.5]
    elif case == "finer":
        affine = AFFINE @ np.diag([0.5, 0.7, 0.4, 1])
    elif case == "coarser":
        affine = AFFINE @ np.diag([1.5, 1.3, 1.1, 1])
    elif case == "rotated":
        affine = turn @ AFFINE
    else:
        affine = AFFINE @ np.eye(4)[:, [1, 2, 0, 3]]
    atlas = load_atlas(write_atlas(tmp_path, LABELS, labels_affine), space=SPACE, directory=None)
    expected = lay_brute_force(LABELS, labels_affine, shape, affine)
    assert set(np.unique(expected)) == {0, 1, 2, 3, 4}
    np.testing.assert_array_equal(build_label_grid(atlas, shape, affine), expected)


@pytest.mark.parametrize("n_bytes", [1, 8, 12])
def test_an_image_cut_behind_its_last_voxel(tmp_path, n_bytes):
    path = tmp_path / "labels.nii.gz"
    nib.save(nib.Nifti1Image(LABELS.astype(np.int16), AFFINE), path)
    assert read_label_image(path)[0].max() == LABELS.max()
    path.write_bytes(path.read_bytes()[:-n_bytes])
    with pytest.raises(AtlasError, match=r"labels\.nii\.gz cannot be read"):
        read_label_image(path)


def test_covering_nothing(tmp_path):
    atlas = load_atlas(write_atlas(tmp_path), space=SPACE, directory=None)
    far = AFFINE.copy()
    far[1, 3] += 400
    with pytest.raises(AtlasError, match=r"\(5, 7, 6\)"):
        build_label_grid(atlas, SHAPE, far)
