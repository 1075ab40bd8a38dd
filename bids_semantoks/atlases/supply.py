"""The files of an atlas in the space of the data: local ones first, then downloads."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bids_semantoks.atlases.label_tables import load_label_table, name_some
from bids_semantoks.atlases.registry import (
    DIRECTORY_VARIABLE,
    Entry,
    Ingredient,
    Places,
    Recipe,
    find_archived,
    find_file,
    find_places,
    find_registry,
    load_entry,
)
from bids_semantoks.errors import AtlasError
from bids_semantoks.runtime.downloads import (
    ATLASES,
    HUB,
    HUB_SERVER,
    TEMPLATEFLOW,
    TEMPLATEFLOW_SERVER,
    FetchError,
    download,
    fetch_hub_file,
    find_obstacle,
    find_target,
)

#: Spaces of BIDS and fMRIPrep that differ between participants.
_NATIVE_SPACES: Final = frozenset(
    ("T1w", "T2w", "anat", "bold", "boldref", "func", "individual", "native", "orig", "scanner")
)


def find_parts(entry: Entry, space: str, *, directory: Path | None, work_dir: Path | None) -> tuple[Part, ...]:
    """Find or fetch all images of an atlas for a template space, from the first recipe available, local ones first.

    Files are looked for first in `directory`; downloads go to `work_dir` if the cache is not writable. Raises
    AtlasError, with what is missing where and the remedy, for a native space or when no recipe is available.
    """
    if space in _NATIVE_SPACES and space not in entry.recipes:
        raise AtlasError(
            f"The data are in {space}, each participant's own space, where no template atlas can lie.",
            hint=f"Choose data in {' or '.join(entry.recipes)} with --space, or have fMRIPrep write them "
            "(--output-spaces).",
        )
    places = find_places(directory, beside=entry.path.parent)
    recipes = entry.find_recipes(space)
    if parts := find_local_parts(entry, recipes, space, places):
        return parts
    parts, obstacles = _fetch_parts(entry, recipes, space, places, lambda: find_target(work_dir))
    if parts is None:
        raise refuse(entry, (space,), places, obstacles)
    return parts


def find_or_fetch(entry: Entry, space: str, places: Places, target: Path) -> tuple[Part, ...]:
    """Find all images of an atlas for a space, or fetch them into `target` (laid out like our cache).
    Raises AtlasError when no recipe is available."""
    recipes = entry.find_recipes(space)
    parts = find_local_parts(entry, recipes, space, places)
    obstacles: list[str] = []
    if parts is None:
        parts, obstacles = _fetch_parts(entry, recipes, space, places, lambda: target)
    if parts is None:
        raise refuse(entry, (space,), places, obstacles, hint="Try again where there is a network, or put them there.")
    return parts


def _fetch_parts(
    entry: Entry, recipes: Sequence[Recipe], space: str, places: Places, choose_target: Callable[[], Path]
) -> tuple[tuple[Part, ...] | None, list[str]]:
    obstacles: dict[str, None] = {}
    for recipe in recipes:
        # Half of an atlas is of no use: nothing is fetched where the rest cannot be had.
        if reason := describe_obstacle(recipe, space, places):
            obstacles[reason] = None
            continue
        try:
            parts = collect_parts(entry, recipe, space, Shelf(places=places, target=choose_target()))
        except AtlasError as error:
            obstacles[str(error)] = None
            continue
        return parts, []
    return None, list(obstacles)


def name_transform(source: str, target: str) -> str:
    """Return the path of an image transform in TemplateFlow's archive; it maps points from `target` to `source`."""
    return f"tpl-{target}/tpl-{target}_from-{source}_mode-image_xfm.h5"


def find_address(ingredient: Ingredient) -> str:
    """Find the URL of an image; empty when nobody publishes it."""
    if ingredient.repository:
        return f"{HUB_SERVER}/{ingredient.repository}/resolve/main/{ingredient.files[0]}"
    if ingredient.url:
        return ingredient.url
    return f"{TEMPLATEFLOW_SERVER}/{ingredient.templateflow}" if ingredient.templateflow else ""


def fetch_image(ingredient: Ingredient, target: Path) -> Path:
    """Fetch one label image into `target`, a directory with the layout of the cache; AtlasError where that fails."""
    name = ingredient.files[0]
    if ingredient.repository:
        try:
            return fetch_hub_file(ingredient.repository, name, cache=target / HUB)
        except FetchError as error:
            raise AtlasError(f"{name} of {ingredient.repository} is not here, and {error}.") from error
    if ingredient.url:
        download(ingredient.url, target / ATLASES / name, sha256=ingredient.sha256)
        return target / ATLASES / name
    path = target / TEMPLATEFLOW / ingredient.templateflow
    download(f"{TEMPLATEFLOW_SERVER}/{ingredient.templateflow}", path)
    return path


def fetch_transform(source: str, target: str, root: Path) -> Path:
    """Fetch an image transform into `root`, a directory with the layout of the cache. Raises AtlasError where
    TemplateFlow has none or the download fails."""
    name = name_transform(source, target)
    path = root / TEMPLATEFLOW / name
    download(f"{TEMPLATEFLOW_SERVER}/{name}", path)
    return path


def fetch_missing_transform(source: str, target: str, work_dir: Path | None) -> Path:
    """Fetch an image transform into the cache, or for this process only (below `work_dir` if given) when the cache
    is not writable; AtlasError where that fails."""
    if obstacle := find_obstacle(TEMPLATEFLOW_SERVER):
        raise AtlasError(f"{Path(name_transform(source, target)).name} is not here, and {obstacle}")
    return fetch_transform(source, target, find_target(work_dir))


FETCH_HINT: Final = (
    f"`bids_semantoks-fetch DIR` on a machine with network brings all that is needed; then set "
    f"{DIRECTORY_VARIABLE}=DIR here, or give --atlas-dir DIR."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One label image, and which of its values are which parcels."""

    path: Path
    listed_in: Path  # named in messages
    values: tuple[int, ...] | None = None  # image values; None for those of the table
    indices: tuple[int, ...] = ()  # index in the table of each value
    licence: str = ""  # one line on licence and source
    n_labels: int = 0  # the image must hold exactly labels 1 to this; 0 for any
    space: str = ""  # template space of the image; empty for that of the data
    transform: Path | None = None  # maps points of the data's space to this space
    sha256: str | None = None  # checksum as published, where known


def find_local_parts(entry: Entry, recipes: Iterable[Recipe], space: str, places: Places) -> tuple[Part, ...] | None:
    """Find the images of the first recipe (preferred first) that is complete locally, places given by the user first.
    None if no recipe is complete; transforms are included where a part is in another space."""
    recipes = tuple(recipes)
    for narrow in places.narrow():
        for recipe in recipes:
            if parts := collect_parts(entry, recipe, space, Shelf(places=narrow)):
                return parts
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Shelf:
    """Where files are looked up, and where missing ones are fetched to."""

    places: Places
    target: Path | None = None  # laid out like our cache; None to fetch nothing

    def find_image(self, ingredient: Ingredient) -> Path | None:
        """Find a label image, or fetch it if there is a target."""
        found = find_file(ingredient, self.places)
        return fetch_image(ingredient, self.target) if found is None and self.target is not None else found

    def find_transform(self, source: str, target: str) -> Path | None:
        """Find, or fetch if there is a target, the transform of images from template space `source` to `target`."""
        found = find_archived(name_transform(source, target), self.places)
        return fetch_transform(source, target, self.target) if found is None and self.target is not None else found


def collect_parts(entry: Entry, recipe: Recipe, space: str, shelf: Shelf) -> tuple[Part, ...] | None:
    """Collect the images and transforms of a recipe; None if any is missing, AtlasError if a fetch fails."""
    parts = []
    for one in recipe:
        path = shelf.find_image(one)
        transform = shelf.find_transform(one.space, space) if path and one.space != space else None
        if path is None or (one.space != space and transform is None):
            return None
        parts.append(
            Part(
                path=path,
                listed_in=entry.path,
                values=one.values,
                indices=one.indices,
                licence=f"{path.name}: {one.licence}, from {one.source}",
                n_labels=one.n_labels,
                space=one.space if transform else "",
                transform=transform,
                sha256=one.sha256 if path.name == Path(one.files[0]).name else None,
            )
        )
    return tuple(parts)


#: Sets of files that a message names; more are no longer read.
_N_SETS: Final = 2


def describe_obstacle(recipe: Recipe, space: str, places: Places) -> str:
    """Describe what keeps the images and transforms of a recipe from being fetched; empty when it is worth a try."""
    for one in recipe:
        address = find_address(one)
        is_here = find_file(one, places) is not None
        if not is_here and not address:
            return f"nobody publishes {one.names[0]} alone"
        # Without the name, which is listed among what is needed: the reason is the same for most of them.
        if not is_here and (obstacle := find_obstacle(address)):
            return obstacle
        transform = name_transform(one.space, space)
        is_lacking = one.space != space and not find_archived(transform, places)
        if is_lacking and (obstacle := find_obstacle(TEMPLATEFLOW_SERVER)):
            return obstacle
    return ""


def refuse(
    entry: Entry, spaces: Iterable[str], places: Places, obstacles: Sequence[str] = (), *, hint: str = FETCH_HINT
) -> AtlasError:
    """Build the AtlasError for an atlas whose files are missing from `places` in all of `spaces`. `obstacles` are
    the reasons why they were not fetched; `hint` is used only with these."""
    recipes = {space: entry.find_recipes(space) for space in spaces}
    needed = "; ".join(f"for {space}: {_describe_all(some, space)}" for space, some in recipes.items())
    whole = [space for space, some in entry.recipes.items() if any(_is_in(one, space) for one in some)]
    foreign = [space for space, some in recipes.items() if not any(_is_in(one, space) for one in some)]
    own = " or ".join(whole or entry.recipes)
    searched = ", ".join(map(str, (*places.given, *places.others, *places.templateflow)))
    sources = {one.source for some in recipes.values() for recipe in some for one in recipe}
    smaller = _find_smaller(entry, recipes, places)
    lacking = (
        f"The atlas {entry.name} is in the space {own}, the data in {foreign[0] or 'none named'}, and what takes it "
        f"there is not found in {searched}."
        if foreign
        else f"The images of the atlas {entry.name} are not found in {searched}."
    )
    return AtlasError(
        f"{lacking} Needed are, {needed}." + (f" They were not fetched: {_join(obstacles)}." if obstacles else ""),
        hint=(hint if obstacles else f"Give their directory with --atlas-dir or in {DIRECTORY_VARIABLE}.")
        + f" The files come from {', '.join(sorted(sources))}; transforms from https://www.templateflow.org."
        + (f" Or process the data in {own} (--space)." if foreign else "")
        + (f" Or take less of it, which is here: --atlas {' or '.join(smaller)}." if smaller else ""),
    )


def _is_in(recipe: Recipe, space: str) -> bool:
    return all(one.space == space for one in recipe)


def _find_smaller(entry: Entry, spaces: Iterable[str], places: Places) -> list[str]:
    """Find registry atlases that are part of this one and available in one of the spaces, largest first."""
    parcels = set(load_label_table(entry.table).parcels)
    found = {}
    for path in sorted(find_registry().glob("*.json")):
        other = load_entry(path)
        own = set(load_label_table(other.table).parcels)
        recipes = {space: [one for one in other.recipes.get(space, ()) if _is_in(one, space)] for space in spaces}
        if own < parcels and any(find_local_parts(other, some, space, places) for space, some in recipes.items()):
            found[other.name] = len(own)
    return sorted(found, key=lambda name: -found[name])


def _join(obstacles: Sequence[str]) -> str:
    return "; ".join(dict.fromkeys(one.rstrip(".") for one in obstacles))


def _describe_all(recipes: Sequence[Recipe], space: str) -> str:
    sets = list(dict.fromkeys(_describe(one, space) for one in recipes))
    n_others = len(sets) - _N_SETS
    others = f" (or {n_others} other set{'s' if n_others > 1 else ''})" if n_others > 0 else ""
    return ", or ".join(sets[:_N_SETS]) + others


def _describe(recipe: Recipe, space: str) -> str:
    images = " with ".join(one.names[0] for one in recipe)
    transforms = sorted({Path(name_transform(one.space, space)).name for one in recipe if one.space != space})
    return " with ".join([images, *transforms])


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
