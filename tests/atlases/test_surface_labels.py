"""A map of a label file, and an atlas of a dataset, are chosen by name or number."""

from __future__ import annotations

import shutil

import nibabel as nib
import numpy as np
import pytest
from helpers import surface_files as made
from helpers.bold_files import SPACE, write_atlas

from bids_semantoks.atlases.load import check_is_volumetric, find_all_spaces, load_atlas, load_surface_atlas
from bids_semantoks.atlases.surface_labels import choose, choose_in_dataset, split_choice
from bids_semantoks.errors import AtlasError


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
        check_is_volumetric(f"{path}:1", SPACE)


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
        choose_in_dataset(tmp_path, "")
    (tmp_path / "atlas-A_space-B_dseg.nii.gz").symlink_to("gone")
    with pytest.raises(AtlasError, match=r"1 label files without content.*datalad get"):
        choose_in_dataset(tmp_path, "")
