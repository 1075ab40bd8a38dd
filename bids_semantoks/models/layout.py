"""The parcels an encoder was built for, their order and their networks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from bids_semantoks.config import EncoderConfig
from bids_semantoks.errors import ModelError
from bids_semantoks.records import CANONICAL_NETWORKS


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkLayout:
    """The parcels that an encoder reads and their networks; ValueError where a network is empty or names repeat."""

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
    """Read the layout of the published encoder: 457 parcels in nine networks.

    Schaefer-400 in its 7-network order (doi:10.1093/cercor/bhx179), Tian scale III, 50 parcels
    (doi:10.1038/s41593-020-00711-6), and Buckner's seven cerebellar networks (doi:10.1152/jn.00339.2011).
    """
    table = files("bids_semantoks").joinpath("data/encoders/parcels457.tsv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in table.splitlines()[1:]]
    return NetworkLayout(
        network_names=CANONICAL_NETWORKS,
        networks=tuple(CANONICAL_NETWORKS.index(network) for _, _, network in rows),
        parcels=tuple(name for _, name, _ in rows),
    )


def build_layout(parcels: Sequence[str], networks: Sequence[str]) -> NetworkLayout:
    """Lay out an encoder for an atlas: canonical networks first, then others alphabetically, parcels in table order.

    Parcels with an empty label are skipped. Raises ModelError where no parcel has a network.
    """
    labels = {label for label in networks if label}
    if not labels:
        raise ModelError(
            f"none of the atlas' {len(parcels)} parcels has a network, so no encoder can be laid out for it.",
            hint="Fill the column network_label of the atlas table.",
        )
    names = tuple(n for n in CANONICAL_NETWORKS if n in labels) + tuple(sorted(labels - set(CANONICAL_NETWORKS)))
    encoded = [(parcel, label) for parcel, label in zip(parcels, networks, strict=True) if label]
    return NetworkLayout(
        network_names=names,
        networks=tuple(names.index(label) for _, label in encoded),
        parcels=tuple(parcel for parcel, _ in encoded),
    )


def layout_to_json(layout: NetworkLayout) -> dict[str, Any]:
    """Convert a layout to plain JSON values."""
    return {
        "network_names": list(layout.network_names),
        "networks": list(layout.networks),
        "parcels": None if layout.parcels is None else list(layout.parcels),
    }


def layout_from_json(values: Mapping[str, Any]) -> NetworkLayout:
    """Restore a layout from the values of `layout_to_json`; ValueError where they are incomplete or invalid."""
    missing = sorted({"network_names", "networks", "parcels"} - set(values))
    if missing:
        raise ValueError(f"the layout lacks {', '.join(missing)}")
    names, networks, parcels = values["network_names"], values["networks"], values["parcels"]
    well_typed = (
        isinstance(names, list)
        and isinstance(networks, list)
        and (parcels is None or isinstance(parcels, list))
        and all(isinstance(text, str) for text in [*names, *(parcels or [])])
        and all(type(number) is int for number in networks)
    )
    if not well_typed:
        raise ValueError("the layout must hold a list of names, a list of whole numbers and a list of names or null")
    return NetworkLayout(
        network_names=tuple(names), networks=tuple(networks), parcels=None if parcels is None else tuple(parcels)
    )
