"""Entries of the registry on surfaces: their files are told apart, and what is missing is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import surface_files as made

from bids_semantoks.atlases.label_surfaces import load_surface_labels
from bids_semantoks.atlases.load import load_surface_atlas
from bids_semantoks.errors import AtlasError
from bids_semantoks.outputs.dataset import may_be_shared
from bids_semantoks.records import CANONICAL_NETWORKS

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "atlas"
DLABEL = SHARED / "Schaefer2018_400Parcels_7Networks_order_Tian_Subcortex_S3.dlabel.nii"


def test_files_that_the_default_atlas_lacks_are_named(tmp_path):
    with pytest.raises(AtlasError, match=r"fsaverage5/label/lh.Schaefer2018_400Parcels_7Networks_order.annot with"):
        load_surface_atlas("Schaefer400", space="fsaverage5", directory=tmp_path)


def test_annotations_of_the_registry_are_told_apart_by_their_mesh(tmp_path):
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
