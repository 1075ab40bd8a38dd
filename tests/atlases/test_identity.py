"""An atlas is what its voxels hold: copies in other files are the same, other labels are not."""

from __future__ import annotations

import dataclasses
import gzip
import shutil

import nibabel as nib
import numpy as np
import pytest
from helpers import surface_files as made
from helpers.bold_files import AFFINE, LABELS, SPACE, write_atlas

from bids_semantoks.atlases.identity import Layer, identify
from bids_semantoks.atlases.load import load_atlas, load_surface_atlas
from bids_semantoks.errors import AtlasError
from bids_semantoks.files import write_json
from bids_semantoks.outputs.dataset import check_same_atlas, keep_identity
from bids_semantoks.outputs.dataset import write_atlas as store_atlas

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
