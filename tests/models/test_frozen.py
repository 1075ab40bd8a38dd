"""Frozen encoding: masks for what is absent, batches, devices, precision."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from bids_semantoks.config import EncoderConfig
from bids_semantoks.errors import ConfigurationError, ResourceError, RunFailed
from bids_semantoks.models.checkpoints import LoadedEncoder, load_encoder
from bids_semantoks.models.encoder import build_encoder
from bids_semantoks.models.frozen import FrozenEncoder, find_clip_patches, find_real_patches, resolve_device
from bids_semantoks.models.parcels import ParcelMatch, match_parcels

HAS_CUDA = torch.cuda.is_available()


def wrap(config, layout, seed=0):
    encoder = build_encoder(config, layout, seed).eval()
    return LoadedEncoder(
        encoder=encoder, config=config, layout=layout, name="Test", sha256="0", description="A test.", is_random=True
    )


@pytest.fixture
def loaded(small_config, small_layout):
    return wrap(small_config, small_layout)


@pytest.fixture
def networks(small_layout):
    return [small_layout.network_names[i] for i in small_layout.networks]


@pytest.fixture
def identity():
    return ParcelMatch(order=np.arange(13), n_atlas_parcels=13)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def expected_vectors(loaded, values, mask=None):
    """Straight from the encoder: mean of all tokens but the first, then the first."""
    with torch.inference_mode():
        tokens = loaded.encoder(torch.from_numpy(values.transpose(0, 2, 1).copy()), mask).numpy()
    return np.concatenate([tokens[:, 1:].mean(1), tokens[:, 0]], axis=1)


def test_embedding_and_tokens(loaded, identity, make_windows):
    values = noise(5, 40, 13)
    frozen = FrozenEncoder(loaded, identity, device="cpu", batch_size=2)
    embedding = frozen.encode(make_windows(values), with_tokens=True)
    assert frozen.n_dims == 128
    assert embedding.vectors.dtype == embedding.tokens.dtype == np.float32
    assert embedding.tokens.shape == (5, 7, 64)
    assert embedding.masked_networks == ()
    assert embedding.n_masked_patches.tolist() == [0] * 5
    np.testing.assert_allclose(embedding.vectors, expected_vectors(loaded, values), atol=1e-5)
    np.testing.assert_allclose(embedding.vectors[:, 64:], embedding.tokens[:, 0], atol=0)


@pytest.mark.parametrize(("pooling", "part"), [("avg", slice(0, 64)), ("cls", slice(64, 128))])
def test_poolings_are_the_halves_of_cls_avg(loaded, identity, make_windows, pooling, part):
    windows = make_windows(noise(3, 40, 13))
    both = FrozenEncoder(loaded, identity, device="cpu").encode(windows).vectors
    frozen = FrozenEncoder(loaded, identity, device="cpu", pooling=pooling)
    assert frozen.n_dims == 64
    np.testing.assert_array_equal(frozen.encode(windows).vectors, both[:, part])


def test_permuting_the_parcels_of_the_atlas_changes_nothing(loaded, networks, make_windows):
    order = np.random.default_rng(4).permutation(13)
    names = loaded.layout.parcels
    match = match_parcels(
        [names[i].removeprefix("7Networks_") for i in order], [networks[i] for i in order], loaded.layout
    )
    values = noise(3, 40, 13)
    one = FrozenEncoder(loaded, ParcelMatch(order=np.arange(13), n_atlas_parcels=13), device="cpu")
    two = FrozenEncoder(loaded, match, device="cpu")
    np.testing.assert_array_equal(
        one.encode(make_windows(values)).vectors,
        two.encode(make_windows(np.ascontiguousarray(values[:, :, order]))).vectors,
    )


def test_permuting_the_published_atlas_changes_nothing(parity_encoder, golden, make_windows):
    layout = parity_encoder.layout
    order = np.r_[450:457, 400:450, 200:400, 0:200]
    match = match_parcels(
        [layout.parcels[i] for i in order], [layout.network_names[layout.networks[i]] for i in order], layout
    )
    assert match.warnings == ()
    windows = make_windows(np.ascontiguousarray(golden["x"].transpose(0, 2, 1)[:, :, order]))
    embedding = FrozenEncoder(parity_encoder, match, device="cpu").encode(windows)
    np.testing.assert_allclose(embedding.vectors, golden["cls_avg"], rtol=0, atol=2e-5)


def test_batch_size_and_filling_of_the_last_batch_change_nothing(parity_encoder, golden, make_windows):
    match = ParcelMatch(order=np.arange(457), n_atlas_parcels=457)
    values = np.concatenate([golden["x"], golden["view1"]])[:7].transpose(0, 2, 1).copy()
    results = [
        FrozenEncoder(parity_encoder, match, device="cpu", batch_size=size).encode(make_windows(values)).vectors
        for size in (1, 2, 3, 7, 32)
    ]
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], rtol=0, atol=1e-5)


def test_two_runs_give_identical_bytes(identity, small_config, small_layout, make_windows):
    windows = make_windows(noise(5, 40, 13))
    vectors = [
        FrozenEncoder(wrap(small_config, small_layout), identity, device="cpu", batch_size=2).encode(windows).vectors
        for _ in range(2)
    ]
    assert vectors[0].tobytes() == vectors[1].tobytes()


def test_an_absent_network_of_the_atlas_is_masked(loaded, networks, make_windows):
    kept = [i for i in range(13) if networks[i] != "Limbic"]
    match = match_parcels([loaded.layout.parcels[i] for i in kept], [networks[i] for i in kept], loaded.layout)
    values = noise(3, 40, 13)
    embedding = FrozenEncoder(loaded, match, device="cpu").encode(
        make_windows(np.ascontiguousarray(values[:, :, kept]))
    )
    assert embedding.masked_networks == ("Limbic",)
    mask = torch.zeros(3, 3, 2, dtype=torch.bool)
    mask[:, 1] = True
    np.testing.assert_allclose(embedding.vectors, expected_vectors(loaded, values, mask), atol=1e-5)


def test_a_network_without_signal_is_masked_and_a_single_parcel_is_zero(loaded, identity, make_windows):
    present = np.ones(13, dtype=bool)
    present[[2, 4, 8, 5]] = False  # all of Limbic, and one parcel of Other
    values = noise(3, 40, 13)
    embedding = FrozenEncoder(loaded, identity, device="cpu").encode(make_windows(values, present=present))
    assert embedding.masked_networks == ("Limbic",)
    mask = torch.zeros(3, 3, 2, dtype=torch.bool)
    mask[:, 1] = True
    zeroed = values.copy()
    zeroed[:, :, 5] = 0
    np.testing.assert_allclose(embedding.vectors, expected_vectors(loaded, zeroed, mask), atol=1e-5)


def test_only_wholly_empty_patches_are_masked(loaded, identity, make_windows):
    values = noise(4, 40, 13)
    n_real = np.array([40, 21, 20, 7])
    for window, n in zip(values, n_real, strict=True):
        window[n:] = 0
    embedding = FrozenEncoder(loaded, identity, device="cpu").encode(make_windows(values, n_real=n_real))
    assert embedding.n_masked_patches.tolist() == [0, 0, 1, 1]
    mask = torch.zeros(4, 3, 2, dtype=torch.bool)
    mask[2:, :, 1] = True
    np.testing.assert_allclose(embedding.vectors, expected_vectors(loaded, values, mask), atol=1e-5)


def test_short_clips_show_one_patch_only(loaded, identity, make_windows):
    values = noise(3, 40, 13)
    values[:, :20] = 0
    real = find_clip_patches(3, loaded.config, last=True)
    embedding = FrozenEncoder(loaded, identity, device="cpu").encode(make_windows(values), real_patches=real)
    assert embedding.n_masked_patches.tolist() == [1, 1, 1]
    mask = torch.zeros(3, 3, 2, dtype=torch.bool)
    mask[:, :, 0] = True
    np.testing.assert_allclose(embedding.vectors, expected_vectors(loaded, values, mask), atol=1e-5)


def test_real_patches():
    config = EncoderConfig()
    assert find_real_patches(np.array([1, 20, 21, 99]), config).sum(axis=1).tolist() == [1, 1, 2, 5]
    assert find_clip_patches(2, config, last=False).tolist() == [[True, False, False, False, False]] * 2


@pytest.mark.parametrize("spatial", ["whole", "parcel"])
def test_other_token_rows_are_masked_when_all_their_parcels_are_absent(
    small_config, small_layout, identity, make_windows, spatial
):
    structured = {"whole": "structured", "parcel": "none"}[spatial]
    config = replace(small_config, spatial=spatial, structured=structured)
    loaded = wrap(config, small_layout)
    present = np.ones(13, dtype=bool)
    present[[2, 4, 8, 5]] = False
    values = noise(3, 40, 13)
    embedding = FrozenEncoder(loaded, identity, device="cpu").encode(make_windows(values, present=present))
    n_rows = {"whole": 1, "parcel": 13}[spatial]
    mask = torch.zeros(3, n_rows, 2, dtype=torch.bool)
    if spatial == "parcel":
        mask[:, ~present] = True
    values[:, :, ~present] = 0
    np.testing.assert_allclose(embedding.vectors, expected_vectors(loaded, values, mask), atol=1e-5)


def test_a_run_without_any_signal_fails(loaded, identity, make_windows):
    with pytest.raises(RunFailed, match="has a signal") as caught:
        FrozenEncoder(loaded, identity, device="cpu").encode(
            make_windows(noise(2, 40, 13), present=np.zeros(13, dtype=bool))
        )
    assert caught.value.reason == "low_coverage"


@pytest.mark.parametrize(
    ("shape", "changes", "message"),
    [
        ((2, 39, 13), {}, r"shape \(B, 40, 13\), found \(2, 39, 13\)"),
        ((2, 40, 12), {}, r"shape \(B, 40, 13\), found \(2, 40, 12\)"),
        ((0, 40, 13), {}, r"found \(0, 40, 13\)"),
        ((2, 40, 13), {"n_real": np.array([40, 0])}, r"found 0\.\.40"),
        ((2, 40, 13), {"n_real": np.array([41, 40])}, r"found 40\.\.41"),
    ],
)
def test_windows_that_do_not_fit(loaded, identity, make_windows, shape, changes, message):
    with pytest.raises(ValueError, match=message):
        FrozenEncoder(loaded, identity, device="cpu").encode(make_windows(noise(*shape), **changes))


def test_values_that_are_not_finite_are_refused(loaded, identity, make_windows):
    values = noise(2, 40, 13)
    values[1, 3, 4] = np.nan
    with pytest.raises(ValueError, match="non-finite"):
        FrozenEncoder(loaded, identity, device="cpu").encode(make_windows(values))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "fp8"}, "'fp8'"),
        ({"pooling": "max"}, "'max'"),
        ({"batch_size": 0}, "batch size 0"),
        ({"match": ParcelMatch(order=np.arange(12), n_atlas_parcels=13)}, "12 parcels, the encoder 13"),
    ],
)
def test_bad_settings(loaded, identity, changes, message):
    with pytest.raises(ValueError, match=message):
        FrozenEncoder(loaded, **{"match": identity, "device": "cpu", **changes})


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_reduced_precision_stays_close(loaded, identity, make_windows, precision):
    windows = make_windows(noise(3, 40, 13))
    full = FrozenEncoder(loaded, identity, device="cpu").encode(windows).vectors
    reduced = FrozenEncoder(loaded, identity, device="cpu", precision=precision).encode(windows).vectors
    assert reduced.dtype == np.float32
    assert 0 < np.abs(reduced - full).max() < 0.1


def test_encoding_leaves_the_settings_of_torch_as_they_were(loaded, identity, make_windows):
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        FrozenEncoder(loaded, identity, device="cpu").encode(make_windows(noise(2, 40, 13)))
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


def test_devices_by_name():
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type == ("cuda" if HAS_CUDA else "cpu")
    for name in ("gpu", "cuda:", "cuda:x", "cpu:0", ""):
        with pytest.raises(ConfigurationError, match=f"cuda:N or mps, found '{name}'"):
            resolve_device(name)
    if torch.backends.mps.is_available():
        assert resolve_device("mps").type == "mps"
    else:
        with pytest.raises(ResourceError, match="mps"):
            resolve_device("mps")
    with pytest.raises(ResourceError, match="cuda:99"):
        resolve_device("cuda:99")


@pytest.mark.skipif(HAS_CUDA, reason="needs a machine without CUDA")
def test_a_missing_cuda_device_is_said():
    with pytest.raises(ResourceError, match="Device cuda"):
        resolve_device("cuda")


@pytest.mark.skipif(sys.platform != "linux", reason="limits address space")
def test_too_little_memory_names_a_batch_size_that_may_fit(tmp_path):
    script = tmp_path / "starve.py"
    script.write_text(
        "import resource, numpy as np, torch\n"
        "torch.set_num_threads(1)\n"
        "from bids_semantoks.errors import RunFailed\n"
        "from bids_semantoks.models.checkpoints import load_encoder\n"
        "from bids_semantoks.models.frozen import FrozenEncoder\n"
        "from bids_semantoks.models.parcels import ParcelMatch\n"
        "from bids_semantoks.records import Windows\n"
        "loaded = load_encoder('random:tiny', atlas=(['a', 'b'], ['Vis', 'Vis']))\n"
        "n = 60_000\n"
        "values = np.zeros((n, 100, 2), dtype=np.float32)\n"
        "windows = Windows(values=values, n_real=np.full(n, 100), present=np.ones(2, bool), onset=np.zeros(n),\n"
        "                  duration=200.0, kept=np.ones(n))\n"
        "match = ParcelMatch(order=np.arange(2), n_atlas_parcels=2)\n"
        "frozen = FrozenEncoder(loaded, match, device='cpu', batch_size=n)\n"
        "pages = int(open('/proc/self/statm').read().split()[0])\n"
        "resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**29,) * 2)\n"
        "try:\n"
        "    frozen.encode(windows)\n"
        "except RunFailed as error:\n"
        "    print(error.reason, error)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment, check=False)
    assert "out_of_memory 60000 windows at a time do not fit" in result.stdout, result.stderr[-2000:]
    assert "--batch-size 30000" in result.stdout


@pytest.mark.cuda
@pytest.mark.skipif(not HAS_CUDA, reason="needs a CUDA device")
def test_cpu_and_cuda_agree(parity_checkpoint, golden, make_windows):
    match = ParcelMatch(order=np.arange(457), n_atlas_parcels=457)
    windows = make_windows(
        np.ascontiguousarray(golden["x"].transpose(0, 2, 1)), n_real=np.array([100, 90, 80, 41, 40, 1])
    )
    for model in (parity_checkpoint, "random:paper"):
        vectors = [
            FrozenEncoder(load_encoder(model), match, device=device, batch_size=4).encode(windows).vectors
            for device in ("cpu", "cuda")
        ]
        np.testing.assert_allclose(vectors[1], vectors[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("spatial", ["network", "parcel", "whole"])
def test_the_readout_of_networks_is_the_mean_token_of_each_in_one_pass(
    small_config, small_layout, identity, make_windows, monkeypatch, spatial
):
    changes = {} if spatial == "network" else {"spatial": spatial, "dense": "none"}
    loaded = wrap(replace(small_config, **changes), small_layout)
    frozen = FrozenEncoder(loaded, identity, device="cpu", batch_size=2)
    calls, encode = [], frozen._encode_batch
    monkeypatch.setattr(frozen, "_encode_batch", lambda *given: calls.append(1) or encode(*given))
    found = frozen.encode_readouts(make_windows(noise(3, 40, 13)), ("cls", "networks", "avg"), with_tokens=True)
    assert len(calls) == 2
    assert list(found) == ["cls", "networks", "avg"]
    tokens = found["networks"].tokens[:, 1:]
    rows = tokens.reshape(3, -1, 2, 64).mean(axis=2)  # two patches a window
    network_of = np.array(small_layout.networks)
    expected = {
        "network": list(rows.swapaxes(0, 1)),
        "parcel": [rows[:, network_of == network].mean(axis=1) for network in range(3)] if rows.shape[1] == 13 else [],
        "whole": [rows[:, 0]],
    }[spatial]
    np.testing.assert_allclose(found["networks"].vectors, np.concatenate(expected, axis=1), atol=1e-6)
    readout = frozen.with_readout("networks", "TestNetworks")
    assert (readout.loaded.name, readout.n_dims) == ("TestNetworks", 64 * len(expected))
    assert readout.readout_networks == (("whole brain",) if spatial == "whole" else small_layout.network_names)
    assert (frozen.loaded.name, frozen.pooling) == ("Test", "cls_avg")
    np.testing.assert_array_equal(readout.encode(make_windows(noise(3, 40, 13))).vectors, found["networks"].vectors)
