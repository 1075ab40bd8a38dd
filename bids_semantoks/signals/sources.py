"""Where the images and the table of an atlas lie: registry entries, label images, atlas datasets."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from bids_semantoks.errors import AtlasError
from bids_semantoks.signals.labels import name_some

DIRECTORY_VARIABLE = "BIDS_SEMANTOKS_ATLAS_DIR"
# In this order they make the label of an atlas that a path names.
_NAME_ENTITIES = ("atlas", "seg", "scale", "desc")
_IMAGE_SUFFIXES = (".nii", ".nii.gz")


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One label image and which of its values are which parcels.

    Parameters
    ----------
    path : Path
        Label image.
    values : tuple of int or None
        Image values; None when they are the table's own.
    indices : tuple of int
        The table's index of each value.
    licence : str
        One line on licence and source.
    listed_in : Path
        What says so, for messages.
    """

    path: Path
    listed_in: Path
    values: tuple[int, ...] | None = None
    indices: tuple[int, ...] = ()
    licence: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Table and images of an atlas in one space.

    Parameters
    ----------
    table : Path
        Tab-separated table of parcels.
    parts : tuple of Part
        Label images; where they overlap the first wins.
    """

    table: Path
    parts: tuple[Part, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """An atlas as found.

    Parameters
    ----------
    name : str
        Label in output names.
    spaces : mapping of str to Source
        Every space that can be had, preferred first.
    """

    name: str
    spaces: Mapping[str, Source]


def find_sources(name_or_path: str | Path, *, directory: Path | None) -> Sources:
    """Find an atlas by name or path.

    Parameters
    ----------
    name_or_path : str or Path
        Name of a registry entry, or path of a label image, a registry entry (``.json``) or an atlas dataset.
    directory : Path or None
        Where the files of registry entries are looked for first; then in BIDS_SEMANTOKS_ATLAS_DIR, then in the package.

    Returns
    -------
    Sources
        Files in every space that can be had.

    Raises
    ------
    AtlasError
        Nothing is found, or what is found is ambiguous.
    """
    registry = _registry()
    entry = registry / f"{name_or_path}.json"
    if re.fullmatch(r"\w+", str(name_or_path)) and entry.is_file():
        return _read_entry(entry, directory)
    path = Path(name_or_path)
    if path.is_dir():
        return _find_dataset(path)
    if path.is_file() and path.suffix == ".json":
        return _read_entry(path, directory)
    if path.is_file() and path.name.endswith(_IMAGE_SUFFIXES):
        return Sources(name=_label(path), spaces={_find_space(path): _describe_image(path, path.parent)})
    known = sorted(found.stem for found in registry.glob("*.json"))
    if path.exists():
        raise AtlasError(f"{path} is no atlas: a .nii or .nii.gz label image or a directory is expected.")
    near = difflib.get_close_matches(str(name_or_path), known, n=1, cutoff=0.4)
    raise AtlasError(
        f"There is no atlas {name_or_path}: neither a file or directory, nor one of {', '.join(known)}.",
        hint=f"Did you mean {near[0]}?" if near else "",
    )


def _registry() -> Path:
    return Path(str(files("bids_semantoks"))) / "data" / "atlases"


def _read_entry(entry: Path, directory: Path | None) -> Sources:
    try:
        content = json.loads(entry.read_text(encoding="utf-8"))
        name, table, spaces = str(content["name"]), entry.parent / content["table"], content["spaces"]
        wanted = [(str(s["space"]), a) for s in spaces for a in s["alternatives"]]
        places = _find_places(entry, directory)
        found: dict[str, Source] = {}
        missing: list[str] = []
        for space, alternative in wanted:
            parts = [_find_part(part, places, entry) for part in alternative]
            if space not in found and all(parts):
                found[space] = Source(table=table, parts=tuple(part for part in parts if part is not None))
            missing.append(f"{space}: {' with '.join(' or '.join(part['files']) for part in alternative)}")
        origins = sorted({part["source"] for _, alternative in wanted for part in alternative})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AtlasError(f"The atlas description {entry} cannot be read: {type(error).__name__} {error}.") from error
    if not found:
        raise AtlasError(
            f"The images of the atlas {name} are not found in {', '.join(map(str, places))}. "
            f"One of these is needed: {'; '.join(missing)}.",
            hint=f"They come from {', '.join(origins)}. "
            f"Give their directory with --atlas-dir or in {DIRECTORY_VARIABLE}.",
        )
    return Sources(name=name, spaces=found)


def _find_places(entry: Path, directory: Path | None) -> list[Path]:
    variable = os.environ.get(DIRECTORY_VARIABLE)
    given = [directory] if directory is not None else []
    if directory is not None and not directory.is_dir():
        raise AtlasError(f"The atlas directory {directory} (--atlas-dir) is not a directory.")
    return [*given, *([Path(variable)] if variable else []), entry.parent]


def _find_part(part: Mapping[str, Any], places: Iterable[Path], entry: Path) -> Part | None:
    path = next((place / name for place in places for name in part["files"] if (place / name).is_file()), None)
    values, indices = _expand(part["values"]), _expand(part["parcels"])
    if len(values) != len(indices) or not values:
        raise ValueError(f"{len(values)} values but {len(indices)} parcels for {part['files'][0]}")
    if path is None:
        return None
    licence = f"{path.name}: {part['licence']}; {part['source']}"
    return Part(path=path, listed_in=entry, values=values, indices=indices, licence=licence)


def _expand(ranges: Iterable[tuple[int, int]]) -> tuple[int, ...]:
    return tuple(number for first, last in ranges for number in range(int(first), int(last) + 1))


def _find_dataset(directory: Path) -> Sources:
    images = sorted(p for p in directory.rglob("*_dseg.nii*") if p.name.endswith(_IMAGE_SUFFIXES) and p.is_file())
    if not images:
        raise AtlasError(
            f"The directory {directory} holds no *_dseg.nii.gz.",
            hint="Give an atlas dataset (BEP038) or a label image.",
        )
    labels = sorted({_label(image) for image in images})
    if len(labels) > 1:
        raise AtlasError(
            f"The atlas dataset {directory} holds {len(labels)} atlases: {name_some(labels)}.",
            hint="Give the path of one image.",
        )
    by_space: dict[str, list[Path]] = {}
    for image in images:
        by_space.setdefault(_find_space(image), []).append(image)
    for space, found in by_space.items():
        others = {tuple(sorted(_entities(p).items() - {("res", _entities(p).get("res"))})) for p in found}
        if len(others) > 1:
            raise AtlasError(
                f"The atlas dataset {directory} holds {len(found)} images in {space}: "
                f"{name_some([p.name for p in found])}.",
                hint="Give the path of one image.",
            )
    # Names sort res-01 before res-02: the finest wins.
    spaces = {space: _describe_image(found[0], directory) for space, found in by_space.items()}
    return Sources(name=labels[0], spaces=spaces)


def _describe_image(image: Path, root: Path) -> Source:
    table = _find_table(image, root)
    licence = ""
    for folder in _upwards(image.parent, root):
        for sidecar in (folder / f"{_stem(image)}.json", *sorted(folder.glob("atlas-*_description.json"))):
            licence = licence or _read_field(sidecar, ("License", "Licence"))
    return Source(table=table, parts=(Part(path=image, listed_in=table, licence=f"{image.name}: {licence or 'n/a'}"),))


def _find_table(image: Path, root: Path) -> Path:
    same = image.with_name(f"{_stem(image)}.tsv")
    if same.is_file():
        return same
    # The inheritance principle: a table whose entities all belong to the image describes it, the nearest wins.
    wanted = _entities(image).items()
    for folder in _upwards(image.parent, root):
        fitting = [p for p in sorted(folder.glob("*_dseg.tsv")) if _entities(p).items() <= wanted]
        if fitting:
            return max(fitting, key=lambda p: len(_entities(p)))
    raise AtlasError(
        f"The atlas image {image} has no table {same.name} beside it.",
        hint="Write one with the columns index, label and network_label.",
    )


def _upwards(folder: Path, root: Path) -> list[Path]:
    return [folder, *(parent for parent in folder.parents if parent == root or root in parent.parents)]


def _find_space(image: Path) -> str:
    entities = _entities(image)
    sidecar = image.with_name(f"{_stem(image)}.json")
    space = entities.get("space") or entities.get("tpl") or _read_field(sidecar, ("Space", "SpatialReference"))
    if not space:
        raise AtlasError(
            f"The template space of the atlas image {image} is unknown.",
            hint="Name it with space- (such as _space-MNI152NLin6Asym_dseg.nii.gz), or as Space in its JSON sidecar.",
        )
    return space


def _read_field(sidecar: Path, names: tuple[str, ...]) -> str:
    if not sidecar.is_file():
        return ""
    try:
        content = json.loads(sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AtlasError(f"The atlas sidecar {sidecar} cannot be read: {error}.") from error
    found = [content[name] for name in names if name in content] if isinstance(content, dict) else []
    return found[0] if found and isinstance(found[0], str) else ""


def _label(image: Path) -> str:
    entities = _entities(image)
    text = "".join(entities.get(key, "") for key in _NAME_ENTITIES) or _stem(image).removesuffix("_dseg")
    return re.sub(r"[^A-Za-z0-9]", "", text) or "Atlas"


def _stem(path: Path) -> str:
    return re.sub(r"\.(nii|nii\.gz|tsv|json)$", "", path.name)


def _entities(path: Path) -> dict[str, str]:
    return dict(part.split("-", 1) for part in _stem(path).split("_") if "-" in part)
