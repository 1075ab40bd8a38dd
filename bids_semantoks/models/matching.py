"""Match the parcels that an encoder reads to those of an atlas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.errors import ModelError
from bids_semantoks.models.layout import NetworkLayout

_PREFIX = "7Networks_"
_N_NAMED = 5


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ParcelMatch:
    """Positions of an encoder's parcels in an atlas."""

    order: NDArray[np.int64]  # (P,) atlas position of each encoder parcel; -1 where the atlas lacks the network
    n_atlas_parcels: int  # encoded or not
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.order.min() < -1 or self.order.max() >= self.n_atlas_parcels:
            raise ValueError(
                f"order must lie in -1..{self.n_atlas_parcels - 1}, found {self.order.min()}..{self.order.max()}"
            )


def match_parcels(parcels: Sequence[str], networks: Sequence[str], layout: NetworkLayout) -> ParcelMatch:
    """Match an atlas to an encoder by network label and parcel count, then by name within each network.

    Parcels with an empty label are not encoded. Raises ModelError for unknown networks, another parcel count, names
    that agree only in part or repeat, and names of the 17-network order.
    """
    _check_names(parcels)
    members: dict[str, list[int]] = {}
    for position, label in enumerate(networks):
        if label:
            members.setdefault(label, []).append(position)
    _check_networks(members, layout)
    order = np.full(layout.n_parcels, -1, dtype=np.int64)
    unnamed = []
    for label, wanted in zip(layout.network_names, layout.indices, strict=True):
        if label not in members:
            continue
        by_name = _match_names(label, [parcels[i] for i in members[label]], layout, wanted)
        if by_name is None:
            unnamed.append(label)
            by_name = list(range(len(wanted)))
        order[list(wanted)] = [members[label][i] for i in by_name]
    absent = tuple(label for label in layout.network_names if label not in members)
    warnings = []
    if unnamed:
        names = f"of {', '.join(unnamed)} " if len(unnamed) < len(members) else ""
        warnings.append(
            f"The atlas and the encoder share no parcel name, so the parcels {names}are taken in the order of the "
            "atlas table; an embedding means something only if that is the order the encoder was trained with."
        )
    if absent:
        warnings.append(f"The atlas has no parcels of {', '.join(absent)}: the encoder sees them as masked.")
    return ParcelMatch(order=order, n_atlas_parcels=len(parcels), warnings=tuple(warnings))


def _check_names(parcels: Sequence[str]) -> None:
    """Refuse duplicate names and the 17-network order, whose networks hold other parcels under similar names."""
    foreign = [name for name in parcels if name.startswith("17Networks_")]
    if foreign:
        raise ModelError(
            f"the atlas has parcels of the 17-network order: {_name_some(foreign)}.",
            hint="The same parcels have another order and other networks there; use the 7-network table.",
        )
    bare = [name.removeprefix(_PREFIX) for name in parcels]
    twice = sorted({name for name in bare if bare.count(name) > 1}) if len(set(bare)) < len(bare) else []
    if twice:
        raise ModelError(f"the atlas has parcels of the same name (leaving out {_PREFIX}): {_name_some(twice)}.")


def _check_networks(members: dict[str, list[int]], layout: NetworkLayout) -> None:
    """Refuse networks that are unknown to the encoder or differ in parcel count."""
    unknown = [label for label in members if label not in layout.network_names]
    if unknown:
        raise ModelError(
            f"the atlas has networks that the encoder does not know: {', '.join(unknown)}; "
            f"the encoder knows {', '.join(layout.network_names)}.",
            hint="Give these parcels one of the encoder's network labels, or n/a to leave them out of the encoding.",
        )
    if not members:
        raise ModelError(
            f"none of the atlas' parcels has a network; the encoder expects {', '.join(layout.network_names)}.",
            hint="Fill the column network_label of the atlas table.",
        )
    expected = dict(zip(layout.network_names, layout.counts, strict=True))
    wrong = [
        f"{label} has {len(found)} parcels instead of {expected[label]}"
        for label, found in members.items()
        if len(found) != expected[label]
    ]
    if wrong:
        raise ModelError(
            f"the atlas does not fit the encoder: {'; '.join(wrong)}.",
            hint="An encoder reads only the parcels it was trained on; choose the atlas that belongs to it.",
        )


def _match_names(label: str, found: Sequence[str], layout: NetworkLayout, wanted: Sequence[int]) -> list[int] | None:
    """Find the positions in `found` of a network's encoder parcels, or None where no name is shared."""
    if layout.parcels is None:
        return None
    position = {name.removeprefix(_PREFIX): i for i, name in enumerate(found)}
    names = [layout.parcels[i].removeprefix(_PREFIX) for i in wanted]
    if position.keys() == set(names):
        return [position[name] for name in names]
    if position.keys().isdisjoint(names):
        return None
    raise ModelError(
        f"the parcels of network {label} agree only in part: the atlas lacks "
        f"{_name_some([name for name in names if name not in position])} and has "
        f"{_name_some([name for name in position if name not in names])} instead.",
        hint="Rename the parcels that are the same; other parcels cannot take their place.",
    )


def _name_some(names: Sequence[str]) -> str:
    """List the first few names."""
    rest = len(names) - _N_NAMED
    return ", ".join(names[:_N_NAMED]) + (f" and {rest} more" if rest > 0 else "")
