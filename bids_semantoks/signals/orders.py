"""Names of the 400 cortical parcels of Schaefer et al. in other orders, mapped to those of the 7-network order."""

from __future__ import annotations

import csv
import dataclasses
import functools
import logging
import re
from collections.abc import Sequence
from typing import Final

from bids_semantoks.signals.labels import LabelTable, find_network
from bids_semantoks.signals.registry import find_registry

LOG = logging.getLogger("bids_semantoks")
# Columns of names in the table of orders, and what to call them. The parcels of both orders are the same, in another
# order and with other networks; the names of 2018, which TemplateFlow's tables have, were corrected in 2019.
_ORDERS: Final = {
    "label_2018": "the 7-network order of 2018",
    "label_17networks": "the 17-network order",
    "label_17networks_2018": "the 17-network order of 2018",
}

_PREFIX: Final = re.compile("^(7|17)Networks_")


def rename_to_seven_networks(table: LabelTable) -> LabelTable:
    """Rename parcels of another order as in the 7-network order, networks included; rows and image values stay.

    Only a table with all 400 names of one order, possibly among other parcels, is renamed: in a smaller parcellation
    the same names mean other parcels.
    """
    column, parcels = _rename(table.parcels)
    if not column:
        return table
    LOG.info(
        "The parcels of %s are named in %s; they get their names of the 7-network order.",
        *(table.path.name, _ORDERS[column]),
    )
    networks = tuple(find_network(parcel) or network for parcel, network in zip(parcels, table.networks, strict=True))
    return dataclasses.replace(table, parcels=parcels, networks=networks)


def rename_columns(columns: Sequence[str]) -> tuple[str, ...]:
    """Rename columns (C,) of another order as in the 7-network order, all with the prefix (``17Networks_``) or all
    without. Names of no order, or of not all 400 parcels, stay."""
    return _rename(tuple(columns))[1]


@functools.lru_cache(maxsize=16)
def _rename(parcels: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """Find the order of the names (empty for none), and the new names."""
    known = set(parcels)
    for column, names in _load_orders().items():
        for own in (names, {_PREFIX.sub("", old): new for old, new in names.items()}):
            is_whole = known.issuperset(own)
            bare = {_PREFIX.sub("", new) for new in own.values()}
            if is_whole and not {_PREFIX.sub("", name) for name in known} >= bare:
                return column, tuple(own.get(name, name) for name in parcels)
    return "", parcels


@functools.cache
def _load_orders() -> dict[str, dict[str, str]]:
    """Map the names of each other order to those of the same parcels in the 7-network order."""
    with (find_registry() / "Schaefer400_orders.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return {column: {row[column]: row["label"] for row in rows} for column in _ORDERS}
