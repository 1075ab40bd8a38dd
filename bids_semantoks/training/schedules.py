"""Schedules of a training: arrays over all steps that can be inspected before anything runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.config import TrainingConfig

REFERENCE_BATCH = 256


class StepSettings(NamedTuple):
    """Settings of one step."""

    learning_rate: float
    weight_decay: float
    momentum: float  # of the teacher's moving average, after the optimiser's step
    ttr_weight: float  # of the regulariser on time-averaged network tokens
    is_masked: bool  # whether the student sees masked views


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Schedules:
    """Settings of all steps: arrays of shape (n_steps,), named as in `StepSettings`."""

    learning_rate: NDArray[np.float64]
    weight_decay: NDArray[np.float64]
    momentum: NDArray[np.float64]
    ttr_weight: NDArray[np.float64]
    is_masked: NDArray[np.bool_]

    @property
    def n_steps(self) -> int:
        """Optimiser steps of the whole training."""
        return len(self.learning_rate)

    def at(self, step: int) -> StepSettings:
        """Return the settings of one step, counted from 0."""
        return StepSettings(
            learning_rate=float(self.learning_rate[step]),
            weight_decay=float(self.weight_decay[step]),
            momentum=float(self.momentum[step]),
            ttr_weight=float(self.ttr_weight[step]),
            is_masked=bool(self.is_masked[step]),
        )


def build_schedules(config: TrainingConfig, *, steps_per_epoch: int, batch_size: int, seed: int) -> Schedules:
    """Build the schedules of a recipe; the rate scales with `batch_size`, a step's participants over all ranks.

    Steps are optimiser steps: several accumulated parts make one. All ranks must pass the same `seed`, which draws the
    masked batches. Raises ValueError unless there are steps and participants.
    """
    if steps_per_epoch < 1 or batch_size < 1:
        raise ValueError(f"found {steps_per_epoch} steps per epoch and a batch of {batch_size}")
    n_steps = config.epochs * steps_per_epoch
    return Schedules(
        learning_rate=compute_learning_rates(
            n_steps,
            n_warmup=round(config.warmup_epochs * steps_per_epoch),
            peak=config.learning_rate * batch_size / REFERENCE_BATCH,
        ),
        weight_decay=compute_half_cosine(n_steps, *config.weight_decay),
        momentum=compute_half_cosine(n_steps, *config.momentum),
        ttr_weight=compute_ttr_weights(n_steps, n_active=round(config.ttr_share * n_steps), first=config.ttr_weight),
        is_masked=np.random.default_rng(seed).random(n_steps) < config.masked_batches,
    )


def compute_learning_rates(n_steps: int, *, n_warmup: int, peak: float) -> NDArray[np.float64]:
    """Compute learning rates: linear from 0 to the peak (`n_warmup` at most half of all), then half a cosine to 0."""
    n_warmup = min(n_warmup, n_steps // 2)
    steps = np.arange(n_steps, dtype=np.float64)
    progress = (steps - n_warmup) / (n_steps - n_warmup)
    return peak * np.where(steps < n_warmup, steps / max(1, n_warmup), _half_cosine(progress))


def compute_half_cosine(n_steps: int, first: float, last: float) -> NDArray[np.float64]:
    """Go from the first value at step 0 to the last at step `n_steps` along half a cosine."""
    return last + (first - last) * _half_cosine(np.arange(n_steps) / n_steps)


def compute_ttr_weights(n_steps: int, *, n_active: int, first: float) -> NDArray[np.float64]:
    """Compute weights of the regulariser on time-averaged tokens: half a cosine over `n_active` steps, then 0."""
    steps = np.arange(n_steps)
    return np.where(steps < n_active, first * _half_cosine(steps / max(1, n_active)), 0.0)


def _half_cosine(progress: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fall from 1 at progress 0 to 0 at progress 1."""
    return np.asarray((1.0 + np.cos(np.pi * progress)) / 2.0)
