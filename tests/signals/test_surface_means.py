"""Means of grayordinates against an oracle: any order of the file, coverage, other densities, missing parts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from helpers import surface_files as made

from bids_semantoks.atlases.label_surfaces import load_surface_labels
from bids_semantoks.config import SignalsConfig
from bids_semantoks.errors import RunFailed, RunSkipped
from bids_semantoks.records import Atlas, AtlasVolume
from bids_semantoks.signals import surface_means
from bids_semantoks.signals.denoising import load_denoising
from bids_semantoks.signals.extract import extract_signals

P = len(made.NAMES)


NETWORKS = ("Vis", "Cont", "Vis", "Default", "Subcortex")


SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "atlas"


DLABEL = SHARED / "Schaefer2018_400Parcels_7Networks_order_Tian_Subcortex_S3.dlabel.nii"


PARCELS = tuple(made.NAMES.values())


def average(run, atlas):
    return surface_means.extract_surface_means(surface_means.load_surface_series(run), atlas)


def build_atlas(*paths, space="fsLR", parcels=PARCELS, networks=NETWORKS):
    """Keys 1, 2, 3 ... are parcels 0, 1, 2 ... in every file."""
    volumes = tuple(
        AtlasVolume(path=path, sha256="", values=np.arange(1, len(parcels) + 1), parcels=np.arange(len(parcels)))
        for path in paths
    )
    sha256 = repr((paths, parcels))
    return Atlas(name="A", space=space, parcels=parcels, networks=networks, volumes=volumes, sha256=sha256)


@pytest.mark.parametrize("dtype", ["<f4", "<f8"])
@pytest.mark.parametrize(
    "order", [("left", "right", "thalamus", "cerebellum"), ("cerebellum", "right", "left", "thalamus")]
)
def test_means_do_not_depend_on_the_order_of_structures(tmp_path, order, dtype, monkeypatch):
    monkeypatch.setattr("bids_semantoks.images.grayordinates._BLOCK_BYTES", 7 * made.T * 4)
    axis = made.build_axis(order)
    values = made.build_series(len(axis))
    atlas = build_atlas(made.write_dlabel(tmp_path / "a.dlabel.nii"))
    run = made.build_run(made.write_dtseries(tmp_path / "b.dtseries.nii", values, axis, dtype=dtype))
    means = average(run, atlas)
    expected, n_used = made.compute_means(values, made.build_keys(axis), P)
    np.testing.assert_allclose(means.values, expected.astype(float), rtol=1e-13)
    np.testing.assert_array_equal(means.n_used, n_used)
    np.testing.assert_array_equal(means.n_voxels, n_used)
    assert means.warnings == ()


def test_grayordinates_are_labelled_once_for_an_atlas_and_a_header(tmp_path, monkeypatch):
    calls = []
    label = surface_means.label_grayordinates
    monkeypatch.setattr(surface_means, "label_grayordinates", lambda *args: calls.append(args[2]) or label(*args))
    axis, turned = made.build_axis(), made.build_axis(("right", "left"))
    atlases = [build_atlas(made.write_dlabel(tmp_path / f"{name}.dlabel.nii")) for name in "ab"]
    runs = []
    for number, one in enumerate((axis, axis, turned)):
        values = made.build_series(len(one), number, made.T + number)
        runs.append(
            (made.build_run(made.write_dtseries(tmp_path / f"{number}.dtseries.nii", values, one)), values, one)
        )
    for run, values, one in runs:
        expected = made.compute_means(values, made.build_keys(one), P)[0]
        np.testing.assert_allclose(average(run, atlases[0]).values, expected.astype(float), rtol=1e-12)
    assert [path.name[0] for path in calls] == ["0", "2"]
    average(runs[0][0], atlases[1])
    assert len(calls) == 3


def test_vertices_are_matched_within_a_structure_too(tmp_path):
    shuffled = np.random.default_rng(3).permutation(made.LEFT)
    model = nib.cifti2.BrainModelAxis.from_surface(shuffled, made.N_LEFT, "CortexLeft")
    model.vertex = shuffled
    axis = model + made.build_axis(("right", "thalamus"))
    values = made.build_series(len(axis))
    atlas = build_atlas(made.write_dlabel(tmp_path / "a.dlabel.nii"))
    run = made.build_run(made.write_dtseries(tmp_path / "b.dtseries.nii", values, axis))
    expected, _ = made.compute_means(values, made.build_keys(axis), P)
    assert list(axis.vertex[:3]) == list(shuffled[:3])
    np.testing.assert_allclose(average(run, atlas).values, expected.astype(float), rtol=1e-13)


def test_scaled_integers_give_scaled_means(tmp_path):
    axis = made.build_axis()
    values = made.build_series(len(axis))
    path = made.write_dtseries(tmp_path / "b.dtseries.nii", values, axis, dtype="<i2")
    stored = nib.load(path)
    assert stored.dataobj.slope != 1
    means = average(made.build_run(path), build_atlas(made.write_dlabel(tmp_path / "a.dlabel.nii")))
    expected, _ = made.compute_means(stored.get_fdata(), made.build_keys(axis), P)
    np.testing.assert_allclose(means.values, expected.astype(float), rtol=1e-12)


def test_coverage_is_the_share_that_varies_and_is_finite(tmp_path):
    axis = made.build_axis()
    keys = made.build_keys(axis)
    values = made.build_series(len(axis))
    first, second = np.flatnonzero(keys == 1), np.flatnonzero(keys == 4)
    values[:, first[:3]] = [0, 0, 512]
    values[7, second[2]] = np.nan
    values[9, second[5]] = np.inf
    atlas = build_atlas(made.write_dlabel(tmp_path / "a.dlabel.nii"))
    run = made.build_run(made.write_dtseries(tmp_path / "b.dtseries.nii", values, axis))
    means = average(run, atlas)
    expected, n_used = made.compute_means(values, keys, P)
    np.testing.assert_allclose(means.values, expected.astype(float), rtol=1e-13)
    np.testing.assert_array_equal(means.n_used, n_used)
    assert means.coverage[0] == (first.size - 3) / first.size
    assert means.coverage[3] == (second.size - 2) / second.size
    assert "2 grayordinates in parcels are NaN" in str(means.warnings)


def test_a_medial_wall_that_only_the_atlas_has_lowers_coverage(tmp_path):
    whole = nib.cifti2.BrainModelAxis.from_surface(np.arange(made.N_LEFT), made.N_LEFT, "CortexLeft")
    axis = whole + made.build_axis(("right", "thalamus"))
    atlas = build_atlas(made.write_dlabel(tmp_path / "a.dlabel.nii", axis))
    run = made.build_run(made.write_dtseries(tmp_path / "b.dtseries.nii", made.build_series(len(made.build_axis()))))
    means = average(run, atlas)
    keys = made.build_keys(axis)[: made.N_LEFT]
    for parcel in range(2):
        there = np.flatnonzero(keys == parcel + 1)
        assert means.n_voxels[parcel] == there.size
        assert means.n_used[parcel] == np.isin(there, made.LEFT).sum()
    assert means.coverage.min() < 1


def test_structures_without_values_make_parcels_absent(tmp_path):
    axis = made.build_axis(("left", "right"))
    atlas = build_atlas(made.write_dlabel(tmp_path / "a.dlabel.nii"))
    run = made.build_run(made.write_dtseries(tmp_path / "b.dtseries.nii", made.build_series(len(axis)), axis))
    means = average(run, atlas)
    assert means.n_used[4] == 0
    assert means.n_voxels[4] == 8
    assert np.isnan(means.values[:, 4]).all()
    assert means.warnings == ("The run has no values in THALAMUS_LEFT, where the atlas has parcels.",)


def test_the_cerebellum_comes_from_an_image_at_the_coordinates_of_its_voxels(tmp_path):
    # Twice as fine as the grid of the file, reaching into the thalamus and beyond the grid.
    grid = np.zeros((14, 16, 18), dtype=np.int16)
    grid[:, :, 9:] = 1
    grid[2:, :, 9:] = 2
    grid[:, :, 3:7] = 2
    fine = made.AFFINE @ np.diag([0.5, 0.5, 0.5, 1.0])
    image = tmp_path / "cerebellum.nii.gz"
    nib.Nifti1Image(grid, fine).to_filename(image)
    label = made.write_dlabel(tmp_path / "a.dlabel.nii")
    volumes = (
        *build_atlas(label).volumes,
        AtlasVolume(path=image, sha256="", values=np.array([1, 2]), parcels=np.array([5, 6])),
    )
    atlas = Atlas(
        name="A",
        space="fsLR",
        parcels=(*made.NAMES.values(), "Cerebellum_1", "Cerebellum_2"),
        networks=(*NETWORKS, "Cerebellum", "Cerebellum"),
        volumes=volumes,
        sha256="x",
    )
    axis = made.build_axis(("cerebellum", "thalamus", "left", "right"))
    values = made.build_series(len(axis))
    means = average(made.build_run(made.write_dtseries(tmp_path / "b.dtseries.nii", values, axis)), atlas)
    keys = made.build_keys(axis)
    for i, (x, _, _) in enumerate(made.CEREBELLUM):
        keys[i] = 6 if x == 0 else 7
    expected, n_used = made.compute_means(values, keys, 7)
    np.testing.assert_array_equal(means.n_used, n_used)
    assert list(n_used[5:]) == [5, 5]
    np.testing.assert_allclose(means.values, expected.astype(float), rtol=1e-13)


def test_another_density_is_refused_with_both_sizes(tmp_path):
    atlas = build_atlas(made.write_dlabel(tmp_path / "a.dlabel.nii"))
    axis = made.build_axis(n_left=59292)
    run = made.build_run(made.write_dtseries(tmp_path / "b.dtseries.nii", made.build_series(len(axis)), axis))
    with pytest.raises(RunFailed, match=r"has 59292 vertices \(59k\) in CORTEX_LEFT, .* 37 vertices") as caught:
        average(run, atlas)
    assert caught.value.reason == "space_mismatch"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": (7, 7, 8)}, r"\(7, 7, 8\),.*\(6, 7, 8\)"),
        ({"affine": made.AFFINE * [[1], [1], [1.1], [1]]}, r"on one of \(6, 7, 8\) with another affine"),
    ],
)
def test_another_voxel_grid_is_refused(tmp_path, changes, message):
    atlas = build_atlas(made.write_dlabel(tmp_path / "a.dlabel.nii"))
    axis = made.build_axis(**changes)
    run = made.build_run(made.write_dtseries(tmp_path / "b.dtseries.nii", made.build_series(len(axis)), axis))
    with pytest.raises(RunFailed, match=message):
        average(run, atlas)


def test_a_file_of_one_hemisphere_is_refused(tmp_path):
    atlas = build_atlas(made.write_dlabel(tmp_path / "a.dlabel.nii"))
    axis = made.build_axis(("left", "thalamus"))
    run = made.build_run(made.write_dtseries(tmp_path / "b.dtseries.nii", made.build_series(len(axis)), axis))
    with pytest.raises(RunFailed, match="has no values in CORTEX_RIGHT, where the atlas A has parcels") as caught:
        average(run, atlas)
    assert caught.value.reason == "bad_image"


def write_pair(folder, left=None, right=None, **options):
    left = made.build_series(made.N_LEFT, 1) if left is None else left
    right = made.build_series(made.N_RIGHT, 2) if right is None else right
    return (
        made.write_func(folder / "sub-01_task-rest_hemi-L_space-fsLR_bold.func.gii", left, **options),
        made.write_func(folder / "sub-01_task-rest_hemi-R_space-fsLR_bold.func.gii", right, **options),
    )


def keys_of_meshes():
    axis = nib.cifti2.BrainModelAxis.from_surface(np.arange(made.N_LEFT), made.N_LEFT, "CortexLeft")
    axis = axis + nib.cifti2.BrainModelAxis.from_surface(np.arange(made.N_RIGHT), made.N_RIGHT, "CortexRight")
    return axis, made.build_keys(axis)


@pytest.mark.parametrize("whole", [False, True])
def test_a_pair_of_hemispheres_is_one_run(tmp_path, whole):
    axis, keys = keys_of_meshes()
    left, right = made.build_series(made.N_LEFT, 1), made.build_series(made.N_RIGHT, 2)
    own = np.flatnonzero(keys[: made.N_LEFT] == 1)
    # Medial wall never finite; one vertex now and then not; one constant: the file is read again without the last two.
    left[:, [3, 4]] = np.nan
    left[5, own[6]] = np.nan
    left[:, own[7]] = 77
    atlas = build_atlas(made.write_dlabel(tmp_path / "a.dlabel.nii", axis))
    bold, partner = write_pair(tmp_path, left, right, whole=whole)
    expected, n_used = made.compute_means(np.concatenate([left, right], axis=1), keys, P)
    n_broken = 1 + int((keys[[3, 4]] > 0).sum())
    for first, second in ((bold, partner), (partner, bold)):
        means = average(made.build_run(first, partner=second), atlas)
        np.testing.assert_array_equal(means.n_used, n_used)
        np.testing.assert_allclose(means.values[:, :4], expected[:, :4].astype(float), rtol=1e-13)
        assert f"{n_broken} grayordinates in parcels are NaN or infinite" in means.warnings[0]


def test_a_missing_hemisphere_is_one_clear_failure(tmp_path):
    atlas = build_atlas(made.write_dlabel(tmp_path / "a.dlabel.nii"))
    bold, partner = write_pair(tmp_path)
    with pytest.raises(RunFailed, match="sub-01_task-rest_hemi-R_") as caught:
        average(made.build_run(partner), atlas)
    assert caught.value.reason == "bad_image"
    partner.unlink()
    partner.symlink_to("nowhere")
    with pytest.raises(RunSkipped, match=f"{partner}"):
        average(made.build_run(bold, partner=partner), atlas)


def test_hemispheres_of_different_length_are_refused(tmp_path):
    atlas = build_atlas(made.write_dlabel(tmp_path / "a.dlabel.nii"))
    bold, partner = write_pair(tmp_path, right=made.build_series(made.N_RIGHT, n_volumes=40))
    with pytest.raises(RunFailed, match="has 41 volumes, its other hemisphere 40"):
        average(made.build_run(bold, partner=partner), atlas)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_run_without_data_is_refused(tmp_path, value):
    atlas = build_atlas(made.write_dlabel(tmp_path / "a.dlabel.nii"))
    values = np.full((made.T, len(made.build_axis())), value, dtype=np.float32)
    run = made.build_run(made.write_dtseries(tmp_path / "b.dtseries.nii", values))
    with pytest.raises(RunFailed, match="in parcels are NaN or infinite" if np.isnan(value) else "are constant"):
        average(run, atlas)


def test_a_damaged_run_says_where_it_ends(tmp_path):
    atlas = build_atlas(made.write_dlabel(tmp_path / "a.dlabel.nii"))
    path = made.write_dtseries(tmp_path / "b.dtseries.nii", made.build_series(len(made.build_axis())))
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(RunFailed, match=f"{path} is damaged: it ends after 96 of 97 rows"):
        average(made.build_run(path), atlas)


def write_confounds(path, displacement):
    path.write_text(
        "framewise_displacement\ttrans_x\n" + "".join(f"{one}\t{t / 7}\n" for t, one in enumerate(displacement))
    )
    return path


def test_signals_of_surfaces_are_cleaned_like_those_of_volumes(tmp_path):
    axis = made.build_axis()
    atlas = build_atlas(made.write_dlabel(tmp_path / "a.dlabel.nii"))
    bold = made.write_dtseries(tmp_path / "b.dtseries.nii", made.build_series(len(axis)), axis)
    displacement = ["n/a", *(["0.1"] * (made.T - 1))]
    displacement[20] = "0.9"
    confounds = write_confounds(tmp_path / "c.tsv", displacement)
    run = made.build_run(bold, confounds=confounds)
    config = SignalsConfig(min_time=0, dummy_scans="2", fd_threshold=0.5, band_pass=None, min_coverage=0.5)
    signals = extract_signals(run, atlas, config, load_denoising("none"))
    expected, _ = made.compute_means(made.build_series(len(axis)), made.build_keys(axis), P)
    np.testing.assert_allclose(signals.raw, expected.astype(np.float32), rtol=1e-6)
    assert list(np.flatnonzero(~signals.kept)) == [0, 1, 20]
    assert np.isnan(signals.values[20]).all()
    assert signals.n_dummy == 2
    assert signals.repetition_time == 2.0


@pytest.mark.parametrize("lost", [[17], [0, 40]])
@pytest.mark.parametrize("share", [1.0, 0.8])
@pytest.mark.parametrize("is_pair", [False, True])
def test_volumes_of_nan_are_lost_and_spoil_no_other(tmp_path, lost, share, is_pair):
    kept = ~np.isin(np.arange(made.T), lost)
    axis = keys_of_meshes()[0] if is_pair else made.build_axis()
    atlas = build_atlas(made.write_dlabel(tmp_path / "a.dlabel.nii", axis))

    def write(folder, values):
        if not is_pair:
            return made.build_run(made.write_dtseries(tmp_path / folder / "b.dtseries.nii", values))
        bold, partner = write_pair(tmp_path / folder, values[:, : made.N_LEFT], values[:, made.N_LEFT :])
        return made.build_run(bold, partner=partner)

    values = made.build_series(len(axis)).astype("f4")
    whole = average(write("whole", values), atlas)
    values[np.ix_(lost, np.random.default_rng(5).uniform(size=len(axis)) < share)] = np.nan
    broken = average(write("broken", values), atlas)
    np.testing.assert_allclose(broken.values[kept], whole.values[kept], rtol=1e-6)
    assert np.isnan(broken.values[~kept]).all()
    np.testing.assert_array_equal(broken.n_used, whole.n_used)
    named = ", ".join(map(str, lost))
    assert all(part in str(broken.warnings) for part in (f"{len(lost)}", "NaN", f"n/a: {named}", "0)."))


def test_the_header_of_cifti_gives_the_repetition_time(tmp_path):
    bold = made.write_dtseries(tmp_path / "b.dtseries.nii", made.build_series(len(made.build_axis())), step=0.72)
    atlas = build_atlas(made.write_dlabel(tmp_path / "a.dlabel.nii"))
    config, denoising = SignalsConfig(min_time=0, denoise="none"), load_denoising("none")
    signals = extract_signals(made.build_run(bold, repetition_time=None), atlas, config, denoising)
    assert signals.repetition_time == 0.72
    assert all(part in str(signals.warnings) for part in ("b.dtseries.nii", "0.72 s"))
    signals = extract_signals(made.build_run(bold), atlas, config, denoising)
    assert signals.repetition_time == 2.0
    assert any("2 s, the header of" in note and "0.72 s; using the former" in note for note in signals.warnings)


_GROWTH = """
import sys
from pathlib import Path
from test_surface_means import DLABEL, average, build_real_atlas
from helpers import surface_files as made
atlas = build_real_atlas()
average(made.build_run(Path(sys.argv[1])), atlas)
def read_peak():
    # Not getrusage, whose maximum a process inherits from the one that started it.
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
before = read_peak()
average(made.build_run(Path(sys.argv[2])), atlas)
print(read_peak() - before)
"""


def build_real_atlas():
    names = load_surface_labels(DLABEL).names
    return build_atlas(DLABEL, parcels=tuple(names[key] for key in sorted(names)), networks=("",) * len(names))


@pytest.mark.skipif(not DLABEL.is_file(), reason="needs ../shared/atlas")
def test_memory_does_not_grow_with_the_run(tmp_path):
    axis = nib.load(DLABEL).header.get_axis(1)
    keys = load_surface_labels(DLABEL).keys
    paths = {n_volumes: tmp_path / f"{n_volumes}.dtseries.nii" for n_volumes in (7, 100)}
    for n_volumes, path in paths.items():
        data = np.random.default_rng(0).standard_normal((n_volumes, len(axis)), dtype=np.float32)
        nib.save(nib.Cifti2Image(data, (nib.cifti2.SeriesAxis(0.0, 2.0, n_volumes), axis)), path)
    means = average(made.build_run(path), build_real_atlas())
    for key in (1, 77, 450):
        expected = data[:, keys == key].mean(axis=1, dtype=np.float64)
        np.testing.assert_allclose(means.values[:, key - 1], expected, rtol=1e-10, atol=1e-12)
    # In a process of its own: the largest memory of this one says nothing any more.
    command = [sys.executable, "-c", _GROWTH, *map(str, paths.values())]
    place = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, Path(__file__).parents[:2]))}
    grown = subprocess.run(command, capture_output=True, check=True, text=True, env=place)
    # Kilobytes; the longer file has 37 megabytes.
    assert int(grown.stdout) < 12_000
