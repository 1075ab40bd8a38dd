"""Which parcels an encoder was built for, in which order, and in which network."""

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
    """The parcels that an encoder reads, and the network of each.

    Parameters
    ----------
    network_names : tuple of str, length N
        Network labels, in the encoder's order.
    networks : tuple of int, length P
        Network of each parcel, as position in `network_names`; parcels in the order the encoder reads them.
    parcels : tuple of str, length P, or None
        Parcel names, when they are known.

    Raises
    ------
    ValueError
        When a network has no parcel, a parcel no network, or names are missing or repeated.
    """

    network_names: tuple[str, ...]
    networks: tuple[int, ...]
    parcels: tuple[str, ...] | None = None

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
        """Parcels the encoder reads (P)."""
        return len(self.networks)

    @property
    def indices(self) -> tuple[tuple[int, ...], ...]:
        """Positions of each network's parcels, networks in the encoder's order."""
        return tuple(
            tuple(parcel for parcel, network in enumerate(self.networks) if network == wanted)
            for wanted in range(len(self.network_names))
        )

    @property
    def counts(self) -> tuple[int, ...]:
        """Parcels of each network (P_n)."""
        return tuple(len(indices) for indices in self.indices)


def token_rows(config: EncoderConfig, layout: NetworkLayout) -> tuple[tuple[int, ...], ...]:
    """Parcels behind each row of tokens.

    Parameters
    ----------
    config : EncoderConfig
        Its `spatial` says what a row is: a network, the whole brain, or a parcel.
    layout : NetworkLayout
        Parcels and their networks.

    Returns
    -------
    tuple of tuple of int
        Positions of the parcels of each of the N rows.
    """
    if config.spatial == "whole":
        return (tuple(range(layout.n_parcels)),)
    if config.spatial == "parcel":
        return tuple((parcel,) for parcel in range(layout.n_parcels))
    return layout.indices


@cache
def default_layout() -> NetworkLayout:
    """Layout of the published encoder.

    Returns
    -------
    NetworkLayout
        457 parcels in nine networks: Schaefer-400 in the order of its seven-network version, Tian scale III (50),
        Buckner's seven cerebellar networks.

    References
    ----------
    Schaefer et al. (2018), doi:10.1093/cercor/bhx179; Tian et al. (2020), doi:10.1038/s41593-020-00711-6;
    Buckner et al. (2011), doi:10.1152/jn.00339.2011.
    """
    table = files("bids_semantoks").joinpath("data/encoders/parcels457.tsv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in table.splitlines()[1:]]
    return NetworkLayout(
        network_names=CANONICAL_NETWORKS,
        networks=tuple(CANONICAL_NETWORKS.index(network) for _, _, network in rows),
        parcels=tuple(name for _, name, _ in rows),
    )


def build_layout(parcels: Sequence[str], networks: Sequence[str]) -> NetworkLayout:
    """Lay out an encoder for an atlas: one network a label, parcels in the table's order.

    Parameters
    ----------
    parcels : sequence of str, length P
        Parcel names of the atlas.
    networks : sequence of str, length P
        Network label of each parcel; parcels with an empty label are left out.

    Returns
    -------
    NetworkLayout
        Canonical networks first, in canonical order, then the others in alphabetical order.

    Raises
    ------
    ModelError
        When no parcel has a network.
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
    """Turn a layout into plain JSON values.

    Parameters
    ----------
    layout : NetworkLayout
        Any layout.

    Returns
    -------
    dict
        ``network_names``, ``networks`` and ``parcels``.
    """
    return {
        "network_names": list(layout.network_names),
        "networks": list(layout.networks),
        "parcels": None if layout.parcels is None else list(layout.parcels),
    }


def layout_from_json(values: Mapping[str, Any]) -> NetworkLayout:
    """Read a layout back from plain JSON values.

    Parameters
    ----------
    values : mapping
        What `layout_to_json` gave.

    Returns
    -------
    NetworkLayout
        The same layout.

    Raises
    ------
    ValueError
        When a key is missing or the values are no layout.
    """
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
