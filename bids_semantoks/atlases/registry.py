"""The atlas registry: which files make up an atlas in each space, where they are stored, and who publishes them."""

from __future__ import annotations

import contextlib
import difflib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from bids_semantoks.bids_names import check_name, name_schaefer
from bids_semantoks.errors import AtlasError
from bids_semantoks.files import read_json
from bids_semantoks.runtime.downloads import (
    ATLASES,
    HUB_SERVER,
    TEMPLATEFLOW,
    TEMPLATEFLOW_SERVER,
    UNKNOWN,
    Pin,
    find_cache,
    find_hub_file,
    find_templateflow_homes,
)

SURFACE_SUFFIXES: Final = (".dlabel.nii", ".label.gii", ".annot")
DIRECTORY_VARIABLE: Final = "BIDS_SEMANTOKS_ATLAS_DIR"
_DEPTH: Final = 5  # levels of a given directory, as in DIR/atlas-A/tpl-S/cohort-1/anat


def is_surface_atlas(path: Path) -> bool:
    """Return whether a file is a surface label file rather than an image, by its suffix."""
    return path.name.endswith(SURFACE_SUFFIXES)


def strip_suffix(path: Path) -> str:
    """Return the name of a label file, table or sidecar without its suffix; other dots stay."""
    return re.sub(r"((\.dlabel|\.label)?\.(nii|nii\.gz|gii|tsv|json)|\.annot)$", "", path.name)


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelFile:
    """One label file of an atlas, image or surface, local or remote."""

    files: tuple[str, ...]  # possible names, relative to a folder of atlases
    values: tuple[int, ...] | None = None  # labels in the file; None for those of the table
    indices: tuple[int, ...] = ()  # index in the table of each value
    licence: str = ""  # one line
    source: str = ""  # one line
    space: str = ""  # template space of an image; empty for that of the data
    n_labels: int = 0  # an image must have exactly labels 1 to this; 0 for any
    n_vertices: int = 0  # of the mesh, since files of one name exist for several meshes; 0 for any
    templateflow: str = ""  # path in TemplateFlow's archive; empty if not there
    repository: str = ""  # Hugging Face repository of the first of files; empty if not there
    url: str = ""  # of the first of files; empty if not published separately
    pin: Pin = UNKNOWN  # of the first of files; unknown fields are recorded at the first download

    @property
    def names(self) -> tuple[str, ...]:
        """All names that the file may have, best first; an image may since have been compressed or decompressed."""
        archived = (self.templateflow.rsplit("/", 1)[-1],) if self.templateflow else ()
        return tuple(dict.fromkeys(one for name in (*self.files, *archived) for one in (name, _respell(name)) if one))

    @property
    def address(self) -> str:
        """The URL at which the file is published; empty if it is not."""
        if self.repository:
            return f"{HUB_SERVER}/{self.repository}/resolve/main/{self.files[0]}"
        return self.url or (f"{TEMPLATEFLOW_SERVER}/{self.templateflow}" if self.templateflow else "")


def _respell(name: str) -> str:
    """Name of an image once compressed or decompressed; empty for other files."""
    if name.endswith(SURFACE_SUFFIXES):
        return ""
    return name.removesuffix(".gz") if name.endswith(".nii.gz") else f"{name}.gz" if name.endswith(".nii") else ""


Recipe = tuple[LabelFile, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A registry entry: an atlas as images, on surfaces, or both."""

    path: Path
    name: str
    table: Path  # TSV of parcels
    # by template space; spaces and recipes in order of preference, each recipe a whole atlas (surfaces: or its cortex)
    recipes: Mapping[str, tuple[Recipe, ...]]
    on_surfaces: bool = False
    # by table index: centre of mass in RAS mm, for some parcels
    landmarks: Mapping[int, tuple[float, ...]] = field(default_factory=dict)

    def find_recipes(self, space: str) -> tuple[Recipe, ...]:
        """Return the recipes for a space; if it has none, those of all other spaces."""
        if space in self.recipes:
            return self.recipes[space]
        return tuple(one for recipes in self.recipes.values() for one in recipes)

    def find_fetchable_spaces(self) -> tuple[str, ...]:
        """Find the template spaces, preferred first, in which all parcels can be downloaded."""
        return tuple(
            space
            for space, recipes in self.recipes.items()
            if any(all(file.address for file in one) for one in recipes)
        )

    def is_warped(self, file: LabelFile, space: str) -> bool:
        """Whether a file needs a transform to a space; an image that accompanies surfaces stays in its own."""
        return not self.on_surfaces and file.space != space


def find_registry() -> Path:
    """Find the directory of the registry entries (``.json``) in this package."""
    return Path(str(files("bids_semantoks"))) / "data" / "atlases"


def list_registered() -> list[Path]:
    """List the entries of the registry by name."""
    return sorted(find_registry().glob("*.json"))


def find_registered(name: str | Path) -> Path | None:
    """Find the registry entry of a name, or of another pipeline's label for it; None for a path or unknown name."""
    label = name_schaefer(str(name))
    entry = find_registry() / f"{label}.json"
    check_name(name, AtlasError, "The atlas")
    return entry if re.fullmatch(r"\w+", label) and entry in list_registered() else None


def find_entry(name_or_path: str | Path) -> Path | None:
    """Find the entry (JSON) for a registered name or a path; None for any other atlas."""
    path = Path(name_or_path)
    return find_registered(name_or_path) or (path if path.suffix == ".json" and path.is_file() else None)


def load_entry(path: Path, *, on_surfaces: bool = False) -> Entry:
    """Read the images of an entry, or its files on surfaces; AtlasError if it cannot be read or is incomplete."""
    try:
        content = read_json(path)
        spaces = content.get("surfaces", ()) if on_surfaces else content["spaces"]
        recipes = {str(one["space"]): _read_recipes(one, on_surfaces) for one in spaces}
        if not on_surfaces:
            _check_sizes([recipe for some in recipes.values() for recipe in some])
        return Entry(
            path=path,
            name=str(content["name"]),
            table=path.parent / content["table"],
            recipes=recipes,
            on_surfaces=on_surfaces,
            landmarks={int(index): tuple(map(float, at)) for index, at in content.get("landmarks", {}).items()},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise AtlasError(f"The atlas description {path} cannot be read: {type(error).__name__} {error}.") from error


def _read_recipes(content: Mapping[str, Any], on_surfaces: bool) -> tuple[Recipe, ...]:
    space = "" if on_surfaces else str(content["space"])
    return tuple(tuple(_read_file(one, space) for one in recipe) for recipe in content["alternatives"])


def _check_sizes(recipes: Iterable[Recipe]) -> None:
    sizes = {sum(len(file.indices) for file in recipe) for recipe in recipes}
    if not any(sizes):
        raise ValueError("no space has images")
    if len(sizes) > 1:
        raise ValueError(f"its image sets have {' or '.join(map(str, sorted(sizes)))} parcels")


def _read_file(content: Mapping[str, Any], space: str) -> LabelFile:
    values, indices = _expand(content["values"]), _expand(content["parcels"])
    names = tuple(map(str, content["files"]))
    if len(values) != len(indices) or not values or not names:
        raise ValueError(f"{len(values)} values but {len(indices)} parcels for {', '.join(names) or 'no file'}")
    sums = [*(content.get(key) for key in ("sha256", "sha256_uncompressed")), *content.get("sha256_before", ())]
    return LabelFile(
        files=names,
        values=values,
        indices=indices,
        licence=str(content["licence"]),
        source=str(content["source"]),
        space=str(content.get("space", space)),
        n_labels=int(content.get("n_labels", 0)),
        n_vertices=int(content.get("n_vertices", 0)),
        templateflow=str(content.get("templateflow", "")),
        repository=str(content.get("huggingface", "")),
        url=str(content.get("url", "")),
        pin=Pin(
            sha256=tuple(str(one) for one in sums if one),
            labels=str(content.get("sha256_labels", "")),
            md5=str(content.get("md5", "")),
            size=int(content.get("size", 0)),
        ),
    )


def _expand(ranges: Iterable[tuple[int, int]]) -> tuple[int, ...]:
    return tuple(number for first, last in ranges for number in range(int(first), int(last) + 1))


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Directories to search, in the order of the fields."""

    given: tuple[Path, ...]  # given by the user, in order of preference
    others: tuple[Path, ...]  # the cache, and the folder of the entry
    templateflow: tuple[Path, ...]  # roots of TemplateFlow's archive
    # by given directory: all files in it, by file name
    contents: Mapping[Path, Mapping[str, tuple[Path, ...]]] = field(default_factory=dict, compare=False)

    def find_inside(self, name: str) -> list[Path]:
        """Find a file (name, or the end of its path) anywhere in the given directories, nearest to their top first."""
        last = name.rsplit("/", 1)[-1]
        found = [path for one in self.given for path in self.contents.get(one, {}).get(last, ())]
        return [path for path in found if path.as_posix().endswith(f"/{name}")]

    def narrow(self) -> list[Places]:
        """Return the first given place, the first two, ..., all places: a complete set in the user's places wins."""
        firsts = [self.given[:n] for n in range(1, len(self.given) + 1)]
        narrower = [Places(given=some, others=(), templateflow=(), contents=self.contents) for some in firsts]
        return [*narrower, self]


def find_places(directory: Path | None, *, beside: Path | None = None) -> Places:
    """Find the directories that may hold atlas files: `directory` (--atlas-dir), BIDS_SEMANTOKS_ATLAS_DIR, the cache,
    `beside` and TemplateFlow's. Raises AtlasError if `directory` is not a directory."""
    if directory is not None:
        check_name(directory, AtlasError, "The atlas directory (--atlas-dir)")
        if not directory.is_dir():
            raise AtlasError(f"The atlas directory {directory} (--atlas-dir) is not a directory.")
    variable, cache = os.environ.get(DIRECTORY_VARIABLE), find_cache()
    others = tuple(one for one in (cache / ATLASES if cache else None, beside) if one is not None)
    given = tuple(one for one in (directory, Path(variable) if variable else None) if one is not None)
    contents = {one: list_contents(one) for one in given}
    return Places(given=given, others=others, templateflow=tuple(find_templateflow_homes()), contents=contents)


def list_contents(folder: Path) -> dict[str, tuple[Path, ...]]:
    """List the visible files at most four folders down by name, those nearest to the top first. Participant folders
    are skipped, so that a dataset that contains an atlas is not searched entirely."""
    found: dict[str, list[Path]] = {}
    level = [folder]
    for _ in range(_DEPTH):
        deeper: list[Path] = []
        for one in level:
            with contextlib.suppress(OSError), os.scandir(one) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    if entry.name.startswith((".", "sub-")):
                        continue
                    if entry.is_dir():
                        deeper.append(one / entry.name)
                    else:
                        found.setdefault(entry.name, []).append(one / entry.name)
        level = deeper
    return {name: tuple(paths) for name, paths in found.items()}


def find_file(file: LabelFile, places: Places) -> Path | None:
    """Find a label file without using the network; None if it is missing. In a given directory, the layout written by
    `bids_semantoks-fetch` is searched as well."""
    folders = [*(sub for one in places.given for sub in (one, one / ATLASES)), *places.others]
    inside = (path for name in file.names for path in places.find_inside(name))
    for path in (*(folder / name for folder in folders for name in file.names), *inside):
        if is_there(path) and not has_other_mesh(path, file.n_vertices):
            return path
    if file.templateflow and (found := find_archived(file.templateflow, places)):
        return found
    # Caches were not chosen by the user, so they are searched only together with all other places.
    if file.repository and places.others:
        return find_hub_file(file.repository, file.files[0])
    return None


def find_archived(path: str, places: Places) -> Path | None:
    """Find a file of TemplateFlow's archive by its path below the root; None if it is missing, or only a placeholder of
    TemplateFlow's client (empty, or a link without content)."""
    given = (sub for one in places.given for sub in (one / path.rsplit("/", 1)[-1], one / path))
    fetched = (one / TEMPLATEFLOW / path for one in places.given)
    inside = places.find_inside(path.rsplit("/", 1)[-1])
    return next(filter(is_there, (*given, *fetched, *inside, *(root / path for root in places.templateflow))), None)


def is_there(path: Path) -> bool:
    """Test whether a file has content; False if it cannot be accessed."""
    try:
        return path.is_file() and path.stat().st_size > 0
    except OSError:
        return False


def has_other_mesh(path: Path, n_vertices: int) -> bool:
    """Detect an annotation of another mesh by its first number; False for other files or an unknown size (0)."""
    if n_vertices and path.suffix == ".annot":
        with contextlib.suppress(OSError), path.open("rb") as file:
            return int.from_bytes(file.read(4), "big") != n_vertices
    return False


_LABELS: Final = (".nii", ".nii.gz", ".annot", ".label.gii", ".gii.gz", ".mgz", ".h5")

#: Names that are closer than this to an expected one are treated as misspellings.
_CLOSE: Final = 0.9

_N_NAMED: Final = 20


def describe_unused(
    entry: Entry, space: str, places: Places, used: Iterable[Path] = (), *, is_strict: bool = False
) -> str:
    """Describe label files and transforms in the given directories that are not used; empty for none. `is_strict`
    lists only those that were probably intended: empty files, and those with a similar name."""
    taken = {path.resolve() for path in used}
    lines = []
    for folder in places.given:
        for name, paths in sorted(places.contents.get(folder, {}).items()):
            for path in paths if name.endswith(_LABELS) else ():
                reason, is_meant = _explain(path, entry, space)
                if path.resolve() not in taken and (is_meant or not is_strict):
                    lines.append(f"{path.relative_to(folder)} ({reason})")
    more = f" and {len(lines) - _N_NAMED} more" if len(lines) > _N_NAMED else ""
    return ", ".join(lines[:_N_NAMED]) + more


def _explain(path: Path, entry: Entry, space: str) -> tuple[str, bool]:
    """Explain why a file is not used, and whether it was probably intended."""
    own = _map_names(entry.recipes.get(space, ()))
    if path.name in own:
        if not is_there(path):
            return "empty or a link without content", True
        is_other = has_other_mesh(path, own[path.name].n_vertices)
        return ("for another mesh" if is_other else "another file was preferred"), is_other
    for other, recipes in entry.recipes.items():
        if path.name in _map_names(recipes):
            return f"for data in {other}", False
    if path.name.endswith("_xfm.h5"):
        return "a transform to another space", False
    for registered in (entry.path, *list_registered()):
        for on_surfaces in (False, True):
            some = load_entry(registered, on_surfaces=on_surfaces).recipes.values()
            if any(path.name in _map_names(recipes) for recipes in some):
                return f"for {'data on surfaces' if on_surfaces else 'images'} and {registered.stem}", False
    if near := difflib.get_close_matches(path.name, own, n=1, cutoff=_CLOSE):
        return f"unknown name; expected {near[0]}", True
    return f"not a file of {entry.name}", False


def _map_names(recipes: Iterable[Recipe]) -> dict[str, LabelFile]:
    """Map the names, without folders, that the files of recipes may have."""
    return {name.rsplit("/", 1)[-1]: file for recipe in recipes for file in recipe for name in file.names}
