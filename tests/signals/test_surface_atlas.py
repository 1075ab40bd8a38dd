"""Atlases on surfaces: names, networks, hemispheres and spaces, from paths."""

from __future__ import annotations

import numpy as np
import pytest
import surface_files as made

from bids_semantoks.atlases.label_surfaces import load_surface_labels
from bids_semantoks.atlases.load import check_is_volumetric, find_all_spaces, load_surface_atlas
from bids_semantoks.errors import AtlasError
from bids_semantoks.signals.surface_means import extract_surface_means

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
    means = extract_surface_means(made.build_run(made.write_dtseries(tmp_path / "b.dtseries.nii", values)), atlas)
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
    means = extract_surface_means(made.build_run(bold, "fsaverage5", partner=partner), atlas)
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
    with pytest.raises(AtlasError, match=r"its partner atlas-Mine_hemi-R_dseg.label.gii is not beside it"):
        load_surface_atlas(left, space="fsaverage5", directory=None)


def test_keys_without_a_name_are_refused(tmp_path):
    names = {key: name for key, name in made.NAMES.items() if key != 4}
    path = made.write_dlabel(tmp_path / "a.dlabel.nii", names=names)
    with pytest.raises(AtlasError, match="uses keys that its label table does not name: 4"):
        load_surface_atlas(path, space="fsLR", directory=None)


def test_what_does_not_fit_is_said(tmp_path):
    path = made.write_dlabel(tmp_path / "a.dlabel.nii")
    with pytest.raises(AtlasError, match="is in the space fsLR, the data in fsaverage5"):
        load_surface_atlas(path, space="fsaverage5", directory=None)
    with pytest.raises(AtlasError, match="lies on surfaces, the data in MNI152NLin6Asym are images"):
        check_is_volumetric(path, "MNI152NLin6Asym")
    with pytest.raises(AtlasError, match="The atlas Demo457 is known on no surface, the data lie on surfaces in fsLR"):
        load_surface_atlas("Demo457", space="fsLR", directory=None)
    with pytest.raises(AtlasError, match=r"There is no atlas .*absent.dlabel.nii"):
        find_all_spaces(tmp_path / "absent.dlabel.nii", directory=None)
    image = tmp_path / "a.nii.gz"
    image.touch()
    with pytest.raises(AtlasError, match=r"a.nii.gz is made of images"):
        load_surface_atlas(image, space="fsLR", directory=None)
    path.write_bytes(b"nothing")
    with pytest.raises(AtlasError, match="cannot be read: is no CIFTI-2 file"):
        load_surface_atlas(path, space="fsLR", directory=None)
