"""Location of an atlas' images and table: registry entry, label image or atlas dataset."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bids_semantoks.errors import AtlasError
from bids_semantoks.signals.labels import name_some
from bids_semantoks.signals.local_files import find_places
from bids_semantoks.signals.parts import Part, find_local_parts
from bids_semantoks.signals.registry import Entry, find_registry, load_entry

# In this order they make the label of an atlas that a path names.
_NAME_ENTITIES = ("atlas", "seg", "scale", "desc")
_IMAGE_SUFFIXES = (".nii", ".nii.gz")


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Table and images of an atlas in one space."""

    table: Path  # TSV of parcels
    parts: tuple[Part, ...]  # where they overlap the first wins


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """An atlas as found locally, before anything is fetched."""

    name: str  # label in output names
    spaces: Mapping[str, Source]  # spaces available locally, preferred first; may be empty for a registry entry
    entry: Entry | None = None


def build_label(stem: str) -> str:
    """Build the label of an atlas from the atlas-, seg-, scale- and desc- values of a file stem without hemisphere.
    Without any of these the stem itself is used; only letters and digits are kept."""
    entities = _split(stem)
    text = "".join(entities.get(key, "") for key in _NAME_ENTITIES) or stem.removesuffix("_dseg")
    return re.sub(r"[^A-Za-z0-9]", "", text) or "Atlas"


def find_sources(name_or_path: str | Path, *, directory: Path | None) -> Sources:
    """Find the local files of an atlas in every space, by registry name or path (image, ``.json`` entry, dataset).

    Files of registry entries are searched in `directory`, BIDS_SEMANTOKS_ATLAS_DIR, our cache, those of TemplateFlow
    and the Hugging Face hub, and the package. Raises AtlasError when nothing or several atlases match.
    """
    registry = find_registry()
    entry = registry / f"{name_or_path}.json"
    if re.fullmatch(r"\w+", str(name_or_path)) and entry.is_file():
        return _find_entry(entry, directory)
    path = Path(name_or_path)
    if path.is_dir():
        return _find_dataset(path)
    if path.is_file() and path.suffix == ".json":
        return _find_entry(path, directory)
    if path.is_file() and path.name.endswith(_IMAGE_SUFFIXES):
        return Sources(name=_label(path), spaces={_find_space(path): _describe_image(path, _find_root(path))})
    known = sorted(found.stem for found in registry.glob("*.json"))
    if path.exists():
        raise AtlasError(f"{path} is no atlas: a .nii or .nii.gz label image or a directory is expected.")
    near = difflib.get_close_matches(str(name_or_path), known, n=1, cutoff=0.4)
    raise AtlasError(
        f"There is no atlas {name_or_path}: neither a file or directory, nor one of {', '.join(known)}.",
        hint=f"Did you mean {near[0]}?" if near else "",
    )


def _find_entry(path: Path, directory: Path | None) -> Sources:
    entry = load_entry(path)
    places = find_places(directory, beside=path.parent)
    spaces = {}
    for space, recipes in entry.recipes.items():
        own = [one for one in recipes if all(part.space == space for part in one)]
        if parts := find_local_parts(entry, own, space, places):
            spaces[space] = Source(table=entry.table, parts=parts)
    return Sources(name=entry.name, spaces=spaces, entry=entry)


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


def _find_root(image: Path) -> Path:
    """Find the atlas dataset (BEP038) whose tables an image in a ``tpl-`` folder inherits; else the image's folder."""
    near = (image.parent, *image.parent.parents[:2])
    return next((folder.parent for folder in near if folder.name.startswith("tpl-")), image.parent)


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
    return build_label(_stem(image))


def _stem(path: Path) -> str:
    return re.sub(r"\.(nii|nii\.gz|tsv|json)$", "", path.name)


def _entities(path: Path) -> dict[str, str]:
    return _split(_stem(path))


def _split(stem: str) -> dict[str, str]:
    return dict(part.split("-", 1) for part in stem.split("_") if "-" in part)
