"""Where the label files of an atlas on surfaces lie, and the atlas made of them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError

from bids_semantoks.errors import AtlasError
from bids_semantoks.places import ATLASES
from bids_semantoks.records import Atlas, AtlasVolume
from bids_semantoks.signals.atlas import find_atlas_spaces
from bids_semantoks.signals.downloads import check_published, check_recorded, download
from bids_semantoks.signals.labels import LabelTable, load_label_table
from bids_semantoks.signals.orders import rename_to_seven_networks
from bids_semantoks.signals.registry import DIRECTORY_VARIABLE, Places, find_places, find_registry, is_there
from bids_semantoks.signals.surface_atlas import (
    SURFACE_SUFFIXES,
    build_surface_table,
    find_partner,
    find_surface_spaces,
    is_surface_atlas,
    load_surface_labels,
)

# In this order they make the label of an atlas that a path names.
_NAME_ENTITIES: Final = ("atlas", "seg", "scale", "desc")
_SIDE: Final = re.compile(r"^(lh|rh)\.|hemi-[LR]_?|\.(L|R)(?=\.)")


def find_all_spaces(name_or_path: str | Path, *, directory: Path | None) -> tuple[str, ...]:
    """Find the template spaces of an atlas, images first and then surfaces.

    Parameters
    ----------
    name_or_path : str or Path
        Name of a registry entry, or path of a label file or image, a registry entry or an atlas dataset.
    directory : Path or None
        Where the files of registry entries are looked for first.

    Returns
    -------
    tuple of str
        Template spaces, preferred first; those of surfaces only where their files are here.

    Raises
    ------
    AtlasError
        There is no such atlas.
    """
    path = Path(name_or_path)
    if is_surface_atlas(path):
        left = (_find_files(path))[0]
        return find_surface_spaces(left, load_surface_labels(left))
    entry = _find_entry(name_or_path)
    on_surfaces = () if entry is None else tuple(_find_recipes(entry, directory))
    try:
        return tuple(dict.fromkeys((*find_atlas_spaces(name_or_path, directory=directory), *on_surfaces)))
    except AtlasError:
        if not on_surfaces:
            raise
        return on_surfaces


def load_surface_atlas(name_or_path: str | Path, *, space: str, directory: Path | None) -> Atlas:
    """Load an atlas for data on surfaces.

    Parameters
    ----------
    name_or_path : str or Path
        Name of a registry entry, or path of a ``.dlabel.nii`` file, or of one ``.label.gii`` or ``.annot`` file whose
        partner of the other hemisphere lies beside it.
    space : str
        Template space of the data.
    directory : Path or None
        Where the files of registry entries are looked for first; then in BIDS_SEMANTOKS_ATLAS_DIR and in our cache.

    Returns
    -------
    Atlas
        Parcels in the order of the table, else of the label files.

    Raises
    ------
    AtlasError
        The atlas is not found, has no surfaces of this space, or is damaged.
    """
    path = Path(name_or_path)
    entry = _find_entry(name_or_path)
    if entry is not None:
        return _load_entry(entry, space, directory)
    if not is_surface_atlas(path) or not path.is_file():
        raise AtlasError(
            f"The data in {space} lie on surfaces, the atlas {name_or_path} "
            f"{'is made of images' if path.exists() else 'is not there'}.",
            hint="Give a .dlabel.nii file, or one of a pair of .label.gii or .annot files; or read volumes (--space).",
        )
    files = _find_files(path)
    spaces = find_surface_spaces(files[0], load_surface_labels(files[0]))
    if space not in spaces:
        raise AtlasError(
            f"The atlas {path} is in the space {' or '.join(spaces)}, the data in {space}.",
            hint=f"Process the data in {' or '.join(spaces)} (--space), or give an atlas in {space}.",
        )
    table, keys = build_surface_table(files, _find_table(files))
    table = rename_to_seven_networks(table)
    position = {value: i for i, value in enumerate(table.values)}
    volumes = []
    for file, values in zip(files, keys, strict=True):
        own = sorted(load_surface_labels(file).names)
        pairs = [(key, position[value]) for key, value in zip(own, values, strict=True) if value]
        volumes.append(_build_volume(file, [key for key, _ in pairs], [parcel for _, parcel in pairs], ""))
    return _build_atlas(_label(files[0]), space, table, tuple(volumes))


def find_or_fetch_labels(entry: Path, space: str, places: Places, target: Path) -> dict[str, Path]:
    """Find the label files of a registry entry on surfaces, or fetch the best set of them.

    Parameters
    ----------
    entry : Path
        JSON file.
    space : str
        Template space of the data.
    places : Places
        Where to look.
    target : Path
        A directory laid out like our cache, which gets what is lacking.

    Returns
    -------
    dict
        The files of the first alternative, by their name below ``atlases``: files of one name exist for several meshes,
        told apart by their folders.

    Raises
    ------
    AtlasError
        There are none for this space, or one of them is not here and cannot be fetched.
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


def check_is_volumetric(name_or_path: str | Path, space: str) -> None:
    """Refuse an atlas on surfaces for images.

    Parameters
    ----------
    name_or_path : str or Path
        As for `find_all_spaces`.
    space : str
        Template space of the images.

    Raises
    ------
    AtlasError
        It is a label file on surfaces.
    """
    if is_surface_atlas(Path(name_or_path)):
        raise AtlasError(
            f"The atlas {name_or_path} lies on surfaces, the data in {space or 'native space'} are images.",
            hint="Choose data on surfaces (--space), or an atlas of images (.nii.gz).",
        )


def _find_entry(name_or_path: str | Path) -> Path | None:
    """Find the registry entry that is meant, if any."""
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


def _find_recipes(entry: Path, directory: Path | None) -> dict[str, list[tuple[Mapping[str, Any], Path]]]:
    """Find for each space the files of the first alternative that is here as a whole."""
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


def _load_entry(entry: Path, space: str, directory: Path | None) -> Atlas:
    content = _read_entry(entry)
    recipes = _find_recipes(entry, directory)
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
        volume = _build_volume(path, values, [position[index] for index in indices], licence)
        # An image beside surfaces, as of the cerebellum, is in a space of its own.
        volume = dataclasses.replace(volume, space=str(part.get("space", "")))
        check_published(path, volume.sha256, part.get("sha256") if path.name == part["files"][0] else None)
        volumes.append(volume)
    return _build_atlas(content["name"], space, table, tuple(volumes))


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


def _find_files(path: Path) -> tuple[Path, ...]:
    if not path.is_file():
        raise AtlasError(f"There is no atlas {path}.", hint="Check the path given with --atlas.")
    return find_partner(path) or (path,)


def _find_table(files: Sequence[Path]) -> Path | None:
    """Find a table beside the files, named like them, with or without the hemisphere."""
    for file in files:
        stem = _stem(file)
        for name in (stem, _SIDE.sub("", stem).strip("._")):
            if (table := file.with_name(f"{name}.tsv")).is_file():
                return table
    return None


def _stem(path: Path) -> str:
    name = path.name
    for suffix in SURFACE_SUFFIXES:
        name = name.removesuffix(suffix)
    return name


def _label(path: Path) -> str:
    stem = _SIDE.sub("", f"{_stem(path)}.").strip("._")
    entities = dict(part.split("-", 1) for part in stem.split("_") if "-" in part)
    text = "".join(entities.get(key, "") for key in _NAME_ENTITIES) or stem.removesuffix("_dseg")
    return re.sub(r"[^A-Za-z0-9]", "", text) or "Atlas"


def _build_volume(path: Path, values: Sequence[int], parcels: Sequence[int], licence: str) -> AtlasVolume:
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


def _build_atlas(name: str, space: str, table: LabelTable, volumes: tuple[AtlasVolume, ...]) -> Atlas:
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
