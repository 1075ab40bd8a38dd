"""The 400 cortical parcels of Schaefer et al. under their other names, brought to those of the 7-network order."""

from __future__ import annotations

import csv
import dataclasses
import functools
import logging
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
    for column, names in _load_orders().items():
        found = set(table.parcels) & set(names)
        if len(found) < len(names) or set(table.parcels) >= set(names.values()):
            continue
        LOG.info(
            "The parcels of %s are named in %s; they get their names of the 7-network order.",
            *(table.path.name, _ORDERS[column]),
        )
        parcels = tuple(names.get(name, name) for name in table.parcels)
        networks = tuple(
            find_network(names[name]) if name in names else network
            for name, network in zip(table.parcels, table.networks, strict=True)
        )
        return dataclasses.replace(table, parcels=parcels, networks=networks)
    return table


@functools.cache
def _load_orders() -> dict[str, dict[str, str]]:
    """For each other order its names, and the name of the same parcel in the 7-network order."""
    with (find_registry() / "Schaefer400_orders.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return {column: {row[column]: row["label"] for row in rows} for column in _ORDERS}
