"""Our own checkpoints, random encoders, and what is no encoder."""

import hashlib
import json

import pytest
import torch

from bids_semantoks.errors import ModelError, ResourceError
from bids_semantoks.models.checkpoints import load_encoder, write_checkpoint
from bids_semantoks.models.encoder import build_encoder, build_head
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
    assert torch.equal(loaded.encoder(x), encoder.eval()(x))
    assert torch.equal(loaded.head(encoder(x)[:, 0]), head(encoder(x)[:, 0]))
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
    for content, words in ((good[: len(good) // 2], "damaged or truncated"), (b"", "empty"), (b"{}", "text, not a")):
        weights.write_bytes(content)
        with pytest.raises(ModelError, match=rf"model\.safetensors is {words}"):
            load_encoder(directory)
    weights.unlink()
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        load_encoder(directory)
    weights.write_bytes(good)
    (directory / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json is damaged"):
        load_encoder(directory)
    (directory / "config.json").unlink()
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        load_encoder(directory)


def test_weights_that_differ_from_their_model_card(written):
    directory, _, _, sha256 = written
    card = directory / "README.md"
    card.write_text(f"# Encoder\n\n- Weights: `model.safetensors`, SHA-256 `{sha256}` (teacher, 17 parameters)\n")
    assert load_encoder(directory).sha256 == sha256
    weights = directory / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ModelError, match=rf"model\.safetensors.*SHA-256.*README\.md.*{sha256[:12]}"):
        load_encoder(directory)


def test_what_cannot_be_written_is_said(tmp_path, small_config, small_layout):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match=r"cannot be written to .*file/below"):
        write_checkpoint(tmp_path / "file" / "below", build_encoder(small_config, small_layout, 1))


def test_nothing_found(tmp_path):
    with pytest.raises(ModelError, match="no such file"):
        load_encoder(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"'models/mine\.pth'"):
        load_encoder("models/mine.pth")
    with pytest.raises(ModelError, match=r"no encoder: expected config\.json and model\.safetensors"):
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
    assert loaded.encoder(torch.randn(2, 3, 100)).shape == (2, 11, 64)


@pytest.mark.parametrize("text", ["random", "random:huge", "random:tiny:x", "random:tiny:"])
def test_bad_random_names(text):
    with pytest.raises(ModelError, match=rf"'{text}': expected random:paper\|small\|tiny"):
        load_encoder(text)
