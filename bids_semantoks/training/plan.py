"""How to train, decided before the first step."""

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
    """How to train.

    Parameters
    ----------
    recipe : TrainingConfig
        With the batch size that was chosen.
    settings : mapping
        All that must agree when a training goes on, as plain values.
    checkpoints : Path
        Directory of the checkpoints.
    seed : int
        Seed of everything random.
    precision : str
        ``auto`` (bf16 on CUDA, else fp32), ``fp32``, ``bf16`` or ``fp16``.
    n_slices : int
        Parts of a batch that each process takes one after the other.
    max_seconds : float
        Save and stop when the call has taken this time.
    checkpoint_every : int or None
        Epochs between checkpoints; None for the end of an epoch when two minutes have passed.
    """

    recipe: TrainingConfig
    settings: Mapping[str, Any]
    checkpoints: Path
    seed: int = 0
    precision: str = "auto"
    n_slices: int = 1
    max_seconds: float = math.inf
    checkpoint_every: int | None = None


def choose_precision(precision: str, device: torch.device) -> str:
    """Choose the arithmetic of the training.

    Parameters
    ----------
    precision : str
        ``auto``, ``fp32``, ``bf16`` or ``fp16``.
    device : torch.device
        Where it runs.

    Returns
    -------
    str
        What ``auto`` stands for: bf16 on CUDA, else fp32.
    """
    if precision != "auto":
        return precision
    return "bf16" if device.type == "cuda" else "fp32"
