"""The authors' format: full size, damaged, foreign and hostile files."""

import ast
import math
import os
import pickle

import numpy as np
import pytest
import torch

from bids_semantoks.errors import ModelError
from bids_semantoks.models.authors import load_authors_checkpoint
from bids_semantoks.models.checkpoints import load_encoder
from bids_semantoks.models.encoder import compute_temporal_positions
from bids_semantoks.models.parcels import default_layout


@pytest.fixture
def content(parity_checkpoint):
    return torch.load(parity_checkpoint, weights_only=True)


@pytest.fixture
def save(tmp_path):
    def write(content):
        path = tmp_path / "authors.pth"
        torch.save(content, path)
        return path

    return write


def change(content, edit):
    """Apply `edit` to name and tensor of every entry; None leaves the entry out."""
    state = {}
    for key, value in content["model_state_dict"].items():
        changed = edit(key, value)
        if changed is not None:
            state[key] = changed
    return {**content, "model_state_dict": state}


def test_a_full_size_checkpoint_loads_and_only_live_parameters_count(parity_keys, tmp_path):
    rows = [line.split("\t") for line in parity_keys.read_text().splitlines()]
    shapes = {key: ast.literal_eval(shape) for key, shape, _ in rows}
    buffers = ("multiplier", "kernel_norm", "kernel_norm_initialized", "temporal_pos_embedding")
    counted = [
        math.prod(shape)
        for key, shape in shapes.items()
        if key.startswith("teacher_encoder.") and not key.endswith(buffers)
    ]
    assert sum(counted) == 62_750_697
    state = {}
    for i, (key, shape) in enumerate(shapes.items()):
        if key.endswith("kernel_norm_initialized"):
            state[key] = torch.tensor(True)
        elif key.endswith("multiplier"):
            state[key] = torch.full(shape, 2.0)
        elif key.endswith("temporal_pos_embedding"):
            state[key] = torch.from_numpy(compute_temporal_positions(*shape))
        else:
            # Expanded from one number, so that the file stays small; each tensor has its own.
            state[key] = torch.tensor(1.0 + i / 1024).expand(shape)
    path = tmp_path / "brainsemantoks_ckpt_epoch_100.pth"
    torch.save({"model_state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 100}, path)
    loaded = load_encoder(path)
    assert loaded.name == "BrainSemantoks"
    assert loaded.layout == default_layout()
    assert (loaded.config.width, loaded.config.depth, loaded.config.head_hidden) == (768, 8, 1024)
    assert sum(parameter.numel() for parameter in loaded.encoder.parameters()) == 58_720_931
    live = "teacher_encoder.network_tokenizers.schaefer400.8.branches.1.slconv.D"
    skip = loaded.encoder.tokenizer.networks[8].branches["structured"].skip
    assert torch.equal(skip.data, state[live])
    dead = live.replace("schaefer400", "buckner7")
    assert not torch.equal(skip.data, state[dead])


def test_wrapped_names_give_the_same_encoder(content, save, parity_encoder):
    state = {f"module.{key}": value for key, value in content["model_state_dict"].items()}
    path = save({"model_state_dict": state})
    loaded = load_encoder(path)
    assert loaded.description == "Teacher encoder of authors.pth, a checkpoint of the Brain-Semantoks authors."
    for (name, ours), theirs in zip(
        loaded.encoder.named_parameters(), parity_encoder.encoder.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs), name


def test_the_dead_copies_are_not_needed(content, save):
    path = save(change(content, lambda key, value: None if ".tian3." in key or ".buckner7." in key else value))
    assert load_encoder(path).layout == default_layout()


def test_a_checkpoint_without_heads_loads(content, save):
    path = save(change(content, lambda key, value: None if "predictor" in key else value))
    assert load_encoder(path).head is None


def test_the_stored_kernel_norm_counts_and_a_missing_one_is_taken_now(content, save):
    key = "teacher_encoder.network_tokenizers.schaefer400.2.branches.1.slconv.kernel_norm"
    path = save(change(content, lambda name, value: value * 3 if name == key else value))
    stored = content["model_state_dict"][key]
    branch = load_encoder(path).encoder.tokenizer.networks[2].branches["structured"]
    assert torch.equal(branch.kernel_norm, stored * 3)
    path = save(
        change(
            content, lambda n, v: torch.tensor(False) if n.endswith("norm_initialized") else v * 3 if n == key else v
        )
    )
    branch = load_encoder(path).encoder.tokenizer.networks[2].branches["structured"]
    kernels = [content["model_state_dict"][key.replace("kernel_norm", f"kernel_list.{i}")] for i in range(3)]
    joined = torch.cat([kernels[0] * 4, kernels[1] * 2, kernels[2].repeat_interleave(2, -1)], -1)
    torch.testing.assert_close(branch.kernel_norm, joined.norm(dim=-1, keepdim=True))


def test_other_parcel_counts_are_laid_out_without_names(content, save):
    def drop_a_parcel(key, value):
        if ".schaefer400.8." not in key:
            return value
        if key.endswith("branches.0.weight"):
            return value[:, :6].clone()
        if key.endswith("projection.weight"):
            return value.reshape(32, 7, -1)[:, :6].reshape(32, -1).clone()
        return value[:, :6].clone() if ".slconv." in key and value.ndim >= 2 else value

    # With six parcels the module would have ceil(32 / 6) = 6 filters a parcel; five are stored.
    with pytest.raises(ModelError, match=r"slconv\.D has shape \(5, 6\) instead of \(6, 6\)"):
        load_encoder(save(change(content, drop_a_parcel)))


def test_unnamed_networks_keep_the_order_of_their_parcels(content, save):
    swap = {"0": "1", "1": "0"}

    def exchange(key):
        parts = key.split(".")
        if parts[1:3] == ["network_tokenizers", "schaefer400"]:
            parts[3] = swap.get(parts[3], parts[3])
        return ".".join(parts)

    state = {exchange(key): value for key, value in content["model_state_dict"].items()}
    loaded = load_encoder(save({"model_state_dict": state}))
    assert loaded.layout.parcels is None
    assert loaded.layout.counts == (77, 61, 46, 47, 26, 52, 91, 50, 7)
    assert loaded.encoder(torch.randn(2, 457, 100)).shape == (2, 46, 64)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda k, v: None if k.startswith("teacher") else v, "teacher_encoder.*student_encoder"),
        (lambda k, v: None if k == "teacher_encoder.norm.bias" else v, r"lacks teacher_encoder\.norm\.bias"),
        (
            lambda k, v: v[..., :5] if k == "teacher_encoder.inter_network_transformer.cls_token" else v,
            r"cls_token has shape \(5,\) instead of \(64,\)",
        ),
        (
            lambda k, v: v[:31] if k == "teacher_encoder.network_tokenizers.schaefer400.3.branches.0.bias" else v,
            r"schaefer400\.3\.branches\.0\.bias has shape \(31,\) instead of \(32,\)",
        ),
        (lambda k, v: v * np.nan if k.endswith("blocks.1.mlp.3.bias") else v, r"blocks\.1\.mlp\.3\.bias"),
        (
            lambda k, v: None if ".schaefer400.8." in k else v,
            "has 8 networks of 61, 77, 46, 47, 26, 52, 91, 50 parcels",
        ),
        (lambda k, v: v * 1.5 if k.endswith("0.branches.1.slconv.multiplier") else v, "several decays"),
        (lambda k, v: v + 0.1 if k.endswith("temporal_pos_embedding") else v, "temporal positions"),
    ],
)
def test_unfit_tensors_are_named(content, save, edit, message):
    with pytest.raises(ModelError, match=message):
        load_encoder(save(change(content, edit)))


def test_an_impossible_patch_is_refused(content, save):
    with pytest.raises(ModelError, match="patch must be at least the structured kernel's length 16, found 10"):
        load_encoder(save({**content, "config": {"data": {"patch_size": 10}}}))


class Bomb:
    def __reduce__(self):
        return os.mkdir, (os.environ["BOMB_TARGET"],)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("kind", ["zip", "protocol 0", "protocol 2", "protocol 4"])
def test_code_is_refused_and_never_executed(tmp_path, monkeypatch, kind):
    target, path = tmp_path / "executed", tmp_path / "bomb.pth"
    monkeypatch.setenv("BOMB_TARGET", str(target))
    if kind == "zip":
        torch.save({"model_state_dict": {"x": torch.ones(2)}, "config": Bomb()}, path)
    else:
        path.write_bytes(pickle.dumps({"config": Bomb()}, protocol=int(kind[-1])))
    with pytest.raises(ModelError, match=r"tensors|is.*bomb\.pth"):
        load_authors_checkpoint(path)
    assert not target.exists()
    if kind == "zip":
        with pytest.raises(ModelError, match=r"mkdir.*nothing in it was executed"):
            load_authors_checkpoint(path)


def test_damaged_and_foreign_files(tmp_path, parity_checkpoint):
    path = tmp_path / "file.pth"
    good = parity_checkpoint.read_bytes()
    for content, message in (
        (b"", r"file\.pth is empty"),
        (good[: len(good) // 2], r"file\.pth"),
        (b"<html>not found</html>", r"file\.pth is a web page"),
        (b"\x80\x02garbage" * 9, r"file\.pth (is damaged or not a checkpoint|contains objects)"),
    ):
        path.write_bytes(content)
        with pytest.raises(ModelError, match=message):
            load_encoder(path)
    torch.save([1, 2], path)
    with pytest.raises(ModelError, match="contains a list; expected a dictionary"):
        load_encoder(path)
    torch.save({"weights": {}}, path)
    with pytest.raises(ModelError, match=r"no teacher_encoder; found no tensors \(keys weights\)"):
        load_encoder(path)
    torch.save({"model_state_dict": {}}, path)
    with pytest.raises(ModelError, match="no teacher_encoder; found no tensors"):
        load_encoder(path)


def test_the_old_file_format_is_read(content, tmp_path, parity_encoder):
    path = tmp_path / "old.pth"
    torch.save(content, path, _use_new_zipfile_serialization=False)
    assert torch.equal(load_encoder(path).encoder.norm.weight, parity_encoder.encoder.norm.weight)
