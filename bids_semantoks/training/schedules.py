"""What changes from step to step of a training: arrays that can be looked at before anything runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.config import TrainingConfig

REFERENCE_BATCH = 256


class StepSettings(NamedTuple):
    """Numbers of one step.

    Parameters
    ----------
    learning_rate, weight_decay : float
        Of the optimiser.
    momentum : float
        Of the teacher's moving average, after the optimiser's step.
    ttr_weight : float
        Of the regulariser on time-averaged network tokens.
    is_masked : bool
        Whether the student sees masked views.
    """

    learning_rate: float
    weight_decay: float
    momentum: float
    ttr_weight: float
    is_masked: bool


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Schedules:
    """Numbers of all steps.

    Parameters
    ----------
    learning_rate, weight_decay, momentum, ttr_weight : NDArray, float64, shape (n_steps,)
        As in `StepSettings`.
    is_masked : NDArray, bool, shape (n_steps,)
        As in `StepSettings`.
    """

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
        """Numbers of one step.

        Parameters
        ----------
        step : int
            Optimiser steps done before.

        Returns
        -------
        StepSettings
            Plain Python values.
        """
        return StepSettings(
            learning_rate=float(self.learning_rate[step]),
            weight_decay=float(self.weight_decay[step]),
            momentum=float(self.momentum[step]),
            ttr_weight=float(self.ttr_weight[step]),
            is_masked=bool(self.is_masked[step]),
        )


def build_schedules(config: TrainingConfig, *, steps_per_epoch: int, batch_size: int, seed: int) -> Schedules:
    """Lay out all steps of a training.

    Parameters
    ----------
    config : TrainingConfig
        Recipe.
    steps_per_epoch : int
        Optimiser steps in an epoch, not batches: with accumulation several batches make a step.
    batch_size : int
        Participants in a step, over all ranks and accumulated parts.
    seed : int
        Of the coins that choose masked batches; all ranks must give the same.

    Returns
    -------
    Schedules
        Arrays over all steps.

    Raises
    ------
    ValueError
        When there is no step or nobody in one.
    """
    if steps_per_epoch < 1 or batch_size < 1:
        raise ValueError(f"found {steps_per_epoch} steps an epoch and a batch of {batch_size}")
    n_steps = config.epochs * steps_per_epoch
    return Schedules(
        learning_rate=compute_learning_rates(
            n_steps,
            n_warmup=round(config.warmup_epochs * steps_per_epoch),
            peak=config.learning_rate * batch_size / REFERENCE_BATCH,
        ),
        weight_decay=compute_weight_decays(n_steps, *config.weight_decay),
        momentum=compute_momenta(n_steps, *config.momentum),
        ttr_weight=compute_ttr_weights(n_steps, n_active=round(config.ttr_share * n_steps), first=config.ttr_weight),
        is_masked=np.random.default_rng(seed).random(n_steps) < config.masked_batches,
    )


def compute_learning_rates(n_steps: int, *, n_warmup: int, peak: float) -> NDArray[np.float64]:
    """Learning rates: a line from 0 up to the peak, then half a cosine down to 0.

    Parameters
    ----------
    n_steps : int
        Steps of the training.
    n_warmup : int
        Steps of the line, at most half of all.
    peak : float
        Largest rate.

    Returns
    -------
    NDArray, float64, shape (n_steps,)
        The first step has rate 0.
    """
    n_warmup = min(n_warmup, n_steps // 2)
    steps = np.arange(n_steps, dtype=np.float64)
    progress = (steps - n_warmup) / (n_steps - n_warmup)
    return peak * np.where(steps < n_warmup, steps / max(1, n_warmup), _half_cosine(progress))


def compute_weight_decays(n_steps: int, first: float, last: float) -> NDArray[np.float64]:
    """Weight decays: half a cosine from the first to the last.

    Parameters
    ----------
    n_steps : int
        Steps of the training.
    first, last : float
        Weight decay at step 0 and at step `n_steps`.

    Returns
    -------
    NDArray, float64, shape (n_steps,)
        One for each step.
    """
    return last + (first - last) * _half_cosine(np.arange(n_steps) / n_steps)


def compute_momenta(n_steps: int, first: float, last: float) -> NDArray[np.float64]:
    """Momenta of the teacher's moving average: half a cosine from the first to the last.

    Parameters
    ----------
    n_steps : int
        Steps of the training.
    first, last : float
        Momentum at step 0 and at step `n_steps`.

    Returns
    -------
    NDArray, float64, shape (n_steps,)
        One for each step.
    """
    return last - (last - first) * _half_cosine(np.arange(n_steps) / n_steps)


def compute_ttr_weights(n_steps: int, *, n_active: int, first: float) -> NDArray[np.float64]:
    """Weights of the regulariser on time-averaged tokens: half a cosine down to 0, where they stay.

    Parameters
    ----------
    n_steps : int
        Steps of the training.
    n_active : int
        Steps after which the weight is 0.
    first : float
        Weight at step 0.

    Returns
    -------
    NDArray, float64, shape (n_steps,)
        One for each step.
    """
    steps = np.arange(n_steps)
    return np.where(steps < n_active, first * _half_cosine(steps / max(1, n_active)), 0.0)


def _half_cosine(progress: NDArray[np.float64]) -> NDArray[np.float64]:
    """From 1 at 0 to 0 at 1."""
    return np.asarray((1.0 + np.cos(np.pi * progress)) / 2.0)
