"""Weights in all the types, wrappings and files that people have, and what only looks like weights."""

import argparse
import json
import pathlib
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from bids_semantoks.errors import ModelError
from bids_semantoks.models.checkpoints import load_encoder, write_checkpoint
from bids_semantoks.models.encoder import build_encoder, build_head


@pytest.fixture(scope="module")
def content(parity_checkpoint):
    return torch.load(parity_checkpoint, weights_only=True)


@pytest.fixture
def check(tmp_path, parity_encoder):
    """Save a dictionary, load it as an encoder, and compare all tensors with the original's."""

    def compare(content, *, atol=0.0):
        path = tmp_path / "authors.pth"
        torch.save(content, path)
        loaded = load_encoder(path)
        same(loaded.encoder, parity_encoder.encoder, atol)
        same(loaded.head, parity_encoder.head, atol)
        return loaded

    return compare


def same(module, other, atol=0.0):
    found, expected = module.state_dict(), other.state_dict()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name], value, atol=atol, rtol=atol, msg=name)


@pytest.mark.parametrize(("name", "atol"), [("float16", 1e-3), ("bfloat16", 8e-3), ("float64", 0.0)])
def test_every_type_of_float_is_read(content, check, name, atol):
    kind = getattr(torch, name)
    state = {
        key: value.to(kind) if value.is_floating_point() else value
        for key, value in content["model_state_dict"].items()
    }
    check({**content, "model_state_dict": state}, atol=atol)
    # Once rounded, then stored as float32 again.
    check({"model_state_dict": {key: value.float() for key, value in state.items()}}, atol=atol)


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2", "int8", "uint8", "complex64"])
def test_what_has_too_few_digits_is_refused(content, check, name):
    kind = getattr(torch, name)
    state = {k: v.to(kind) if v.is_floating_point() else v for k, v in content["model_state_dict"].items()}
    with pytest.raises(ModelError, match=f"as {name}, which cannot be read. Save the encoder in float32"):
        check({"model_state_dict": state})


def before(prefix):
    return lambda state: {f"{prefix}{key}": value for key, value in state.items()}


def within(prefix):
    return lambda state: {key.replace("_encoder.", f"_encoder.{prefix}", 1): value for key, value in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        before("module."),
        before("_orig_mod.module."),
        before("module._orig_mod."),
        before("model."),
        within("module."),
        within("_orig_mod."),
        within("module._orig_mod."),
        lambda state: {"n_averaged": torch.tensor(5), **before("module.")(state)},
        lambda state: {**state, "teacher_encoder.n_averaged": torch.tensor(5)},
        lambda state: {key.replace(".norm.", ".norm._orig_mod."): value for key, value in state.items()},
        lambda state: {**state, **before("_orig_mod.")(state)},  # a compiled module registered beside the original
    ],
)
def test_wrappers_are_taken_off(content, check, wrap):
    check({"model_state_dict": wrap(content["model_state_dict"])})


def teacher(state):
    return {
        key.replace("teacher_encoder.", "backbone.").replace("teacher_predictor.", "head."): value
        for key, value in state.items()
        if key.startswith(("teacher_encoder", "teacher_predictor"))
    }


def zeros(state):
    return {key: value * 0 for key, value in state.items()}


@pytest.mark.parametrize(
    "pack",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state},
        lambda state: {"checkpoint": {"model": state}},
        lambda state: {"student": zeros(teacher(state)), "teacher": teacher(state)},
        lambda state: {
            "student": before("module.")(zeros(teacher(state))),
            "teacher": before("module.")(teacher(state)),
        },
        lambda state: {"model": zeros(teacher(state)), "model_ema": teacher(state)},
        lambda state: before("teacher.module.")(teacher(state)),
        lambda state: {"model": teacher(state)},
        teacher,
    ],
)
def test_a_state_is_found_wherever_it_is(content, check, pack):
    check(pack(content["model_state_dict"]))


def test_encoders_that_cannot_be_told_apart_are_refused(content, check):
    state = teacher(content["model_state_dict"])
    with pytest.raises(ModelError, match=r"2 encoders: a\.backbone, b\.backbone"):
        check({"a": state, "b": zeros(state)})
    with pytest.raises(ModelError, match=r"twice, with different values"):
        check({**state, **before("module.")(zeros(state))})


def test_numbers_of_numpy_options_and_paths_run_no_code(content, check):
    state = content["model_state_dict"]
    extra = {
        "epoch": np.int64(7),
        "loss": np.float64(0.5),
        "best": np.float32(0.5),
        "random": np.random.RandomState(0).get_state(),
        "args": argparse.Namespace(output=pathlib.PurePosixPath("x"), path=pathlib.Path("y"), rate=0.1),
        "config": {"data": {"patch_size": np.int32(20)}},
    }
    loaded = check({"model_state_dict": state, **extra})
    assert "epoch 7" in loaded.description


@pytest.mark.parametrize("core", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_numbers_of_both_generations_of_numpy_are_read(content, tmp_path, core):
    path = tmp_path / "authors.pth"
    torch.save({**content, "epoch": np.int64(7)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(np.int64(7).__reduce__()[0].__module__.encode(), core))
    assert "epoch 7" in load_encoder(path).description


def test_what_runs_code_is_refused_with_a_remedy(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pt")
    with pytest.raises(ModelError, match="the tensors"):
        load_encoder(tmp_path / "whole.pt")


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 251003048\n"


@pytest.mark.parametrize("name", ["model.pth", "model.safetensors"])
@pytest.mark.parametrize(
    ("start", "words"),
    [
        (LFS, "a Git LFS pointer to a file of 251,003,048 bytes.*git lfs pull"),
        (b"/annex/objects/MD5E-s9--0a.pth\n", "a git-annex pointer.*datalad get"),
        (b"<!DOCTYPE html>\n<html><title>Log in</title>", "a web page.*Log in"),
        (b"\n <HTML>", "a web page"),
        (b"Entry not found", "text, not a checkpoint: 'Entry not found'"),
        (b"\x1f\x8b\x08\x00", "compressed. Unpack it first"),
        (b"", "empty"),
        (b"\x00\x01\x02", r"not a checkpoint: it begins with b'\\x00"),
    ],
)
def test_what_only_has_the_name_of_a_checkpoint_is_named(tmp_path, name, start, words):
    (tmp_path / name).write_bytes(start)
    (tmp_path / "config.json").write_text("{}")
    for path in (tmp_path / name, tmp_path):
        with pytest.raises(ModelError, match=f"is {words}") as caught:
            load_encoder(path)
        assert len(str(caught.value)) < 500


def test_a_pointer_in_place_of_our_config_is_named(tmp_path, small_config, small_layout):
    write_checkpoint(tmp_path / "e", build_encoder(small_config, small_layout, 1))
    (tmp_path / "e" / "config.json").write_bytes(LFS)
    with pytest.raises(ModelError, match=r"config\.json is a Git LFS pointer"):
        load_encoder(tmp_path / "e")


@pytest.fixture
def ours(tmp_path, small_config, small_layout):
    """An encoder of ours, its folder, and its tensors as another program would save them again."""
    directory = tmp_path / "my-encoder"
    write_checkpoint(
        directory, build_encoder(small_config, small_layout, 1), head=build_head(small_config, 1), details={"n": 17}
    )
    original = load_encoder(directory)
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    return original, directory, tensors


def save_shards(directory, tensors, stem="model", suffix=".safetensors", *, index=True):
    names = sorted(tensors)
    halves = (names[::2], names[1::2])
    for i, half in enumerate(halves, start=1):
        name, part = f"{stem}-{i:05}-of-00002{suffix}", {key: tensors[key] for key in half}
        save_file(part, directory / name) if suffix == ".safetensors" else torch.save(part, directory / name)
    if index:
        where = {key: f"{stem}-{i:05}-of-00002{suffix}" for i, half in enumerate(halves, start=1) for key in half}
        (directory / f"{stem}{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


SAVERS = {
    "plain safetensors": lambda d, t: save_file(t, d / "model.safetensors"),
    "another name": lambda d, t: save_file(t, d / "weights-final.safetensors"),
    "pytorch_model.bin": lambda d, t: torch.save(t, d / "pytorch_model.bin"),
    "model.pt": lambda d, t: torch.save({"state_dict": before("module.")(t)}, d / "model.pt"),
    "beside an optimizer": lambda d, t: (torch.save(t, d / "best.pt"), torch.save({}, d / "optimizer.pt")),
    "shards": save_shards,
    "shards without index": lambda d, t: save_shards(d, t, index=False),
    "shards of torch.save": lambda d, t: save_shards(d, t, "pytorch_model", ".bin"),
    "half": lambda d, t: save_file(
        {key: value.to(torch.bfloat16).float() for key, value in t.items()}, d / "x.safetensors"
    ),
}


@pytest.mark.parametrize("kind", SAVERS)
def test_our_encoders_are_read_as_other_programs_save_them(ours, kind):
    original, directory, tensors = ours
    SAVERS[kind](directory, tensors)
    loaded = load_encoder(directory)
    atol = 1e-2 if kind == "half" else 0.0
    same(loaded.encoder, original.encoder, atol)
    same(loaded.head, original.head, atol)
    assert (loaded.name, loaded.layout, loaded.details) == ("myencoder", original.layout, {"n": 17})
    # The file does not repeat the layout, so the checksum must.
    assert loaded.sha256 != original.sha256
    values = json.loads((directory / "config.json").read_text())
    values["layout"]["parcels"][0] = "renamed"
    (directory / "config.json").write_text(json.dumps(values))
    assert load_encoder(directory).sha256 != loaded.sha256


def test_a_missing_shard_and_several_candidates_are_named(ours):
    _, directory, tensors = ours
    save_shards(directory, tensors)
    (directory / "model-00002-of-00002.safetensors").unlink()
    for path in (directory, directory / "model-00001-of-00002.safetensors"):
        with pytest.raises(ModelError, match="needs 2 files, of which 1 are missing: model-00002-of-00002"):
            load_encoder(path)
    (directory / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ModelError, match="not an index of shards"):
        load_encoder(directory)
    (directory / "model.safetensors.index.json").unlink()
    torch.save(tensors, directory / "epoch9.pth")
    with pytest.raises(ModelError, match=r"2 weights files: epoch9\.pth, model-00001-of-00002"):
        load_encoder(directory)
    assert load_encoder(directory / "epoch9.pth").name == "epoch9"


def test_the_authors_tensors_may_lie_in_safetensors(content, tmp_path, parity_encoder):
    save_file({k: v.clone() for k, v in content["model_state_dict"].items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "brain"}')
    same(load_encoder(tmp_path).encoder, parity_encoder.encoder)
    (tmp_path / "config.json").unlink()
    same(load_encoder(tmp_path / "model.safetensors").encoder, parity_encoder.encoder)


def test_an_encoder_of_ours_under_another_name_describes_itself(tmp_path, small_config, small_layout, caplog):
    write_checkpoint(tmp_path / "e", build_encoder(small_config, small_layout, 1))
    path = (tmp_path / "e" / "model.safetensors").rename(tmp_path / "sent.safetensors")
    loaded = load_encoder(path)
    assert (loaded.name, loaded.layout, loaded.details) == ("sent", small_layout, {})
    assert "config.json" in caplog.text


def test_folders_that_hold_no_encoder_say_what_is_there(tmp_path, small_config, small_layout):
    write_checkpoint(tmp_path / "encoders" / "mine", build_encoder(small_config, small_layout, 1))
    with pytest.raises(ModelError, match="folders mine"):
        load_encoder(tmp_path / "encoders")
    (tmp_path / "new" / "checkpoints").mkdir(parents=True)
    state = tmp_path / "new" / "checkpoints" / "step-00000010.pt"
    torch.save({"format": "bids_semantoks training 1", "tensors": {}}, state)
    with pytest.raises(ModelError, match=r"training has not finished; .*--pretrain"):
        load_encoder(tmp_path / "new")
    with pytest.raises(ModelError, match="saved state of an unfinished training"):
        load_encoder(state)


def test_a_flipped_byte_in_a_checkpoint(content, tmp_path):
    path = tmp_path / "authors.pth"
    torch.save(content, path)
    load_encoder(path)
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ModelError, match=r"authors\.pth is damaged: the checksum of its part \S+ does not match"):
        load_encoder(path)


def test_a_checkpoint_saved_without_checksums_is_read(content, check):
    torch.serialization.set_crc32_options(False)
    try:
        check(content)
    finally:
        torch.serialization.set_crc32_options(True)


def test_no_message_is_long(tmp_path):
    names = {f"some.quite_long_name_of_a_layer_in_an_encoder.{i}.weight": torch.ones(2) for i in range(3000)}
    torch.save(names, tmp_path / "foreign.pth")
    torch.save({f"key{i}": [1] for i in range(3000)}, tmp_path / "keys.pth")
    for path in tmp_path.iterdir():
        with pytest.raises(ModelError, match="teacher_encoder") as caught:
            load_encoder(path)
        assert len(str(caught.value)) < 500


def peak_of(action):
    """The most memory (MiB) that an action takes; None where the system does not tell."""
    Path("/proc/self/clear_refs").write_text("5")
    before = read_peak()
    action()
    return read_peak() - before


def read_peak():
    return int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("number", range(0, 60, 7))
def test_a_tensor_that_expands_takes_no_memory(content, tmp_path, dtype, number):
    state = dict(content["model_state_dict"])
    keys = [key for key in state if "teacher" in key and state[key].is_floating_point()]
    key = keys[number % len(keys)]
    state[key] = torch.ones(1, 1, dtype=dtype).expand(30_000, 30_000)
    torch.save({**content, "model_state_dict": state}, tmp_path / "expands.pth")

    def load():
        with pytest.raises(ModelError, match="30000"):
            load_encoder(tmp_path / "expands.pth")

    assert peak_of(load) < 500


def test_small_tensors_that_repeat_their_values_are_read(content, check):
    state = dict(content["model_state_dict"])
    key = next(key for key in state if key.endswith("mask_embedding"))
    assert (state[key] == state[key]).all()
    copy = torch.stack([state[key], state[key]])[0:1].expand(1, *state[key].shape)[0]
    check({**content, "model_state_dict": state | {key: copy}})
