"""Agreement with the authors' implementation, on vectors computed with it."""

import hashlib

import numpy as np
import pytest
import torch

from bids_semantoks.config import EncoderConfig
from bids_semantoks.errors import ConfigurationError
from bids_semantoks.models.authors import load_authors_checkpoint
from bids_semantoks.models.checkpoints import assign_tensors
from bids_semantoks.models.encoder import (
    Encoder,
    ProjectionHead,
    build_encoder,
    build_head,
    compute_temporal_positions,
    read_encoder_config,
)
from bids_semantoks.models.frozen import FrozenEncoder
from bids_semantoks.models.parcels import ParcelMatch, default_layout
from bids_semantoks.models.tokenizer import join_scales

TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def student(parity_checkpoint):
    content = load_authors_checkpoint(parity_checkpoint, which="student")
    encoder, head = Encoder(content.config, content.layout), ProjectionHead(content.config)
    assign_tensors(encoder, content.encoder, parity_checkpoint, content.names)
    assign_tensors(head, content.head, parity_checkpoint, content.names)
    return encoder.eval(), head.eval()


@pytest.mark.parametrize("mask", ["none", "temporal", "networks"])
def test_teacher_tokens(parity_encoder, golden, mask):
    masked = None if mask == "none" else torch.from_numpy(golden[f"mask_{mask}"])
    with torch.inference_mode():
        output = parity_encoder.encoder(torch.from_numpy(golden["x"]), masked)
    np.testing.assert_allclose(output.numpy(), golden[f"tokens_{mask}"], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(output[:, 0].numpy(), golden[f"cls_{mask}"], rtol=0, atol=TOLERANCE)


def test_student_tokens(student, golden):
    with torch.inference_mode():
        tokens = student[0](torch.from_numpy(golden["x"]))
    np.testing.assert_allclose(tokens.numpy(), golden["student_tokens"], rtol=0, atol=TOLERANCE)


def test_heads(student, parity_encoder, golden):
    encoder, head = student
    x = torch.from_numpy(golden["x"])
    with torch.inference_mode():
        ours = head(encoder(x)[:, 0]), parity_encoder.head(parity_encoder.encoder(x)[:, 0])
    np.testing.assert_allclose(ours[0].numpy(), golden["student_proj_cls"], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(ours[1].numpy(), golden["teacher_proj_cls"], rtol=0, atol=TOLERANCE)


def test_embedding_is_the_mean_first_then_the_class_token(parity_encoder, golden, make_windows):
    match = ParcelMatch(order=np.arange(457), n_atlas_parcels=457)
    windows = make_windows(np.ascontiguousarray(golden["x"].transpose(0, 2, 1)))
    embedding = FrozenEncoder(parity_encoder, match, device="cpu").encode(windows)
    np.testing.assert_allclose(embedding.vectors, golden["cls_avg"], rtol=0, atol=TOLERANCE)


def test_sizes_come_from_the_tensors(parity_encoder):
    config = parity_encoder.config
    assert (config.width, config.depth, config.head_hidden, config.head_out) == (64, 2, 128, 32)
    assert (config.window, config.patch, config.kernel_length, config.head_layers) == (100, 20, 16, 2)
    assert parity_encoder.layout == default_layout()
    assert parity_encoder.name == "checkpoint"
    assert "epoch 99" in parity_encoder.description


def test_temporal_positions_are_the_specified_table():
    table = compute_temporal_positions(5, 6)
    assert table.dtype == np.float32
    for k in range(5):
        for j in range(3):
            assert table[k, j] == pytest.approx(np.sin(k * 10000 ** (-j / 3)), abs=1e-7)
            assert table[k, 3 + j] == pytest.approx(np.cos(k * 10000 ** (-j / 3)), abs=1e-7)


# Digest of the parameters of random:tiny, seed 0: an embedding of random weights must be reproducible for ever.
# Rounded, since the logarithm of one machine may differ from another's in the last bit.
TINY_DIGEST = "37d3b3f92dce1c9821f467df9e28e14c7473df5e25c9ed4b1b2e8c732031bfb0"


def digest(module):
    total = hashlib.sha256()
    for name, parameter in module.named_parameters():
        total.update(name.encode())
        total.update((parameter.detach() * 1e4).round().to(torch.int32).numpy().tobytes())
    return total.hexdigest()


def test_a_seed_means_the_same_weights_for_ever():
    assert digest(build_encoder(read_encoder_config("tiny"), default_layout(), 0)) == TINY_DIGEST


def test_threads_change_nothing_and_torch_is_left_alone(small_config, small_layout):
    n_threads = torch.get_num_threads()
    torch.manual_seed(3)
    state = torch.get_rng_state()
    one = digest(build_encoder(small_config, small_layout, 5))
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(7)
    try:
        torch.set_num_threads(n_threads + 2)
        assert digest(build_encoder(small_config, small_layout, 5)) == one
    finally:
        torch.set_num_threads(n_threads)


def test_seeds_differ_and_so_do_layers(small_config, small_layout):
    one, two = (build_encoder(small_config, small_layout, seed) for seed in (0, 1))
    assert not torch.equal(one.class_token, two.class_token)
    assert not torch.equal(one.blocks[0].mlp[0].weight, one.blocks[1].mlp[0].weight)


@torch.no_grad()
def test_initial_values_are_those_of_the_specification(small_layout):
    config = EncoderConfig(width=256, depth=1, window=40)
    encoder = build_encoder(config, small_layout, 0)
    block, network = encoder.blocks[0], encoder.tokenizer.networks[0]
    assert float(block.mlp[0].weight.abs().max()) == pytest.approx(256**-0.5, rel=1e-3)
    assert float(block.mlp[0].weight.std()) == pytest.approx(256**-0.5 / 3**0.5, rel=1e-2)
    assert float(block.mlp[2].bias.abs().max()) <= 1024**-0.5
    convolution = network.branches["dense"].convolution
    assert float(convolution.weight.abs().max()) == pytest.approx((4 * 3) ** -0.5, rel=1e-2)
    structured = network.branches["structured"]
    assert structured.skip.shape == (32, 4)
    assert float(structured.kernels.std()) == pytest.approx(1.0, rel=0.05)
    assert float(structured.kernels.mean()) == pytest.approx(0.0, abs=0.1)
    assert torch.equal(block.attention_scale.data, torch.full((256,), 0.1))
    assert torch.equal(block.mlp_norm.weight.data, torch.ones(256))
    assert torch.equal(encoder.norm.bias.data, torch.zeros(256))
    assert float(encoder.class_token.std()) == pytest.approx(0.02, rel=0.15)
    assert float(encoder.network_positions.std()) == pytest.approx(0.02, rel=0.15)


def test_the_kernel_norm_is_taken_at_initialisation_and_kept(small_config, small_layout):
    encoder = build_encoder(small_config, small_layout, 0)
    branch = encoder.tokenizer.networks[1].branches["structured"]
    kernel = join_scales(branch.kernels, 2.0) / branch.kernel_norm
    torch.testing.assert_close(kernel.norm(dim=-1), torch.ones(kernel.shape[:2]))
    before = branch.kernel_norm.clone()
    with torch.no_grad():
        branch.kernels.mul_(3.0)
    encoder(torch.randn(2, 13, 40))
    assert torch.equal(branch.kernel_norm, before)


@torch.no_grad()
def test_head_values_and_unit_length():
    config = EncoderConfig(width=128, head_hidden=96, head_out=24, head_layers=3)
    head = build_head(config, 0)
    assert [tuple(layer.weight.shape) for layer in head.layers] == [(96, 128), (96, 96), (24, 96)]
    assert float(head.layers[0].weight.std()) == pytest.approx(0.02, rel=0.03)
    assert all(bool((layer.bias == 0).all()) for layer in head.layers)
    torch.testing.assert_close(head(torch.randn(5, 3, 128)).norm(dim=-1), torch.ones(5, 3))


def test_the_paper_model_has_the_published_number_of_parameters():
    encoder = build_encoder(read_encoder_config("paper"), default_layout(), 0)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 58_720_931


def test_no_control_flow_depends_on_values(small_config, small_layout):
    # On the meta device nothing has a value: whatever runs there can be captured as one graph.
    encoder = Encoder(small_config, small_layout).to("meta")
    with torch.device("meta"):
        output = encoder(torch.empty(2, 13, 40), torch.empty(2, 3, 2, dtype=torch.bool))
    assert output.shape == (2, 7, 64)
    assert output.is_meta


def test_bfloat16_stays_close_and_trains(small_config, small_layout):
    encoder = build_encoder(small_config, small_layout, 0)
    x = torch.randn(2, 13, 40)
    with torch.autocast("cpu", torch.bfloat16):
        tokens = encoder(x)
    assert float((tokens.float() - encoder(x)).detach().abs().max()) < 0.1
    tokens.float().pow(3).sum().backward()
    assert bool(encoder.tokenizer.networks[0].branches["structured"].kernels.grad.isfinite().all())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[1]", r"must be a JSON object, found \[1\]"),
        ('{"breadth": 64}', "unknown keys: breadth"),
    ],
)
def test_bad_configuration_files(tmp_path, text, message):
    path = tmp_path / "encoder.json"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        read_encoder_config(path)


def test_configuration_by_file_and_unknown_name(tmp_path):
    path = tmp_path / "encoder.json"
    path.write_text('{"width": 128, "depth": 3}')
    assert read_encoder_config(path) == EncoderConfig(width=128, depth=3)
    with pytest.raises(ConfigurationError, match=r"'huge' cannot be read.*paper, small, tiny"):
        read_encoder_config("huge")
