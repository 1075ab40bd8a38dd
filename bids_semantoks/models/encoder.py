"""The encoder (a class token and the tokens of networks and patches through transformer blocks), its initial weights,
and the model that is fine-tuned from it.

Legend: B batch, P parcels, N networks (rows of tokens), K patches in a window, W volumes in a window, S = 1
+ N*K tokens, D width, A attention heads, C outputs of the fine-tuned model.
"""

from __future__ import annotations

import copy
import hashlib
import math
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from bids_semantoks.config import EncoderConfig, from_json
from bids_semantoks.errors import ConfigurationError
from bids_semantoks.files import parse_json
from bids_semantoks.models.parcels import NetworkLayout, token_rows
from bids_semantoks.models.tokenizer import (
    LAYER_NORM_EPS,
    ConvolutionTokenizer,
    FreeBranch,
    ParcelTokenizer,
    StructuredBranch,
    join_scales,
)

ENCODER_NAMES = ("paper", "small", "tiny")
TOKEN_STD = HEAD_STD = 0.02
INITIAL_DEVIATION = 2e-5  # of the head of a fine-tuned model
_CHUNK = 2**16
_EMBEDDINGS: Final = ("class_token", "mask_token", "network_positions")


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
    """Tokenizer, positions, class token, transformer blocks and a final LayerNorm. Parameters sit on the meta device
    without values: use `build_encoder` (random) or `load_encoder`."""

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

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Encode windows (B, P, W), parcels in layout order, to tokens (B, 1 + N*K, D): class token first, then network
        by network. The mask token replaces tokens where `mask` (B, N, K)."""
        return self.refine(self.tokenizer(x), mask)

    def refine(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Encode tokens (B, N, K, D) as `forward` does, so that several masks share one tokenization."""
        if mask is not None:
            tokens = torch.where(mask[..., None], self.mask_token.to(tokens.dtype), tokens)
        tokens = tokens + self.network_positions[:, None] + self.temporal_positions
        tokens = torch.cat([self.class_token.expand(len(tokens), 1, -1), tokens.flatten(1, 2)], dim=1)  # (B, S, D)
        for block in self.blocks:
            tokens = block(tokens)
        encoded: Tensor = self.norm(tokens)
        return encoded


def pool_tokens(tokens: Tensor, pooling: str) -> Tensor:
    """Pool tokens (B, 1 + N*K, D) to (B, D), ``cls`` (class token) or ``avg`` (mean of the others), or to (B, 2D),
    ``cls_avg`` (``avg``, then ``cls``)."""
    parts = {"avg": tokens[:, 1:].mean(dim=1), "cls": tokens[:, 0]}
    return torch.cat([parts[name] for name in (("avg", "cls") if pooling == "cls_avg" else (pooling,))], dim=1)


def compute_temporal_positions(n_patches: int, width: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Compute patch positions (K, D), sin(k w) then cos(k w), w_j = 10000^(-j / (D/2)) (Vaswani et al. 2017)."""
    half = width // 2
    angles = np.outer(np.arange(n_patches), 10000.0 ** (-np.arange(half) / half))
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


class ProjectionHead(nn.Module):
    """Linear layers with GELU between them, then L2 normalisation; shared by all losses. Parameters sit on the meta
    device without values: use `build_head` or `load_encoder`."""

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


def read_encoder_config(name_or_path: str | Path) -> EncoderConfig:
    """Read an architecture: ``paper``, ``small``, ``tiny``, or a JSON file that overrides defaults of `EncoderConfig`.
    Raises ConfigurationError if the name is unknown or the file unreadable or invalid."""
    if str(name_or_path) in ENCODER_NAMES:
        text = files("bids_semantoks").joinpath(f"data/encoders/{name_or_path}.json").read_text(encoding="utf-8")
    else:
        try:
            text = Path(name_or_path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(
                f"encoder configuration {str(name_or_path)!r} cannot be read: {error}.",
                hint=f"Known names: {', '.join(ENCODER_NAMES)}.",
            ) from error
    try:
        values = parse_json(text)
    except ValueError as error:
        raise ConfigurationError(f"encoder configuration {name_or_path} is not JSON: {error}.") from error
    return from_json(EncoderConfig, values, where=f"encoder configuration {name_or_path}")


def build_encoder(config: EncoderConfig, layout: NetworkLayout, seed: int) -> Encoder:
    """Build an encoder with random weights (CPU, float32, training mode) without touching torch's generators."""
    encoder = Encoder(config, layout)
    _fill(encoder, f"{seed}/encoder")
    return encoder


def build_head(config: EncoderConfig, seed: int) -> ProjectionHead:
    """Build a projection head with random weights (CPU, float32, training mode) without touching torch's generators."""
    head = ProjectionHead(config)
    _fill(head, f"{seed}/head")
    return head


def compute_kernel_norm(kernels: Tensor, decay: float) -> Tensor:
    """Compute the norm of structured kernels over taps: (S, H, P_n, taps) -> (H, P_n, 1), for initialisation."""
    norm: Tensor = torch.linalg.vector_norm(join_scales(kernels.detach(), decay), dim=-1, keepdim=True)
    return norm


def _fill(module: Encoder | ProjectionHead, seed: str) -> None:
    """Set every parameter of a module to its initial value."""
    state: dict[str, Tensor] = {}
    for prefix, owner in module.named_modules():
        start = f"{prefix}." if prefix else ""
        for name, parameter in owner.named_parameters(recurse=False):
            draw = _Draw(tuple(parameter.shape), f"{seed}/{start}{name}")
            if isinstance(module, ProjectionHead):
                values = draw.normal(HEAD_STD) if name == "weight" else draw.constant(0.0)
            else:
                values = _draw_encoder_values(draw, owner, name, module.config)
            state[start + name] = torch.from_numpy(values)
        if isinstance(owner, StructuredBranch):
            state[f"{start}kernel_norm"] = compute_kernel_norm(state[f"{start}kernels"], owner.decay)
    module.load_state_dict(state, assign=True)


def _draw_encoder_values(draw: _Draw, owner: nn.Module, name: str, config: EncoderConfig) -> NDArray[np.float32]:
    """Draw one parameter: PyTorch's defaults except for tokens, filters and LayerScale."""
    if isinstance(owner, nn.LayerNorm):
        return draw.constant(1.0 if name == "weight" else 0.0)
    if isinstance(owner, nn.Linear | nn.Conv1d):
        return draw.uniform(owner.weight[0].numel() ** -0.5)
    if isinstance(owner, StructuredBranch):
        return draw.normal(1.0)
    if isinstance(owner, FreeBranch):
        return draw.uniform(config.kernel_length**-0.5)
    if isinstance(owner, Block):
        return draw.constant(config.layer_scale)
    assert isinstance(owner, Encoder)
    return draw.normal(TOKEN_STD)


class _Draw:
    """A separate stream of initial values for each tensor, made from a generator's raw bits. Only raw bits are
    guaranteed across versions and machines; torch's generators differ between processors."""

    def __init__(self, shape: tuple[int, ...], key: str) -> None:
        self.shape = shape
        self.size = math.prod(shape)
        digest = hashlib.sha256(key.encode()).digest()
        self.bits = np.random.SFC64(np.random.SeedSequence(int.from_bytes(digest, "little")))

    def constant(self, value: float) -> NDArray[np.float32]:
        return np.full(self.shape, value, dtype=np.float32)

    def uniform(self, bound: float) -> NDArray[np.float32]:
        """Draw from [-bound, bound)."""
        values = np.empty(self.size, dtype=np.float32)
        scale = np.float32(bound * 2.0**-23)
        for start in range(0, self.size, _CHUNK):  # large enough for NumPy, small enough for the cache
            part = values[start : start + _CHUNK]
            raw = self.bits.random_raw((part.size + 1) // 2).astype("<u8", copy=False).view("<i4")[: part.size]
            raw >>= 8  # 24 bits are exact in float32
            np.multiply(raw, scale, out=part, dtype=np.float32)
        return values.reshape(self.shape)

    def normal(self, std: float) -> NDArray[np.float32]:
        """Draw from N(0, std^2) with the Box-Muller transform in float64."""
        half = (self.size + 1) // 2
        unit = (self.bits.random_raw(2 * half) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        radius = std * np.sqrt(-2.0 * np.log(1.0 - unit[:half]))
        angle = 2.0 * np.pi * unit[half:]
        pairs = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
        return pairs[: self.size].astype(np.float32).reshape(self.shape)


class TunedEncoder(nn.Module):
    """Copy of an encoder, with BatchNorm and a linear layer on its embedding. `pooling` is ``cls_avg``, ``cls`` or
    ``avg``, as in `pool_tokens`; `seed` draws the first weights of the head."""

    def __init__(self, encoder: Encoder, n_outputs: int, *, pooling: str, seed: int) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder)
        self.encoder.requires_grad_(True)
        self.pooling = pooling
        n_features = (2 if pooling == "cls_avg" else 1) * encoder.config.width
        self.head_norm = nn.BatchNorm1d(n_features)
        self.head_weight = nn.Parameter(draw_head(n_outputs, n_features, seed=seed).float())
        self.head_bias = nn.Parameter(torch.zeros(n_outputs))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Predict logits or values: windows (B, P, W) -> (B, C); mask (B, N, K) marks tokens without data."""
        vectors = self.head_norm(pool_tokens(self.encoder(x, mask), self.pooling))
        return nn.functional.linear(vectors, self.head_weight, self.head_bias)


def find_layer(name: str, depth: int) -> int:
    """Number a parameter's layer: 0 embeddings, 1 tokenizers, i + 2 block i, depth + 1 the final norm and the head."""
    place = name.removeprefix("encoder.")
    if place == name or place.startswith("norm."):
        return depth + 1
    if place in _EMBEDDINGS:
        return 0
    if place.startswith("tokenizer."):
        return 1
    return int(place.split(".")[1]) + 2


def is_decayed(name: str) -> bool:
    """Whether weight decay applies to a parameter: not to biases, norms and LayerScale."""
    owner, _, last = name.rpartition(".")
    is_norm = owner.rpartition(".")[2].endswith("norm")
    is_scale = last in ("attention_scale", "mlp_scale")
    return not (is_norm or is_scale or last in ("bias", "head_bias"))


def build_parameter_groups(
    model: TunedEncoder, *, rate: float, layer_decay: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Group parameters by learning rate and weight decay for an optimiser; groups also hold ``layer`` and ``names``.
    ``lr`` is the peak of the schedule: ``rate * layer_decay^(depth + 1 - l)`` for layer l."""
    depth = model.encoder.config.depth
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        layer, decays = find_layer(name, depth), is_decayed(name)
        group = groups.setdefault(
            (layer, decays),
            {
                "params": [],
                "names": [],
                "layer": layer,
                "lr": rate * layer_decay ** (depth + 1 - layer),
                "weight_decay": weight_decay if decays else 0.0,
            },
        )
        group["params"].append(parameter)
        group["names"].append(name)
    return [groups[key] for key in sorted(groups)]


def draw_head(n_outputs: int, n_features: int, *, seed: int) -> Tensor:
    """Draw first weights (C, D) on the CPU, so that devices agree: normal, SD 2e-5, cut at two SD."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.empty(n_outputs, n_features, dtype=torch.float64)
    cut = 2 * INITIAL_DEVIATION
    return torch.nn.init.trunc_normal_(weight, std=INITIAL_DEVIATION, a=-cut, b=cut, generator=generator)
