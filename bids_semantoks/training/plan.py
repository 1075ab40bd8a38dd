"""Settings of a training, fixed before its first step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bids_semantoks.config import TrainingConfig


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainingPlan:
    """How to train."""

    recipe: TrainingConfig  # with the chosen batch size
    settings: Mapping[str, Any]  # plain values that must agree when a training is resumed
    checkpoints: Path  # directory
    seed: int = 0
    precision: str = "auto"  # ``auto``, ``fp32``, ``bf16`` or ``fp16``, see `choose_precision`
    n_slices: int = 1  # parts of a batch that each process accumulates
    max_seconds: float = math.inf  # of the call, after which it saves and stops
    checkpoint_every: int | None = None  # epochs; None: at the end of an epoch, once two minutes have passed


def choose_precision(precision: str, device: torch.device) -> str:
    """Resolve ``auto`` to bf16 on CUDA, else fp32; keep any other precision."""
    if precision != "auto":
        return precision
    return "bf16" if device.type == "cuda" else "fp32"
