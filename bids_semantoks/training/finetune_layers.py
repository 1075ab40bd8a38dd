"""What is fine-tuned: an encoder with a head, and the learning rate and weight decay of each of its parameters.

Legend: B windows, P parcels, N networks (rows of tokens), K patches, W volumes in a window, D width, C outputs.
"""

from __future__ import annotations

import copy
from typing import Any, Final

import torch
from torch import Tensor, nn

from bids_semantoks.models.transformer import Encoder
from bids_semantoks.training.probe_heads import draw_head

_EMBEDDINGS: Final = ("class_token", "mask_token", "network_positions")


class TunedEncoder(nn.Module):
    """An encoder with BatchNorm and a linear layer on its embedding.

    Parameters
    ----------
    encoder : Encoder
        Copied: nothing that is done to this module reaches it.
    n_outputs : int
        Classes, or 1 (C).
    pooling : str
        ``cls_avg`` (mean of tokens, then class token), ``cls`` or ``avg``.
    seed : int
        Of the head's first weights.
    """

    def __init__(self, encoder: Encoder, n_outputs: int, *, pooling: str, seed: int) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder)
        self.encoder.requires_grad_(True)
        self.parts = ("avg", "cls") if pooling == "cls_avg" else (pooling,)
        n_features = len(self.parts) * encoder.config.width
        self.head_norm = nn.BatchNorm1d(n_features)
        self.head_weight = nn.Parameter(draw_head(n_outputs, n_features, seed=seed).float())
        self.head_bias = nn.Parameter(torch.zeros(n_outputs))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Predict from windows.

        Parameters
        ----------
        x : Tensor, shape (B, P, W)
            Windows, parcels in the encoder's order.
        mask : Tensor, bool, shape (B, N, K), optional
            True where a token holds no data.

        Returns
        -------
        Tensor, shape (B, C)
            Logits or values.
        """
        tokens = self.encoder(x, mask).tokens  # (B, 1 + N*K, D)
        parts = {"avg": tokens[:, 1:].mean(dim=1), "cls": tokens[:, 0]}
        vectors = self.head_norm(torch.cat([parts[part] for part in self.parts], dim=1))
        return nn.functional.linear(vectors, self.head_weight, self.head_bias)


def find_layer(name: str, depth: int) -> int:
    """Number the layer that a parameter belongs to, from the input to the output.

    Parameters
    ----------
    name : str
        Of a parameter of a `TunedEncoder`.
    depth : int
        Transformer blocks.

    Returns
    -------
    int
        0 for embeddings, 1 for tokenizers, i + 2 for block i, depth + 1 for the final norm and the head.
    """
    place = name.removeprefix("encoder.")
    if place == name or place.startswith("norm."):
        return depth + 1
    if place in _EMBEDDINGS:
        return 0
    if place.startswith("tokenizer."):
        return 1
    return int(place.split(".")[1]) + 2


def is_decayed(name: str) -> bool:
    """Tell whether weight decay acts on a parameter.

    Parameters
    ----------
    name : str
        Of a parameter of a `TunedEncoder`.

    Returns
    -------
    bool
        False for biases, norms and LayerScale.
    """
    owner, _, last = name.rpartition(".")
    is_norm = owner.rpartition(".")[2].endswith("norm")
    is_scale = last in ("attention_scale", "mlp_scale")
    return not (is_norm or is_scale or last in ("bias", "head_bias"))


def build_parameter_groups(
    model: TunedEncoder, *, rate: float, layer_decay: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Collect the parameters that share a learning rate and a weight decay.

    Parameters
    ----------
    model : TunedEncoder
        What is to be trained.
    rate : float
        Learning rate of the last layer.
    layer_decay : float
        A layer's rate is this factor of that of the layer behind it: the rate of layer l is
        ``rate * layer_decay^(depth + 1 - l)``.
    weight_decay : float
        Of parameters that are no bias, norm or LayerScale.

    Returns
    -------
    list of dict
        As optimisers take them, with ``layer`` and ``names`` besides; ``lr`` is the largest of the schedule.
    """
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
