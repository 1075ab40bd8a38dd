"""One optimiser step of self-distillation, accumulated over parts of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bids_semantoks.config import TrainingConfig
from bids_semantoks.training.distill import Batch, Losses, TeacherStudent
from bids_semantoks.training.schedules import StepSettings


class StepReport(NamedTuple):
    """What one optimiser step did.

    Parameters
    ----------
    losses : Losses
        Means over the accumulated parts, without gradient, still on the device.
    gradient_norm : Tensor, scalar
        Before clipping.
    is_done : bool
        False when the scaler of float16 gradients skipped the step: the same step is to be tried again.
    """

    losses: Losses
    gradient_norm: Tensor
    is_done: bool


def build_optimiser(module: TeacherStudent, config: TrainingConfig, *, fused: bool = False) -> torch.optim.AdamW:
    """Build AdamW over all trained parameters, all with the same weight decay.

    Parameters
    ----------
    module : TeacherStudent
        On the device where it will be trained.
    config : TrainingConfig
        Betas and eps.
    fused : bool
        Whether to update all parameters in one kernel.

    Returns
    -------
    torch.optim.AdamW
        Learning rate and weight decay are set at each step, from `StepSettings`.
    """
    return torch.optim.AdamW(
        module.student_parameters(), lr=0.0, betas=config.betas, eps=config.adam_eps, weight_decay=0.0, fused=fused
    )


def train_step(
    wrapped: nn.Module,
    optimiser: torch.optim.Optimizer,
    parts: Sequence[Batch],
    settings: StepSettings,
    *,
    dtype: torch.dtype | None = None,
    scaler: torch.amp.GradScaler | None = None,
) -> StepReport:
    """Take one optimiser step and let the teacher follow.

    Parameters
    ----------
    wrapped : nn.Module
        A `TeacherStudent`, or DistributedDataParallel around one.
    optimiser : torch.optim.Optimizer
        As `build_optimiser` gives it.
    parts : sequence of Batch
        Accumulated parts of equal size; each has a coding rate of its own.
    settings : StepSettings
        Numbers of this step.
    dtype : torch.dtype, optional
        Type of matrix products under autocast; None for float32 without autocast.
    scaler : torch.amp.GradScaler, optional
        For float16.

    Returns
    -------
    StepReport
        Losses and gradient norm; reading them waits for the device.

    Raises
    ------
    ValueError
        When there is no part, or masks are there though the step has none or the other way round.
    """
    if not parts or any((part.masks is not None) != settings.is_masked for part in parts):
        raise ValueError(f"found {len(parts)} parts whose masks do not fit a step with is_masked {settings.is_masked}")
    module = wrapped.module if isinstance(wrapped, DistributedDataParallel) else wrapped
    assert isinstance(module, TeacherStudent)
    for group in optimiser.param_groups:
        group["weight_decay"], group["lr"] = settings.weight_decay, settings.learning_rate
    optimiser.zero_grad(set_to_none=True)
    found = []
    for number, part in enumerate(parts):
        device = part.views.device.type
        with _no_sync(wrapped, is_last=number == len(parts) - 1):
            with torch.autocast(device, dtype=dtype, enabled=dtype is not None):
                losses = wrapped(*part, ttr_weight=settings.ttr_weight)
            loss = losses.total / len(parts)
            (loss if scaler is None else scaler.scale(loss)).backward()
        found.append(torch.stack([value.detach() for value in losses]))
    if scaler is not None:
        scaler.unscale_(optimiser)
    parameters = list(module.student_parameters())
    gradient_norm = nn.utils.clip_grad_norm_(parameters, module.config.clip)
    is_done = _step(optimiser, scaler)
    if is_done:
        module.update_teacher(settings.momentum)
    return StepReport(Losses(*torch.stack(found).mean(dim=0).unbind()), gradient_norm, is_done)


def _step(optimiser: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None) -> bool:
    """Step, and tell whether it happened: with float16 an overflow skips it, and only the scale tells."""
    if scaler is None:
        optimiser.step()
        return True
    before = scaler.get_scale()
    scaler.step(optimiser)
    scaler.update()
    return scaler.get_scale() >= before


def _no_sync(wrapped: nn.Module, *, is_last: bool) -> AbstractContextManager[None]:
    """Average gradients over ranks once a step, not once a part."""
    if isinstance(wrapped, DistributedDataParallel) and not is_last:
        return wrapped.no_sync()
    return nullcontext()
