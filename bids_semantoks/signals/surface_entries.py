"""Registry entries on surfaces: finding, fetching and loading their label files."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError

from bids_semantoks.errors import AtlasError
from bids_semantoks.records import Atlas
from bids_semantoks.runtime.downloads import ATLASES, check_published, download
from bids_semantoks.signals.labels import load_label_table
from bids_semantoks.signals.local_files import DIRECTORY_VARIABLE, Places, find_places, is_there
from bids_semantoks.signals.registry import find_registry
from bids_semantoks.signals.surface_atlas import is_surface_atlas, load_surface_labels
from bids_semantoks.signals.surface_volumes import build_surface_atlas, build_surface_volume


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
