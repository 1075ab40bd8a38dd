"""Build encoders and heads with seeded random weights, the same on every machine."""

from __future__ import annotations

import hashlib
import math
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bids_semantoks.config import EncoderConfig, from_json
from bids_semantoks.errors import ConfigurationError
from bids_semantoks.files import parse_json
from bids_semantoks.models.encoder import Block, Encoder, ProjectionHead
from bids_semantoks.models.parcels import NetworkLayout
from bids_semantoks.models.tokenizer import FreeBranch, StructuredBranch, join_scales

ENCODER_NAMES = ("paper", "small", "tiny")
TOKEN_STD = 0.02
HEAD_STD = 0.02
_CHUNK = 2**16


def read_encoder_config(name_or_path: str | Path) -> EncoderConfig:
    """Read an architecture: ``paper``, ``small``, ``tiny``, or a JSON file that overrides defaults of `EncoderConfig`.

    Raises ConfigurationError if the name is unknown or the file unreadable or invalid.
    """
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
    if not isinstance(values, dict):
        raise ConfigurationError(f"encoder configuration {name_or_path} must be a JSON object, found {values!r}.")
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
    """A separate stream of initial values for each tensor, made from a generator's raw bits.

    Only raw bits are guaranteed across versions and machines; torch's generators differ between processors.
    """

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
