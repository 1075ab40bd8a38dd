"""Encoders of the Hugging Face hub, with a cache made by hand and without any network."""

import shutil
import socket
import time

import pytest
from huggingface_hub import constants

from bids_semantoks.errors import ModelError
from bids_semantoks.models.build import build_encoder
from bids_semantoks.models.checkpoint import load_encoder
from bids_semantoks.models.hub import can_connect, is_offline, is_repository
from bids_semantoks.models.storage import write_checkpoint

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def add(repository):
        root = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
        (root / "refs").mkdir(parents=True)
        (root / "refs" / "main").write_text(COMMIT)
        snapshot = root / "snapshots" / COMMIT
        snapshot.mkdir(parents=True)
        return snapshot

    return add


def test_a_cached_checkpoint_of_the_authors_needs_no_network(cache, parity_checkpoint):
    snapshot = cache("SamGijsen/Brain-Semantoks")
    shutil.copy(parity_checkpoint, snapshot / "brainsemantoks_ckpt_epoch_100.pth")
    loaded = load_encoder("SamGijsen/Brain-Semantoks")
    assert loaded.name == "BrainSemantoks"
    assert loaded.config.width == 64


def test_a_cached_checkpoint_of_ours(cache, small_config, small_layout):
    write_checkpoint(cache("lab/my-encoder"), build_encoder(small_config, small_layout, 1))
    loaded = load_encoder("lab/my-encoder")
    assert loaded.name == "myencoder"
    assert loaded.layout == small_layout


def test_a_repository_of_another_lab_may_hold_the_format_of_the_authors(cache, parity_checkpoint):
    shutil.copy(parity_checkpoint, cache("lab/retrained") / "brainsemantoks_ckpt_epoch_100.pth")
    assert load_encoder("lab/retrained").name == "retrained"


def test_offline_the_message_says_how_to_fetch_beforehand(cache):
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE forbids to fetch it") as caught:
        load_encoder("SamGijsen/Brain-Semantoks")
    assert "hf download SamGijsen/Brain-Semantoks brainsemantoks_ckpt_epoch_100.pth" in str(caught.value)
    assert "HF_HOME" in str(caught.value)


def test_without_network_the_answer_comes_at_once(cache, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        start = time.monotonic()
        with pytest.raises(ModelError, match=r"Brain-Semantoks is neither .* and the network cannot be reached"):
            load_encoder("SamGijsen/Brain-Semantoks")
    assert time.monotonic() - start < 6


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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SamGijsen/Brain-Semantoks", True),
        ("lab/model_1.0", True),
        ("./lab/model", False),
        ("/lab/model", False),
        ("lab/model.pth", False),
        ("lab/model/more", False),
        ("lab/model..more", False),
        ("model", False),
    ],
)
def test_what_is_a_repository(text, expected):
    assert is_repository(text) is expected


@pytest.mark.parametrize(("value", "expected"), [("1", True), ("ON", True), ("0", False), ("", False)])
def test_the_environment_is_read_when_it_is_asked(monkeypatch, value, expected):
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert is_offline() is expected
