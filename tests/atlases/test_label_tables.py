"""Tables of parcels and their networks, and Schaefer's parcels under the names and in the order of 7 networks."""

from __future__ import annotations

import csv
import logging

import nibabel as nib
import numpy as np
import pytest
from helpers.bold_files import SPACE

from bids_semantoks.atlases.label_images import build_label_grid
from bids_semantoks.atlases.label_tables import (
    build_label,
    find_network,
    load_label_table,
    normalise_network,
    rename_to_seven_networks,
)
from bids_semantoks.atlases.load import load_atlas
from bids_semantoks.atlases.registry import find_registry
from bids_semantoks.errors import AtlasError
from bids_semantoks.models.parcels import default_layout, match_parcels
from bids_semantoks.records import CANONICAL_NETWORKS

STEM = "Schaefer2018_400Parcels_{}Networks_order_FSLMNI152_2mm"


@pytest.fixture(autouse=True)
def places(monkeypatch, tmp_path):
    monkeypatch.delenv("BIDS_SEMANTOKS_ATLAS_DIR", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("BIDS_SEMANTOKS_CACHE_DIR", "TEMPLATEFLOW_HOME", "HF_HUB_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / "no" / name))


def read_centroids(shared, order):
    with (shared / "atlas" / f"{STEM.format(order)}.Centroid_RAS.csv").open() as file:
        return {row["ROI Name"]: tuple(float(row[c]) for c in "RAS") for row in csv.DictReader(file)}


def write_table(path, names):
    path.write_text("index\tlabel\n" + "".join(f"{n}\t{name}\n" for n, name in enumerate(names, 1)))
    return path


def test_parcels_of_the_17_network_order_are_found_by_where_they_lie(shared, tmp_path):
    seven, seventeen = read_centroids(shared, 7), read_centroids(shared, 17)
    assert len(set(seven.values())) == 400
    renamed = rename_to_seven_networks(load_label_table(write_table(tmp_path / "t.tsv", seventeen)))
    assert [seven[name] for name in renamed.parcels] == list(seventeen.values())
    assert renamed.parcels != tuple(seven)
    assert renamed.networks == tuple(name.split("_")[2] for name in renamed.parcels)
    assert renamed.values == tuple(range(1, 401))


def test_an_image_in_the_17_network_order_gives_the_same_parcels(shared, tmp_path, caplog):
    image = nib.load(shared / "atlas" / f"{STEM.format(7)}.nii.gz")
    labels = np.asarray(image.dataobj).astype(int)
    at = {where: n for n, where in enumerate(read_centroids(shared, 17).values(), 1)}
    lookup = np.r_[0, [at[where] for where in read_centroids(shared, 7).values()]]
    path = tmp_path / f"atlas-Mine_space-{SPACE}_dseg.nii.gz"
    nib.Nifti1Image(lookup[labels].astype(np.int16), image.affine).to_filename(path)
    write_table(path.with_name(path.name.replace("nii.gz", "tsv")), read_centroids(shared, 17))
    with caplog.at_level(logging.INFO, "bids_semantoks"):
        found = load_atlas(path, space=SPACE, directory=None)
    assert "named in the 17-network order" in caplog.text
    expected = load_atlas("Schaefer400", space=SPACE, directory=shared / "atlas")
    assert set(found.parcels) == set(expected.parcels)
    grids = [build_label_grid(one, image.shape, image.affine) for one in (found, expected)]
    names = [np.array(["", *one.parcels])[grid] for one, grid in zip((found, expected), grids, strict=True)]
    np.testing.assert_array_equal(names[0], names[1])
    match = match_parcels(found.parcels, found.networks, default_layout())
    assert [found.parcels[i] for i in match.order[:400]] == list(expected.parcels)


def test_names_of_2018_are_those_of_templateflow(shared):
    name = "tpl-MNI152NLin2009cAsym_atlas-Schaefer2018_desc-400Parcels7Networks_dseg.tsv"
    table = load_label_table(shared / "atlas" / name)
    expected = load_label_table(find_registry() / "Schaefer400_dseg.tsv").parcels
    assert sum(a != b for a, b in zip(table.parcels, expected, strict=True)) == 66
    assert rename_to_seven_networks(table).parcels == expected


def test_other_tables_keep_their_names(shared, tmp_path):
    names = list(read_centroids(shared, 17))
    fewer = load_label_table(write_table(tmp_path / "fewer.tsv", names[:100]))
    assert rename_to_seven_networks(fewer) == fewer
    canonical = load_label_table(find_registry() / "Schaefer400_dseg.tsv")
    assert rename_to_seven_networks(canonical) is canonical
    more = load_label_table(write_table(tmp_path / "more.tsv", ["Hippocampus", *names]))
    assert rename_to_seven_networks(more).parcels[0] == "Hippocampus"
    assert rename_to_seven_networks(more).parcels[1].startswith("7Networks_LH_")


@pytest.mark.parametrize(
    ("stem", "label"),
    [
        ("atlas-A_seg-7n_scale-4_desc-x_dseg", "A7n4x"),
        ("Mine.v2_atlas-B.1_dseg", "B1"),
        ("my-own.v2_dseg", "myownv2"),
        ("_-_dseg", "Atlas"),
    ],
)
def test_labels_hold_letters_and_digits(stem, label):
    assert build_label(stem) == label


# Tables


def write_any(folder, text):
    path = folder / "table.tsv"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"table\.tsv is empty"),
        ("index\tcolor\n1\tred\n", "columns index, color; index and label are"),
        ("index\tlabel\n", "lists no parcel"),
        ("index\tlabel\n1\ta\n1\tb\n", "column index"),
        ("index\tlabel\n1\ta\n2\ta\n", "column label"),
        ("index\tlabel\none\ta\n", "index 'one'"),
        ("index\tlabel\n1.5\ta\n", r"index '1\.5'"),
        ("index\tlabel\n-1\ta\n", "index '-1'"),
        ("index\tlabel\n1\ta\tb\n", r"has 3 values in row 1 \(line 2\), but 2 columns"),
    ],
)
def test_bad_tables(tmp_path, text, words):
    with pytest.raises(AtlasError, match=words):
        load_label_table(write_any(tmp_path, text))


def test_columns_of_templateflow_and_background(tmp_path):
    text = "index\tname\tcolor\n0\tBackground\t#0\n7\t7Networks_LH_Vis_1\t#1\n"
    text += "3.0\t7Networks_RH_Default_PFC_2\t#2\n9\tNA\t#3\n"
    table = load_label_table(write_any(tmp_path, text))
    assert table.values == (7, 3, 9)
    assert table.parcels == ("7Networks_LH_Vis_1", "7Networks_RH_Default_PFC_2", "NA")
    assert table.networks == ("Vis", "Default", "")


def test_network_column_goes_before_names(tmp_path):
    table = load_label_table(write_any(tmp_path, "index\tlabel\tnetwork\n1\t7Networks_LH_Vis_1\tn/a\n2\tb\tVisual\n"))
    assert table.networks == ("", "Vis")


@pytest.mark.parametrize("network", CANONICAL_NETWORKS)
def test_canonical_networks_are_found(network):
    assert normalise_network(network) == network
    assert normalise_network(f" {network.lower()} ") == network
    assert find_network(f"7Networks_RH_{network}_PFC_3") == network
    assert find_network(f"LH_{network}_1") == network


@pytest.mark.parametrize(
    ("parcel", "network"), [("17Networks_LH_VisCent_ExStr_1", ""), ("HIP-head-m-rh", ""), ("LH_Hippocampus", "")]
)
def test_names_without_a_network(parcel, network):
    assert find_network(parcel) == network


def test_spellings_of_networks():
    assert normalise_network("Dorsal Attention") == "DorsAttn"
    assert normalise_network("default_mode") == "Default"
    assert normalise_network("VisCent") == "VisCent"
