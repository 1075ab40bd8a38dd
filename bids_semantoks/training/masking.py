"""Masks that hide tokens from the student, and the tokens without data.

Legend: B views, P parcels, N networks (rows of tokens), K patches in a view, G groups of rows that are masked together.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bids_semantoks.config import EncoderConfig
from bids_semantoks.models.parcels import NetworkLayout, token_rows
from bids_semantoks.records import CANONICAL_NETWORKS

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
    if kind == "network":
        masks = _draw_networks(size, ratio, generator)
    elif kind == "temporal":
        masks = _draw_temporal(size, ratio, generator)
    elif kind == "slice":
        coin = torch.rand(n_views, 1, 1, generator=generator, device=generator.device) < 0.5
        masks = torch.where(coin, _draw_networks(size, ratio, generator), _draw_temporal(size, ratio, generator))
    elif kind == "random":
        masks = _draw_random(size, ratio, generator)
    else:
        masks = _draw_block(size, ratio, generator)
    return masks if groups is None else masks.index_select(1, groups.of_row)


def find_mask_groups(config: EncoderConfig, layout: NetworkLayout) -> MaskGroups | None:
    """Group the rows of tokens that are masked together, on the CPU; None if each row is masked separately.

    More than nine rows are grouped by network, and more than nine networks by the canonical one that their label begins
    with (``DefaultA``); if any label matches none, networks are split evenly into nine, in order.
    """
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
    """Find tokens without data, (B, N, K): rows that a run lacks and patches that lie entirely past its end.

    n_real (B,) counts volumes that are not padding, present (B, P) marks parcels with a signal,
    rows (N, P) is from `compute_membership`.
    """
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
    height = least + (_draw_share(n_views, (0.0, 1.0), generator) * (n_networks - least + 1)).floor()
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
    starts = (_draw_share(len(lengths), (0.0, 1.0), generator) * (n - lengths + 1)).long()[:, None]
    places = torch.arange(n, device=generator.device)
    return (places >= starts) & (places < starts + lengths[:, None])
