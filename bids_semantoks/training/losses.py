"""Losses of self-distillation, in two halves: sums over the samples at hand, then the loss from the sums.

Legend: V views of a sample (2), R rows (samples, or samples x networks), p columns of a projection, S tokens of a view,
B samples, G ranks.

Between the halves the sums of all ranks are added up, with gradient. Whatever way a batch is spread, each rank then
holds the loss of the whole batch; averaging the gradients of the ranks, as distributed training does, gives its
gradient.
The sums over samples are float64, whatever autocast or TF32 say: in half precision the coding rate is noise, and in
float32 its logarithm turns rounding into 1e-6 of the loss. They are small, so this costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

AllReduce = Callable[[Tensor], Tensor]


class RateSums(NamedTuple):
    """What one maximal-coding-rate loss needs of the samples; all of it adds up over ranks.

    Parameters
    ----------
    alignment : Tensor, scalar
        Sum over rows of the mean cosine between one view's teacher and the other's student.
    covariance : Tensor, shape (V, p, p)
        Of the means of student and teacher, each view's sum of outer products.
    n_rows : Tensor, scalar
        Rows that count.
    """

    alignment: Tensor
    covariance: Tensor
    n_rows: Tensor


class TokenSums(NamedTuple):
    """What the loss on masked tokens needs of the samples; all of it adds up over ranks.

    Parameters
    ----------
    similarity : Tensor, scalar
        Sum over views of the mean cosine between student and teacher at masked tokens.
    n_views : Tensor, scalar
        Views with a masked token that counts.
    """

    similarity: Tensor
    n_views: Tensor


class SpreadSums(NamedTuple):
    """What the watch over collapse needs of the samples, without gradient; all of it adds up over ranks.

    Parameters
    ----------
    total : Tensor, shape (p,)
        Sum of projections.
    covariance : Tensor, shape (p, p)
        Sum of their outer products.
    n_rows : Tensor, scalar
        Projections.
    """

    total: Tensor
    covariance: Tensor
    n_rows: Tensor


def sum_rates(student: Tensor, teacher: Tensor, weights: Tensor | None = None) -> RateSums:
    """Sum what the maximal-coding-rate loss needs.

    Parameters
    ----------
    student, teacher : Tensor, shape (V, R, p)
        Projections of length 1 of both views; the teacher's carry no gradient.
    weights : Tensor, shape (R,), optional
        1 for rows that count and 0 for absent ones.

    Returns
    -------
    RateSums
        Sums over the rows that count.
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
    """Compute the maximal-coding-rate loss of a batch: pull views together, keep samples apart.

    Parameters
    ----------
    sums : RateSums
        Summed over the whole batch.
    eps : float
        Distortion of the coding rate.
    rate_weight : float
        Factor of the coding rate; 0 leaves it out.

    Returns
    -------
    Tensor, scalar
        ``-mean cosine - gamma * R``.

    References
    ----------
    Yu et al. (2020), Learning diverse and discriminative representations via the principle of maximal coding rate
    reduction. NeurIPS.
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
    """Compute how many nats it takes to code projections up to a distortion, without the factor gamma.

    Parameters
    ----------
    covariance : Tensor, shape (V, p, p)
        Sums of outer products of the rows, not centred, over all ranks.
    n_rows : Tensor, scalar
        Rows of each view, over all ranks.
    eps : float
        Distortion.

    Returns
    -------
    Tensor, scalar
        Mean over views of ``1/2 logdet(I + p / (n_rows * eps) * covariance)``.

    References
    ----------
    Ma et al. (2007), Segmentation of multivariate mixed data via lossy data coding and compression. IEEE TPAMI 29(9).
    """
    n_columns = covariance.shape[-1]
    identity = torch.eye(n_columns, dtype=covariance.dtype, device=covariance.device)
    # The checked factorisation would wait for the device; what cannot be factorised gives NaN, which the loop sees.
    factor, failed = torch.linalg.cholesky_ex(identity + covariance * (n_columns / (n_rows * eps)))
    half_logdets = factor.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)  # of L L^T, half of 2 sum log L_ii
    rate: Tensor = half_logdets.masked_fill(failed != 0, torch.nan).mean()
    return rate


def sum_tokens(student: Tensor, teacher: Tensor, masked: Tensor) -> TokenSums:
    """Sum what the loss on masked tokens needs.

    Parameters
    ----------
    student, teacher : Tensor, shape (V*B, S, p)
        Projections of length 1 of all tokens but the class token; the teacher's carry no gradient.
    masked : Tensor, bool, shape (V*B, S)
        Tokens that the student did not see but the teacher did.

    Returns
    -------
    TokenSums
        Sums over views; a view without such a token counts for nothing.
    """
    with torch.autocast(student.device.type, enabled=False):
        cosines = (student.float() * teacher.detach().float()).sum(dim=-1)  # (V*B, S)
        weights = masked.to(cosines.dtype)
        n_masked = weights.sum(dim=1)
        means = (cosines * weights).sum(dim=1) / n_masked.clamp(min=1)
        return TokenSums(means.double().sum(), (n_masked > 0).double().sum())


def compute_token_loss(sums: TokenSums) -> Tensor:
    """Compute the loss on masked tokens of a batch.

    Parameters
    ----------
    sums : TokenSums
        Summed over the whole batch.

    Returns
    -------
    Tensor, scalar
        Minus the mean over views of their mean cosine.
    """
    return -sums.similarity / sums.n_views.clamp(min=1)


def sum_spread(projections: Tensor) -> SpreadSums:
    """Sum what the watch over collapse needs.

    Parameters
    ----------
    projections : Tensor, shape (R, p)
        Projections of length 1.

    Returns
    -------
    SpreadSums
        Sums over rows, without gradient.
    """
    with torch.autocast(projections.device.type, enabled=False):
        rows = projections.detach().double()
        n_rows = torch.full((), len(rows), dtype=rows.dtype, device=rows.device)
        return SpreadSums(rows.sum(dim=0), rows.mT @ rows, n_rows)


def compute_spread(sums: SpreadSums) -> tuple[Tensor, Tensor]:
    """Compute how many directions projections fill, and how far they lie apart.

    Parameters
    ----------
    sums : SpreadSums
        Summed over the whole batch.

    Returns
    -------
    effective_rank : Tensor, scalar
        Participation ratio of the eigenvalues of the centred covariance, ``(sum v)^2 / sum v^2``: 1 when all lie on
        a line, p when they fill all directions alike, 0 when they are one point. It needs no eigenvalues.
    spread : Tensor, scalar
        Root mean square over columns of the standard deviation: 0 after collapse, ``p^-1/2`` when projections are
        spread over the whole sphere.
    """
    mean = sums.total / sums.n_rows
    covariance = sums.covariance / sums.n_rows - torch.outer(mean, mean)
    trace = covariance.diagonal().sum().clamp(min=0)
    # Rounding leaves about 1e-7 of the uncentred covariance where there is no spread at all.
    squared = covariance.square().sum().clamp(min=1e-12)
    return trace.square() / squared, (trace / len(mean)).sqrt()


def reduce_sums(parts: Sequence[Tensor], all_reduce: AllReduce | None) -> list[Tensor]:
    """Add up sums over ranks, in one message.

    Parameters
    ----------
    parts : sequence of Tensor
        Sums of this rank, of one type.
    all_reduce : callable or None
        Adds a vector up over ranks, and in the backward pass the gradients of all ranks too; None for one process.

    Returns
    -------
    list of Tensor
        Sums of all ranks, shaped as `parts`.
    """
    if all_reduce is None:
        return list(parts)
    joined = all_reduce(torch.cat([part.reshape(-1) for part in parts]))
    pieces = torch.split(joined, [part.numel() for part in parts])
    return [piece.view(part.shape) for piece, part in zip(pieces, parts, strict=True)]
