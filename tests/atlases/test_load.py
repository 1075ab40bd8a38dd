"""Atlases by name, path and dataset, and files of the registry."""

from __future__ import annotations

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from helpers.bold_files import AFFINE, LABELS, SHAPE, SPACE, write_atlas

from bids_semantoks.atlases.label_images import build_label_grid
from bids_semantoks.atlases.load import find_all_spaces, load_atlas
from bids_semantoks.errors import AtlasError
from bids_semantoks.records import CANONICAL_NETWORKS

DEFAULT = "Schaefer400Tian3Buckner7"


SIZES = {
    "Vis": 61,
    "SomMot": 77,
    "DorsAttn": 46,
    "SalVentAttn": 47,
    "Limbic": 26,
    "Cont": 52,
    "Default": 91,
    "Subcortex": 50,
    "Cerebellum": 7,
}


@pytest.fixture(autouse=True)
def no_atlas_directory(monkeypatch, tmp_path):
    monkeypatch.delenv("BIDS_SEMANTOKS_ATLAS_DIR", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("BIDS_SEMANTOKS_CACHE_DIR", "TEMPLATEFLOW_HOME", "HF_HUB_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / "no" / name))


# Label images by path


def test_label_image_with_its_table(tmp_path):
    rows = [(2, "two", "Vis"), (4, "four", "n/a"), (1, "one", "Default"), (3, "three", "Custom")]
    path = write_atlas(tmp_path, rows=rows, name="My1")
    atlas = load_atlas(str(path), space=SPACE, directory=None)
    assert (atlas.name, atlas.space) == ("My1", SPACE)
    assert find_all_spaces(path, directory=None) == (SPACE,)
    assert atlas.parcels == ("two", "four", "one", "three")
    assert atlas.networks == ("Vis", "", "Default", "Custom")
    grid = build_label_grid(atlas, SHAPE, AFFINE)
    np.testing.assert_array_equal(grid, np.array([0, 3, 1, 4, 2])[LABELS])


def test_any_number_of_parcels(tmp_path):
    labels = np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(np.float32)
    atlas = load_atlas(write_atlas(tmp_path, labels), space=SPACE, directory=None)
    assert len(atlas.parcels) == 209
    np.testing.assert_array_equal(build_label_grid(atlas, SHAPE, AFFINE), labels)


def test_name_joins_the_entities_that_tell_atlases_apart(tmp_path):
    path = write_atlas(tmp_path, name="Schaefer2018_seg-7n_scale-400")
    assert load_atlas(path, space=SPACE, directory=None).name == "Schaefer20187n400"


def test_space_from_tpl_entity_and_sidecar(tmp_path):
    path = write_atlas(tmp_path)
    for stem, space in (("tpl-MNI305_atlas-Test_dseg", "MNI305"), ("labels", "FromSidecar")):
        for suffix in (".nii.gz", ".tsv"):
            shutil.copy(path.with_name(path.name.replace(".nii.gz", suffix)), tmp_path / f"{stem}{suffix}")
        if space == "FromSidecar":
            with pytest.raises(AtlasError, match=r"space of the atlas image .*labels\.nii\.gz is unknown.*space-"):
                find_all_spaces(tmp_path / f"{stem}.nii.gz", directory=None)
            (tmp_path / f"{stem}.json").write_text(json.dumps({"Space": space}))
        assert find_all_spaces(tmp_path / f"{stem}.nii.gz", directory=None) == (space,)


def test_a_sidecar_that_cannot_be_read_is_named(tmp_path):
    path = write_atlas(tmp_path)
    path.with_name(path.name.replace(".nii.gz", ".json")).write_text("{")
    with pytest.raises(AtlasError, match=r"atlas sidecar .*dseg\.json cannot be read: "):
        load_atlas(path, space=SPACE, directory=None)


def test_another_space_names_both(tmp_path):
    with pytest.raises(AtlasError, match=f"{SPACE}, the data in MNI305.*--space"):
        load_atlas(write_atlas(tmp_path), space="MNI305", directory=None)


def test_labels_without_a_row_are_named(tmp_path):
    path = write_atlas(tmp_path, rows=[(1, "one", "Vis"), (2, "two", "Vis")])
    with pytest.raises(AtlasError, match=r"labels without a row in .*dseg\.tsv: 3, 4"):
        load_atlas(path, space=SPACE, directory=None)


def test_rows_without_a_voxel_stay(tmp_path):
    rows = [(n, f"p{n}", "Vis") for n in range(1, 8)]
    atlas = load_atlas(write_atlas(tmp_path, rows=rows), space=SPACE, directory=None)
    assert len(atlas.parcels) == 7
    assert build_label_grid(atlas, SHAPE, AFFINE).max() == 4


def test_image_with_none_of_the_labels(tmp_path):
    path = write_atlas(tmp_path, np.zeros(SHAPE, np.int16), rows=[(1, "one", "Vis")])
    with pytest.raises(AtlasError, match="1 labels"):
        load_atlas(path, space=SPACE, directory=None)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (LABELS + 0.5, "not labels"),
        (LABELS.astype(np.int32) * 10**8, "not labels"),
        (-LABELS, "not labels"),
        (np.stack([LABELS, LABELS], axis=-1), r"\(5, 7, 6, 2\)"),
    ],
)
def test_images_that_hold_no_labels(tmp_path, labels, words):
    path = write_atlas(tmp_path, labels, rows=[(1, "one", "Vis")])
    with pytest.raises(AtlasError, match=words):
        load_atlas(path, space=SPACE, directory=None)


def test_background_and_noise_are_no_labels(tmp_path, caplog):
    """NaN, -1 and what single precision or scaled integers leave around a whole number."""
    noise = np.random.default_rng(0).uniform(-0.009, 0.009, SHAPE)
    background = LABELS == 0
    expected = load_atlas(write_atlas(tmp_path / "plain"), space=SPACE, directory=None)
    for name, labels in {
        "nan": np.where(background, np.nan, LABELS),
        "minus": np.where(background, -1, LABELS),
        "float": np.where(background, -1.0, LABELS) + noise,
        "noise": LABELS + noise,
        "tiny": np.where(background, -1e-12, LABELS),
    }.items():
        table = [(n, f"p{n}", "Vis") for n in range(1, 5)]
        path = write_atlas(tmp_path / name, rows=table)
        nib.Nifti1Image(labels, AFFINE).to_filename(path)
        atlas = load_atlas(path, space=SPACE, directory=None)
        np.testing.assert_array_equal(build_label_grid(atlas, SHAPE, AFFINE), LABELS)
        assert len(atlas.parcels) == len(expected.parcels)


@pytest.mark.parametrize("wrong", [np.inf, 2.4, -3.0])
def test_a_value_that_is_no_label_is_named_with_its_voxel(tmp_path, wrong):
    labels = np.where(LABELS == 0, -1.0, LABELS)
    labels[2, 3, 1] = wrong
    path = write_atlas(tmp_path, rows=[(n, f"p{n}", "Vis") for n in range(1, 5)])
    nib.Nifti1Image(labels, AFFINE).to_filename(path)
    words = (
        r"not labels .*in voxel \("
        if wrong == -3
        else rf"1 values that are not labels .* such as {wrong:g} in voxel \(2, 3, 1\)"
    )
    with pytest.raises(AtlasError, match=words) as caught:
        load_atlas(path, space=SPACE, directory=None)
    assert "probability" not in str(caught.value)


def test_fourth_axis_of_one_is_dropped(tmp_path):
    atlas = load_atlas(write_atlas(tmp_path, LABELS[..., None]), space=SPACE, directory=None)
    np.testing.assert_array_equal(build_label_grid(atlas, SHAPE, AFFINE), LABELS)


def test_damaged_image(tmp_path):
    path = write_atlas(tmp_path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(AtlasError, match=r"dseg\.nii\.gz cannot be read"):
        load_atlas(path, space=SPACE, directory=None)
    path.write_bytes(b"not an image")
    with pytest.raises(AtlasError, match=r"dseg\.nii\.gz cannot be read"):
        load_atlas(path, space=SPACE, directory=None)


def test_image_without_a_table(tmp_path):
    path = write_atlas(tmp_path, table="none")
    with pytest.raises(AtlasError, match=r"atlas-Test_.*dseg\.tsv.*network_label"):
        load_atlas(path, space=SPACE, directory=None)


def test_checksum_depends_on_names_networks_and_image(tmp_path):
    rows = [(n, f"p{n}", "Vis") for n in range(1, 5)]
    changed = LABELS.copy()
    changed[0, 0, 0] = 1
    variants = {
        "same": (LABELS, rows),
        "again": (LABELS, rows),
        "name": (LABELS, [(1, "other", "Vis"), *rows[1:]]),
        "network": (LABELS, [(1, "p1", "Cont"), *rows[1:]]),
        "order": (LABELS, rows[::-1]),
        "image": (changed, rows),
    }
    sums = {}
    for key, (labels, lines) in variants.items():
        path = write_atlas(tmp_path / key, labels, rows=lines)
        sums[key] = load_atlas(path, space=SPACE, directory=None).sha256
    assert sums["same"] == sums["again"]
    assert len(set(sums.values())) == 5


# Atlas datasets


def build_dataset(folder):
    """BEP038: two spaces, two resolutions of one of them, tables where the inheritance principle allows them."""
    source = write_atlas(folder.parent / "source")
    table = source.with_name(source.name.replace(".nii.gz", ".tsv"))
    names = [
        "tpl-MNI305/anat/tpl-MNI305_res-02_atlas-Test_dseg.nii.gz",
        "tpl-MNI305/anat/tpl-MNI305_res-01_atlas-Test_dseg.nii.gz",
        f"tpl-{SPACE}/tpl-{SPACE}_atlas-Test_dseg.nii.gz",
    ]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, folder / name)
    shutil.copy(table, folder / "atlas-Test_dseg.tsv")
    shutil.copy(table, folder / f"tpl-{SPACE}" / f"tpl-{SPACE}_atlas-Test_dseg.tsv")
    (folder / "atlas-Test_description.json").write_text(json.dumps({"License": "CC0"}))
    return folder


def test_atlas_dataset(tmp_path):
    dataset = build_dataset(tmp_path / "dataset")
    assert find_all_spaces(dataset, directory=None) == (SPACE, "MNI305")
    atlas = load_atlas(dataset, space="MNI305", directory=None)
    assert atlas.name == "Test"
    assert atlas.volumes[0].path.name == "tpl-MNI305_res-01_atlas-Test_dseg.nii.gz"
    assert atlas.volumes[0].licence.endswith("CC0")
    assert load_atlas(dataset, space=SPACE, directory=None).parcels == ("p1", "p2", "p3", "p4")


def test_an_image_of_a_dataset_inherits_its_table(tmp_path):
    dataset = build_dataset(tmp_path / "dataset")
    image = dataset / "tpl-MNI305" / "anat" / "tpl-MNI305_res-02_atlas-Test_dseg.nii.gz"
    atlas = load_atlas(image, space="MNI305", directory=None)
    assert (atlas.parcels[0], atlas.volumes[0].path) == ("p1", image)
    assert atlas.volumes[0].licence.endswith("CC0")


def test_dataset_in_the_layout_of_xcpd(tmp_path):
    source = write_atlas(tmp_path / "source")
    folder = tmp_path / "atlases" / "atlas-Test"
    folder.mkdir(parents=True)
    shutil.copy(source, folder / f"atlas-Test_space-{SPACE}_res-01_dseg.nii.gz")
    shutil.copy(source.with_name(source.name.replace(".nii.gz", ".tsv")), folder / "atlas-Test_dseg.tsv")
    assert load_atlas(tmp_path / "atlases", space=SPACE, directory=None).parcels[0] == "p1"


def test_ambiguous_datasets(tmp_path):
    dataset = build_dataset(tmp_path / "dataset")
    image = dataset / f"tpl-{SPACE}" / f"tpl-{SPACE}_atlas-Test_dseg.nii.gz"
    other = image.with_name(f"tpl-{SPACE}_hemi-L_atlas-Test_dseg.nii.gz")
    shutil.copy(image, other)
    with pytest.raises(AtlasError, match=f"2 images in {SPACE}:.*hemi-L"):
        find_all_spaces(dataset, directory=None)
    other.rename(image.with_name(f"tpl-{SPACE}_atlas-Second_dseg.nii.gz"))
    with pytest.raises(AtlasError, match="2 atlases:"):
        find_all_spaces(dataset, directory=None)


def test_empty_directory_is_no_atlas(tmp_path):
    with pytest.raises(AtlasError, match=r"\*_dseg\.nii\.gz"):
        find_all_spaces(tmp_path, directory=None)


# The registry


def write_entry(folder, **changes):
    """A registry entry of two images, the second with a field of view of its own."""
    small_affine = AFFINE.copy()
    small_affine[:3, 3] += AFFINE[:3, :3] @ [2, 3, 1]
    first, second = np.where(LABELS <= 2, LABELS, 0), np.full((3, 2, 4), 9, np.int16)
    nib.Nifti1Image(first.astype(np.int16), AFFINE).to_filename(folder / "first.nii.gz")
    nib.Nifti1Image(second, small_affine).to_filename(folder / "second.nii.gz")
    (folder / "parcels.tsv").write_text("index\tlabel\tnetwork_label\n1\ta\tVis\n2\tb\tVis\n3\tc\tCerebellum\n")
    parts = [
        {"files": ["absent.nii.gz", "first.nii.gz"], "values": [[2, 2], [1, 1]], "parcels": [[1, 2]]},
        {"files": ["second.nii.gz"], "values": [[9, 9]], "parcels": [[3, 3]]},
    ]
    parts = [part | {"licence": "free", "source": "made here"} for part in parts]
    missing = [parts[0] | {"files": ["nowhere.nii.gz"]}, parts[1]]
    content = {
        "name": "Pair",
        "table": "parcels.tsv",
        "spaces": [{"space": "MNI305", "alternatives": [missing]}, {"space": SPACE, "alternatives": [missing, parts]}],
    }
    path = folder / "Pair.json"
    path.write_text(json.dumps(content | changes))
    return path


def test_composed_atlas(tmp_path):
    entry = write_entry(tmp_path)
    assert find_all_spaces(entry, directory=None) == (SPACE,)
    atlas = load_atlas(entry, space=SPACE, directory=None)
    assert [volume.path.name for volume in atlas.volumes] == ["first.nii.gz", "second.nii.gz"]
    assert atlas.volumes[0].licence == "first.nii.gz: free, from made here"
    expected = np.array([0, 2, 1, 0, 0])[LABELS]
    inner = expected[2:5, 3:5, 1:5]
    inner[inner == 0] = 3
    np.testing.assert_array_equal(build_label_grid(atlas, SHAPE, AFFINE), expected)


def test_a_recipe_that_needs_warping_makes_no_space_of_an_atlas(tmp_path):
    entry = write_entry(tmp_path)
    content = json.loads(entry.read_text())
    (parts,) = (own["alternatives"][-1] for own in content["spaces"] if own["space"] == SPACE)
    foreign = [{**part, "space": SPACE} for part in parts]
    content["spaces"].append({"space": "MNI152NLin2009cAsym", "alternatives": [foreign]})
    entry.write_text(json.dumps(content))
    (tmp_path / f"tpl-MNI152NLin2009cAsym_from-{SPACE}_mode-image_xfm.h5").write_bytes(b"here")
    assert find_all_spaces(entry, directory=tmp_path) == (SPACE,)


def test_surfaces_of_an_entry_count_where_its_images_are_missing(tmp_path):
    entry = write_entry(tmp_path)
    part = {"files": ["own.dlabel.nii"], "values": [[1, 2]], "parcels": [[1, 2]], "licence": "x", "source": "y"}
    surfaces = [{"space": "fsLR", "alternatives": [[part]]}]
    entry.write_text(json.dumps(json.loads(entry.read_text()) | {"surfaces": surfaces}))
    assert find_all_spaces(entry, directory=None) == (SPACE,)
    (tmp_path / "own.dlabel.nii").write_text("labels")
    assert find_all_spaces(entry, directory=None) == (SPACE, "fsLR")
    (tmp_path / "first.nii.gz").unlink()
    assert find_all_spaces(entry, directory=None) == ("fsLR",)
    (tmp_path / "own.dlabel.nii").unlink()
    with pytest.raises(AtlasError, match="The images of the atlas Pair"):
        find_all_spaces(entry, directory=None)


def test_directories_are_searched_in_order(tmp_path, monkeypatch):
    entry = write_entry(tmp_path)
    folders = {}
    for name in ("given", "variable"):
        folders[name] = tmp_path / name
        folders[name].mkdir()
        shutil.copy(tmp_path / "second.nii.gz", folders[name])
    monkeypatch.setenv("BIDS_SEMANTOKS_ATLAS_DIR", str(folders["variable"]))
    for directory, expected in ((folders["given"], "given"), (None, "variable")):
        atlas = load_atlas(entry, space=SPACE, directory=directory)
        assert atlas.volumes[1].path.parent == folders[expected]
        assert atlas.volumes[0].path.parent == tmp_path


def test_missing_files_are_listed(tmp_path):
    assert find_all_spaces(DEFAULT, directory=tmp_path) == ("MNI152NLin6Asym", "MNI152NLin2009cAsym")
    with pytest.raises(AtlasError, match="HF_HUB_OFFLINE") as caught:
        load_atlas(DEFAULT, space="MNI152NLin2009cAsym", directory=tmp_path)
    text = str(caught.value)
    for words in (
        str(tmp_path),
        "atl-Buckner7_space-MNI_dseg.nii with tpl-MNI152NLin2009cAsym_from-MNI152NLin6Asym_mode-image_xfm.h5",
        "--atlas-dir",
        "bids_semantoks-fetch",
    ):
        assert words in text


def test_an_entry_whose_files_nobody_publishes(tmp_path):
    entry = write_entry(tmp_path)
    (tmp_path / "second.nii.gz").unlink()
    with pytest.raises(AtlasError, match=r"absent\.nii\.gz with second\.nii\.gz.*atlas-dir"):
        find_all_spaces(entry, directory=None)


@pytest.mark.parametrize("changes", [{"spaces": [{"space": "A"}]}, {"spaces": 5}, {"name": None, "table": None}])
def test_damaged_entry(tmp_path, changes):
    with pytest.raises(AtlasError, match=r"description .*Pair\.json cannot be read"):
        load_atlas(write_entry(tmp_path, **changes), space=SPACE, directory=None)


def test_sets_of_images_that_give_unlike_parcels_are_refused(tmp_path):
    content = json.loads(write_entry(tmp_path).read_text())
    content["spaces"][1]["alternatives"].append(content["spaces"][1]["alternatives"][1][:1])
    (tmp_path / "Pair.json").write_text(json.dumps(content))
    with pytest.raises(AtlasError, match=r"Pair\.json.*2 or 3 parcels"):
        load_atlas(tmp_path / "Pair.json", space=SPACE, directory=None)


def test_entry_that_names_unknown_parcels(tmp_path):
    entry = write_entry(tmp_path)
    (tmp_path / "parcels.tsv").write_text("index\tlabel\n1\ta\n2\tb\n")
    with pytest.raises(AtlasError, match=r"Pair\.json.*parcels 3,.*parcels\.tsv"):
        load_atlas(entry, space=SPACE, directory=None)


@pytest.mark.parametrize(("name", "words"), [("Schaefer40", "Did you mean Schaefer400"), ("/no/such", "a file")])
def test_unknown_atlas(name, words):
    with pytest.raises(AtlasError, match=words):
        find_all_spaces(name, directory=None)


def test_other_files_and_directories_are_refused(tmp_path):
    path = tmp_path / "atlas.txt"
    path.write_text("hello")
    with pytest.raises(AtlasError, match=r"atlas\.txt"):
        find_all_spaces(path, directory=None)
    with pytest.raises(AtlasError, match=r"absent \(--atlas-dir\) is not a directory"):
        find_all_spaces(DEFAULT, directory=tmp_path / "absent")


# Real atlases


def load_real(shared, space):
    return load_atlas(DEFAULT, space=space, directory=shared / "atlas")


def test_default_atlas_has_the_encoders_order(shared):
    atlas = load_real(shared, "MNI152NLin6Asym")
    assert {network: atlas.networks.count(network) for network in CANONICAL_NETWORKS} == SIZES
    lines = (shared / "atlas" / "Schaefer2018_400Parcels_7Networks_order.txt").read_text().splitlines()
    assert list(atlas.parcels[:400]) == [line.split("\t")[1] for line in lines]
    tian = (shared / "atlas" / "Tian_Subcortex_S3_3T_label.txt").read_text().split()
    assert list(atlas.parcels[400:450]) == tian
    assert set(atlas.networks[450:]) == {"Cerebellum"}


def test_default_atlas_puts_schaefer_first(shared):
    image = nib.load(shared / "atlas" / "Schaefer2018_400Parcels_7Networks_order_FSLMNI152_2mm.nii.gz")
    schaefer = np.asarray(image.dataobj).astype(int)
    grid = build_label_grid(load_real(shared, "MNI152NLin6Asym"), schaefer.shape, image.affine)
    assert set(np.unique(grid)) == set(range(458))
    cortex = (grid > 0) & (grid <= 400) & (schaefer > 0)
    assert cortex.sum() > 130_000
    np.testing.assert_array_equal(grid[cortex], schaefer[cortex])


def test_cerebellum_lies_where_buckner_has_it(shared):
    image = nib.load(shared / "atlas" / "atl-Buckner7_space-MNI_dseg.nii.gz")
    buckner = np.asarray(image.dataobj).astype(int)
    grid = build_label_grid(load_real(shared, "MNI152NLin6Asym"), buckner.shape, image.affine)
    inside = (buckner > 0) & (grid > 450)
    assert inside.sum() > 0.95 * (buckner > 0).sum()
    np.testing.assert_array_equal(grid[inside], buckner[inside] + 450)


def test_schaefer_centroids(shared):
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = [-90, -126, -72]
    grid = build_label_grid(load_real(shared, "MNI152NLin6Asym"), (91, 109, 91), affine)
    name = "Schaefer2018_400Parcels_7Networks_order_FSLMNI152_2mm.Centroid_RAS.csv"
    rows = np.genfromtxt(shared / "atlas" / name, delimiter=",", skip_header=1, usecols=(0, 2, 3, 4))
    for label, *centroid in rows:
        voxels = np.argwhere(grid == label)
        found = (affine[:3, :3] @ voxels.T).T.mean(axis=0) + affine[:3, 3]
        assert np.abs(found - centroid).max() < 3, label


def test_without_a_transform_the_other_space_is_refused(shared):
    """Half of the atlas in the space of the data never stands for the whole."""
    spaces = ("MNI152NLin6Asym", "MNI152NLin2009cAsym", "fsLR")
    assert find_all_spaces(DEFAULT, directory=shared / "atlas") == spaces
    with pytest.raises(AtlasError, match="MNI152NLin6Asym, the data in MNI152NLin2009cAsym") as caught:
        load_real(shared, "MNI152NLin2009cAsym")
    for words in (
        "tpl-MNI152NLin2009cAsym_from-MNI152NLin6Asym_mode-image_xfm.h5",
        "bids_semantoks-fetch",
        "process the data in MNI152NLin6Asym (--space)",
        "--atlas Schaefer400Tian3 or Schaefer400.",
    ):
        assert words in str(caught.value)
    assert str(caught.value).count("HF_HUB_OFFLINE") == 1


def test_cortex_and_subcortex_alone(shared):
    atlas = load_atlas("Schaefer400Tian3", space="MNI152NLin2009cAsym", directory=shared / "atlas")
    whole = load_real(shared, "MNI152NLin6Asym")
    assert (atlas.parcels, atlas.networks) == (whole.parcels[:450], whole.networks[:450])
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = [-96.5, -132.5, -78.5]
    assert set(np.unique(build_label_grid(atlas, (97, 115, 97), affine))) == set(range(451))


def test_authors_combined_file_goes_first(shared, tmp_path):
    whole = load_real(shared, "MNI152NLin6Asym")
    reference = nib.load(whole.volumes[0].path)
    grid = build_label_grid(whole, reference.shape, reference.affine)
    combined = tmp_path / "schaefer400_tian50_buckner7_MNI152_2mm.nii.gz"
    nib.Nifti1Image(grid.astype(np.int16), reference.affine).to_filename(combined)
    for path in (shared / "atlas").glob("*.nii.gz"):
        (tmp_path / path.name).symlink_to(path)
    atlas = load_atlas(DEFAULT, space="MNI152NLin6Asym", directory=tmp_path)
    assert [volume.path for volume in atlas.volumes] == [combined]
    assert atlas.parcels == whole.parcels
    np.testing.assert_array_equal(build_label_grid(atlas, reference.shape, reference.affine), grid)


@pytest.mark.parametrize("space", ["MNI152NLin6Asym", "MNI152NLin2009cAsym"])
def test_cortex_alone_is_the_cortex_of_the_whole(shared, space):
    whole = load_atlas("Schaefer400Tian3", space=space, directory=shared / "atlas")
    cortex = load_atlas("Schaefer400", space=space, directory=shared / "atlas")
    assert cortex.parcels == whole.parcels[:400]
    assert cortex.networks == whole.networks[:400]
    image = nib.load(whole.volumes[0].path)
    first, second = (build_label_grid(atlas, image.shape, image.affine) for atlas in (whole, cortex))
    both = (first > 0) & (first <= 400)
    np.testing.assert_array_equal(second[both], first[both])


def test_atlas_with_tian_first(shared):
    atlas = load_atlas(shared / "data" / "fmriprep_hybrid" / "atlas", space="MNI152NLin2009cAsym", directory=None)
    assert atlas.name == "TianSchaefer450"
    assert (atlas.parcels[0], atlas.parcels[50]) == ("HIP-head-m-rh", "7Networks_LH_Vis_1")
    assert atlas.networks.count("Subcortex") == 50
