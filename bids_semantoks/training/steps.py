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
    """Result of one optimiser step; its tensors are still on the device."""

    losses: Losses  # means over the accumulated parts, without gradient
    gradient_norm: Tensor  # before clipping
    is_done: bool  # False where the float16 scaler skipped the step, to be repeated with new data


def build_optimiser(module: TeacherStudent, config: TrainingConfig, *, fused: bool = False) -> torch.optim.AdamW:
    """Build AdamW over all trained parameters, in one group; `train_step` sets learning rate and weight decay."""
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
    """Take one optimiser step on accumulated parts of equal size, and let the teacher follow.

    `wrapped` is a `TeacherStudent`, or DistributedDataParallel around one; each part has its own coding rate. `dtype`
    is that of autocast (None: float32 throughout), `scaler` is for float16. Raises ValueError without parts, or where
    masks and `settings.is_masked` disagree.
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
    """Step and return whether it happened: a float16 overflow skips it, visible only in the scale."""
    if scaler is None:
        optimiser.step()
        return True
    before = scaler.get_scale()
    scaler.step(optimiser)
    scaler.update()
    return scaler.get_scale() >= before


def _no_sync(wrapped: nn.Module, *, is_last: bool) -> AbstractContextManager[None]:
    """Average gradients over ranks once per step, not once per part."""
    if isinstance(wrapped, DistributedDataParallel) and not is_last:
        return wrapped.no_sync()
    return nullcontext()
