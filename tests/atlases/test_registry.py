"""Files of atlases come from the place that the user prefers, only when they have content; presets and checksums."""

from __future__ import annotations

import importlib.util
import json
import logging
import re
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from helpers import surface_files as made
from helpers.bold_files import AFFINE, LABELS, SPACE, write_atlas

from bids_semantoks.atlases.load import load_atlas, load_surface_atlas
from bids_semantoks.atlases.registry import (
    LabelFile,
    Places,
    describe_unused,
    find_archived,
    find_entry,
    find_file,
    find_places,
    find_registered,
    find_registry,
    is_there,
    load_entry,
)
from bids_semantoks.atlases.supply import name_transform
from bids_semantoks.errors import AtlasError
from bids_semantoks.files import hash_content
from bids_semantoks.models.parcels import default_layout, match_parcels

ARCHIVED = "tpl-Own/tpl-Own_atlas-A_dseg.nii.gz"


FILE = LabelFile(
    files=("best.nii.gz", "second.nii.gz"),
    values=(1,),
    indices=(1,),
    licence="free",
    source="made here",
    space="Own",
    templateflow=ARCHIVED,
)


DEFAULT = "Schaefer400Tian3Buckner7"


@pytest.fixture(autouse=True)
def places(monkeypatch, tmp_path):
    monkeypatch.delenv("BIDS_SEMANTOKS_ATLAS_DIR", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("BIDS_SEMANTOKS_CACHE_DIR", "TEMPLATEFLOW_HOME", "HF_HUB_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / "no" / name))


def write(path, content="x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def test_places_stand_in_the_order_of_what_was_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("BIDS_SEMANTOKS_ATLAS_DIR", str(tmp_path / "variable"))
    monkeypatch.setenv("BIDS_SEMANTOKS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(tmp_path / "flow"))
    (tmp_path / "option").mkdir()
    places = find_places(tmp_path / "option", beside=tmp_path / "entry")
    assert places.given == (tmp_path / "option", tmp_path / "variable")
    assert places.others == (tmp_path / "cache" / "atlases", tmp_path / "entry")
    assert places.templateflow == (tmp_path / "flow", tmp_path / "cache" / "templateflow")
    first, both, every = places.narrow()
    assert first == Places(given=(tmp_path / "option",), others=(), templateflow=())
    assert both == Places(given=places.given, others=(), templateflow=())
    assert every == places
    write(tmp_path / "file")
    with pytest.raises(AtlasError, match=r"atlas directory .*/file \(--atlas-dir\) is not a directory"):
        find_places(tmp_path / "file")


def test_the_nearest_place_wins_before_the_best_name(tmp_path):
    places = Places(given=(tmp_path / "a", tmp_path / "b"), others=(tmp_path / "c",), templateflow=(tmp_path / "d",))
    assert find_file(FILE, places) is None
    # From the last place that is looked into to the first, each is preferred to those before it.
    for path in (
        f"d/{ARCHIVED}",
        f"b/templateflow/{ARCHIVED}",
        "c/best.nii.gz",
        "b/atlases/second.nii.gz",
        "b/tpl-Own_atlas-A_dseg.nii.gz",
        "b/best.nii.gz",
        "a/atlases/second.nii.gz",
        "a/second.nii.gz",
        "a/best.nii.gz",
    ):
        expected = write(tmp_path / path)
        assert find_file(FILE, places) == expected


def test_files_that_were_only_announced_do_not_count(tmp_path):
    places = Places(given=(tmp_path / "a",), others=(), templateflow=(tmp_path / "d",))
    expected = write(tmp_path / "d" / ARCHIVED)
    write(tmp_path / "a" / ARCHIVED, "")
    link = tmp_path / "a" / "templateflow" / ARCHIVED
    link.parent.mkdir(parents=True)
    link.symlink_to("gone")
    assert find_archived(ARCHIVED, places) == expected
    for path in (link, tmp_path / "a" / ARCHIVED, expected / "below", tmp_path / ("n" * 300)):
        assert not is_there(path)
    assert is_there(expected)


def test_an_annotation_of_another_mesh_is_left_where_it_is(tmp_path):
    folders = [tmp_path / name for name in "abc"]
    places = Places(given=tuple(folders), others=(), templateflow=())
    file = LabelFile(files=("lh.own.annot", "lh.own.label.gii"), n_vertices=300)
    for folder, size in zip(folders, (299, 300, 300), strict=True):
        folder.mkdir()
        (folder / "lh.own.annot").write_bytes(size.to_bytes(4, "big") + b"labels")
    assert find_file(file, places) == tmp_path / "b" / "lh.own.annot"
    # What other files hold is left to their readers.
    other = write(tmp_path / "a" / "lh.own.label.gii")
    assert find_file(file, places) == other


def test_an_entry_may_be_of_surfaces_alone(tmp_path):
    part = {"files": ["a.dlabel.nii"], "values": [[1, 2], [5, 5]], "parcels": [[2, 3], [1, 1]]}
    part |= {"licence": "free", "source": "here", "space": "MNI305"}
    surfaces = [{"space": "fsLR", "alternatives": [[part], [part, part]]}]
    path = write(tmp_path / "Own.json", json.dumps({"name": "Own", "table": "own.tsv", "surfaces": surfaces}))
    entry = load_entry(path, on_surfaces=True)
    assert [len(recipe) for recipe in entry.recipes["fsLR"]] == [1, 2]
    ((file,), _) = entry.recipes["fsLR"]
    assert (file.values, file.indices, file.space) == ((1, 2, 5), (2, 3, 1), "MNI305")
    assert not entry.is_warped(file, "fsLR")
    with pytest.raises(AtlasError, match=r"description .*Own.json cannot be read: KeyError 'spaces'"):
        load_entry(path)
    del part["source"]
    write(path, json.dumps({"name": "Own", "table": "own.tsv", "surfaces": surfaces, "spaces": []}))
    with pytest.raises(AtlasError, match=r"description .*Own.json cannot be read: KeyError 'source'"):
        load_entry(path, on_surfaces=True)
    with pytest.raises(AtlasError, match=r"Own.json cannot be read: ValueError"):
        load_entry(path)


def test_only_names_are_registered(tmp_path, monkeypatch):
    assert find_registered("Demo457") == find_registry() / "Demo457.json" == find_entry("Demo457")
    path = write(tmp_path / "Demo457.json")
    assert find_registered(path) is None
    assert find_entry(path) == path
    assert find_entry(tmp_path) is find_entry(tmp_path / "Other.json") is find_entry("../atlases/Demo457") is None


# Presets


def test_cortex_alone_masks_subcortex_and_cerebellum(shared):
    atlas = load_atlas("Schaefer400", space=SPACE, directory=shared / "atlas")
    match = match_parcels(atlas.parcels, atlas.networks, default_layout())
    assert "The atlas has no parcels of Subcortex" in str(match.warnings)
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
    # All but the authors' own file, and those of TemplateFlow, whose MD5 and size are known.
    assert sum(not part.pin.sha256 and not (part.pin.md5 and part.pin.size) for part in parts.values()) == 1
    here = {name: part.pin for name, part in parts.items() if (shared / "atlas" / name).is_file()}
    assert len(here) == 5
    for name, pin in here.items():
        assert sha256((shared / "atlas" / name).read_bytes()).hexdigest() == pin.sha256[0]
        assert name.endswith((".dlabel.nii", ".nii")) or hash_content(shared / "atlas" / name) == pin.sha256[1]
    assert all(re.match("https://", part.address) for part in parts.values())


@pytest.mark.parametrize(
    ("space", "name"), [(SPACE, "atl-Buckner7_space-MNI_dseg.nii.gz"), ("fsLR", "atl-Buckner7_space-MNI_dseg.nii")]
)
def test_a_file_that_is_not_the_published_one_is_refused(shared, tmp_path, space, name):
    for path in (shared / "atlas").iterdir():
        if path.name.removesuffix(".gz") != name.removesuffix(".gz"):
            (tmp_path / path.name).symlink_to(path)
    image = nib.load(shared / "atlas" / name)
    labels = np.asarray(image.dataobj).copy()
    labels[tuple(np.argwhere(labels == 1)[0])] = 2
    nib.Nifti1Image(labels, image.affine).to_filename(tmp_path / name)
    load = load_atlas if space == SPACE else load_surface_atlas
    with pytest.raises(AtlasError, match=r"atl-Buckner7.*30103f76"):
        load(DEFAULT, space=space, directory=tmp_path)


def test_every_address_is_one_that_its_repository_has():
    """The paths of the repositories lie beside this file; those of TemplateFlow are tested above."""
    listed = set(Path(__file__).with_name("published.txt").read_text().splitlines())
    found = set()
    for path in sorted(find_registry().glob("*.json")):
        for on_surfaces in (False, True):
            for recipes in load_entry(path, on_surfaces=on_surfaces).recipes.values():
                for part in (one for recipe in recipes for one in recipe if one.url):
                    owner, name, _, place = part.url.removeprefix("https://raw.githubusercontent.com/").split("/", 3)
                    assert f"{owner}/{name} {place}" in listed
                    assert place.endswith(f"/{part.files[0].removeprefix('fsaverage/label/')}")
                    found.add(place)
    assert len(found) == 15


def test_a_file_counts_wherever_it_lies_in_a_given_directory(tmp_path):
    file = LabelFile(files=("a/lh.own.annot", "lh.own.annot"))
    image = LabelFile(files=("own.nii",))
    for path in ("sub-01/anat/own.nii", ".git/own.nii", "x/y/own.nii.gz", "z/a/lh.own.annot", "deep/1/2/3/4/own.nii"):
        write(tmp_path / path)
    places = find_places(tmp_path)
    assert find_file(file, places) == tmp_path / "z/a/lh.own.annot"
    assert find_file(image, places) == tmp_path / "x/y/own.nii.gz"
    write(tmp_path / "x/own.nii.gz", "")
    write(tmp_path / "x/own.nii")
    assert find_file(image, find_places(tmp_path)) == tmp_path / "x/own.nii"
    archived = write(tmp_path / "flow" / "tpl-Own_atlas-A_dseg.nii.gz")
    assert find_archived(ARCHIVED, find_places(tmp_path)) == archived


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.delenv("BIDS_SEMANTOKS_ATLAS_DIR", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("BIDS_SEMANTOKS_CACHE_DIR", "TEMPLATEFLOW_HOME", "HF_HUB_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / "no" / name))


def write_entry(folder):
    """A registry entry of one image, which lies in a folder of its own."""
    write_atlas(folder / "given", name="own")
    next((folder / "given").glob("*_dseg.nii.gz")).rename(folder / "given" / "own.nii.gz")
    (folder / "parcels.tsv").write_text("index\tlabel\tnetwork_label\n1\ta\tVis\n2\tb\tVis\n3\tc\tVis\n")
    part = {"files": ["own.nii"], "values": [[1, 3]], "parcels": [[1, 3]], "licence": "free", "source": "made here"}
    content = {"name": "Own", "table": "parcels.tsv", "spaces": [{"space": SPACE, "alternatives": [[part]]}]}
    (folder / "Own.json").write_text(json.dumps(content))
    return folder / "Own.json"


def test_each_reason_is_told(tmp_path):
    names = {
        "Tian_Subcortex_S3_3T.nii": "x",
        "below/atl-Buckner7_space-MNI_dseg.nii": "",
        "Tian_Subcortex_S3_3T_1mm.nii.gz": "x",
        "Tian_Subcortex_S3_3T_2009cAsym.nii": "x",
        "lh.Schaefer2018_400Parcels_7Networks_order.annot": "x",
        "tpl-MNIInfant_from-SomewhereElse_mode-image_xfm.h5": "x",
        "brain.nii.gz": "x",
        "notes.txt": "x",
        "used.nii": "x",
    }
    for name, content in names.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    entry, places = load_entry(find_registry() / "Schaefer400Tian3Buckner7.json"), find_places(tmp_path)
    text = describe_unused(entry, SPACE, places, [tmp_path / "used.nii"])
    for line in (
        "Tian_Subcortex_S3_3T.nii (another file was preferred)",
        "below/atl-Buckner7_space-MNI_dseg.nii",
        "Tian_Subcortex_S3_3T_1mm.nii.gz",
        "Tian_Subcortex_S3_3T_2009cAsym.nii (for data in MNI152NLin2009cAsym)",
        "lh.Schaefer2018_400Parcels_7Networks_order.annot (for data on surfaces and Schaefer400Tian3Buckner7)",
        "_xfm.h5 (a transform to another space)",
        "brain.nii.gz (not a file of Schaefer400Tian3Buckner7)",
    ):
        assert line in text
    assert "notes" not in text
    assert "used.nii" not in text
    with pytest.raises(AtlasError, match=r"1mm.nii.gz.*below/atl-Buckner7") as caught:
        load_atlas("Schaefer400Tian3Buckner7", space=SPACE, directory=tmp_path)
    assert "brain.nii.gz" not in str(caught.value)


def test_what_is_left_is_named_in_the_log(tmp_path, caplog):
    entry = write_entry(tmp_path)
    folder = tmp_path / "given"
    (folder / "third.nii.gz").touch()
    with caplog.at_level(logging.INFO, "bids_semantoks"):
        load_atlas(entry, space=SPACE, directory=folder)
    assert all(part in caplog.text for part in (f"{folder}:", "third.nii.gz"))


def test_parcels_without_a_file_on_surfaces_are_counted(tmp_path, caplog):
    entry = write_entry(tmp_path)
    made.write_dlabel(tmp_path / "own.dlabel.nii")
    common = {"licence": "free", "source": "made here"}
    part = {"files": ["own.dlabel.nii"], "values": [[1, 2]], "parcels": [[1, 2]]} | common
    rest = {"files": ["rest.nii"], "values": [[1, 1]], "parcels": [[3, 3]], "space": SPACE} | common
    surfaces = [{"space": "fsLR", "alternatives": [[part, rest], [part]]}]
    entry.write_text(json.dumps(json.loads(entry.read_text()) | {"surfaces": surfaces}))
    (tmp_path / "given" / "rest.nii.gz").touch()
    load_surface_atlas(entry, space="fsLR", directory=tmp_path / "given")
    assert all(part in caplog.text for part in ("1 parcels", "rest.nii"))
