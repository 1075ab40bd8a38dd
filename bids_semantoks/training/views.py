"""Augmented windows of runs, drawn for a whole batch on its device; padding and absent parcels stay exactly zero.

Legend: B runs in a batch, P parcels, T volumes of the longest run, W volumes in a view.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bids_semantoks.config import TrainingConfig
from bids_semantoks.training import batches, distill
from bids_semantoks.training.batches import compute_seed
from bids_semantoks.training.distill import TeacherStudent
from bids_semantoks.training.masking import compute_membership, draw_masks, find_absent, find_mask_groups
from bids_semantoks.training.packed import SignalView


class Augmentation(NamedTuple):
    """Strength of one level of augmentation, as ranges of a uniform draw."""

    parcels: tuple[float, float]  # share of parcels set to zero
    time: tuple[float, float]  # share of volumes set to zero, as one block
    noise: float  # standard deviation; signals have 1
    scale: tuple[float, float]  # factor of a view


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
    """Draw one augmented window of each run, (B, P, W), and count its real volumes, (B,); call twice for two views.

    Signals (B, P, T) are z-scored; values past a run's length (B,) or in parcels not `present` (B, P) are never used
    and may be NaN. By default parcels with only finite values are present. `levels` is as in `TrainingConfig.levels`.
    """
    if present is None:
        present = find_present(signals, lengths)
    starts = draw_starts(lengths, window=window, generator=generator)
    views = cut_views(signals, lengths, present, starts, window=window)
    n_real = lengths.clamp(max=window)
    return augment(views, n_real, present, levels=levels, generator=generator), n_real


def find_present(signals: Tensor, lengths: Tensor) -> Tensor:
    """Find parcels with a signal, (B, P): all values within the run's length are finite."""
    real = torch.arange(signals.shape[-1], device=signals.device) < lengths[:, None]  # (B, T)
    return (signals.isfinite() | ~real[:, None]).all(dim=-1)


def draw_starts(lengths: Tensor, *, window: int, generator: torch.Generator) -> Tensor:
    """Draw the first volume of each window, (B,): uniform over all whole windows, 0 for shorter runs."""
    return _draw_integers((lengths - window).clamp(min=0), generator)


def cut_views(signals: Tensor, lengths: Tensor, present: Tensor, starts: Tensor, *, window: int) -> Tensor:
    """Cut the window at `starts` (B,) of each run: (B, P, T) -> (B, P, W) float32; zero past its end or if absent."""
    volumes = starts[:, None] + torch.arange(window, device=signals.device)  # (B, W)
    real = volumes < lengths[:, None]
    index = volumes.clamp(max=signals.shape[-1] - 1)[:, None].expand(-1, signals.shape[1], -1)
    data = present[:, :, None] & real[:, None]  # (B, P, W)
    return torch.where(data, signals.gather(2, index).float(), 0.0)


def augment(
    views: Tensor, n_real: Tensor, present: Tensor, *, levels: tuple[int, int, int, int], generator: torch.Generator
) -> Tensor:
    """Zero some parcels, zero a block of volumes, scale and add noise to views (B, P, W); level 0 skips a step.

    The block is a share of the n_real (B,) volumes; noise also falls on what was just zeroed. Padding and absent
    parcels get none, since an encoder in use sees exact zeros there.
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
    """Draw an integer for each entry, uniform on 0..last with both ends."""
    # In float64 the quotient of a long run cannot round up to the number of choices.
    unit = torch.rand(last.shape, generator=generator, device=last.device, dtype=torch.float64)
    return (unit * (last + 1)).long()


class ViewCutter:
    """Cut views and masks from the runs of a batch, on the device."""

    def __init__(
        self, module: TeacherStudent, view: SignalView, recipe: TrainingConfig, *, seed: int, device: torch.device
    ) -> None:
        encoder, layout = module.student.config, module.student.layout
        self.config = encoder
        self.recipe = recipe
        self.seed = seed
        self.device = device
        self.n_rows = module.n_rows
        groups = find_mask_groups(encoder, layout)
        self.groups = None if groups is None else groups._replace(of_row=groups.of_row.to(device))
        self.membership = compute_membership(encoder, layout).to(device)
        # Known beforehand, so that no step waits for the device and all processes agree.
        shortest = encoder.window - encoder.patch
        self.has_absent = not view.present.all() or int(view.lengths.min()) <= shortest

    def cut(self, batch: batches.Batch, number: int, part: int, *, is_masked: bool) -> distill.ViewBatch:
        """Draw two views of each run, their masks and absent tokens, fixed by seed, batch `number` and `part`."""
        seed = compute_seed(self.seed, batches.VIEW_STREAM, number, part)
        generator = torch.Generator(self.device).manual_seed(seed)
        recipe, config = self.recipe, self.config
        pair = [draw_views(*batch, window=config.window, levels=recipe.levels, generator=generator) for _ in range(2)]
        views = torch.cat([views for views, _ in pair])
        masks = absent = None
        if is_masked:
            masks = draw_masks(
                len(views),
                n_networks=self.n_rows,
                n_patches=config.n_patches,
                kind=recipe.mask,
                ratio=recipe.mask_ratio,
                generator=generator,
                groups=self.groups,
            )
        if self.has_absent:
            n_real, present = torch.cat([n for _, n in pair]), batch.present.repeat(2, 1)
            absent = find_absent(n_real, present, rows=self.membership, patch=config.patch, n_patches=config.n_patches)
        return distill.ViewBatch(views, masks, absent)
