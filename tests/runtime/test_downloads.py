"""Whether the network may be used, without ever using it."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from bids_semantoks.runtime.downloads import (
    can_connect,
    find_array_job,
    find_cache,
    find_hub_caches,
    find_hub_file,
    find_obstacle,
    find_templateflow_homes,
    is_offline,
)

ARRAYS = ("SLURM_ARRAY_TASK_ID", "PBS_ARRAY_INDEX", "PBS_ARRAYID", "LSB_JOBINDEX", "SGE_TASK_ID")


@pytest.fixture(autouse=True)
def no_scheduler(monkeypatch):
    for name in (*ARRAYS, "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


def test_a_server_that_answers_or_a_proxy_is_worth_a_try(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert not can_connect(address)
        server.listen()
        assert can_connect(address)
    assert not can_connect(address)
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    assert can_connect(address)


@pytest.mark.parametrize(("value", "expected"), [("1", True), ("ON", True), ("0", False), ("", False)])
def test_the_environment_is_read_when_it_is_asked(monkeypatch, value, expected):
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert is_offline() is expected


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("SLURM_ARRAY_TASK_ID", "0", True),
        ("PBS_ARRAY_INDEX", "3", True),
        ("PBS_ARRAYID", "3", True),
        ("LSB_JOBINDEX", "0", False),
        ("LSB_JOBINDEX", "2", True),
        ("SGE_TASK_ID", "undefined", False),
        ("SGE_TASK_ID", "2", True),
        ("SLURM_JOB_ID", "5", False),
    ],
)
def test_jobs_of_an_array_are_recognised(monkeypatch, name, value, expected):
    monkeypatch.setenv(name, value)
    assert bool(find_array_job()) is expected


def test_what_is_in_the_way_of_a_download(monkeypatch):
    assert find_obstacle("file:///somewhere") == ""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}/file"
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        assert find_obstacle(address).startswith("the network cannot be reached (127.0.0.1:")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "4")
    assert find_obstacle(address) == "a job of an array (SLURM_ARRAY_TASK_ID=4) fetches nothing"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert find_obstacle(address) == "HF_HUB_OFFLINE forbids to fetch it"


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
