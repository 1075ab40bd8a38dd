"""Atlas tables: value, name and network of each parcel (P parcels), spellings, orders, and an atlas's checksum."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.atlases.registry import find_registry
from bids_semantoks.bids_names import format_label, parse_entities
from bids_semantoks.errors import AtlasError, name_some
from bids_semantoks.files import hash_values, is_missing, parse_table, read_rows, read_text
from bids_semantoks.records import CANONICAL_NETWORKS, Atlas, AtlasVolume, Floats, Indices

# Affines that differ by less are equal: they are stored in single precision, as quaternions or as text.
_DECIMALS = 3


class Layer(NamedTuple):
    """Parcels in one part of the brain: a voxel grid, the mesh of a hemisphere, or the voxels of a structure."""

    place: tuple[Any, ...]  # identifies the array's axes, in plain values; layers with the same place can be merged
    parcels: NDArray[np.int32]  # position plus 1, 0 for none


def build_grid_layer(labels: Indices, affine: Floats, volume: AtlasVolume, space: str) -> Layer:
    """Build the layer of a label image (X, Y, Z) with its affine (4, 4), for data in `space`."""
    place = (volume.space or space, volume.transform_sha256, *describe_grid(labels.shape, affine))
    return Layer(place, np.ascontiguousarray(look_up(labels, volume)))


def hash_labels(labels: Indices, affine: Floats | None = None) -> str:
    """Compute the SHA-256 of the labels of an image with its grid, or of the grayordinates of a surface file;
    independent of data type, header, compression and names."""
    grid = describe_grid(labels.shape, affine) if affine is not None else (list(labels.shape),)
    return hash_values([*grid, _hash_array(labels)])


def _hash_array(values: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(values, dtype="<i4").tobytes()).hexdigest()


def look_up(labels: Indices, volume: AtlasVolume) -> NDArray[np.int32]:
    """Convert labels to parcel positions plus 1, 0 for none; negative labels count as none."""
    lookup = np.zeros(max(int(labels.max()), int(volume.values.max())) + 1, dtype=np.int32)
    lookup[volume.values] = volume.parcels + 1
    found: NDArray[np.int32] = lookup[np.maximum(labels, 0)]
    return found


def describe_grid(shape: Sequence[int], affine: Floats) -> tuple[Any, ...]:
    """Describe a grid in plain values, so that equal grids compare equal."""
    # Adding zero turns -0.0 into 0.0.
    return (list(map(int, shape)), (np.round(affine, _DECIMALS) + 0.0).tolist())


def identify(parcels: Sequence[str], networks: Sequence[str], space: str, layers: Sequence[Layer]) -> str:
    """Compute the identity of an atlas from its table, its space and its layers, of which earlier ones take precedence.
    Layers on one grid are merged: an atlas in two files on the same grid equals the same atlas in one file."""
    merged: list[Layer] = []
    for layer in layers:
        if merged and merged[-1].place == layer.place:
            first = merged.pop().parcels
            layer = Layer(layer.place, np.where(first == 0, layer.parcels, first))  # noqa: PLW2901
        merged.append(layer)
    content = [[*place, _hash_array(values)] for place, values in merged]
    return hash_values({"parcels": parcels, "networks": networks, "space": space, "voxels": content})


def identify_by_files(parcels: Sequence[str], networks: Sequence[str], volumes: Sequence[AtlasVolume]) -> list[str]:
    """Compute the identities that earlier versions gave an atlas, from the checksums of its files: first the local
    files, then others with the same labels. For an atlas without files this is still its identity."""
    found = []
    for sums in itertools.product(*((one.sha256, *one.other_sha256) for one in volumes)):
        labels = [
            [sha256, v.values.tolist(), v.parcels.tolist(), *([v.transform_sha256] if v.transform else [])]
            for sha256, v in zip(sums, volumes, strict=True)
        ]
        found.append(hash_values({"parcels": parcels, "networks": networks, "volumes": labels}))
    return found


_NAME_COLUMNS = ("label", "name")
_NETWORK_COLUMNS = ("network_label", "network")

# Spellings in published tables; compared in lower case without spaces, underscores and hyphens.
_SPELLINGS = {
    "Vis": ("visual",),
    "SomMot": ("somatomotor", "sensorimotor", "smhand", "smmouth", "auditory"),
    "DorsAttn": ("dorsalattention",),
    "SalVentAttn": (
        *("salienceventralattention", "ventralattention", "ventralattn", "salience"),
        *("cinguloopercular", "cingulooperc"),
    ),
    "Cont": ("control", "frontoparietal"),
    "Default": ("defaultmode",),
    "Subcortex": ("subcortical",),
    "Cerebellum": ("cerebellar",),
}
_SYNONYMS = {text: name for name in CANONICAL_NETWORKS for text in (name.lower(), *_SPELLINGS.get(name, ()))}

LOG = logging.getLogger("bids_semantoks")

# Name columns in the table of orders, and their description. The 17-network order has the same parcels in another
# order and with other networks; the names of 2018, used in TemplateFlow's tables, were corrected in 2019.
_ORDERS: Final = {
    "label_2018": "the 7-network order of 2018",
    "label_17networks": "the 17-network order",
    "label_17networks_2018": "the 17-network order of 2018",
}

_PREFIX: Final = re.compile("^(7|17)Networks_")
PREFIX: Final = "7Networks_"

# Joined in this order, they form the label of an atlas given by path.
_NAME_ENTITIES: Final = ("atlas", "seg", "scale", "desc")


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelTable:
    """Rows of an atlas table, without the background."""

    path: Path
    values: tuple[int, ...]  # (P,) in the image
    parcels: tuple[str, ...]
    networks: tuple[str, ...]  # (P,) empty if a parcel has none


def load_label_table(path: Path) -> LabelTable:
    """Read a tab-separated atlas table, rows in file order, without the background (index 0). Columns are ``index``,
    ``label`` (or ``name``) and, unless the names contain it, ``network_label`` (or ``network``). Raises AtlasError if
    the table cannot be read, lacks a column, or repeats a value or name."""
    columns, rows = _read_rows(path)
    name_column = next((c for c in _NAME_COLUMNS if c in columns), None)
    if "index" not in columns or name_column is None:
        raise AtlasError(
            f"The atlas table {path} has columns {', '.join(columns)}; index and label are required.",
            hint="Provide a tab-separated table with the columns index, label and network_label.",
        )
    network_column = next((c for c in _NETWORK_COLUMNS if c in columns), None)
    kept = [(value, row) for row in rows if (value := _read_index(row["index"], path)) != 0]
    names = tuple(row[name_column] for _, row in kept)
    networks = tuple(
        find_network(row[name_column]) if network_column is None else normalise_network(row[network_column])
        for _, row in kept
    )
    if not kept:
        raise AtlasError(f"The atlas table {path} lists no parcels.")
    _check_unique([str(value) for value, _ in kept], "index", path)
    _check_unique(list(names), name_column, path)
    return LabelTable(path=path, values=tuple(value for value, _ in kept), parcels=names, networks=networks)


def normalise_network(label: str) -> str:
    """Return the canonical label of a network (`CANONICAL_NETWORKS`), itself if unknown, empty for ``n/a``."""
    label = label.strip()
    # Some parcellations use this name for parcels without a network.
    if label == "none" or is_missing(label):
        return ""
    return _SYNONYMS.get(re.sub(r"[\s_-]", "", label).lower(), label)


def find_network(parcel: str) -> str:
    """Find the canonical network in a parcel's name, as in ``7Networks_LH_Vis_1``; empty if it has none."""
    found = re.fullmatch(r"(?:7Networks_)?[LR]H_([A-Za-z]+)_.+", parcel)
    return _SYNONYMS.get(found[1].lower(), "") if found else ""


def _read_rows(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    try:
        columns, rows, _ = parse_table(read_text(path))
    except OSError as error:
        raise AtlasError(f"The atlas table {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise AtlasError(f"The atlas table {path} {error}.", hint="Fields must be tab-separated.") from error
    if not columns:
        raise AtlasError(f"The atlas table {path} is empty.")
    # Repeated white space would not survive in the tables that we write, so it is collapsed here.
    cells = ([" ".join(cell.split()) for cell in line] for line in rows)
    return columns, [dict(zip(columns, line, strict=True)) for line in cells]


def _read_index(text: str, path: Path) -> int:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    # Images cannot store larger integers exactly.
    if not 0 <= number <= 2**53 or not number.is_integer():
        raise AtlasError(f"The atlas table {path} has index {text!r:.60}; expected an integer of 0 or more.")
    return int(number)


def _check_unique(items: list[str], column: str, path: Path) -> None:
    twice = [item for item, count in Counter(items).items() if count > 1]
    if twice:
        raise AtlasError(f"The atlas table {path} has repeated values in column {column}: {name_some(twice)}.")


def rename_to_seven_networks(table: LabelTable) -> LabelTable:
    """Rename parcels of another order as in the 7-network order, including networks; rows and image values are kept.
    Only tables with all 400 names of one order, possibly among other parcels, are renamed: in smaller parcellations the
    same names denote other parcels."""
    column, parcels = _rename(table.parcels)
    if not column:
        return table
    LOG.info(
        "The parcels of %s are named in %s; renaming them to the 7-network order.", *(table.path.name, _ORDERS[column])
    )
    networks = tuple(find_network(parcel) or network for parcel, network in zip(parcels, table.networks, strict=True))
    return dataclasses.replace(table, parcels=parcels, networks=networks)


def rename_columns(columns: Sequence[str]) -> tuple[str, ...]:
    """Rename columns (C,) of another order as in the 7-network order, all with the prefix (``17Networks_``) or all
    without. Names of no order, or of fewer than all 400 parcels, are kept."""
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
    return {column: {row[column]: row["label"] for row in _read_orders()} for column in _ORDERS}


def _read_orders() -> list[dict[str, str]]:
    """Read the names of the Schaefer-400 parcels in each order: one row per parcel, in the 7-network order."""
    return read_rows(find_registry() / "Schaefer400_orders.tsv")


@functools.cache
def load_seventeen(column: str = "label") -> tuple[str, ...]:
    """Load the names of Schaefer's 400 parcels in the 17-network order: those of the 7-network order, or a `column`."""
    return tuple(row[column] for row in sorted(_read_orders(), key=lambda row: int(row["index_17networks"])))


def locate_columns(columns: Sequence[str], parcels: Sequence[str], where: str = "the atlas") -> Indices:
    """Find the position (C,) in `parcels` of each column; ValueError with what the table "has" that its atlas
    (`where`) lacks. Accepts names with or without ``7Networks_``, Schaefer-400 names in 17-network order, and all
    numbers from 0 or 1."""
    position = {name.removeprefix(PREFIX): i for i, name in enumerate(parcels)}
    bare = [name.removeprefix(PREFIX) for name in rename_columns(columns)]
    unknown = [name for name, own in zip(columns, bare, strict=True) if own not in position]
    if not unknown:
        return np.array([position[name] for name in bare], dtype=np.int64)
    if not is_numbered(columns):
        names = name_some(unknown)
        raise ValueError(f"has columns that are not in {where} ({len(unknown)} of {len(columns)}): {names}")
    if len(columns) != len(parcels):
        raise ValueError(f"has {len(columns)} columns without parcel names, but {where} has {len(parcels)} parcels")
    return np.arange(len(parcels), dtype=np.int64)


def is_numbered(columns: Sequence[str]) -> bool:
    """Return whether columns are only numbered, from 0 or 1 and with any prefix (``Mean_1``), not named."""
    found = [re.fullmatch(r"(.*?)(\d+)", column) for column in columns]
    numbers = [int(one[2]) for one in found if one]
    return (
        len(numbers) == len(columns) > 0
        and len({one[1] for one in found if one}) == 1
        and any(numbers == list(range(first, first + len(columns))) for first in (0, 1))
    )


def build_label(stem: str) -> str:
    """Build the label of an atlas from the atlas-, seg-, scale- and desc- values of a file stem without hemisphere.
    Without any of these the stem itself is used; only letters and digits are kept."""
    # Names chosen by users may contain further dots.
    entities = parse_entities(stem.replace(".", ""))
    text = "".join(entities.get(key, "") for key in _NAME_ENTITIES) or stem.removesuffix("_dseg")
    try:
        return format_label(text)
    except ValueError:
        return "Atlas"


def build_atlas(
    name: str, space: str, table: LabelTable, loaded: Sequence[tuple[AtlasVolume, Sequence[Layer]]] = ()
) -> Atlas:
    """Build the record of an atlas with its checksum, from its table, and its files with their layers."""
    volumes, layers = tuple(volume for volume, _ in loaded), [layer for _, layers in loaded for layer in layers]
    by_files = identify_by_files(table.parcels, table.networks, volumes)
    return Atlas(
        name=name,
        space=space,
        parcels=table.parcels,
        networks=table.networks,
        volumes=volumes,
        sha256=identify(table.parcels, table.networks, space, layers) if volumes else by_files[0],
        former_sha256=tuple(by_files),
    )
