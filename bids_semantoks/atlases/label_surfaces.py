"""Atlases on surfaces: CIFTI dlabel, and pairs of label.gii or annot. G grayordinates of a file, P parcels."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from xml.parsers.expat import ExpatError

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray

from bids_semantoks.atlases.label_tables import LabelTable, find_network, load_label_table, name_some
from bids_semantoks.atlases.registry import DIRECTORY_VARIABLE, Places, find_places, find_registry, is_there
from bids_semantoks.errors import AtlasError
from bids_semantoks.images.gifti import find_hemisphere
from bids_semantoks.images.grayordinates import (
    CEREBELLAR,
    CiftiError,
    Grayordinates,
    build_hemispheres,
    load_cifti,
    read_grayordinates,
    read_label_names,
    read_rows,
)
from bids_semantoks.records import Atlas, AtlasVolume
from bids_semantoks.runtime.downloads import ATLASES, check_published, check_recorded, download

SURFACE_SUFFIXES: Final = (".dlabel.nii", ".label.gii", ".annot")


_CORTEX: Final = "CORTEX"


# What label files call vertices that belong to no parcel; compared in lower case, letters only.
_NOTHING: Final = ("", "unknown", "medialwall", "medialwallmask", "backgroundfreesurferdefinedmedialwall", "none")


_SPACES: Final = {10242: ("fsaverage5", "fsaverage"), 40962: ("fsaverage6", "fsaverage"), 32492: ("fsLR",)}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SurfaceLabels:
    """Labels of the grayordinates of one file."""

    grayordinates: Grayordinates
    keys: NDArray[np.int64]  # (G,) label keys
    names: dict[int, str]  # of the keys that are parcels


def is_surface_atlas(path: Path) -> bool:
    """Tell a surface label file from an image by its suffix."""
    return path.name.endswith(SURFACE_SUFFIXES)


def load_surface_labels(path: Path) -> SurfaceLabels:
    """Read a ``.dlabel.nii``, ``.label.gii`` or ``.annot`` file: keys of the first map, and the names in use.
    Raises AtlasError if it cannot be read, its hemisphere is unknown, it has no parcels or uses a nameless key."""
    try:
        status = path.stat()
    except OSError as error:
        raise AtlasError(f"The atlas {path} cannot be read: {error.strerror}.") from error
    # Every run needs it again, and reading takes as long as a short run.
    return _load_labels(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _load_labels(path: Path, _size: int, _mtime: int) -> SurfaceLabels:
    load = _load_dlabel if path.name.endswith(".dlabel.nii") else _load_hemisphere
    try:
        grayordinates, values, names = load(path)
    except (CiftiError, ImageFileError, ExpatError, OSError, ValueError, IndexError, EOFError) as error:
        raise AtlasError(f"The atlas {path} cannot be read: {error}.") from error
    keys = np.rint(np.nan_to_num(values)).astype(np.int64)
    used = {int(key) for key in np.unique(keys)}
    parcels = {key: name for key, name in names.items() if key in used and not _is_nothing(name)}
    if nameless := sorted(key for key in used if key != 0 and not names.get(key, "")):
        raise AtlasError(
            f"The atlas {path} uses keys that its label table does not name: {name_some(nameless)}.",
            hint="Give each key a name (wb_command -cifti-label-import, -metric-label-import).",
        )
    if not parcels:
        raise AtlasError(f"The atlas {path} holds no parcel: all {keys.size} grayordinates are without a label.")
    return SurfaceLabels(grayordinates=grayordinates, keys=keys, names=parcels)


def find_partner(path: Path) -> tuple[Path, Path] | None:
    """Find the left and right file of an atlas with one file per hemisphere; None for a file of all structures.
    Raises AtlasError if the name lacks the hemisphere or the partner is missing."""
    if path.name.endswith(".dlabel.nii"):
        return None
    here = find_hemisphere(path.name)
    if not here:
        raise AtlasError(
            f"The name of the atlas {path} does not tell its hemisphere.",
            hint="Expected hemi-L_, lh. or .L. in it, and its partner of the other hemisphere beside it.",
        )
    other = re.sub(
        r"(^|[_.])(hemi-)?(L|R|lh|rh)(?=[_.])",
        lambda match: f"{match[1]}{match[2] or ''}{ {'L': 'R', 'R': 'L', 'lh': 'rh', 'rh': 'lh'}[match[3]] }",
        path.name,
    )
    partner = path.with_name(other)
    if not partner.is_file():
        raise AtlasError(
            f"The atlas {path} covers one hemisphere; its partner {partner.name} is not beside it.",
            hint="Both hemispheres are needed.",
        )
    return (path, partner) if here.endswith("LEFT") else (partner, path)


def find_surface_spaces(path: Path, labels: SurfaceLabels) -> tuple[str, ...]:
    """Find the template spaces, likeliest first, of a label file by its name, else by the size of its mesh.
    Raises AtlasError if neither identifies the space."""
    if path.name.endswith(".dlabel.nii"):
        return ("fsLR",)
    if found := re.search(r"(?:space|tpl)-(fsLR|fsaverage[3-6]?)(?=[_.])", path.name):
        size = labels.grayordinates.models[0].n_vertices
        return tuple(dict.fromkeys((found[1], *(_SPACES.get(size, ()) if found[1] == "fsaverage" else ()))))
    size = labels.grayordinates.models[0].n_vertices
    if size == 163842 and path.name.endswith(".annot"):
        return ("fsaverage",)
    if size not in _SPACES:
        raise AtlasError(
            f"The space of the atlas {path} is unknown: its mesh has {size} vertices.",
            hint="Name it with space- (such as hemi-L_space-fsaverage_dseg.label.gii).",
        )
    return _SPACES[size]


def build_surface_table(paths: tuple[Path, ...], table: Path | None) -> tuple[LabelTable, list[tuple[int, ...]]]:
    """List the parcels of label files, and per file the table value of each key in order; 0 where the table omits it.

    `paths` is one file of all structures, or left and right. Parcels are in the order of `table`, else of the keys;
    values count from 1. Without a table, networks come from the names (``7Networks_LH_Vis_1``), those of voxels from
    the structure. Raises AtlasError for an unreadable file, a repeated name, or a table that lists none of the parcels.
    """
    files = [load_surface_labels(path) for path in paths]
    names = [[labels.names[key] for key in sorted(labels.names)] for labels in files]
    flat = [name for some in names for name in some]
    if len(set(flat)) < len(flat):
        twice = sorted({name for name in flat if flat.count(name) > 1})
        # FreeSurfer's own annotations use one name for both hemispheres.
        prefixes = ("LH_", "RH_") if len(files) == 2 else ("",)
        names = [[prefix + name for name in some] for prefix, some in zip(prefixes, names, strict=True)]
        flat = [name for some in names for name in some]
        if len(set(flat)) < len(flat):
            raise AtlasError(f"The atlas {paths[0]} has several keys of one name: {name_some(twice)}.")
    if table is None:
        networks = [
            network for labels, some in zip(files, names, strict=True) for network in _find_networks(labels, some)
        ]
        rows = LabelTable(
            path=paths[0], values=tuple(range(1, len(flat) + 1)), parcels=tuple(flat), networks=tuple(networks)
        )
    else:
        rows = _match_table(load_label_table(table), flat)
    position = dict(zip(rows.parcels, rows.values, strict=True))
    return rows, [tuple(position.get(name, 0) for name in some) for some in names]


def _match_table(table: LabelTable, flat: list[str]) -> LabelTable:
    if not set(flat) & set(table.parcels):
        raise AtlasError(
            f"The atlas table {table.path} names none of the {len(flat)} parcels of its label file, "
            f"such as {name_some(flat)}; it has {name_some(table.parcels)}.",
            hint="Its column label must hold the names of the label file's keys.",
        )
    order = [i for i, name in enumerate(table.parcels) if name in set(flat)]
    return LabelTable(
        path=table.path,
        values=tuple(range(1, len(order) + 1)),
        parcels=tuple(table.parcels[i] for i in order),
        networks=tuple(table.networks[i] for i in order),
    )


def _find_networks(labels: SurfaceLabels, names: list[str]) -> list[str]:
    """Derive networks from names, those of voxels from their structure."""
    networks = []
    for key, name in zip(sorted(labels.names), names, strict=True):
        structures = {
            model.structure for model in labels.grayordinates.models if (labels.keys[model.place] == key).any()
        }
        if any(structure.startswith(_CORTEX) for structure in structures):
            networks.append(find_network(name))
        else:
            networks.append("Cerebellum" if structures <= set(CEREBELLAR) else "Subcortex")
    return networks


def _load_dlabel(path: Path) -> tuple[Grayordinates, NDArray[Any], dict[int, str]]:
    file = load_cifti(path)
    file.check_kinds("LABELS", "BRAIN_MODELS")
    grayordinates = read_grayordinates(file.axes[1])
    if grayordinates.size != file.shape[1]:
        raise CiftiError(f"describes {grayordinates.size} grayordinates and holds {file.shape[1]}")
    values = np.concatenate([block[:, 0].copy() for _, block in read_rows(file)])
    return grayordinates, values, read_label_names(file.axes[0])


def _load_hemisphere(path: Path) -> tuple[Grayordinates, NDArray[Any], dict[int, str]]:
    if path.name.endswith(".annot"):
        values, _, listed = nib.freesurfer.read_annot(path)
        names = {key: name.decode(errors="replace") for key, name in enumerate(listed)}
        # nibabel gives -1 to vertices whose colour is in no row of the table.
        values = np.where(values < 0, len(listed), values)
        names[len(listed)] = "unknown"
        side = find_hemisphere(path.name)
    else:
        image: Any = nib.load(path)
        values = np.asarray(image.darrays[0].data).ravel()
        names = {
            int(key): " ".join((name or "").split()) for key, name in image.labeltable.get_labels_as_dict().items()
        }
        primary = image.darrays[0].meta.get("AnatomicalStructurePrimary") or image.meta.get(
            "AnatomicalStructurePrimary"
        )
        side = find_hemisphere(path.name) or {"CortexLeft": "CORTEX_LEFT", "CortexRight": "CORTEX_RIGHT"}.get(
            str(primary), ""
        )
    if not side:
        raise ValueError("its name does not tell the hemisphere (hemi-L_, lh. or .L.)")
    return build_hemispheres({side: values.size}), values, names


def _is_nothing(name: str) -> bool:
    return re.sub(r"[^a-z]", "", name.lower()) in _NOTHING


def find_or_fetch_labels(entry: Path, space: str, places: Places, target: Path) -> dict[str, Path]:
    """Find the label files of an entry's first alternative for a space, fetching missing ones into `target`.

    Keyed by name below ``atlases``: files of one name exist for several meshes, told apart by their folders. Raises
    AtlasError when the entry has none for this space, or one is missing and cannot be fetched.
    """
    surfaces = _read_entry(entry)["surfaces"]
    if space not in surfaces:
        raise AtlasError(
            f"The atlas {entry.stem} is known on {', '.join(surfaces) or 'no surface'}, not on surfaces in {space}."
        )
    found = {}
    for part in surfaces[space][0]:
        path = _find_part(part, places)
        if path is None:
            path = target / ATLASES / part["files"][0]
            download(part["url"], path, sha256=part.get("sha256"))
        found[str(part["files"][0])] = path
    return found


def find_entry(name_or_path: str | Path) -> Path | None:
    """Find the registry entry (JSON) for a name or path; None for any other atlas."""
    entry = find_registry() / f"{name_or_path}.json"
    if re.fullmatch(r"\w+", str(name_or_path)) and entry.is_file():
        return entry
    path = Path(name_or_path)
    return path if path.suffix == ".json" and path.is_file() else None


def _read_entry(entry: Path) -> dict[str, Any]:
    try:
        content = json.loads(entry.read_text(encoding="utf-8"))
        surfaces = {str(one["space"]): one["alternatives"] for one in content.get("surfaces", ())}
        return {"name": str(content["name"]), "table": entry.parent / content["table"], "surfaces": surfaces}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise AtlasError(f"The atlas description {entry} cannot be read: {type(error).__name__} {error}.") from error


def find_recipes(entry: Path, directory: Path | None) -> dict[str, list[tuple[Mapping[str, Any], Path]]]:
    """Find for each space the files of the first alternative that is complete locally; skip incomplete spaces.
    Each file comes with its description in the entry. Raises AtlasError if the entry cannot be read."""
    places = find_places(directory, beside=entry.parent)
    found: dict[str, list[tuple[Mapping[str, Any], Path]]] = {}
    for space, alternatives in _read_entry(entry)["surfaces"].items():
        for parts in alternatives:
            paths = [_find_part(part, places) for part in parts]
            if space not in found and all(paths):
                found[space] = [(part, path) for part, path in zip(parts, paths, strict=True) if path is not None]
    return found


def _find_part(part: Mapping[str, Any], places: Places) -> Path | None:
    # Files of one name exist for several meshes.
    wanted = part.get("n_vertices")
    folders = (*(sub for one in places.given for sub in (one, one / ATLASES)), *places.others)
    for path in (folder / str(name) for folder in folders for name in part["files"]):
        if is_there(path) and (wanted is None or load_surface_labels(path).keys.size == wanted):
            return path
    return None


def load_surface_entry(entry: Path, space: str, directory: Path | None) -> Atlas:
    """Load an atlas on surfaces from its registry entry, one volume per label file.
    Raises AtlasError when files are missing, damaged or not those that the entry names."""
    content = _read_entry(entry)
    recipes = find_recipes(entry, directory)
    if space not in recipes:
        alternatives = content["surfaces"].get(space, ())
        needed = "; or ".join(" with ".join(part["files"][0] for part in parts) for parts in alternatives)
        origins = ", ".join(sorted({part["source"] for parts in alternatives for part in parts}))
        known = ", ".join(content["surfaces"]) or "no surface"
        raise AtlasError(
            f"The label files of the atlas {content['name']} for surfaces in {space} are not found: {needed}."
            if needed
            else f"The atlas {content['name']} is known on {known}, the data lie on surfaces in {space}.",
            hint=f"`bids_semantoks-fetch DIR --atlas {content['name']} --space {space}` on a machine with network "
            f"brings them from {origins}; give DIR with --atlas-dir or in {DIRECTORY_VARIABLE}."
            if needed
            else "Give a label file with --atlas: a .dlabel.nii, or one of a pair of .label.gii or .annot files.",
        )
    table = load_label_table(content["table"])
    position = {index: i for i, index in enumerate(table.values)}
    volumes = []
    for part, path in recipes[space]:
        values, indices = list(_expand(part["values"])), list(_expand(part["parcels"]))
        if len(values) != len(indices) or not set(indices) <= set(position):
            raise AtlasError(f"The atlas description {entry} pairs {path.name} with parcels that its table lacks.")
        used = _read_used(path)
        if not used & set(values):
            raise AtlasError(f"The atlas file {path} holds none of the {len(values)} labels that are expected of it.")
        licence = f"{path.name}: {part['licence']}, from {part['source']}"
        volume = build_surface_volume(path, values, [position[index] for index in indices], licence)
        # An image beside surfaces, as of the cerebellum, is in a space of its own.
        volume = dataclasses.replace(volume, space=str(part.get("space", "")))
        check_published(path, volume.sha256, part.get("sha256") if path.name == part["files"][0] else None)
        volumes.append(volume)
    return build_surface_atlas(content["name"], space, table, tuple(volumes))


def _expand(ranges: Sequence[Sequence[int]]) -> Iterator[int]:
    for first, last in ranges:
        yield from range(int(first), int(last) + 1)


def _read_used(path: Path) -> set[int]:
    if is_surface_atlas(path):
        return {int(key) for key in load_surface_labels(path).names}
    try:
        image: Any = nib.load(path)
        return {int(value) for value in np.unique(np.rint(np.asanyarray(image.dataobj))) if value != 0}
    except (ImageFileError, OSError, EOFError, ValueError) as error:
        raise AtlasError(f"The atlas image {path} cannot be read: {error}.") from error


def build_surface_volume(path: Path, values: Sequence[int], parcels: Sequence[int], licence: str) -> AtlasVolume:
    """Build the record of one label file, with checksum; `parcels` are positions in the atlas of `values`.
    Raises AtlasError if a fetched file has changed since."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    check_recorded(path, digest)
    return AtlasVolume(
        path=path,
        sha256=digest,
        values=np.asarray(values, dtype=np.int64),
        parcels=np.asarray(parcels, dtype=np.int64),
        licence=licence or f"{path.name}: n/a",
    )


def build_surface_atlas(name: str, space: str, table: LabelTable, volumes: tuple[AtlasVolume, ...]) -> Atlas:
    """Build the record of an atlas on surfaces, with a joint checksum of names, networks and files."""
    content = {
        "parcels": table.parcels,
        "networks": table.networks,
        "volumes": [[v.sha256, v.values.tolist(), v.parcels.tolist()] for v in volumes],
    }
    return Atlas(
        name=name,
        space=space,
        parcels=table.parcels,
        networks=table.networks,
        volumes=volumes,
        sha256=hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest(),
    )
