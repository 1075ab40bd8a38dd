"""Files of atlases are taken from the place that the user wants most, and only when they have content."""

import json

import pytest

from bids_semantoks.atlases.registry import (
    LabelFile,
    Places,
    find_archived,
    find_entry,
    find_file,
    find_places,
    find_registered,
    find_registry,
    is_there,
    load_entry,
)
from bids_semantoks.errors import AtlasError

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
    with pytest.raises(AtlasError, match=r"description .*Own.json cannot be read: ValueError no space has an image"):
        load_entry(path)


def test_only_names_are_registered(tmp_path, monkeypatch):
    assert find_registered("Demo457") == find_registry() / "Demo457.json" == find_entry("Demo457")
    path = write(tmp_path / "Demo457.json")
    assert find_registered(path) is None
    assert find_entry(path) == path
    assert find_entry(tmp_path) is find_entry(tmp_path / "Other.json") is find_entry("../atlases/Demo457") is None
