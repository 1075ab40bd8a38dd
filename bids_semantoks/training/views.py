"""Draws augmented windows of runs, a whole batch at a time, on the device of the batch.

Legend: B runs in a batch, P parcels, T volumes of the longest run, W volumes in a view.

What is not data stays zero from beginning to end: padding behind a short run and parcels that a run lacks get neither
a share of the zeroed block nor noise, since an encoder in use sees exact zeros there. For a full run without absent
parcels every step acts on everything.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Augmentation(NamedTuple):
    """Strength of one level of augmentation.

    Parameters
    ----------
    parcels : tuple of float
        Range of the share of parcels set to zero.
    time : tuple of float
        Range of the share of volumes set to zero, as one block.
    noise : float
        Standard deviation of the added noise; signals have 1.
    scale : tuple of float
        Range of the factor of a view.
    """

    parcels: tuple[float, float]
    time: tuple[float, float]
    noise: float
    scale: tuple[float, float]


LEVELS = (
    Augmentation((0.0, 0.0), (0.0, 0.0), 0.0, (1.0, 1.0)),
    Augmentation((0.0, 0.1), (0.0, 0.3), 0.1, (0.8, 1.2)),
    Augmentation((0.1, 0.3), (0.2, 0.4), 0.2, (0.6, 1.4)),
    Augmentation((0.25, 0.5), (0.3, 0.6), 0.4, (0.4, 1.6)),
)


def draw_views(
    signals: Tensor,
    lengths: Tensor,
    present: Tensor | None = None,
    *,
    window: int,
    levels: tuple[int, int, int, int],
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Draw one augmented window of each run; call twice for the two views.

    Parameters
    ----------
    signals : Tensor, shape (B, P, T)
        Z-scored signals; what lies behind a run's last volume, or in absent parcels, is never read and may be NaN.
    lengths : Tensor, int64, shape (B,)
        Volumes of each run.
    present : Tensor, bool, shape (B, P), optional
        Parcels that have a signal; by default those without a value that is not finite.
    window : int
        Volumes in a view (W).
    levels : tuple of int
        Levels of parcels, time, noise and scale, as in `TrainingConfig.levels`.
    generator : torch.Generator
        On the device of `signals`.

    Returns
    -------
    views : Tensor, float32, shape (B, P, W)
        Augmented windows; padding and absent parcels are zero.
    n_real : Tensor, int64, shape (B,)
        Volumes of each view that are not padding.
    """
    if present is None:
        present = find_present(signals, lengths)
    starts = draw_starts(lengths, window=window, generator=generator)
    views = cut_views(signals, lengths, present, starts, window=window)
    n_real = lengths.clamp(max=window)
    return augment(views, n_real, present, levels=levels, generator=generator), n_real


def find_present(signals: Tensor, lengths: Tensor) -> Tensor:
    """Find the parcels that have a signal.

    Parameters
    ----------
    signals : Tensor, shape (B, P, T)
        Signals, padded with anything.
    lengths : Tensor, int64, shape (B,)
        Volumes of each run.

    Returns
    -------
    Tensor, bool, shape (B, P)
        False where any value within the run is not finite.
    """
    real = torch.arange(signals.shape[-1], device=signals.device) < lengths[:, None]  # (B, T)
    return (signals.isfinite() | ~real[:, None]).all(dim=-1)


def draw_starts(lengths: Tensor, *, window: int, generator: torch.Generator) -> Tensor:
    """Draw where windows start: uniform over all whole windows, 0 for runs that are shorter than one.

    Parameters
    ----------
    lengths : Tensor, int64, shape (B,)
        Volumes of each run.
    window : int
        Volumes in a window (W).
    generator : torch.Generator
        On the device of `lengths`.

    Returns
    -------
    Tensor, int64, shape (B,)
        First volumes, both ends of the range included.
    """
    return _draw_integers((lengths - window).clamp(min=0), generator)


def cut_views(signals: Tensor, lengths: Tensor, present: Tensor, starts: Tensor, *, window: int) -> Tensor:
    """Cut one window of each run.

    Parameters
    ----------
    signals : Tensor, shape (B, P, T)
        Signals of any floating type.
    lengths : Tensor, int64, shape (B,)
        Volumes of each run.
    present : Tensor, bool, shape (B, P)
        Parcels that have a signal.
    starts : Tensor, int64, shape (B,)
        First volume of each window.
    window : int
        Volumes in a window (W).

    Returns
    -------
    Tensor, float32, shape (B, P, W)
        Windows; behind the end of a run, and in absent parcels, zero.
    """
    volumes = starts[:, None] + torch.arange(window, device=signals.device)  # (B, W)
    real = volumes < lengths[:, None]
    index = volumes.clamp(max=signals.shape[-1] - 1)[:, None].expand(-1, signals.shape[1], -1)
    data = present[:, :, None] & real[:, None]  # (B, P, W)
    return torch.where(data, signals.gather(2, index).float(), 0.0)


def augment(
    views: Tensor,
    n_real: Tensor,
    present: Tensor,
    *,
    levels: tuple[int, int, int, int],
    generator: torch.Generator,
) -> Tensor:
    """Zero some parcels, zero a block of volumes, scale, add noise; a step of level 0 is left out.

    Parameters
    ----------
    views : Tensor, float32, shape (B, P, W)
        Windows.
    n_real : Tensor, int64, shape (B,)
        Volumes of each window that are not padding; the block is a share of these and lies among them.
    present : Tensor, bool, shape (B, P)
        Parcels that have a signal.
    levels : tuple of int
        Levels of parcels, time, noise and scale, 0 to 3.
    generator : torch.Generator
        On the device of `views`.

    Returns
    -------
    Tensor, float32, shape (B, P, W)
        Augmented windows; noise also falls on what the first two steps set to zero.
    """
    n_views, n_parcels, window = views.shape
    by_parcels, by_time, by_noise, by_scale = levels
    volumes = torch.arange(window, device=views.device)
    # Factors of parcels and of volumes, multiplied in place: a masked fill of the whole batch is far slower on a CPU.
    parcel_factor = torch.ones(n_views, n_parcels, device=views.device)
    volume_factor = torch.ones(n_views, window, device=views.device)
    if by_parcels:
        share = _draw_uniform(n_views, LEVELS[by_parcels].parcels, generator)
        n_zeroed = (n_parcels * share).long().clamp(min=1)
        order = torch.rand(n_views, n_parcels, generator=generator, device=views.device).argsort(dim=1)
        ranks = torch.arange(n_parcels, device=views.device)
        parcel_factor.scatter_(1, order, (ranks >= n_zeroed[:, None]).float())  # a random subset of that size
    if by_time:
        share = _draw_uniform(n_views, LEVELS[by_time].time, generator)
        n_block = (n_real * share).long().clamp(min=1)
        start = _draw_integers((n_real - n_block).clamp(min=0), generator)[:, None]
        volume_factor = ((volumes < start) | (volumes >= start + n_block[:, None])).float()
    if by_scale:
        parcel_factor.mul_(_draw_uniform(n_views, LEVELS[by_scale].scale, generator)[:, None])
    if by_parcels or by_time or by_scale:
        views = (views * parcel_factor[..., None]).mul_(volume_factor[:, None])
    if by_noise:
        noise = torch.randn(views.shape, generator=generator, device=views.device)
        noise.mul_((LEVELS[by_noise].noise * present)[..., None])
        noise.mul_((volumes < n_real[:, None]).float()[:, None])
        views = noise.add_(views)
    return views


def _draw_uniform(n: int, bounds: tuple[float, float], generator: torch.Generator) -> Tensor:
    low, high = bounds
    return low + (high - low) * torch.rand(n, generator=generator, device=generator.device)


def _draw_integers(last: Tensor, generator: torch.Generator) -> Tensor:
    """One integer for each entry, uniform on 0..last with both ends."""
    # In float64 the quotient of a long run cannot round up to the number of choices.
    unit = torch.rand(last.shape, generator=generator, device=last.device, dtype=torch.float64)
    return (unit * (last + 1)).long()
