"""Presets of the registry, and atlases by table."""

from __future__ import annotations

import importlib.util
import re
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from helpers.bold_files import AFFINE, LABELS, SPACE, write_atlas

from bids_semantoks.atlases.label_images import build_label_grid
from bids_semantoks.atlases.load import load_atlas, load_surface_atlas
from bids_semantoks.atlases.registry import find_registry, load_entry
from bids_semantoks.atlases.supply import name_transform
from bids_semantoks.errors import AtlasError
from bids_semantoks.models.parcels import default_layout, match_parcels

DEFAULT = "Schaefer400Tian3Buckner7"


@pytest.fixture(autouse=True)
def places(monkeypatch, tmp_path):
    monkeypatch.delenv("BIDS_SEMANTOKS_ATLAS_DIR", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("BIDS_SEMANTOKS_CACHE_DIR", "TEMPLATEFLOW_HOME", "HF_HUB_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / "no" / name))


# Presets


def test_cortex_alone_masks_subcortex_and_cerebellum(shared):
    atlas = load_atlas("Schaefer400", space=SPACE, directory=shared / "atlas")
    match = match_parcels(atlas.parcels, atlas.networks, default_layout())
    assert match.warnings == ("The atlas has no parcels of Subcortex, Cerebellum: the encoder sees them as masked.",)
    assert match.order.tolist() == [*range(400), *[-1] * 57]


def test_hundred_parcels(tmp_path):
    entry = load_entry(find_registry() / "Schaefer100.json")
    labels = np.zeros((11, 10, 7), np.int16)
    labels.ravel()[:100] = np.arange(1, 101)
    nib.Nifti1Image(labels, AFFINE).to_filename(tmp_path / entry.recipes[SPACE][0][0].files[0])
    atlas = load_atlas("Schaefer100", space=SPACE, directory=tmp_path)
    assert len(atlas.parcels) == 100
    assert set(atlas.networks) == {"Vis", "SomMot", "DorsAttn", "SalVentAttn", "Limbic", "Cont", "Default"}
    assert atlas.parcels[50] == "7Networks_RH_Vis_1"


def test_table_like_gordons(tmp_path):
    rows = [(1, "L_Default_1", "Default"), (2, "L_SMhand_1", "SMhand"), (3, "R_CinguloOperc_2", "CinguloOperc")]
    path = write_atlas(tmp_path, LABELS, rows=[*rows, (4, "R_None_3", "None")], name="Gordon333")
    atlas = load_atlas(path, space=SPACE, directory=None)
    assert atlas.networks == ("Default", "SomMot", "SalVentAttn", "")
    rows[2] = (3, "R_Retro_1", "RetrosplenialTemporal")
    path = write_atlas(tmp_path, LABELS, rows=[*rows, (4, "R_FP_3", "FrontoParietal")], name="Gordon333")
    assert load_atlas(path, space=SPACE, directory=None).networks[2:] == ("RetrosplenialTemporal", "Cont")


# What the registry says


def test_files_of_templateflow_bear_the_names_that_its_client_lists():
    """The client's own list of the archive, read without importing the client."""
    client = importlib.util.find_spec("templateflow")
    if client is None or client.origin is None:
        pytest.skip("needs the client of TemplateFlow")
    with zipfile.ZipFile(Path(client.origin).parent / "conf" / "templateflow-skel.zip") as archive:
        listed = set(archive.namelist())
    entries = [load_entry(path) for path in sorted(find_registry().glob("*.json"))]
    parts = [part for one in entries for some in one.recipes.values() for recipe in some for part in recipe]
    wanted = {part.templateflow for part in parts if part.templateflow}
    wanted.add(name_transform("MNI152NLin6Asym", "MNI152NLin2009cAsym"))
    assert len(wanted) == 5
    assert wanted <= listed


def test_checksums_are_those_of_the_files(shared):
    from hashlib import sha256  # noqa: PLC0415

    entry = load_entry(find_registry() / f"{DEFAULT}.json")
    parts = {part.files[0]: part for some in entry.recipes.values() for recipe in some for part in recipe}
    known = {name: part.sha256 for name, part in parts.items() if part.sha256}
    assert len(known) == 3
    for name, expected in known.items():
        assert sha256((shared / "atlas" / name).read_bytes()).hexdigest() == expected
    assert all(re.match("https://", part.address) for part in parts.values())


@pytest.mark.parametrize(
    ("space", "name"), [(SPACE, "atl-Buckner7_space-MNI_dseg.nii.gz"), ("fsLR", "atl-Buckner7_space-MNI_dseg.nii.gz")]
)
def test_a_file_that_is_not_the_published_one_is_refused(shared, tmp_path, space, name):
    for path in (shared / "atlas").iterdir():
        if path.name != name:
            (tmp_path / path.name).symlink_to(path)
    image = nib.load(shared / "atlas" / name)
    labels = np.asarray(image.dataobj).copy()
    labels[tuple(np.argwhere(labels == 1)[0])] = 2
    nib.Nifti1Image(labels, image.affine).to_filename(tmp_path / name)
    load = load_atlas if space == SPACE else load_surface_atlas
    with pytest.raises(AtlasError, match=r"expected 2de7a64d.*not the file that is published as atl-Buckner7"):
        load(DEFAULT, space=space, directory=tmp_path)


# The authors' file


def write_combined(shared, folder, change=None):
    whole = load_atlas(DEFAULT, space=SPACE, directory=shared / "atlas")
    reference = nib.load(whole.volumes[0].path)
    grid = build_label_grid(whole, reference.shape, reference.affine)
    grid = grid if change is None else change(grid)
    folder.mkdir(exist_ok=True)
    path = folder / "schaefer400_tian50_buckner7_MNI152_2mm.nii.gz"
    nib.Nifti1Image(grid.astype(np.int16), reference.affine).to_filename(path)
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda grid: np.where(grid == 457, 0, grid), r"must hold the labels 1 to 457, it lacks 457"),
        (lambda grid: np.where(grid == 3, 458, grid), r"it lacks 3, it also holds 458"),
        (lambda grid: np.where((grid > 0) & (grid <= 450), (grid + 49) % 450 + 1, grid), "labels are in another order"),
        (lambda grid: grid[::-1], "the image is flipped"),
    ],
)
def test_another_file_under_the_authors_name_is_refused(shared, tmp_path, change, words):
    write_combined(shared, tmp_path, change)
    with pytest.raises(AtlasError, match=words):
        load_atlas(DEFAULT, space=SPACE, directory=tmp_path)


def test_the_authors_file_in_the_hubs_cache_counts(shared, tmp_path, monkeypatch):
    root = tmp_path / "hub" / "models--SamGijsen--Brain-Semantoks"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text("abc")
    (root / "snapshots").mkdir()
    path = write_combined(shared, root / "snapshots" / "abc")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert load_atlas(DEFAULT, space=SPACE, directory=None).volumes[0].path == path
    # What the user names wins as a whole.
    given = load_atlas(DEFAULT, space=SPACE, directory=shared / "atlas")
    assert [volume.path.parent for volume in given.volumes] == [shared / "atlas"] * 2


def test_no_transform_is_asked_for_into_a_space_of_each_participant():
    with pytest.raises(AtlasError, match=r"data are in T1w, each participant's own space") as caught:
        load_atlas("Schaefer400", space="T1w", directory=None)
    assert "Choose data in MNI152NLin6Asym or MNI152NLin2009cAsym with --space" in str(caught.value)
    assert "from-" not in str(caught.value)


def test_a_missing_atlas_names_few_of_the_sets_that_would_do():
    with pytest.raises(AtlasError, match=r"Needed are, for MNI152NLin6Asym: schaefer400_tian50") as caught:
        load_atlas("Schaefer400Tian3Buckner7", space=SPACE, directory=None)
    text = str(caught.value)
    needed = text[text.index("Needed") : text.index("They were not fetched")]
    assert needed.count(", or ") == 1
    assert "(or 2 other sets)" in needed
