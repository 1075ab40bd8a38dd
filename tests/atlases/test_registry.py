"""Files of atlases are taken from the place that the user wants most, and only when they have content."""

import pytest

from bids_semantoks.atlases.registry import LabelFile, Places, find_archived, find_file, find_places, is_there
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
