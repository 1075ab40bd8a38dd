"""Losses of self-distillation in two halves: sums over samples, which add up over ranks, then the loss from the sums.

Legend: V views of a sample (2), R rows (samples, or samples x networks), p projection columns, S tokens, B samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

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
    """Sum unit-length projections (V, R, p) for the coding-rate loss; weights (R,) are 0 for absent rows.

    Sums are float64 under any autocast or TF32 setting: in half precision the coding rate is noise, and in float32 its
    logarithm turns rounding into 1e-6 of the loss. They are small, so this costs next to nothing.
    """
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
    """Compute ``-mean cosine - rate_weight * gamma * R`` of a batch: pull views together, keep samples apart.

    R is the coding rate up to distortion `eps`. Yu et al. (2020), Learning diverse and discriminative representations
    via the principle of maximal coding rate reduction, NeurIPS.
    """
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
    multivariate mixed data via lossy data coding and compression, IEEE TPAMI 29(9).
    """
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
    """Compute the effective rank of projections and their spread.

    The rank is the participation ratio ``(sum v)^2 / sum v^2`` of the centred covariance's eigenvalues: 1 on a line, p
    when all directions are filled alike, 0 for a point. The spread is the RMS over columns of the standard deviation: 0
    after collapse, ``p^-1/2`` over the whole sphere.
    """
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
