"""Self-distillation: a student learns to agree with its teacher, its own moving average.

Legend: B samples, P parcels, W volumes in a view, N networks (rows of tokens), K patches, D width, p projection width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bids_semantoks.config import TrainingConfig
from bids_semantoks.models.encoder import Encoder, ProjectionHead
from bids_semantoks.models.parcels import token_rows
from bids_semantoks.training.batches import StepSettings

AllReduce = Callable[[Tensor], Tensor]


class RateSums(NamedTuple):
    """Sums over samples for one maximal-coding-rate loss; additive over ranks."""

    alignment: Tensor  # over rows, mean cosine between one view's teacher and the other's student
    covariance: Tensor  # (V, p, p) outer products of the means of student and teacher
    n_rows: Tensor  # number of rows used


class TokenSums(NamedTuple):
    """Sums over samples for the loss on masked tokens; additive over ranks."""

    similarity: Tensor  # over views, mean cosine between student and teacher at masked tokens
    n_views: Tensor  # number of views with a masked token that is used


class SpreadSums(NamedTuple):
    """Sums over samples to detect a collapse, without gradient; additive over ranks."""

    total: Tensor  # (p,) projections
    covariance: Tensor  # (p, p) outer products of projections, not centred
    n_rows: Tensor  # projections


def sum_rates(student: Tensor, teacher: Tensor, weights: Tensor | None = None) -> RateSums:
    """Sum unit-length projections (V, R, p) for the coding-rate loss; weights (R,) are 0 for absent rows. Sums are
    float64 under any autocast or TF32 setting: in half precision the coding rate is noise, and in float32 its logarithm
    turns rounding into 1e-6 of the loss. They are small, so this costs next to nothing."""
    with torch.autocast(student.device.type, enabled=False):
        student, teacher = student.double(), teacher.detach().double()
        means = (student + teacher) / 2
        cosines = (teacher * student.flip(0)).sum(dim=-1).mean(dim=0)  # (R,)
        if weights is None:
            n_rows = torch.full((), student.shape[1], dtype=student.dtype, device=student.device)
            return RateSums(cosines.sum(), means.mT @ means, n_rows)
        weights = weights.to(student.dtype)
        covariance = (means * weights[:, None]).mT @ means
        return RateSums((cosines * weights).sum(), covariance, weights.sum())


def compute_rate_loss(sums: RateSums, *, eps: float, rate_weight: float = 1.0) -> Tensor:
    """Compute ``-mean cosine - rate_weight * gamma * R`` of a batch: pull views together, keep samples apart. R is the
    coding rate up to distortion `eps`. Yu et al. (2020), Learning diverse and discriminative representations via the
    principle of maximal coding rate reduction, NeurIPS."""
    with torch.autocast(sums.covariance.device.type, enabled=False):
        n_rows = sums.n_rows.clamp(min=1)
        loss = -sums.alignment / n_rows
        if rate_weight > 0:
            n_columns = sums.covariance.shape[-1]
            gamma = (n_columns + n_rows) / (n_columns * n_rows)
            loss = loss - rate_weight * gamma * compute_coding_rate(sums.covariance, n_rows, eps=eps)
        return loss


def compute_coding_rate(covariance: Tensor, n_rows: Tensor, *, eps: float) -> Tensor:
    """Compute the coding rate in nats, averaged over views: ``1/2 logdet(I + p / (n_rows * eps) * covariance)``.
    `covariance` (V, p, p) sums outer products of uncentred rows over all ranks. Ma et al. (2007), Segmentation of
    multivariate mixed data via lossy data coding and compression, IEEE TPAMI 29(9)."""
    n_columns = covariance.shape[-1]
    identity = torch.eye(n_columns, dtype=covariance.dtype, device=covariance.device)
    # The checked factorisation would wait for the device; failures give NaN, which the loop detects.
    factor, failed = torch.linalg.cholesky_ex(identity + covariance * (n_columns / (n_rows * eps)))
    half_logdets = factor.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)  # of L L^T, half of 2 sum log L_ii
    rate: Tensor = half_logdets.masked_fill(failed != 0, torch.nan).mean()
    return rate


def sum_tokens(student: Tensor, teacher: Tensor, masked: Tensor) -> TokenSums:
    """Sum cosines of unit-length projections (V*B, S, p) at masked tokens (V*B, S); views without any add nothing."""
    with torch.autocast(student.device.type, enabled=False):
        cosines = (student.float() * teacher.detach().float()).sum(dim=-1)  # (V*B, S)
        weights = masked.to(cosines.dtype)
        n_masked = weights.sum(dim=1)
        means = (cosines * weights).sum(dim=1) / n_masked.clamp(min=1)
        return TokenSums(means.double().sum(), (n_masked > 0).double().sum())


def compute_token_loss(sums: TokenSums) -> Tensor:
    """Compute the loss on masked tokens: minus the mean over views of their mean cosine."""
    return -sums.similarity / sums.n_views.clamp(min=1)


def sum_spread(projections: Tensor) -> SpreadSums:
    """Sum unit-length projections (R, p) and their outer products, without gradient."""
    with torch.autocast(projections.device.type, enabled=False):
        rows = projections.detach().double()
        n_rows = torch.full((), len(rows), dtype=rows.dtype, device=rows.device)
        return SpreadSums(rows.sum(dim=0), rows.mT @ rows, n_rows)


def compute_spread(sums: SpreadSums) -> tuple[Tensor, Tensor]:
    """Compute the effective rank of projections and their spread. The rank is the participation ratio ``(sum v)^2 / sum
    v^2`` of the centred covariance's eigenvalues: 1 on a line, p when all directions are filled alike, 0 for a point.
    The spread is the RMS over columns of the standard deviation: 0 after collapse, ``p^-1/2`` over the whole sphere."""
    mean = sums.total / sums.n_rows
    covariance = sums.covariance / sums.n_rows - torch.outer(mean, mean)
    trace = covariance.diagonal().sum().clamp(min=0)
    # Without any spread, rounding leaves about 1e-7 of the uncentred covariance.
    squared = covariance.square().sum().clamp(min=1e-12)
    return trace.square() / squared, (trace / len(mean)).sqrt()


def reduce_sums(parts: Sequence[Tensor], all_reduce: AllReduce | None) -> list[Tensor]:
    """Add up sums of one dtype over ranks in one message; `all_reduce` as in `TeacherStudent`, None for one process."""
    if all_reduce is None:
        return list(parts)
    joined = all_reduce(torch.cat([part.reshape(-1) for part in parts]))
    pieces = torch.split(joined, [part.numel() for part in parts])
    return [piece.view(part.shape) for piece, part in zip(pieces, parts, strict=True)]


class Losses(NamedTuple):
    """Losses of a batch and indicators of collapse: scalars, the same on all ranks."""

    total: Tensor  # sum of the next three; the only one with gradient
    cls: Tensor  # times its weight
    ttr: Tensor  # times its weight; 0 if switched off
    token: Tensor  # times its weight; 0 if switched off
    effective_rank: Tensor  # of the teacher's class-token projections, as in `compute_spread`
    spread: Tensor  # likewise
    cosine: Tensor  # mean between one view's teacher and the other's student, class tokens


class ViewBatch(NamedTuple):
    """Encoder inputs of one batch, or of one accumulated part of it."""

    views: Tensor  # (2B, P, W) float32: all first views, then all second ones
    masks: Tensor | None = None  # (2B, N, K) bool, hidden from the student; None for an unmasked batch
    absent: Tensor | None = None  # (2B, N, K) bool, without data: hidden from both, left out of the losses


class TeacherStudent(nn.Module):
    """Student and teacher, each an encoder with a head; the module to wrap and call for several ranks. The teacher
    starts as a copy of the student. `all_reduce` sums a vector over ranks and, in the backward pass, the gradients of
    all ranks (None: one process); gradients must then be averaged over ranks, as DistributedDataParallel does."""

    def __init__(
        self, student: Encoder, head: ProjectionHead, config: TrainingConfig, *, all_reduce: AllReduce | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.all_reduce = all_reduce
        self.student = student
        self.student_head = head
        self.teacher = copy.deepcopy(student).requires_grad_(False)
        self.teacher_head = copy.deepcopy(head).requires_grad_(False)
        self.n_rows = len(token_rows(student.config, student.layout))
        self.n_patches = student.config.n_patches

    def forward(
        self, views: Tensor, masks: Tensor | None = None, absent: Tensor | None = None, *, ttr_weight: float
    ) -> Losses:
        """Compute the losses of a batch over all ranks; arguments as in `Batch`, `ttr_weight` as in `StepSettings`."""
        hidden = self._hide(views, masks, absent)
        student = self.student(views, hidden)  # (2B, 1 + N*K, D), class token first
        with torch.no_grad():
            teacher = self.teacher(views, absent)
            teacher_cls = self.teacher_head(teacher[:, 0])
        cls = sum_rates(_pair(self.student_head(student[:, 0])), _pair(teacher_cls))
        ttr = self._sum_ttr(student, teacher, absent) if ttr_weight > 0 else None
        token = None
        if masks is not None and self.config.token_weight > 0:
            masked = masks if absent is None else masks & ~absent
            with torch.no_grad():
                wanted = self.teacher_head(teacher[:, 1:])
            token = sum_tokens(self.student_head(student[:, 1:]), wanted, masked.flatten(1))
        return self._join(cls, ttr, token, sum_spread(teacher_cls), ttr_weight=ttr_weight)

    def _hide(self, views: Tensor, masks: Tensor | None, absent: Tensor | None) -> Tensor:
        if masks is not None and absent is not None:
            return masks | absent
        if masks is not None:
            return masks
        if absent is not None:
            return absent
        # An empty mask, not none: the mask token then has a (zero) gradient on all steps and all ranks wait for it.
        return torch.zeros(len(views), self.n_rows, self.n_patches, dtype=torch.bool, device=views.device)

    def _sum_ttr(self, student: Tensor, teacher: Tensor, absent: Tensor | None) -> RateSums:
        student_rows = self.student_head(self._average(student, absent))  # (2B, N, p)
        with torch.no_grad():
            teacher_rows = self.teacher_head(self._average(teacher, absent))
        weights = None
        if absent is not None:
            weights = (~absent).any(dim=2).view(2, -1).all(dim=0)  # (B*N,)
        return sum_rates(_pair(student_rows), _pair(teacher_rows), weights)

    def _average(self, tokens: Tensor, absent: Tensor | None) -> Tensor:
        """Average tokens over the patches that hold data: (2B, N, D)."""
        rows = tokens[:, 1:].reshape(len(tokens), self.n_rows, self.n_patches, -1)  # (2B, N, K, D)
        if absent is None:
            return rows.mean(dim=2)
        weights = (~absent).to(rows.dtype)[..., None]
        mean: Tensor = (rows * weights).sum(dim=2) / weights.sum(dim=2).clamp(min=1)
        return mean

    def _join(
        self, cls: RateSums, ttr: RateSums | None, token: TokenSums | None, spread: SpreadSums, *, ttr_weight: float
    ) -> Losses:
        """Sum over ranks in one message, then weight the parts."""
        config = self.config
        parts: list[Tensor] = [*cls, *spread, *(ttr or ()), *(token or ())]
        parts = reduce_sums(parts, self.all_reduce)
        cls, spread = RateSums(*parts[:3]), SpreadSums(*(part.detach() for part in parts[3:6]))
        zero = cls.n_rows.new_zeros(())
        cls_loss = config.cls_weight * self._rate_loss(cls)
        ttr_loss = zero if ttr is None else ttr_weight * self._rate_loss(RateSums(*parts[6:9]))
        token_loss = zero if token is None else config.token_weight * compute_token_loss(TokenSums(*parts[-2:]))
        effective_rank, width = compute_spread(spread)
        return Losses(
            total=cls_loss + ttr_loss + token_loss,
            cls=cls_loss.detach(),
            ttr=ttr_loss.detach(),
            token=token_loss.detach(),
            effective_rank=effective_rank,
            spread=width,
            cosine=(cls.alignment / cls.n_rows).detach(),
        )

    def _rate_loss(self, sums: RateSums) -> Tensor:
        return compute_rate_loss(sums, eps=self.config.coding_rate_eps, rate_weight=self.config.coding_rate_weight)

    def student_parameters(self) -> Iterator[nn.Parameter]:
        """Yield all trained parameters in a fixed order, encoder first."""
        yield from self.student.parameters()
        yield from self.student_head.parameters()

    @torch.no_grad()
    def update_teacher(self, momentum: float) -> None:
        """Move the teacher towards the student; `momentum` is the share of the teacher that stays."""
        teacher: list[Tensor] = [*self.teacher.parameters(), *self.teacher_head.parameters()]
        student: list[Tensor] = list(self.student_parameters())
        torch._foreach_lerp_(teacher, student, 1.0 - momentum)

    def compile_encoders(self) -> None:
        """Compile encoders and heads in place; parameter names stay, and losses are not compiled."""
        for module in (self.student, self.teacher, self.student_head, self.teacher_head):
            module.compile()


def _pair(projections: Tensor) -> Tensor:
    """Separate the two views: (2B, ..., p) -> (2, rows, p)."""
    return projections.reshape(2, -1, projections.shape[-1])


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
    parts: Sequence[ViewBatch],
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
