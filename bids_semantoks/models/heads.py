"""The projection head, used in training only."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bids_semantoks.config import EncoderConfig


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
