"""Convolutions against NumPy oracles written from the specification, and every variant of the tokenizer."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from bids_semantoks.models.encoder import build_encoder
from bids_semantoks.models.tokenizer import DenseBranch, FreeBranch, StructuredBranch

M, P_N, V, OUTPUTS = 3, 7, 20, 26


def randomise(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for tensor in [*module.parameters()]:
        tensor.data = torch.randn(tensor.shape, generator=generator)
    return module


def patches(seed=1):
    return torch.randn(M, P_N, V, generator=torch.Generator().manual_seed(seed))


def oracle_structured(branch, x, decay=2.0):
    """Step by step as the specification says it: kernel, flipped correlation, skip, linear."""
    kernels = branch.kernels.detach().double().numpy()  # (S, H, P_n, 4)
    skip = branch.skip.detach().double().numpy()
    n_filters = skip.shape[0]
    pieces = []
    for i, kernel in enumerate(kernels):
        pieces.append(np.repeat(kernel, 2 ** max(0, i - 1), axis=-1) * decay ** (len(kernels) - 1 - i))
    k = np.concatenate(pieces, axis=-1) / branch.kernel_norm.double().numpy()
    length = k.shape[-1]
    left = (length - 1) // 2
    padded = np.pad(x.double().numpy(), ((0, 0), (0, 0), (left, length - 1 - left)))
    y = np.zeros((M, P_N * n_filters, V))
    for p in range(P_N):
        for h in range(n_filters):
            for t in range(V):
                for m in range(length):  # y[t] = sum_m k[m] x[t + 8 - m]
                    y[:, p * n_filters + h, t] += k[h, p, m] * padded[:, p, t + length // 2 - m + left]
                y[:, p * n_filters + h, t] += skip[h, p] * x[:, p, t].double().numpy()
    weight = branch.projection.weight.detach().double().numpy()
    return np.einsum("oc,mct->mto", weight, y) + branch.projection.bias.detach().double().numpy()


def test_structured_branch_is_the_specified_convolution(small_config):
    branch = randomise(StructuredBranch(P_N, OUTPUTS, small_config))
    assert branch.kernels.shape == (3, 4, P_N, 4)  # H = ceil(26 / 7)
    branch.kernel_norm.copy_(torch.rand(4, P_N, 1) + 0.5)
    x = patches()
    np.testing.assert_allclose(branch(x).detach().numpy(), oracle_structured(branch, x), atol=2e-4)


def test_structured_branch_of_other_taps_scales_and_decay(small_config):
    config = replace(small_config, structured_taps=3, structured_scales=2, structured_decay=1.5)
    branch = randomise(StructuredBranch(P_N, OUTPUTS, config))
    x = patches()
    # An even length of 6: the volume itself meets tap length // 2 of the kernel, counted from its end.
    np.testing.assert_allclose(branch(x).detach().numpy(), oracle_structured(branch, x, 1.5), atol=2e-4)


def test_dense_branch_is_a_same_padded_convolution(small_config):
    branch = randomise(DenseBranch(P_N, OUTPUTS, small_config))
    x = patches()
    expected = F.conv1d(x, branch.convolution.weight, branch.convolution.bias, padding="same").transpose(1, 2)
    torch.testing.assert_close(branch(x), expected, atol=1e-4, rtol=1e-4)


def test_separable_branch_is_depthwise_then_pointwise(small_config):
    branch = randomise(DenseBranch(P_N, OUTPUTS, replace(small_config, dense="separable", dense_kernel=5)))
    x = patches()
    deep = F.conv1d(x, branch.depthwise.weight, branch.depthwise.bias, padding="same", groups=P_N)
    expected = F.conv1d(deep, branch.convolution.weight, branch.convolution.bias).transpose(1, 2)
    torch.testing.assert_close(branch(x), expected, atol=2e-4, rtol=1e-4)


def test_free_branch_is_depthwise_then_linear(small_config):
    branch = randomise(FreeBranch(P_N, OUTPUTS, small_config))
    assert branch.taps.shape == (4, P_N, 16)
    x = patches()
    weight = branch.taps.permute(1, 0, 2).reshape(P_N * 4, 1, 16)
    deep = F.conv1d(F.pad(x, (7, 8)), weight, groups=P_N)
    expected = F.linear(deep.transpose(1, 2), branch.projection.weight, branch.projection.bias)
    torch.testing.assert_close(branch(x), expected, atol=5e-4, rtol=1e-4)


VARIANTS = [
    {"spatial": spatial, "dense": dense, "structured": structured, "pooling": pooling}
    for spatial, dense, structured, pooling in [
        ("network", "full", "structured", "mean"),
        ("network", "full", "none", "max"),
        ("network", "none", "structured", "attention"),
        ("network", "separable", "free", "mean"),
        ("network", "none", "free", "mean"),
        ("whole", "full", "structured", "mean"),
        ("whole", "separable", "none", "attention"),
        ("parcel", "none", "none", "mean"),
    ]
]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(v.values()))
def test_every_variant_gives_tokens_and_gradients_to_all_its_parameters(small_config, small_layout, variant):
    config = replace(small_config, **variant)
    encoder = build_encoder(config, small_layout, 0)
    n_rows = {"network": 3, "whole": 1, "parcel": 13}[config.spatial]
    x = torch.randn(2, 13, 40)
    assert encoder.tokenizer(x).shape == (2, n_rows, 2, 64)
    mask = torch.zeros(2, n_rows, 2, dtype=torch.bool)
    mask[0, 0, 1] = True
    output = encoder(x, mask)
    assert output.shape == (2, 1 + n_rows * 2, 64)
    output.square().sum().add(output.pow(3).sum()).backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.abs().sum() > 0), name


def test_a_branch_that_stands_alone_has_the_whole_width(small_config, small_layout):
    encoder = build_encoder(replace(small_config, dense="none"), small_layout, 0)
    (branch,) = encoder.tokenizer.networks[1].branches.values()
    assert branch.projection.weight.shape == (64, 3 * 22)  # H = ceil(64 / 3)


def test_pooling_differs_only_in_how_volumes_are_joined(small_config, small_layout):
    x = torch.randn(2, 13, 40)
    tokenizers = {
        pooling: build_encoder(replace(small_config, pooling=pooling), small_layout, 0).tokenizer
        for pooling in ("mean", "max", "attention")
    }
    network = tokenizers["mean"].networks[0]
    part = x[:, [0, 1, 3, 7], 20:]
    features = F.gelu(torch.cat([branch(part) for branch in network.branches.values()], dim=-1))
    for pooling, pooled in (("mean", features.mean(1)), ("max", features.max(1).values)):
        torch.testing.assert_close(tokenizers[pooling](x)[:, 0, 1], F.layer_norm(pooled, (64,)), atol=1e-5, rtol=1e-5)
    learned = tokenizers["attention"].networks[0].attention
    weights = torch.softmax(features @ learned.weight[0], dim=1)
    expected = F.layer_norm(torch.einsum("mv,mvd->md", weights, features), (64,))
    torch.testing.assert_close(tokenizers["attention"](x)[:, 0, 1], expected, atol=1e-5, rtol=1e-5)


def test_each_token_sees_its_own_network_and_patch_only(small_config, small_layout):
    tokenizer = build_encoder(small_config, small_layout, 0).tokenizer
    x = torch.randn(2, 13, 40)
    before = tokenizer(x)
    changed = x.clone()
    changed[:, 4, 20:] += 1.0  # parcel 4 belongs to network 1
    same = torch.isclose(tokenizer(changed), before, atol=1e-6).all(-1)
    assert same.all(0).tolist() == [[True, True], [True, False], [True, True]]
