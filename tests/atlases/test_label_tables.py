"""Tables of parcels and their networks, and Schaefer's parcels under the names and in the order of 7 networks."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import logging
import shutil

import nibabel as nib
import numpy as np
import pytest
from helpers import surface_files as made
from helpers.bold_files import AFFINE, LABELS, SPACE, write_atlas

from bids_semantoks.atlases.label_images import build_label_grid
from bids_semantoks.atlases.label_tables import (
    Layer,
    build_label,
    find_network,
    identify,
    load_label_table,
    normalise_network,
    rename_to_seven_networks,
)
from bids_semantoks.atlases.load import load_atlas, load_surface_atlas
from bids_semantoks.atlases.registry import find_registry
from bids_semantoks.errors import AtlasError
from bids_semantoks.files import write_json
from bids_semantoks.models.parcels import default_layout, match_parcels
from bids_semantoks.outputs.dataset import check_same_atlas, keep_identity
from bids_semantoks.outputs.dataset import write_atlas as store_atlas
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


DEFAULT = "Schaefer400Tian3Buckner7"
BUCKNER = "atl-Buckner7_space-MNI_dseg.nii"
WHOLE = "Schaefer2018_400Parcels_7Networks_order_Tian_Subcortex_S3_MNI152NLin6Asym_2mm.nii.gz"
# By its files, of which the cerebellum's was compressed: as outputs of before know the default atlas.
FORMER = "7e1acdb562ed51b65e56576dad1a9a33d465416693bbd97db1b9aabf6f2433b7"


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.delenv("BIDS_SEMANTOKS_ATLAS_DIR", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("BIDS_SEMANTOKS_CACHE_DIR", "TEMPLATEFLOW_HOME", "HF_HUB_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / "no" / name))


def load(path):
    return load_atlas(path, space=SPACE, directory=None)


def test_the_form_of_a_file_does_not_count(tmp_path):
    path = write_atlas(tmp_path / "a")
    expected = load(path)
    plain = tmp_path / "b" / path.name.removesuffix(".gz")
    plain.parent.mkdir()
    table = path.with_name(path.name.replace(".nii.gz", ".tsv"))
    shutil.copy(table, plain.parent)
    plain.write_bytes(gzip.decompress(path.read_bytes()))
    assert load(plain).sha256 == expected.sha256
    affine = AFFINE + np.array([[1e-6] * 4] * 3 + [[0] * 4])
    for labels in (LABELS.astype(np.uint8), LABELS.astype(np.float32), np.where(LABELS, LABELS, np.nan).astype("f4")):
        nib.Nifti1Image(labels, affine).to_filename(plain)
        assert load(plain).sha256 == expected.sha256
    affine[0, 3] += 1
    for labels, own in ((LABELS, affine), (np.roll(LABELS, 1), AFFINE)):
        nib.Nifti1Image(labels.astype(np.uint8), own).to_filename(plain)
        assert load(plain).sha256 != expected.sha256


def test_layers_of_one_grid_are_one_and_the_first_wins():
    first, second = np.array([0, 1, 1, 0], np.int32), np.array([2, 2, 0, 0], np.int32)
    one = identify("ab", "xy", SPACE, [Layer(("grid",), np.array([2, 1, 1, 0], np.int32))])
    assert identify("ab", "xy", SPACE, [Layer(("grid",), first), Layer(("grid",), second)]) == one
    others = [
        identify("ab", "xy", SPACE, [Layer(("grid",), second), Layer(("grid",), first)]),
        identify("ab", "xy", SPACE, [Layer(("grid",), first), Layer(("other",), second)]),
        identify("ab", "xy", "MNI305", [Layer(("grid",), np.array([2, 1, 1, 0], np.int32))]),
    ]
    assert len({one, *others}) == 4


def test_the_mesh_counts_and_not_the_kind_of_file(tmp_path):
    keys = np.arange(10242) % 3
    for side in "lr":
        made.write_annot(tmp_path / "a" / f"{side}h.own.annot", keys, ["unknown", f"{side}a", f"{side}b"])
    first = load_surface_atlas(tmp_path / "a" / "lh.own.annot", space="fsaverage5", directory=None)
    for side, letter in (("l", "L"), ("r", "R")):
        table = nib.gifti.GiftiLabelTable()
        for key, name in enumerate(("???", f"{side}a", f"{side}b")):
            label = nib.gifti.GiftiLabel(key)
            label.label = name
            table.labels.append(label)
        array = nib.gifti.GiftiDataArray(keys.astype("i4"), intent="NIFTI_INTENT_LABEL")
        path = tmp_path / f"hemi-{letter}_space-fsaverage5_own.label.gii"
        nib.save(nib.gifti.GiftiImage(darrays=[array], labeltable=table), path)
    second = load_surface_atlas(path, space="fsaverage5", directory=None)
    assert (second.parcels, second.sha256) == (first.parcels, first.sha256)


def test_outputs_of_before_keep_their_checksum(tmp_path):
    atlas = load(write_atlas(tmp_path / "a"))
    former = atlas.former_sha256[0]
    assert former != atlas.sha256
    out = tmp_path / "out"
    store_atlas(out, dataclasses.replace(atlas, sha256=former))
    assert keep_identity(tmp_path / "other", atlas) == atlas
    kept = keep_identity(out, atlas)
    assert kept.sha256 == former
    check_same_atlas(out, kept)
    path = next(out.rglob("*_dseg.json"))
    write_json(path, {"SHA256": "0" * 64})
    assert keep_identity(out, atlas).sha256 == atlas.sha256


def write_copies(shared, folder, copies):
    folder.mkdir()
    for name, content in copies.items():
        source = shared / "atlas" / name.removesuffix(".own.gz")
        target = folder / "below" / name.replace(".own.gz", ".gz")
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(content(source.read_bytes()))
    return load_atlas(DEFAULT, space=SPACE, directory=folder)


def keep(content):
    return content


def test_the_default_atlas_is_one_however_it_came(shared, tmp_path):
    parts = ("Tian_Subcortex_S3_3T.nii", "Schaefer2018_400Parcels_7Networks_order_FSLMNI152_2mm.nii.gz", BUCKNER)
    found = [
        load_atlas(DEFAULT, space=SPACE, directory=shared / "atlas"),
        write_copies(shared, tmp_path / "published", {WHOLE: keep, BUCKNER: keep}),
        write_copies(shared, tmp_path / "own", {WHOLE: keep, f"{BUCKNER}.own.gz": gzip.compress}),
        write_copies(shared, tmp_path / "ours", {WHOLE: keep, f"{BUCKNER}.gz": keep}),
        write_copies(shared, tmp_path / "parts", dict.fromkeys(parts, keep)),
    ]
    assert len({atlas.sha256 for atlas in found}) == 1
    assert [FORMER in atlas.former_sha256 for atlas in found] == [True, True, True, True, False]
    with pytest.raises(AtlasError, match="atl-Buckner7"):
        write_copies(shared, tmp_path / "changed", {WHOLE: keep, BUCKNER: lambda b: b[:500000] + b"\3" + b[500001:]})
    with pytest.raises(AtlasError, match="cannot be read"):
        write_copies(shared, tmp_path / "cut", {WHOLE: lambda b: b[:-100], BUCKNER: keep})
