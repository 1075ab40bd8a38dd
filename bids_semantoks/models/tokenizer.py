"""Turn windows into tokens, one per network and patch, by convolutions over the network's parcels.

Legend: B batch, P parcels (P_n of a network), N networks (rows of tokens), K patches in a window,
W volumes in a window, V volumes in a patch, D width, M = B*K patches.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bids_semantoks.config import EncoderConfig
from bids_semantoks.models.branches import DenseBranch, FreeBranch, StructuredBranch

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
