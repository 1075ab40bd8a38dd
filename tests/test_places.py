"""Where caches lie, for users of all kinds."""

from __future__ import annotations

from pathlib import Path

import pytest

from bids_semantoks.runtime.downloads import find_cache, find_hub_caches, find_hub_file, find_templateflow_homes

VARIABLES = (
    "BIDS_SEMANTOKS_CACHE_DIR",
    "XDG_CACHE_HOME",
    "TEMPLATEFLOW_HOME",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HUGGINGFACE_HUB_CACHE",
)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/ada")


def test_caches_of_a_user_with_a_home():
    assert find_cache() == Path("/home/ada/.cache/bids_semantoks")
    assert find_templateflow_homes() == [
        Path("/home/ada/.cache/templateflow"),
        Path("/home/ada/.cache/bids_semantoks/templateflow"),
    ]
    assert find_hub_caches() == [
        Path("/home/ada/.cache/huggingface/hub"),
        Path("/home/ada/.cache/bids_semantoks/huggingface/hub"),
    ]


@pytest.mark.parametrize(
    ("name", "function", "expected"),
    [
        ("BIDS_SEMANTOKS_CACHE_DIR", find_cache, "/x"),
        ("XDG_CACHE_HOME", find_cache, "/x/bids_semantoks"),
        ("TEMPLATEFLOW_HOME", find_templateflow_homes, "/x"),
        ("XDG_CACHE_HOME", find_templateflow_homes, "/x/templateflow"),
        ("HF_HOME", find_hub_caches, "/x/hub"),
        ("HF_HUB_CACHE", find_hub_caches, "/x"),
        ("HUGGINGFACE_HUB_CACHE", find_hub_caches, "/x"),
        ("XDG_CACHE_HOME", find_hub_caches, "/x/huggingface/hub"),
    ],
)
def test_variables_move_them(monkeypatch, name, function, expected):
    monkeypatch.setenv(name, "/x")
    found = function()
    assert (found[0] if isinstance(found, list) else found) == Path(expected)


def test_a_user_without_home_has_no_cache(monkeypatch):
    def fail():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", fail)
    assert find_cache() is None
    assert find_templateflow_homes() == []
    assert find_hub_caches() == []
    assert find_hub_file("lab/model", "config.json") is None
    monkeypatch.setenv("TEMPLATEFLOW_HOME", "/t")
    assert find_templateflow_homes() == [Path("/t")]


def test_a_file_of_the_hub_is_that_of_the_main_revision(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--lab--model"
    for revision in ("abc", "def"):
        (folder / "snapshots" / revision).mkdir(parents=True)
        (folder / "snapshots" / revision / "config.json").write_text(revision)
    assert find_hub_file("lab/model", "config.json") is None
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("def\n")
    found = find_hub_file("lab/model", "config.json")
    assert found is not None
    assert found.read_text() == "def"
    assert find_hub_file("lab/model", "model.safetensors") is None
