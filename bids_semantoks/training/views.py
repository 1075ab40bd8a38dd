"""Augmented windows of runs, drawn for a batch on its device (padding stays zero), and masks that hide tokens.

Legend: B runs in a batch, P parcels, T volumes of the longest run, W volumes in a view.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bids_semantoks.config import EncoderConfig, TrainingConfig
from bids_semantoks.models.parcels import NetworkLayout, token_rows
from bids_semantoks.records import CANONICAL_NETWORKS
from bids_semantoks.training import batches, distill
from bids_semantoks.training.batches import compute_seed
from bids_semantoks.training.distill import TeacherStudent
from bids_semantoks.training.packed import SignalView

KINDS = ("slice", "network", "temporal", "random", "block")
_FEWEST_NETWORKS = 3


class MaskGroups(NamedTuple):
    """Rows of tokens that are masked together."""

    of_row: Tensor  # (N,) int64, group of each row
    n_groups: int  # G; counted in advance, since asking a GPU would stall every step


def draw_masks(
    n_views: int,
    *,
    n_networks: int,
    n_patches: int,
    kind: str,
    ratio: tuple[float, float],
    generator: torch.Generator,
    groups: MaskGroups | None = None,
) -> Tensor:
    """Draw an independent mask for each view: (B, N, K) bool, True for masked tokens, on the generator's device.

    Kinds: ``network`` (whole rows), ``temporal`` (neighbouring columns), ``slice`` (a fair coin between the two for
    each view), ``random`` (single tokens) or ``block`` (one rectangle); with fewer than three rows ``network`` and
    ``slice`` become ``temporal``. `ratio` bounds the nominal share of masked tokens. With `groups`, masks are drawn on
    groups and spread over rows. Raises ValueError for other kinds, or unless there is one group for each row.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, found {kind!r}")
    if groups is not None:
        if groups.of_row.shape != (n_networks,):
            raise ValueError(f"groups {tuple(groups.of_row.shape)} do not fit {n_networks} rows")
        n_networks = groups.n_groups
    if n_networks < _FEWEST_NETWORKS and kind in ("network", "slice"):
        kind = "temporal"
    size = (n_views, n_networks, n_patches)
    draws = {"network": _draw_networks, "temporal": _draw_temporal, "random": _draw_random, "block": _draw_block}
    if kind == "slice":
        coin = torch.rand(n_views, 1, 1, generator=generator, device=generator.device) < 0.5
        masks = torch.where(coin, _draw_networks(size, ratio, generator), _draw_temporal(size, ratio, generator))
    else:
        masks = draws[kind](size, ratio, generator)
    return masks if groups is None else masks.index_select(1, groups.of_row)


def find_mask_groups(config: EncoderConfig, layout: NetworkLayout) -> MaskGroups | None:
    """Group the rows of tokens that are masked together, on the CPU; None if each row is masked separately. More than
    nine rows are grouped by network, and more than nine networks by the canonical one that their label begins with
    (``DefaultA``); if any label matches none, networks are split evenly into nine, in order."""
    rows = token_rows(config, layout)
    n_canonical = len(CANONICAL_NETWORKS)
    if len(rows) <= n_canonical:
        return None
    names = layout.network_names
    by_network = list(range(len(names)))
    if len(names) > n_canonical:
        found = [[i for i, label in enumerate(CANONICAL_NETWORKS) if name.startswith(label)] for name in names]
        if all(found):
            used = sorted({match[0] for match in found})
            by_network = [used.index(match[0]) for match in found]
        else:
            by_network = [i * n_canonical // len(names) for i in by_network]
    of_row = [by_network[layout.networks[row[0]]] for row in rows]
    return MaskGroups(torch.tensor(of_row), max(of_row) + 1)


def find_absent(n_real: Tensor, present: Tensor, *, rows: Tensor, patch: int, n_patches: int) -> Tensor:
    """Find tokens without data, (B, N, K): rows that a run lacks and patches that lie entirely past its end. n_real
    (B,) counts volumes that are not padding, present (B, P) marks parcels with a signal, rows (N, P) is from
    `compute_membership`."""
    lacking = (present.to(rows.dtype) @ rows.T) == 0  # (B, N)
    first = patch * torch.arange(n_patches, device=n_real.device)
    empty = first >= n_real[:, None]  # (B, K)
    return lacking[:, :, None] | empty[:, None]


def compute_membership(config: EncoderConfig, layout: NetworkLayout) -> Tensor:
    """Build the membership of parcels in rows of tokens: (N, P) float32 of 0 and 1."""
    rows = token_rows(config, layout)
    membership = torch.zeros(len(rows), layout.n_parcels)
    for number, row in enumerate(rows):
        membership[number, list(row)] = 1.0
    return membership


def _draw_networks(size: tuple[int, int, int], ratio: tuple[float, float], generator: torch.Generator) -> Tensor:
    n_views, n_networks, n_patches = size
    low = max(1, int(n_networks * ratio[0]))
    high = max(low + 1, min(n_networks, int(n_networks * ratio[1])))  # exclusive
    counts = torch.randint(low, high, (n_views,), generator=generator, device=generator.device)
    return _draw_subset(n_networks, counts, generator)[..., None].expand(-1, -1, n_patches)


def _draw_temporal(size: tuple[int, int, int], ratio: tuple[float, float], generator: torch.Generator) -> Tensor:
    n_views, n_networks, n_patches = size
    nominal = (_draw_share(n_views, ratio, generator) * n_patches).ceil().long()
    length = nominal.clamp(1, n_patches) - 1
    columns = _draw_interval(n_patches, length, generator)
    return columns[:, None].expand(-1, n_networks, -1)


def _draw_random(size: tuple[int, int, int], ratio: tuple[float, float], generator: torch.Generator) -> Tensor:
    n_views, n_networks, n_patches = size
    n_tokens = n_networks * n_patches
    counts = (_draw_share(n_views, ratio, generator) * n_tokens).round().long()
    return _draw_subset(n_tokens, counts, generator).view(size)


def _draw_block(size: tuple[int, int, int], ratio: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Mask one rectangle of neighbouring rows and columns; its height is uniform over those that allow the share."""
    n_views, n_networks, n_patches = size
    share = _draw_share(n_views, ratio, generator)
    least = (share * n_networks).ceil().clamp(1, n_networks)
    height = least + _draw_integers(n_networks - least, generator)
    width = (share * n_networks * n_patches / height).round().clamp(1, n_patches)
    rows = _draw_interval(n_networks, height.long(), generator)
    columns = _draw_interval(n_patches, width.long(), generator)
    return rows[:, :, None] & columns[:, None]


def _draw_share(n: int, bounds: tuple[float, float], generator: torch.Generator) -> Tensor:
    # In float64 a share just below a bound does not round up to it.
    unit = torch.rand(n, generator=generator, device=generator.device, dtype=torch.float64)
    return bounds[0] + (bounds[1] - bounds[0]) * unit


def _draw_subset(n: int, counts: Tensor, generator: torch.Generator) -> Tensor:
    """Mark a random subset of n in each row, sized by counts (B,), each equally likely: (B, n)."""
    order = torch.rand(len(counts), n, generator=generator, device=generator.device).argsort(dim=1)
    marked = torch.zeros(len(counts), n, dtype=torch.bool, device=generator.device)
    return marked.scatter_(1, order, torch.arange(n, device=generator.device) < counts[:, None])


def _draw_interval(n: int, lengths: Tensor, generator: torch.Generator) -> Tensor:
    """Mark a random interval of n in each row, sized by lengths (B,), each start equally likely: (B, n)."""
    starts = _draw_integers(n - lengths, generator)[:, None]
    places = torch.arange(n, device=generator.device)
    return (places >= starts) & (places < starts + lengths[:, None])


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
    present: Tensor,
    *,
    window: int,
    levels: tuple[int, int, int, int],
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Draw one augmented window of each run, (B, P, W), and count its real volumes, (B,); call twice for two views.
    Signals (B, P, T) are z-scored; values past a run's length (B,) or in parcels not `present` (B, P) are never used
    and may be NaN. `levels` is as in `TrainingConfig.levels`."""
    starts = draw_starts(lengths, window=window, generator=generator)
    views = cut_views(signals, lengths, present, starts, window=window)
    n_real = lengths.clamp(max=window)
    return augment(views, n_real, present, levels=levels, generator=generator), n_real


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
    """Zero some parcels, zero a block of volumes, scale and add noise to views (B, P, W); level 0 skips a step. The
    block is a share of the n_real (B,) volumes; noise also falls on what was just zeroed. Padding and absent parcels
    get none, since an encoder in use sees exact zeros there."""
    n_views, n_parcels, window = views.shape
    by_parcels, by_time, by_noise, by_scale = levels
    volumes = torch.arange(window, device=views.device)
    # Factors of parcels and of volumes, multiplied in place: a masked fill of the whole batch is far slower on a CPU.
    parcel_factor = torch.ones(n_views, n_parcels, device=views.device)
    volume_factor = torch.ones(n_views, window, device=views.device)
    if by_parcels:
        share = _draw_uniform(n_views, LEVELS[by_parcels].parcels, generator)
        n_zeroed = (n_parcels * share).long().clamp(min=1)
        parcel_factor = (~_draw_subset(n_parcels, n_zeroed, generator)).float()
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
