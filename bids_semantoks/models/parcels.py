"""The parcels an encoder was built for, their order and their networks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from bids_semantoks.config import EncoderConfig, from_json
from bids_semantoks.errors import ModelError, name_some
from bids_semantoks.files import parse_table
from bids_semantoks.records import CANONICAL_NETWORKS, Indices

_PREFIX = "7Networks_"


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkLayout:
    """The parcels that an encoder reads and their networks; ValueError if a network is empty or names repeat."""

    network_names: tuple[str, ...]  # (N,) in the encoder's order
    networks: tuple[int, ...]  # (P,) network of each parcel as position in network_names
    parcels: tuple[str, ...] | None = None  # (P,) names in the order the encoder reads them, if known

    def __post_init__(self) -> None:
        used, last = sorted(set(self.networks)), len(self.network_names) - 1
        if not used or used != list(range(last + 1)):
            raise ValueError(f"networks must use every number in 0..{last}, found {used}")
        if len(set(self.network_names)) != len(self.network_names):
            raise ValueError(f"network names must be unique, found {', '.join(self.network_names)}")
        if self.parcels is not None and len(self.parcels) != len(self.networks):
            raise ValueError(f"{len(self.parcels)} parcel names but {len(self.networks)} networks")
        if self.parcels is not None and len(set(self.parcels)) != len(self.parcels):
            twice = [name for name, count in Counter(self.parcels).items() if count > 1]
            raise ValueError(f"parcel names must be unique, found twice: {', '.join(twice[:5])}")

    @property
    def n_parcels(self) -> int:
        """Number of parcels the encoder reads (P)."""
        return len(self.networks)

    @property
    def indices(self) -> tuple[tuple[int, ...], ...]:
        """Parcel positions of each network, networks in the encoder's order."""
        return tuple(
            tuple(parcel for parcel, network in enumerate(self.networks) if network == wanted)
            for wanted in range(len(self.network_names))
        )

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of parcels of each network (P_n)."""
        return tuple(len(indices) for indices in self.indices)


def token_rows(config: EncoderConfig, layout: NetworkLayout) -> tuple[tuple[int, ...], ...]:
    """List the parcel positions of each of the N token rows: a network, the whole brain or one parcel (`spatial`)."""
    if config.spatial == "whole":
        return (tuple(range(layout.n_parcels)),)
    if config.spatial == "parcel":
        return tuple((parcel,) for parcel in range(layout.n_parcels))
    return layout.indices


@cache
def default_layout() -> NetworkLayout:
    """Read the layout of the published encoder: 457 parcels in nine networks. Schaefer-400 in its 7-network order
    (doi:10.1093/cercor/bhx179), Tian scale III, 50 parcels (doi:10.1038/s41593-020-00711-6), and Buckner's seven
    cerebellar networks (doi:10.1152/jn.00339.2011)."""
    path = files("bids_semantoks").joinpath("data/encoders/parcels457.tsv")
    rows = parse_table(path.read_text(encoding="utf-8")).rows
    return NetworkLayout(
        network_names=CANONICAL_NETWORKS,
        networks=tuple(CANONICAL_NETWORKS.index(network) for _, _, network in rows),
        parcels=tuple(name for _, name, _ in rows),
    )


def build_layout(parcels: Sequence[str], networks: Sequence[str]) -> NetworkLayout:
    """Lay out an encoder for an atlas: canonical networks first, then others alphabetically, parcels in table order.
    Parcels with an empty label are skipped. Raises ModelError if no parcel has a network."""
    labels = {label for label in networks if label}
    if not labels:
        raise ModelError(
            f"None of the {len(parcels)} parcels of the atlas has a network, so no encoder can be built for it.",
            hint="Fill in the column network_label of the atlas table.",
        )
    names = tuple(n for n in CANONICAL_NETWORKS if n in labels) + tuple(sorted(labels - set(CANONICAL_NETWORKS)))
    encoded = [(parcel, label) for parcel, label in zip(parcels, networks, strict=True) if label]
    return NetworkLayout(
        network_names=names,
        networks=tuple(names.index(label) for _, label in encoded),
        parcels=tuple(parcel for parcel, _ in encoded),
    )


def choose_layout(parcels: Sequence[str], networks: Sequence[str]) -> NetworkLayout:
    """Lay out random weights for an atlas: as the published encoder where only whole networks are missing, which it
    then masks like trained weights (cortex alone); else as `build_layout`, which raises ModelError."""
    own, published = build_layout(parcels, networks), default_layout()
    if (
        len(own.network_names) < len(published.network_names)
        and _name_members(own).items() <= _name_members(published).items()
    ):
        return published
    return own


def _name_members(layout: NetworkLayout) -> dict[str, frozenset[str]]:
    names = [name.removeprefix(_PREFIX) for name in layout.parcels or ()]
    return {
        network: frozenset(names[i] for i in indices)
        for network, indices in zip(layout.network_names, layout.indices, strict=True)
    }


def layout_from_json(values: Mapping[str, Any]) -> NetworkLayout:
    """Restore a layout from what `to_json` made of it; ValueError or ConfigurationError if it is incomplete or
    invalid."""
    missing = sorted({"network_names", "networks", "parcels"} - set(values))
    if missing:
        raise ValueError(f"the layout lacks {', '.join(missing)}")
    return from_json(NetworkLayout, dict(values), where="the layout")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ParcelMatch:
    """Positions of an encoder's parcels in an atlas."""

    order: Indices  # (P,) atlas position of each encoder parcel; -1 where the atlas lacks the network
    n_atlas_parcels: int  # encoded or not
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.order.min() < -1 or self.order.max() >= self.n_atlas_parcels:
            raise ValueError(
                f"order must be between -1 and {self.n_atlas_parcels - 1}, found {self.order.min()}..{self.order.max()}"
            )


def match_parcels(parcels: Sequence[str], networks: Sequence[str], layout: NetworkLayout) -> ParcelMatch:
    """Match an atlas to an encoder by network label and parcel count, then by name within each network. Parcels with an
    empty label are not encoded. Raises ModelError for unknown networks, another parcel count, names that agree only in
    part or repeat, and names of the 17-network order."""
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
            f"The atlas and the encoder have no parcel names in common; using the parcels {names}in the order of the "
            "atlas table. The embeddings are only meaningful if the encoder was trained with the same order."
        )
    if absent:
        warnings.append(f"The atlas has no parcels of {', '.join(absent)}; these networks are masked in the encoder.")
    return ParcelMatch(order=order, n_atlas_parcels=len(parcels), warnings=tuple(warnings))


def _check_names(parcels: Sequence[str]) -> None:
    """Refuse duplicate names and the 17-network order, whose networks hold other parcels under similar names."""
    foreign = [name for name in parcels if name.startswith("17Networks_")]
    if foreign:
        raise ModelError(
            f"The atlas has parcels of the 17-network order: {name_some(foreign)}.",
            hint="Order and networks of the parcels differ there; use the 7-network table.",
        )
    bare = [name.removeprefix(_PREFIX) for name in parcels]
    twice = sorted({name for name in bare if bare.count(name) > 1}) if len(set(bare)) < len(bare) else []
    if twice:
        raise ModelError(f"The atlas has duplicate parcel names (ignoring {_PREFIX}): {name_some(twice)}.")


def _check_networks(members: dict[str, list[int]], layout: NetworkLayout) -> None:
    """Refuse networks that are unknown to the encoder or differ in parcel count."""
    unknown = [label for label in members if label not in layout.network_names]
    if unknown:
        raise ModelError(
            f"The atlas has networks that are not in the encoder: {', '.join(unknown)}; "
            f"expected {', '.join(layout.network_names)}.",
            hint="Assign these parcels to one of the encoder's networks, or set n/a to exclude them from encoding.",
        )
    if not members:
        raise ModelError(
            f"None of the parcels of the atlas has a network; the encoder expects {', '.join(layout.network_names)}.",
            hint="Fill in the column network_label of the atlas table.",
        )
    expected = dict(zip(layout.network_names, layout.counts, strict=True))
    wrong = [
        f"{label} has {len(found)} parcels instead of {expected[label]}"
        for label, found in members.items()
        if len(found) != expected[label]
    ]
    if wrong:
        raise ModelError(
            f"The atlas does not match the encoder: {'; '.join(wrong)}.",
            hint="An encoder only works with the parcels it was trained on; use its atlas.",
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
        f"The parcels of network {label} match only partly: the atlas lacks "
        f"{name_some([name for name in names if name not in position])} and has "
        f"{name_some([name for name in position if name not in names])} instead.",
        hint="Rename the parcels that are identical; different parcels cannot replace them.",
    )
