"""The encoder: a class token and the tokens of all networks and patches, through transformer blocks.

Legend: B batch, P parcels, N networks (rows of tokens), K patches in a window, W volumes in a window, S = 1
+ N*K tokens, D width, A attention heads.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bids_semantoks.config import EncoderConfig
from bids_semantoks.models.parcels import NetworkLayout, token_rows
from bids_semantoks.models.tokenizer import LAYER_NORM_EPS, ConvolutionTokenizer, ParcelTokenizer


class EncoderOutput(NamedTuple):
    """Output tokens of an encoder."""

    tokens: Tensor  # (B, 1 + N*K, D) class token first, then network by network
    cls: Tensor  # (B, D)


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.projection = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """Attend from every token to every token: (B, S, D) -> (B, S, D)."""
        qkv = self.qkv(x).view(*x.shape[:2], 3, self.n_heads, -1)  # (B, S, 3, A, D/A)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        output: Tensor = self.projection(mixed.transpose(1, 2).flatten(2))  # (B, S, D)
        return output


class Block(nn.Module):
    """A pre-norm transformer block with LayerScale."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        hidden = config.mlp_ratio * config.width
        self.attention_norm = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.attention = Attention(config)
        self.attention_scale = nn.Parameter(torch.full((config.width,), config.layer_scale))
        self.mlp_norm = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.mlp = nn.Sequential(nn.Linear(config.width, hidden), nn.GELU(), nn.Linear(hidden, config.width))
        self.mlp_scale = nn.Parameter(torch.full((config.width,), config.layer_scale))

    def forward(self, x: Tensor) -> Tensor:
        """Transform tokens: (B, S, D) -> (B, S, D)."""
        x = x + self.attention_scale * self.attention(self.attention_norm(x))
        refined: Tensor = x + self.mlp_scale * self.mlp(self.mlp_norm(x))
        return refined


class Encoder(nn.Module):
    """Tokenizer, positions, class token, transformer blocks and a final LayerNorm.

    Parameters sit on the meta device without values: use `build_encoder` (random) or `load_encoder`.
    """

    temporal_positions: Tensor

    def __init__(self, config: EncoderConfig, layout: NetworkLayout) -> None:
        super().__init__()
        self.config = config
        self.layout = layout
        rows = token_rows(config, layout)
        positions = torch.from_numpy(compute_temporal_positions(config.n_patches, config.width))
        self.register_buffer("temporal_positions", positions, persistent=False)
        with torch.device("meta"):
            self.tokenizer = (
                ParcelTokenizer(config) if config.spatial == "parcel" else ConvolutionTokenizer(rows, config)
            )
            self.class_token = nn.Parameter(torch.zeros(config.width))
            self.mask_token = nn.Parameter(torch.zeros(config.width))
            self.network_positions = nn.Parameter(torch.zeros(len(rows), config.width))
            self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
            self.norm = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> EncoderOutput:
        """Encode windows (B, P, W), parcels in layout order; the mask token replaces tokens where `mask` (B, N, K)."""
        return self.refine(self.tokenizer(x), mask)

    def refine(self, tokens: Tensor, mask: Tensor | None = None) -> EncoderOutput:
        """Encode tokens (B, N, K, D) as `forward` does, so that several masks share one tokenization."""
        if mask is not None:
            tokens = torch.where(mask[..., None], self.mask_token.to(tokens.dtype), tokens)
        tokens = tokens + self.network_positions[:, None] + self.temporal_positions
        tokens = torch.cat([self.class_token.expand(len(tokens), 1, -1), tokens.flatten(1, 2)], dim=1)  # (B, S, D)
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.norm(tokens)
        return EncoderOutput(tokens, tokens[:, 0])


def compute_temporal_positions(n_patches: int, width: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Compute patch positions (K, D), sin(k w) then cos(k w), w_j = 10000^(-j / (D/2)) (Vaswani et al. 2017)."""
    half = width // 2
    angles = np.outer(np.arange(n_patches), 10000.0 ** (-np.arange(half) / half))
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


class ProjectionHead(nn.Module):
    """Linear layers with GELU between them, then L2 normalisation; shared by all losses.

    Parameters sit on the meta device without values: use `build_head` or `load_encoder`.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.width, *[config.head_hidden] * (config.head_layers - 1), config.head_out]
        with torch.device("meta"):
            self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """Project tokens or their means onto the unit sphere: (..., width) -> (..., head_out)."""
        for layer in self.layers[:-1]:
            x = F.gelu(layer(x))
        x = self.layers[-1](x)
        if x.dtype in (torch.bfloat16, torch.float16):
            x = x.float()  # under autocast: half-precision unit vectors have lengths off by 0.3 %
        return F.normalize(x, dim=-1, eps=1e-12)
