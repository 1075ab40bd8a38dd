"""The demo atlas: what is shipped is what the code makes, with the sizes of the published model."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np

import bids_semantoks
from bids_semantoks.atlases.load import load_atlas
from bids_semantoks.demo.atlas import build_affine, build_anatomy, build_table, write_image, write_parcel_table
from bids_semantoks.records import CANONICAL_NETWORKS

SHIPPED = Path(bids_semantoks.__file__).parent / "data" / "atlases"


STEM = "tpl-MNI152NLin2009cAsym_atlas-Demo457_dseg"


def test_shipped_atlas_is_what_the_code_makes(tmp_path):
    write_image(tmp_path / f"{STEM}.nii.gz", build_anatomy().labels)
    write_parcel_table(tmp_path / f"{STEM}.tsv")
    assert (tmp_path / f"{STEM}.tsv").read_bytes() == (SHIPPED / f"{STEM}.tsv").read_bytes()
    made, shipped = ((folder / f"{STEM}.nii.gz").read_bytes() for folder in (tmp_path, SHIPPED))
    assert gzip.decompress(made) == gzip.decompress(shipped)
    assert made[4:8] == shipped[4:8] == b"\0\0\0\0", "a time stamp in the gzip header would differ every time"


def test_order_and_sizes_are_those_of_the_model():
    _, networks = build_table()
    # (network, first parcel, count), from the specification of the model.
    blocks = [(0, 0, 31), (1, 31, 37), (2, 68, 23), (3, 91, 22), (4, 113, 13), (5, 126, 22), (6, 148, 52)]
    blocks += [(0, 200, 30), (1, 230, 40), (2, 270, 23), (3, 293, 25), (4, 318, 13), (5, 331, 30), (6, 361, 39)]
    blocks += [(7, 400, 50), (8, 450, 7)]
    expected = np.full(457, "", dtype=object)
    for network, first, count in blocks:
        expected[first : first + count] = CANONICAL_NETWORKS[network]
    assert list(networks) == list(expected)


def test_names_are_unique_and_tell_side_and_network():
    parcels, networks = build_table()
    assert len(set(parcels)) == 457
    assert (parcels[0], parcels[200], parcels[456]) == ("Demo_LH_Vis_1", "Demo_RH_Vis_1", "Demo_Cerebellum_7")
    assert all(f"_{network}_" in parcel for parcel, network in zip(parcels, networks, strict=True))


def test_every_parcel_has_several_voxels_on_its_own_side():
    anatomy = build_anatomy()
    counts = np.bincount(anatomy.labels.ravel(), minlength=458)[1:]
    assert counts.min() >= 8
    x = np.broadcast_to((np.arange(33) * 6.0 - 96.0)[:, None, None], anatomy.labels.shape)
    for number, parcel in enumerate(build_table()[0], start=1):
        side = np.sign(x[anatomy.labels == number])
        if "_LH_" in parcel:
            assert (side == -1).all(), parcel
        elif "_RH_" in parcel:
            assert (side == 1).all(), parcel


def test_tissues_do_not_overlap_and_fill_the_brain():
    anatomy = build_anatomy()
    parts = (anatomy.labels > 0).astype(int) + anatomy.white_matter + anatomy.csf + anatomy.edge
    assert parts.max() == 1
    assert np.array_equal(parts == 1, anatomy.brain | anatomy.edge)


def test_affine_maps_the_middle_voxel_to_the_midline_of_the_template():
    assert np.array_equal(build_affine() @ [16, 22, 13, 1], [0.0, 0.0, 0.0, 1.0])


def test_registry_finds_the_atlas_and_says_it_is_not_anatomical():
    atlas = load_atlas("Demo457", space="MNI152NLin2009cAsym", directory=None)
    assert (atlas.name, atlas.parcels, atlas.networks) == ("Demo457", *build_table())
    assert nib.load(atlas.volumes[0].path).shape == (33, 39, 33)
    assert "not anatomical" in atlas.volumes[0].licence
    assert "Not anatomical" in (SHIPPED / "Demo457.json").read_text()
