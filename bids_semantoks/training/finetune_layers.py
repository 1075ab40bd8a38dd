"""The fine-tuned model, and the learning rate and weight decay of each of its parameters.

Legend: B windows, P parcels, N networks (rows of tokens), K patches, W volumes in a window, D width, C outputs.
"""

from __future__ import annotations

import copy
from typing import Any, Final

import torch
from torch import Tensor, nn

from bids_semantoks.models.encoder import Encoder, pool_tokens

_EMBEDDINGS: Final = ("class_token", "mask_token", "network_positions")
INITIAL_DEVIATION = 2e-5


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
        vectors = self.head_norm(pool_tokens(self.encoder(x, mask).tokens, self.pooling))
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
