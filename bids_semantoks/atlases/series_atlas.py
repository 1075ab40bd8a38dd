"""The atlas of parcellated series: parcels and networks without images."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bids_semantoks.atlases.label_tables import (
    LabelTable,
    build_atlas,
    build_label,
    find_network,
    is_numbered,
    load_label_table,
    load_seventeen,
    locate_columns,
    rename_columns,
    rename_to_seven_networks,
)
from bids_semantoks.atlases.load import find_images, split_choice
from bids_semantoks.atlases.registry import find_entry, find_places, find_registered, list_registered, load_entry
from bids_semantoks.bids_names import format_label, name_schaefer
from bids_semantoks.errors import AtlasError, name_some
from bids_semantoks.records import Atlas

LOG = logging.getLogger(__name__)
#: The other order of Schaefer's 400 parcels.
_SEVENTEEN: Final = "Schaefer400-17Networks"
_TABLE_HINT: Final = "Give a table with the columns index, label and network_label: --atlas TABLE.tsv."
_HINT: Final = (
    "Give the table of their atlas: --atlas TABLE.tsv (index, label, network_label; one row per column); if the rows "
    "of "
    'the series are parcels, set "volumes": "columns" in their layout.'
)


def load_series_atlas(
    label: str, columns: Sequence[str], *, space: str, asked: str, tables: Sequence[Path], directory: Path | None
) -> Atlas:
    """Load parcels and networks of the atlas `label` of series with the header `columns`, without images.

    The first that has all columns wins: the requested atlas `asked` (label, registry entry or path; empty for
    none), the dataset's own `tables` (best first), a registry table, else the columns themselves if
    their names contain the network. Raises AtlasError if the requested atlas is missing, damaged or has
    other parcels, or if the networks are unknown.
    """
    if (renamed := rename_columns(columns)) != tuple(columns):
        LOG.info("Renaming the columns of the series to Schaefer's 7-network order, e.g. %s.", renamed[0])
        columns = renamed
    table = _load_asked(label, columns, asked, directory)
    table = table or _find_fitting([_load_table(path) for path in tables], columns)
    if table is None and is_numbered(columns) and (entry := find_registered(label)):
        table = _find_fitting([_load_table(load_entry(entry).table)], columns)
    if table is None and (entry := _find_entry(columns)):
        table = _load_table(load_entry(entry).table)
    if table is not None:
        LOG.info("Reading parcels and networks of atlas %s from %s.", label, table.path)
        return build_atlas(format_label(label), space, table)
    networks = tuple(map(find_network, columns))
    if not any(networks):
        problem = f"The networks of the parcels of atlas {label} are unknown: {name_some(list(columns))}."
        if is_numbered(columns):
            problem = f"The series of atlas {label} have {len(columns)} columns without parcel names, and no "
            problem += f"table with that number of rows is known{_describe_entry(label)}."
        listed = f" The columns do not match {', '.join(map(str, tables))}." if tables else ""
        raise AtlasError(
            problem + listed, hint=_suggest_table(label) or (_HINT if is_numbered(columns) else _TABLE_HINT)
        )
    if unknown := [name for name, network in zip(columns, networks, strict=True) if not network]:
        LOG.warning("%d parcels of atlas %s have no network: %s", len(unknown), label, name_some(unknown))
    named = LabelTable(path=Path(), values=(), parcels=tuple(columns), networks=networks)
    return build_atlas(format_label(label), space, named)


def name_series_atlas(columns: Sequence[str], asked: str, default: str) -> tuple[str, str]:
    """Choose the atlas of series whose layout has none: the name to load, and its label. Without a requested atlas
    (`asked`) it is the `default` for numbered columns, else the smallest in the registry with all their names; else
    none, and the column names must contain the networks."""
    if not asked and is_numbered(columns):
        asked = default
    if not asked:
        entry = _find_entry(rename_columns(columns))
        return ("", "Series") if entry is None else (entry.stem, entry.stem)
    entry = find_entry(asked)
    return asked, entry.stem if entry else build_label(Path(asked).name.partition(".")[0])


def list_orders() -> tuple[str, ...]:
    """List the parcel orders shipped with this package, by the names that `load_order` accepts."""
    names = [entry.stem for entry in list_registered()]
    return (*(f"{name}-7Networks" if re.fullmatch(r"Schaefer\d+", name) else name for name in names), _SEVENTEEN)


def load_order(name: str) -> tuple[str, ...]:
    """Load parcel names in an order shipped with this package; AtlasError for an unknown one."""
    if name == _SEVENTEEN:
        return load_seventeen("label_17networks")
    entry = find_registered(name)
    if entry is None:
        known = ", ".join(list_orders())
        raise AtlasError(f"Unknown parcel order {name!r}.", hint=f"Expected one of {known}.")
    return _load_table(load_entry(entry).table).parcels


def _describe_entry(label: str) -> str:
    entry = find_registered(label)
    return f" ({entry.stem} has {len(_load_table(load_entry(entry).table).parcels)} parcels)" if entry else ""


def _suggest_table(label: str) -> str:
    """Hint at the table of a Schaefer parcellation that is not in the registry; empty for another atlas."""
    name = name_schaefer(label)
    if name == label or find_registered(label):
        return ""
    known = " and ".join(one.stem for one in list_registered() if re.fullmatch(r"Schaefer\d+", one.stem))
    table = f"tpl-MNI152NLin6Asym_atlas-Schaefer2018_desc-{name.removeprefix('Schaefer')}Parcels7Networks_dseg.tsv"
    return f"Only the tables of {known} are included; give that of {name}, e.g. from TemplateFlow: --atlas {table}."


def _load_asked(label: str, columns: Sequence[str], asked: str, directory: Path | None) -> LabelTable | None:
    """Load the table requested by the user; None if a bare name only chooses among the dataset's atlases."""
    if not asked:
        return None
    entry = find_registered(asked)
    if (
        not entry
        and not Path(split_choice(asked)[0]).exists()
        and asked.removeprefix("atlas-").removeprefix("seg-") == label
    ):
        return None
    table = _load_table(load_entry(entry).table if entry else _find_table(asked, label, directory))
    try:
        _check_fits(table, columns)
    except ValueError as error:
        if entry and asked == label:
            return None
        raise AtlasError(
            f"The atlas {asked} does not match the series of atlas {label}: their table {error}.",
            hint=_HINT
            if is_numbered(columns)
            else f"Give the table of atlas {label}; or read images, if there are any (--input-type images).",
        ) from error
    return table


def _load_table(path: Path) -> LabelTable:
    return rename_to_seven_networks(load_label_table(path))


def _find_table(asked: str, label: str, directory: Path | None) -> Path:
    chosen, choice = split_choice(asked)
    path = Path(chosen)
    if path.is_file() and path.suffix == ".tsv":
        return path
    if path.is_dir() and not choice:
        found = sorted(path.rglob("*_dseg.tsv"))
        named = [one for one in found if f"-{label}_" in one.name]
        if len(named or found) == 1:
            return (named or found)[0]
        raise AtlasError(
            f"The directory {path} contains {len(named or found)} *_dseg.tsv tables for atlas {label}, expected one"
            f"{f': {name_some([one.name for one in named or found])}' if found else ''}.",
            hint="Give the path of one table.",
        )
    if entry := find_entry(asked):
        # Series need no images, but a folder that the user gave must exist.
        find_places(directory)
        return load_entry(entry).table
    return next(iter(find_images(asked).values())).listed_in


def _find_entry(columns: Sequence[str]) -> Path | None:
    """Find the smallest atlas of the registry that has all the columns by name."""
    if is_numbered(columns):
        return None
    tables = {entry: _load_table(load_entry(entry).table) for entry in list_registered()}
    entries = sorted(tables, key=lambda entry: len(tables[entry].parcels))
    return next((entry for entry in entries if _find_fitting([tables[entry]], columns)), None)


def _find_fitting(tables: Sequence[LabelTable], columns: Sequence[str]) -> LabelTable | None:
    for table in tables:
        try:
            _check_fits(table, columns)
        except ValueError as error:
            LOG.debug("The series' table %s.", error)
            continue
        return table
    return None


def _check_fits(table: LabelTable, columns: Sequence[str]) -> None:
    positions = locate_columns(columns, table.parcels, table.path.name)
    in_order = is_numbered(columns) and positions.tolist() == list(range(len(table.parcels)))
    if in_order and list(table.values) != sorted(table.values):
        raise ValueError(f"has numbered columns without parcel names, and {table.path.name} does not give their order")
