"""Encoders as models of the Brainmarks benchmark (Lane et al., arXiv 2510.13768), one for each readout.

They see the windows that the command line cuts, with the same masks for padding and for networks without a signal.
Legend: T volumes, P parcels, B samples, W windows of a run, V volumes of a window, D width, N networks, K patches.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bids_semantoks.atlases.label_tables import load_seventeen
from bids_semantoks.config import EmbeddingConfig
from bids_semantoks.embedding import RunEncoder, build_run_encoder, cut_windows
from bids_semantoks.errors import InputError
from bids_semantoks.models.frozen import POOLINGS
from bids_semantoks.models.parcels import default_layout
from bids_semantoks.records import Bools, Floats, Indices, Windows
from bids_semantoks.statistics.series import weigh_windows

#: Spaces of the benchmark with a known parcel order: all parcels of the published encoder, or its cortex only.
SPACES: Final = ("schaefer400_tians3_buckner7", "schaefer400")

#: Names the encoder where the benchmark is given none, as its own test does.
MODEL_VARIABLE: Final = "BIDS_SEMANTOKS_MODEL"

Sample = Mapping[str, Any]


def register(register_model: Callable[[str], Callable[..., Any]] | None = None) -> tuple[str, ...]:
    """Register one model for each readout, and return their names: ``bids_semantoks_cls_avg``, ``..._networks``, ...
    `register_model` is that of ``brainmarks.models.registry`` unless given. The benchmark passes ``model_kwargs`` on to
    `build_model`."""
    if register_model is None:
        register_model = importlib.import_module("brainmarks.models.registry").register_model
    names = {f"bids_semantoks_{pooling}": pooling for pooling in POOLINGS}
    for name, pooling in names.items():
        register_model(name)(partial(build_model, pooling=pooling))
    return tuple(names)


def build_model(
    *, model: str = "", pooling: str = "cls_avg", space: str = SPACES[0], random_seed: int = 0, **settings: Any
) -> tuple[WindowTransform, EncoderModel]:
    """Build the transform and the model of an encoder: `model` as --model, by default that of the environment variable
    BIDS_SEMANTOKS_MODEL or else the published one; `settings` are fields of `EmbeddingConfig`. Raises InputError for
    another space than `SPACES`, ModelError as `build_run_encoder`."""
    asked = model or os.environ.get(MODEL_VARIABLE) or EmbeddingConfig().model
    config = EmbeddingConfig(model=asked, pooling=(pooling,), **{"device": "cpu", **settings})
    encoder = build_run_encoder(config, *find_parcels(space), seed=random_seed)
    return WindowTransform(encoder), EncoderModel(encoder, space)


def find_parcels(space: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Find the names and networks (P,) of the columns of a space of the benchmark; InputError for an unknown one."""
    layout = default_layout()
    networks = dict(
        zip(layout.parcels or (), (layout.network_names[number] for number in layout.networks), strict=True)
    )
    if space == SPACES[0]:
        return tuple(networks), tuple(networks.values())
    if space == SPACES[1]:
        # Its parcels are numbered in the 17-network order.
        parcels = load_seventeen()
        return parcels, tuple(networks[name] for name in parcels)
    raise InputError(f"The parcel order of space {space!r} is unknown.", hint=f"Use {' or '.join(SPACES)}.")


class WindowTransform:
    """Cuts the windows of one sample; a sample has ``bold`` (T, P), each parcel in its own units, and ``tr`` (s)."""

    def __init__(self, encoder: RunEncoder) -> None:
        self.encoder = encoder

    def __call__(self, sample: Sample) -> dict[str, Any]:
        """Replace the series by ``windows`` (W, V, P), ``n_real`` and ``weight`` (W,), and ``present`` (P,). A short
        run has fewer different windows than others; the last is repeated with weight 0, so that samples stack."""
        n_windows, signals = self.encoder.config.n_windows, np.asarray(sample["bold"], dtype=np.float64)
        found = cut_windows(signals, self.encoder, repetition_time=float(sample["tr"]), n_dummy=0)
        weights = np.zeros(n_windows)
        weights[: len(found.kept)] = weigh_windows(found.kept, self.encoder.config.min_kept)
        which = np.minimum(np.arange(n_windows), len(found.kept) - 1)
        made = {
            "windows": torch.from_numpy(found.values[which]),
            "n_real": torch.from_numpy(found.n_real[which]),
            "weight": torch.from_numpy(weights),
            "present": torch.from_numpy(found.present),
        }
        return {name: value for name, value in sample.items() if name not in ("bold", "mean", "std")} | made


class EncoderModel(nn.Module):
    """A frozen encoder that gives the benchmark its readout as ``cls`` (B, 1, dims) and, as ``patch``, the tokens (B,
    N*K, D), both averaged over windows; there are no registers."""

    def __init__(self, encoder: RunEncoder, space: str) -> None:
        super().__init__()
        self.__space__ = space
        self.encoder, self.network = encoder, encoder.loaded.encoder

    def forward(self, batch: Sample) -> tuple[Tensor, None, Tensor]:
        """Encode a batch of samples from `WindowTransform`, always in the encoder's own precision."""
        device = next(self.network.parameters()).device
        self.encoder.frozen.device = device
        samples = zip(*(batch[name].cpu().numpy() for name in ("windows", "n_real", "weight", "present")), strict=True)
        with torch.autocast(device.type, enabled=False):
            found = [self._encode(*sample) for sample in samples]
        pooled, tokens = (torch.from_numpy(np.stack(part)).to(device) for part in zip(*found, strict=True))
        return pooled[:, None], None, tokens

    def _encode(
        self, values: NDArray[np.float32], n_real: Indices, weights: Floats, present: Bools
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Encode the windows of one sample that count: their mean (dims,) and that of their tokens (N*K, D)."""
        some = weights > 0
        count = int(some.sum())
        windows = Windows(
            values=values[some],
            n_real=n_real[some],
            present=present,
            onset=np.zeros(count),
            duration=0.0,
            kept=np.ones(count),
        )
        embedding = self.encoder.frozen.encode(windows, with_tokens=True)
        assert embedding.tokens is not None
        pooled = weights[some] @ embedding.vectors
        tokens = np.tensordot(weights[some], embedding.tokens[:, 1:], axes=1)
        return pooled.astype(np.float32), tokens.astype(np.float32)
