"""The 400 cortical parcels of Schaefer et al. under their other names, brought to those of the 7-network order."""

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
    """Give parcels that are named in another order the names and networks of the 7-network order.

    Parameters
    ----------
    table : LabelTable
        Any atlas table.

    Returns
    -------
    LabelTable
        The same rows with the same image values. Only a table that holds all 400 names of one order is renamed, other
        parcels in it excepted: of fewer parcels the same names mean others.
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
    """Give columns that are named in another order the names of the 7-network order.

    Parameters
    ----------
    columns : sequence of str, length C
        Names of parcels, all with the order's prefix (``17Networks_``) or all without.

    Returns
    -------
    tuple of str, length C
        The names in the same places; those of no order, or of not all 400 parcels, as they were.
    """
    return _rename(tuple(columns))[1]


@functools.lru_cache(maxsize=16)
def _rename(parcels: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """Which order the names are in (empty for none), and the new names."""
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
    """For each other order its names, and the name of the same parcel in the 7-network order."""
    with (find_registry() / "Schaefer400_orders.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return {column: {row[column]: row["label"] for row in rows} for column in _ORDERS}
