"""Our own checkpoints, random encoders, and what is no encoder."""

import hashlib
import json
import shutil
import socket

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError

from bids_semantoks.errors import ModelError, ResourceError
from bids_semantoks.models.checkpoints import is_repository, load_encoder, load_from_hub, write_checkpoint
from bids_semantoks.models.initialise import build_encoder, build_head
from bids_semantoks.models.parcels import default_layout


@pytest.fixture
def written(tmp_path, small_config, small_layout):
    directory = tmp_path / "my-encoder_2"
    encoder, head = build_encoder(small_config, small_layout, 1), build_head(small_config, 1)
    sha256 = write_checkpoint(directory, encoder, head=head, details={"n_participants": 17})
    return directory, encoder, head, sha256


@pytest.mark.parametrize("part", ["", "config.json", "model.safetensors"])
def test_round_trip(written, part):
    directory, encoder, head, sha256 = written
    loaded = load_encoder(directory / part)
    assert loaded.config == encoder.config
    assert loaded.layout == encoder.layout
    assert loaded.name == "myencoder2"
    assert loaded.details == {"n_participants": 17}
    assert not loaded.is_random
    assert loaded.sha256 == sha256 == hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest()
    x = torch.randn(2, 13, 40)
    assert torch.equal(loaded.encoder(x).tokens, encoder.eval()(x).tokens)
    assert torch.equal(loaded.head(encoder(x).cls), head(encoder(x).cls))
    assert sorted(path.name for path in directory.iterdir()) == ["config.json", "model.safetensors"]


def test_what_decides_an_embedding_is_in_the_checksum(written, tmp_path):
    directory, encoder, head, sha256 = written
    assert write_checkpoint(directory, encoder, head=head, details={"n_participants": 18}) == sha256
    encoder.layout = type(encoder.layout)(network_names=("A", "B", "C"), networks=encoder.layout.networks)
    assert write_checkpoint(tmp_path / "other", encoder, head=head) != sha256


def test_a_checkpoint_without_head(tmp_path, small_config, small_layout):
    write_checkpoint(tmp_path / "plain", build_encoder(small_config, small_layout, 1))
    assert load_encoder(tmp_path / "plain").head is None


def test_an_edited_config_is_noticed(written):
    path = written[0] / "config.json"
    values = json.loads(path.read_text())
    values["layout"]["parcels"][0] = "renamed"
    path.write_text(json.dumps(values))
    with pytest.raises(ModelError, match=r"does not belong to model\.safetensors: .* another layout"):
        load_encoder(written[0])


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda v: v.update(format="other 3"), "expected format 'bids_semantoks encoder 1', found 'other 3'"),
        (lambda v: v.pop("layout"), "lacks 'layout'"),
        (lambda v: v["layout"].pop("networks"), "the layout lacks networks"),
        (lambda v: v["encoder"].update(width=63), "found 63 and 32"),
        (lambda v: v["encoder"].update(deepness=2), "unknown keys: deepness"),
    ],
)
def test_damaged_configs_are_explained(written, edit, message):
    path = written[0] / "config.json"
    values = json.loads(path.read_text())
    edit(values)
    path.write_text(json.dumps(values))
    with pytest.raises(ModelError, match=message):
        load_encoder(written[0])


def test_damaged_and_missing_files(written):
    directory = written[0]
    weights = directory / "model.safetensors"
    good = weights.read_bytes()
    for content in (good[: len(good) // 2], b"", b"{}"):
        weights.write_bytes(content)
        with pytest.raises(ModelError, match=r"model\.safetensors is damaged or truncated"):
            load_encoder(directory)
    weights.unlink()
    with pytest.raises(ModelError, match=r"no complete encoder: model\.safetensors is missing"):
        load_encoder(directory)
    weights.write_bytes(good)
    (directory / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json is damaged"):
        load_encoder(directory)
    (directory / "config.json").unlink()
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        load_encoder(directory)


def test_what_cannot_be_written_is_said(tmp_path, small_config, small_layout):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match=r"cannot be written to .*file/below"):
        write_checkpoint(tmp_path / "file" / "below", build_encoder(small_config, small_layout, 1))


def test_nothing_found(tmp_path):
    with pytest.raises(ModelError, match=r"no encoder '.*nowhere': there is no such file"):
        load_encoder(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"no encoder 'models/mine\.pth'"):
        load_encoder("models/mine.pth")
    with pytest.raises(ModelError, match=r"holds no encoder: expected config\.json and model\.safetensors"):
        load_encoder(tmp_path)


def test_random_encoders_say_what_they_are():
    loaded = load_encoder("random:tiny")
    assert loaded.name == "RandomTiny"
    assert loaded.is_random
    assert loaded.layout == default_layout()
    assert "Random weights (tiny, seed 0), never trained" in loaded.description
    other = load_encoder("random:tiny:3", seed=8)
    assert other.name == "RandomTinySeed3"
    assert other.sha256 != loaded.sha256
    assert load_encoder("random:tiny", seed=3).sha256 == other.sha256
    assert load_encoder("random:small").config.width == 256


def test_random_encoders_fit_any_atlas():
    loaded = load_encoder("random:tiny", atlas=(["a", "b", "c", "d"], ["Default", "", "Vis", "Default"]))
    assert loaded.layout.network_names == ("Vis", "Default")
    assert loaded.layout.parcels == ("a", "c", "d")
    assert loaded.encoder(torch.randn(2, 3, 100)).tokens.shape == (2, 11, 64)


@pytest.mark.parametrize("text", ["random", "random:huge", "random:tiny:x", "random:tiny:"])
def test_bad_random_names(text):
    with pytest.raises(ModelError, match=rf"no encoder '{text}': expected random:paper\|small\|tiny"):
        load_encoder(text)


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
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
    assert "bids_semantoks-fetch DIR --model SamGijsen/Brain-Semantoks" in str(caught.value)
    assert "BIDS_SEMANTOKS_CACHE_DIR" in str(caught.value)


def test_without_network_the_answer_comes_at_once(cache, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        connect = socket.create_connection
        tries, asked = [], []
        monkeypatch.setattr(socket, "create_connection", lambda *a, **k: tries.append(k) or connect(*a, **k))
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *a, **_: asked.append(a))
        with pytest.raises(ModelError, match=r"Brain-Semantoks is neither .* and the network cannot be reached"):
            load_encoder("SamGijsen/Brain-Semantoks")
    # The hub's client would try again and again, for a minute or more.
    assert asked == []
    (patience,) = [one["timeout"] for one in tries]
    assert 0 < patience <= 5


def test_the_cache_of_this_program_counts_too(tmp_path, monkeypatch, parity_checkpoint):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "nothing"))
    monkeypatch.setenv("BIDS_SEMANTOKS_CACHE_DIR", str(tmp_path / "ours"))
    root = tmp_path / "ours" / "huggingface" / "hub" / "models--lab--retrained"
    (root / "snapshots" / COMMIT).mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(COMMIT)
    shutil.copy(parity_checkpoint, root / "snapshots" / COMMIT / "brainsemantoks_ckpt_epoch_100.pth")
    assert load_encoder("lab/retrained").name == "retrained"


@pytest.fixture
def client(tmp_path, monkeypatch):
    """The hub's own client, with a shelf of files instead of a server; gives the shelf and the calls made."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "nothing"))
    monkeypatch.setenv("BIDS_SEMANTOKS_CACHE_DIR", str(tmp_path / "ours"))
    monkeypatch.setattr("bids_semantoks.runtime.downloads.find_obstacle", lambda address: "")
    shelf, calls = tmp_path / "shelf", []
    shelf.mkdir()

    def give(repository, name, *, cache_dir=None):
        calls.append((repository, name, cache_dir))
        if not (shelf / name).is_file():
            raise EntryNotFoundError(f"404 for {name}")
        return str(shelf / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", give)
    return shelf, calls


def test_a_checkpoint_is_fetched_when_no_cache_has_it(client, parity_checkpoint, tmp_path):
    shelf, calls = client
    shutil.copy(parity_checkpoint, shelf / "brainsemantoks_ckpt_epoch_100.pth")
    assert load_from_hub("lab/retrained", cache=tmp_path / "to") == shelf / "brainsemantoks_ckpt_epoch_100.pth"
    assert [name for _, name, _ in calls] == ["config.json", "brainsemantoks_ckpt_epoch_100.pth"]
    assert {cache for _, _, cache in calls} == {tmp_path / "to"}


def test_a_repository_without_a_checkpoint_says_what_was_expected(client):
    with pytest.raises(ModelError, match=r"lab/empty holds no encoder: expected config\.json and model\.safetensors"):
        load_from_hub("lab/empty")


def test_a_failing_client_is_quoted(client, monkeypatch):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(ModelError, match=r"cannot be fetched \(\[Errno 28\] No space left on device\)"):
        load_from_hub("lab/model")


def test_a_job_of_an_array_does_not_fetch_weights(client, monkeypatch):
    monkeypatch.undo()
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", "/nowhere")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "17")
    with pytest.raises(ModelError, match=r"a job of an array \(SLURM_ARRAY_TASK_ID=17\) fetches nothing.*fetch DIR"):
        load_from_hub("lab/model")


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
