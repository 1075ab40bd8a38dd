"""Turn windows into tokens, one per network and patch, by convolutions over the network's parcels.

Legend: B batch, P parcels (P_n of a network), N networks (rows of tokens), K patches in a window, W volumes in a
window, V volumes in a patch, D width, M = B*K patches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bids_semantoks.config import EncoderConfig

LAYER_NORM_EPS = 1e-5


class NetworkTokenizer(nn.Module):
    """Tokens of one network: one or two branches that share the width, GELU, pooling over the patch, LayerNorm."""

    def __init__(self, n_parcels: int, config: EncoderConfig) -> None:
        super().__init__()
        n_branches = (config.dense != "none") + (config.structured != "none")
        n_outputs = config.width // n_branches
        self.branches = nn.ModuleDict()
        if config.dense != "none":
            self.branches["dense"] = DenseBranch(n_parcels, n_outputs, config)
        if config.structured != "none":
            kind = StructuredBranch if config.structured == "structured" else FreeBranch
            self.branches["structured"] = kind(n_parcels, n_outputs, config)
        self.pooling = config.pooling
        # Without bias, which softmax would cancel and no gradient would ever reach.
        self.attention = nn.Linear(config.width, 1, bias=False) if config.pooling == "attention" else None
        self.norm = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Tokenize the patches of one network: (M, P_n, V) -> (M, D)."""
        features = F.gelu(torch.cat([branch(x) for branch in self.branches.values()], dim=-1))  # (M, V, D)
        if self.pooling == "max":
            pooled = features.amax(dim=1)
        elif self.attention is not None:
            pooled = (self.attention(features).softmax(dim=1) * features).sum(dim=1)
        else:
            pooled = features.mean(dim=1)
        token: Tensor = self.norm(pooled)  # (M, D)
        return token


class ConvolutionTokenizer(nn.Module):
    """One `NetworkTokenizer` per row of tokens."""

    order: Tensor

    def __init__(self, rows: Sequence[Sequence[int]], config: EncoderConfig) -> None:
        super().__init__()
        self.patch = config.patch
        self.sizes = [len(row) for row in rows]
        # The device is named so that these stay real while parameters are laid out without memory.
        order = torch.tensor([parcel for row in rows for parcel in row], device="cpu")
        self.register_buffer("order", order, persistent=False)
        self.networks = nn.ModuleList(NetworkTokenizer(size, config) for size in self.sizes)

    def forward(self, x: Tensor) -> Tensor:
        """Tokenize windows: (B, P, W) -> (B, N, K, D)."""
        n_windows = x.shape[0]
        patches = x.index_select(1, self.order).reshape(n_windows, x.shape[1], -1, self.patch).transpose(1, 2)
        tokens = [  # patches is (B, K, P, V)
            network(part.flatten(0, 1)).view(n_windows, patches.shape[1], -1)  # (B, K, D)
            for network, part in zip(self.networks, torch.split(patches, self.sizes, dim=2), strict=True)
        ]
        return torch.stack(tokens, dim=1)  # (B, N, K, D)


class ParcelTokenizer(nn.Module):
    """One row of tokens per parcel, by a linear projection of each patch that all parcels share."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.patch = config.patch
        self.projection = nn.Linear(config.patch, config.width)
        self.norm = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Tokenize windows: (B, P, W) -> (B, P, K, D)."""
        tokens: Tensor = self.norm(self.projection(x.reshape(*x.shape[:2], -1, self.patch)))
        return tokens


def correlate(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Cross-correlate zero-padded patches over all parcels: x (M, P_n, V), weight (O, P_n, L), bias (O,) -> (M, V, O).
    Tap ``(L - 1) // 2`` meets the volume itself."""
    n_taps = weight.shape[-1]
    left = (n_taps - 1) // 2
    windows = F.pad(x, (left, n_taps - 1 - left)).unfold(-1, n_taps, 1)  # (M, P_n, V, L)
    return F.linear(windows.transpose(1, 2).flatten(2), weight.flatten(1), bias)  # (M, V, O)


class DenseBranch(nn.Module):
    """A convolution over all parcels of a network, optionally separable (depthwise, then pointwise)."""

    def __init__(self, n_parcels: int, n_outputs: int, config: EncoderConfig) -> None:
        super().__init__()
        self.depthwise: nn.Conv1d | None = None
        n_taps = config.dense_kernel
        if config.dense == "separable":
            self.depthwise = nn.Conv1d(n_parcels, n_parcels, n_taps, groups=n_parcels)
            n_taps = 1
        self.convolution = nn.Conv1d(n_parcels, n_outputs, n_taps)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve patches: (M, P_n, V) -> (M, V, O)."""
        weight, bias = self.convolution.weight, self.convolution.bias
        assert bias is not None
        if self.depthwise is not None:
            assert self.depthwise.bias is not None
            bias = bias + weight[..., 0] @ self.depthwise.bias
            weight = weight * self.depthwise.weight[:, 0]  # (O, P_n, 1) * (P_n, L)
        return correlate(x, weight, bias)


class StructuredBranch(nn.Module):
    """A long multi-scale filter bank per parcel, then a linear layer over all filters (Li et al. 2023, ICLR: SGConv).
    `join_scales` gives the kernel; `kernel_norm` keeps its norm at initialisation for good."""

    kernel_norm: Tensor
    centre: Tensor

    def __init__(self, n_parcels: int, n_outputs: int, config: EncoderConfig) -> None:
        super().__init__()
        n_filters = math.ceil(n_outputs / n_parcels)
        self.decay = config.structured_decay
        self.kernels = nn.Parameter(torch.ones(config.structured_scales, n_filters, n_parcels, config.structured_taps))
        self.skip = nn.Parameter(torch.zeros(n_filters, n_parcels))
        self.register_buffer("kernel_norm", torch.ones(n_filters, n_parcels, 1))
        self.projection = nn.Linear(n_parcels * n_filters, n_outputs)
        length = config.kernel_length
        centre = torch.zeros(length, device="cpu")
        centre[(length - 1) // 2] = 1.0
        self.register_buffer("centre", centre, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Filter patches: (M, P_n, V) -> (M, V, O)."""
        kernel = join_scales(self.kernels, self.decay) / self.kernel_norm  # (H, P_n, L)
        taps = kernel.flip(-1) + self.skip[..., None] * self.centre
        return correlate(x, fold(self.projection, taps), self.projection.bias)


class FreeBranch(nn.Module):
    """Plain depthwise filters as long as the structured ones, then a linear layer over all filters."""

    def __init__(self, n_parcels: int, n_outputs: int, config: EncoderConfig) -> None:
        super().__init__()
        n_filters = math.ceil(n_outputs / n_parcels)
        self.taps = nn.Parameter(torch.zeros(n_filters, n_parcels, config.kernel_length))
        self.projection = nn.Linear(n_parcels * n_filters, n_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Filter patches: (M, P_n, V) -> (M, V, O)."""
        return correlate(x, fold(self.projection, self.taps), self.projection.bias)


def join_scales(kernels: Tensor, decay: float) -> Tensor:
    """Weight, upsample and concatenate the scales of structured kernels: (S, H, P_n, taps) -> (H, P_n, taps * 2^(S-1)).
    Scale i is repeated ``2^max(0, i-1)`` times and weighted ``decay^(S-1-i)``; the result is not yet normalised."""
    last = kernels.shape[0] - 1
    return torch.cat(
        [
            kernel.repeat_interleave(2 ** max(0, i - 1), dim=-1) * decay ** (last - i)
            for i, kernel in enumerate(kernels)
        ],
        dim=-1,
    )


def fold(projection: nn.Linear, taps: Tensor) -> Tensor:
    """Fold depthwise filters (H, P_n, L) and the linear layer over their outputs into one convolution (O, P_n, L).
    Exact, since nothing lies between them; it avoids the (M, H*P_n, V) activations and gives one large matrix product.
    The layer's input channel ``p * H + h`` is filter h of parcel p."""
    n_filters, n_parcels, _ = taps.shape
    mixing = projection.weight.view(-1, n_parcels, n_filters)  # (O, P_n, H)
    return torch.einsum("oph,hpl->opl", mixing, taps)
