"""Atlases on surfaces: names, networks, hemispheres and spaces, from paths."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from helpers import surface_files as made
from helpers.bold_files import SPACE, write_atlas
from helpers.pins import forget

from bids_semantoks.atlases.label_surfaces import build_surface_volume, choose, load_surface_labels
from bids_semantoks.atlases.label_tables import LabelTable, build_atlas, load_label_table
from bids_semantoks.atlases.load import find_all_spaces, find_images, load_atlas, load_surface_atlas, split_choice
from bids_semantoks.atlases.registry import LabelFile
from bids_semantoks.atlases.supply import Part
from bids_semantoks.errors import AtlasError
from bids_semantoks.outputs.dataset import may_be_shared
from bids_semantoks.records import CANONICAL_NETWORKS
from bids_semantoks.signals.surface_means import extract_surface_means, load_surface_series

NAMES_LEFT = {1: "7Networks_LH_Vis_1", 4: "7Networks_LH_Cont_1"}


NAMES_RIGHT = {1: "7Networks_RH_Vis_1", 2: "Medial_wall"}


def write_pair(folder, n=10242, suffix=".label.gii", space="", right=NAMES_RIGHT):
    keys = np.zeros(n, dtype=int)
    keys[5:9], keys[11:20] = 1, 4
    other = np.zeros(n, dtype=int)
    other[3:9], other[10:15] = 1, 2
    if suffix == ".annot":
        names = ["unknown", "7Networks_LH_Vis_1", "b", "c", "7Networks_LH_Cont_1"]
        made.write_annot(folder / "rh.Mine.annot", other, ["unknown", "7Networks_RH_Vis_1", "Medial_wall"])
        return made.write_annot(folder / "lh.Mine.annot", keys, names)
    made.write_label(folder / f"atlas-Mine_hemi-R{space}_dseg.label.gii", other, right)
    return made.write_label(folder / f"atlas-Mine_hemi-L{space}_dseg.label.gii", keys, NAMES_LEFT)


def test_a_dlabel_tells_names_and_networks(tmp_path):
    path = made.write_dlabel(tmp_path / "My.atlas-1.dlabel.nii")
    atlas = load_surface_atlas(path, space="fsLR", directory=None)
    assert atlas.name == "Myatlas1"
    assert atlas.parcels == tuple(made.NAMES.values())
    assert atlas.networks == ("Vis", "Cont", "Vis", "Default", "Subcortex")
    assert find_all_spaces(path, directory=None) == ("fsLR",)
    assert load_surface_labels(path).names == made.NAMES


def test_a_table_beside_it_gives_order_and_networks(tmp_path):
    path = made.write_dlabel(tmp_path / "a.dlabel.nii")
    rows = [(9, "THA-lh", "Subcortical"), (1, made.NAMES[2], "Limbic"), (2, made.NAMES[1], "n/a"), (3, "other", "Vis")]
    (tmp_path / "a.tsv").write_text(
        "index\tlabel\tnetwork_label\n" + "".join("\t".join(map(str, row)) + "\n" for row in rows)
    )
    atlas = load_surface_atlas(path, space="fsLR", directory=None)
    assert atlas.parcels == ("THA-lh", made.NAMES[2], made.NAMES[1])
    assert atlas.networks == ("Subcortex", "Limbic", "")
    axis = made.build_axis()
    values = made.build_series(len(axis))
    means = extract_surface_means(
        load_surface_series(made.build_run(made.write_dtseries(tmp_path / "b.dtseries.nii", values))), atlas
    )
    lookup = np.array([0, 3, 2, 0, 0, 1])
    expected, _ = made.compute_means(values, lookup[made.build_keys(axis)], 3)
    np.testing.assert_allclose(means.values, expected.astype(float), rtol=1e-13)


@pytest.mark.parametrize("suffix", [".label.gii", ".annot"])
def test_a_pair_of_files_is_one_atlas(tmp_path, suffix):
    left = write_pair(tmp_path, suffix=suffix)
    right = next(path for path in tmp_path.iterdir() if path != left)
    for path in (left, right):
        atlas = load_surface_atlas(path, space="fsaverage5", directory=None)
        assert atlas.parcels == ("7Networks_LH_Vis_1", "7Networks_LH_Cont_1", "7Networks_RH_Vis_1")
        assert atlas.networks == ("Vis", "Cont", "Vis")
        assert [volume.values.tolist() for volume in atlas.volumes] == [[1, 4], [1]]
        assert atlas.name == "Mine"
    values = [made.build_series(10242, seed, 7) for seed in (1, 2)]
    bold, partner = (
        made.write_func(tmp_path / f"x_hemi-{s}_bold.func.gii", v) for s, v in zip("LR", values, strict=True)
    )
    means = extract_surface_means(load_surface_series(made.build_run(bold, "fsaverage5", partner=partner)), atlas)
    expected = [values[0][:, 5:9].mean(1, dtype=float), values[0][:, 11:20].mean(1, dtype=float)]
    expected.append(values[1][:, 3:9].mean(1, dtype=float))
    np.testing.assert_allclose(means.values, np.stack(expected, axis=1), rtol=1e-13)


def test_names_tell_spaces_before_meshes_do(tmp_path):
    assert find_all_spaces(write_pair(tmp_path / "a"), directory=None) == ("fsaverage5", "fsaverage")
    assert find_all_spaces(write_pair(tmp_path / "b", n=32492), directory=None) == ("fsLR",)
    named = write_pair(tmp_path / "c", n=163842, space="_space-fsaverage")
    assert find_all_spaces(named, directory=None) == ("fsaverage",)
    with pytest.raises(AtlasError, match="is unknown: its mesh has 77 vertices"):
        find_all_spaces(write_pair(tmp_path / "d", n=77), directory=None)


def test_a_missing_hemisphere_of_an_atlas_is_named(tmp_path):
    left = write_pair(tmp_path)
    left.with_name(left.name.replace("hemi-L", "hemi-R")).unlink()
    with pytest.raises(AtlasError, match=r"atlas-Mine_hemi-R_dseg.label.gii"):
        load_surface_atlas(left, space="fsaverage5", directory=None)


def test_keys_without_a_name_are_refused(tmp_path):
    names = {key: name for key, name in made.NAMES.items() if key != 4}
    path = made.write_dlabel(tmp_path / "a.dlabel.nii", names=names)
    with pytest.raises(AtlasError, match="its label table"):
        load_surface_atlas(path, space="fsLR", directory=None)


def test_what_does_not_fit_is_said(tmp_path):
    path = made.write_dlabel(tmp_path / "a.dlabel.nii")
    with pytest.raises(AtlasError, match="fsLR, the data in fsaverage5"):
        load_surface_atlas(path, space="fsaverage5", directory=None)
    with pytest.raises(AtlasError, match="MNI152NLin6Asym"):
        load_atlas(path, space="MNI152NLin6Asym", directory=None)
    with pytest.raises(AtlasError, match=r"Demo457.*fsLR"):
        load_surface_atlas("Demo457", space="fsLR", directory=None)
    with pytest.raises(AtlasError, match=r"absent\.dlabel\.nii not found"):
        find_all_spaces(tmp_path / "absent.dlabel.nii", directory=None)
    image = tmp_path / "a.nii.gz"
    image.touch()
    with pytest.raises(AtlasError, match=r"a.nii.gz is volumetric"):
        load_surface_atlas(image, space="fsLR", directory=None)
    path.write_bytes(b"nothing")
    with pytest.raises(AtlasError, match="cannot be read: is not a CIFTI-2 file"):
        load_surface_atlas(path, space="fsLR", directory=None)


SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "atlas"


DLABEL = SHARED / "Schaefer2018_400Parcels_7Networks_order_Tian_Subcortex_S3.dlabel.nii"


def test_files_that_the_default_atlas_lacks_are_named(tmp_path):
    with pytest.raises(AtlasError, match=r"fsaverage5/label/lh.Schaefer2018_400Parcels_7Networks_order.annot with"):
        load_surface_atlas("Schaefer400", space="fsaverage5", directory=tmp_path)


def test_annotations_of_the_registry_are_told_apart_by_their_mesh(tmp_path, monkeypatch):
    forget(monkeypatch)
    for n, folder in ((163842, "."), (10242, "fsaverage5/label")):
        for side, letter in (("lh", "LH"), ("rh", "RH")):
            keys = np.arange(n) % 201
            names = ["unknown", *(f"7Networks_{letter}_{i}" for i in range(1, 201))]
            made.write_annot(tmp_path / folder / f"{side}.Schaefer2018_400Parcels_7Networks_order.annot", keys, names)
    atlas = load_surface_atlas("Schaefer400", space="fsaverage", directory=tmp_path)
    assert {volume.path.parent for volume in atlas.volumes} == {tmp_path}
    other = load_surface_atlas("Schaefer400", space="fsaverage5", directory=tmp_path)
    assert {volume.path.parent for volume in other.volumes} == {tmp_path / "fsaverage5/label"}
    assert other.volumes[1].parcels.tolist() == list(range(200, 400))


@pytest.mark.skipif(not DLABEL.is_file(), reason="needs ../shared/atlas")
def test_the_default_atlas_on_the_real_grayordinates(tmp_path):
    atlas = load_surface_atlas("Schaefer400Tian3Buckner7", space="fsLR", directory=SHARED)
    labels = load_surface_labels(DLABEL)
    assert len(atlas.parcels) == 457
    assert set(atlas.networks) == set(CANONICAL_NETWORKS)
    for parcel in range(450):
        assert labels.names[parcel + 51 if parcel < 400 else parcel - 399] == atlas.parcels[parcel]
    # Each part alone and unchanged may be passed on, which a merged one may not.
    assert all(may_be_shared(volume.licence) for volume in atlas.volumes)
    assert [volume.space for volume in atlas.volumes] == ["", "MNI152NLin6Asym"]
    (tmp_path / DLABEL.name).symlink_to(DLABEL)
    less = load_surface_atlas("Schaefer400Tian3Buckner7", space="fsLR", directory=tmp_path)
    assert len(less.parcels) == 457
    assert [volume.path.name for volume in less.volumes] == [DLABEL.name]


@pytest.fixture
def table(tmp_path) -> LabelTable:
    path = tmp_path / "own.tsv"
    path.write_text("index\tlabel\tnetwork_label\n1\ta\tVis\n2\tb\tCont\n3\tc\tn/a\n")
    return load_label_table(path)


def describe(path, **known):
    return Part(path=path, file=LabelFile(files=(path.name,), **known), listed_in=path)


def build(path, table, *, name="Own", space="fsLR", values=(4, 7), parcels=(2, 0)):
    volume, layers = build_surface_volume(describe(path), values, parcels)
    return build_atlas(name, space, table, [(volume, layers)])


def test_a_file_is_known_by_its_content(tmp_path):
    path = tmp_path / "lh.own.annot"
    made.write_annot(path, np.arange(50) % 10, ["unknown", *"abcdefghi"])
    volume, _ = build_surface_volume(describe(path, licence="free", source="here"), [4, 7, 9], [2, 0, 1])
    assert volume.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (volume.values.tolist(), volume.parcels.tolist()) == ([4, 7, 9], [2, 0, 1])
    assert volume.licence == "lh.own.annot: free, from here"
    assert build_surface_volume(describe(path), [4], [0])[0].licence == "lh.own.annot: n/a"


def test_a_file_that_changed_since_it_was_fetched_is_refused(tmp_path):
    path = tmp_path / "lh.own.annot"
    path.write_bytes(b"damaged")
    was = hashlib.sha256(b"labels").hexdigest()
    path.with_name("lh.own.annot.sha256").write_text(f"{was}  lh.own.annot\n")
    now = hashlib.sha256(b"damaged").hexdigest()
    with pytest.raises(AtlasError, match=f"{now}.* {was} "):
        build_surface_volume(describe(path), [4], [0])


def test_the_checksum_of_an_atlas_is_of_what_it_means_and_not_of_where_it_lies(tmp_path, table):
    path, other = tmp_path / "lh.own.annot", tmp_path / "lh.moved.annot"
    keys = np.arange(50) % 10
    made.write_annot(path, keys, ["unknown", *"abcdefghi"])
    # Other names of the keys, another file: the same atlas.
    made.write_annot(other, keys, ["unknown", *"ABCDEFGHI"])
    assert path.read_bytes() != other.read_bytes()
    atlas = build(path, table)
    assert (atlas.name, atlas.space, atlas.parcels, atlas.networks) == ("Own", "fsLR", table.parcels, table.networks)
    assert build(other, table, name="Moved").sha256 == atlas.sha256
    made.write_annot(other, np.roll(keys, 1), ["unknown", *"abcdefghi"])
    changed = [build(other, table), build(path, table, values=(4, 8)), build(path, table, parcels=(2, 1))]
    assert len({atlas.sha256, *(one.sha256 for one in changed)}) == 4


def test_a_path_is_split_where_it_exists(tmp_path):
    odd = tmp_path / "a:b.dlabel.nii"
    odd.touch()
    assert split_choice(odd) == (str(odd), "")
    assert split_choice(f"{odd}: one: two ") == (str(odd), "one: two")
    assert split_choice("Schaefer400") == ("Schaefer400", "")
    assert split_choice(":x") == (":x", "")
    assert split_choice(tmp_path / "absent.nii:1") == (str(tmp_path / "absent.nii:1"), "")


@pytest.mark.parametrize(
    ("choice", "expected"), [("RSN 7", [1]), ("rsn_7", [1]), ("3", [0]), ("1", [0]), ("4", [3]), ("9", [])]
)
def test_names_come_before_numbers(choice, expected):
    assert choose(["3", "RSN 7", "", "x"], choice) == expected


def write_maps(path, names):
    """A label file of both hemispheres with several maps; the second puts all in one parcel."""
    made.write_dlabel(path)
    image = nib.load(path)
    keys, axis = np.asarray(image.dataobj), image.header.get_axis(0)
    maps = np.vstack([keys, np.where(keys > 0, 1, 0)])
    both = nib.cifti2.LabelAxis(
        list(names), [axis.label[0], {0: ("???", (0, 0, 0, 0)), 1: ("LH_Vis_all", (1, 1, 1, 1))}]
    )
    nib.save(nib.Cifti2Image(maps.astype("f4"), (both, image.header.get_axis(1))), path)
    return path


def test_a_map_of_several_is_chosen(tmp_path):
    path = write_maps(tmp_path / "two.dlabel.nii", ("first one", "other: 7"))
    for load in (
        lambda: find_all_spaces(path, directory=None),
        lambda: load_surface_atlas(path, space="fsLR", directory=None),
    ):
        with pytest.raises(AtlasError, match=r"2 maps: 1 'first one', 2 'other: 7'\..*--atlas"):
            load()
    with pytest.raises(AtlasError, match=r"2 maps: .*third"):
        load_surface_atlas(f"{path}:third", space="fsLR", directory=None)
    for choice in ("other: 7", "2"):
        atlas = load_surface_atlas(f"{path}:{choice}", space="fsLR", directory=None)
        assert (atlas.name, atlas.parcels, atlas.volumes[0].map_index) == ("twoother7", ("LH_Vis_all",), 1)
    first = load_surface_atlas(f"{path}:first one", space="fsLR", directory=None)
    assert len(first.parcels) > 1
    assert first.sha256 != atlas.sha256
    assert find_all_spaces(f"{path}:1", directory=None) == ("fsLR",)
    with pytest.raises(AtlasError, match="on surfaces"):
        load_atlas(f"{path}:1", space=SPACE, directory=None)


def test_a_file_with_one_map_needs_no_choice(tmp_path):
    path = made.write_dlabel(tmp_path / "one.dlabel.nii")
    plain, chosen = (load_surface_atlas(name, space="fsLR", directory=None) for name in (path, f"{path}:1"))
    assert (plain.name, plain.sha256) == (chosen.name, chosen.sha256) == ("one", plain.sha256)


def test_a_map_of_a_pair_of_gifti_files_is_chosen(tmp_path):
    table = nib.gifti.GiftiLabelTable()
    for key, name in enumerate(("???", "a", "b")):
        label = nib.gifti.GiftiLabel(key)
        label.label = name
        table.labels.append(label)
    for side, order in (("L", 1), ("R", -1)):
        arrays = [
            nib.gifti.GiftiDataArray(
                (np.arange(32492) % n).astype("i4"), intent="NIFTI_INTENT_LABEL", meta={"Name": name}
            )
            # The same maps in another order: they are found by name in each.
            for n, name in ((2, "coarse"), (3, "fine"))[::order]
        ]
        image = nib.gifti.GiftiImage(darrays=arrays, labeltable=table)
        nib.save(image, tmp_path / f"hemi-{side}_space-fsLR_dseg.label.gii")
    path = tmp_path / "hemi-L_space-fsLR_dseg.label.gii"
    with pytest.raises(AtlasError, match="2 maps: 1 'coarse', 2 'fine'"):
        load_surface_atlas(path, space="fsLR", directory=None)
    atlas = load_surface_atlas(f"{path}:fine", space="fsLR", directory=None)
    assert [volume.map_index for volume in atlas.volumes] == [1, 0]
    assert atlas.parcels == ("LH_a", "LH_b", "RH_a", "RH_b")


def test_an_atlas_of_a_dataset_is_chosen(tmp_path):
    source = write_atlas(tmp_path / "source")
    folder = tmp_path / "dataset" / "sourcedata" / "atlas-4S" / f"tpl-{SPACE}" / "anat"
    folder.mkdir(parents=True)
    for scale in (1056, 156):
        for suffix in (".nii.gz", ".tsv"):
            name = f"tpl-{SPACE}_atlas-4S_scale-{scale}_res-01_dseg{suffix}"
            shutil.copy(source.with_name(source.name.replace(".nii.gz", suffix)), folder / name)
    dataset = tmp_path / "dataset"
    with pytest.raises(AtlasError, match=r"2 atlases: 4S156, 4S1056\. Choose one: --atlas.*dataset:4S156"):
        find_all_spaces(dataset, directory=None)
    with pytest.raises(AtlasError, match="2 atlases: 4S156, 4S1056; none is 4S256"):
        load_atlas(f"{dataset}:4S256", space=SPACE, directory=None)
    for choice in ("4S1056", "4s1056", "atlas-4S_scale-1056"):
        atlas = load_atlas(f"{dataset}:{choice}", space=SPACE, directory=None)
        assert (atlas.name, "scale-1056" in atlas.volumes[0].path.name) == ("4S1056", True)
    with pytest.raises(AtlasError, match="maps to choose from"):
        load_atlas(f"{source}:1", space=SPACE, directory=None)


def test_label_files_on_surfaces_of_a_dataset_are_found(tmp_path):
    folder = tmp_path / "tpl-fsLR" / "anat"
    folder.mkdir(parents=True)
    for scale in (156, 256):
        made.write_dlabel(folder / f"tpl-fsLR_atlas-4S_scale-{scale}_den-91k_dseg.dlabel.nii")
    assert find_all_spaces(f"{tmp_path}:4S256", directory=None) == ("fsLR",)
    atlas = load_surface_atlas(f"{tmp_path}:4S256", space="fsLR", directory=None)
    assert (atlas.name, "scale-256" in atlas.volumes[0].path.name) == ("4S256", True)
    with pytest.raises(AtlasError, match="on surfaces"):
        load_atlas(f"{tmp_path}:4S256", space=SPACE, directory=None)


def test_a_dataset_without_labels_says_what_it_holds(tmp_path):
    (tmp_path / "atlas-A_space-B_probseg.nii.gz").touch()
    with pytest.raises(AtlasError, match=r"\(1 \*_probseg"):
        find_images(tmp_path)
    (tmp_path / "atlas-A_space-B_dseg.nii.gz").symlink_to("gone")
    with pytest.raises(AtlasError, match=r"1 label files without content.*datalad get"):
        find_images(tmp_path)
