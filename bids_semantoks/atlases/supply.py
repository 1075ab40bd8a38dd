"""Find the files of a registered atlas in the space of the data: local ones first, then downloads, else say why not."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final

import numpy as np

from bids_semantoks.atlases.label_tables import load_label_table
from bids_semantoks.atlases.registry import (
    DIRECTORY_VARIABLE,
    Entry,
    LabelFile,
    Places,
    Recipe,
    describe_unused,
    find_archived,
    find_file,
    list_registered,
    load_entry,
)
from bids_semantoks.errors import AtlasError
from bids_semantoks.files import hash_file, read_json
from bids_semantoks.records import AtlasVolume
from bids_semantoks.runtime.downloads import (
    ATLASES,
    HUB,
    TEMPLATEFLOW,
    TEMPLATEFLOW_SERVER,
    UNKNOWN,
    FetchError,
    Pin,
    download,
    fetch_hub_file,
    find_obstacle,
)

# Returns the download directory, laid out like our cache; called only if something is downloaded.
Target = Callable[[], Path]

# Ways of writing a cohort in names and --space: MNIInfant+1, MNIInfant:cohort-1, MNIInfant_cohort-1.
_COHORT: Final = re.compile(r"([A-Za-z0-9]+)(?:\+|[:_]cohort-)([A-Za-z0-9]+)")


def split_cohort(space: str) -> tuple[str, str]:
    """Split a space into template and cohort, which is empty if the space has none."""
    found = _COHORT.fullmatch(space)
    return (found[1], found[2]) if found else (space, "")


def join_cohort(template: str, cohort: str | None) -> str:
    """Join template and cohort as TemplateFlow does: ``MNIInfant+1``; the space alone without a cohort."""
    own, named = split_cohort(template)
    return f"{own}+{cohort or named}" if cohort or named else template


def name_transform(source: str, target: str) -> str:
    """Return the path of an image transform in TemplateFlow's archive; it maps points from `target` to `source`."""
    template, cohort = split_cohort(target)
    folder, stem = f"tpl-{template}", f"tpl-{template}"
    if cohort:
        folder, stem = f"{folder}/cohort-{cohort}", f"{stem}_cohort-{cohort}"
    return f"{folder}/{stem}_from-{join_cohort(source, None)}_mode-image_xfm.h5"


@functools.cache
def load_published() -> dict[str, Pin]:
    """Load the list of transforms in TemplateFlow's archive with their checksums, by path."""
    content = read_json(Path(str(files("bids_semantoks"))) / "data" / "templateflow.json")
    return {path: Pin(md5=md5, size=size) for path, (md5, size) in content["transforms"].items()}


def describe_absence(source: str, space: str) -> str:
    """Describe that TemplateFlow has no transform from `source` to `space`; empty if it has one."""
    if name_transform(source, space) in load_published():
        return ""
    template, cohort = split_cohort(space)
    pattern = re.compile(re.escape(name_transform(source, f"{template}+0")).replace(r"cohort\-0", r"cohort\-(\d+)"))
    cohorts = sorted(int(found[1]) for path in load_published() if (found := pattern.fullmatch(path)))
    if cohorts and not cohort:
        return f"TemplateFlow's transforms are to cohorts of {space}; choose one (--space {space}:cohort-{cohorts[0]})"
    listed = f", only to the cohorts {cohorts[0]} to {cohorts[-1]}" if cohorts else ""
    return f"TemplateFlow has no transform from {source} to {join_cohort(space, None)}{listed}"


def find_transform(source: str, space: str, places: Places, target: Target | None = None) -> Path | None:
    """Find the transform of images from template space `source` to `space`, downloading it if there is a target. Raises
    AtlasError if TemplateFlow has none or the download fails."""
    name = name_transform(source, space)
    found = find_archived(name, places)
    if found is None and target is not None:
        if obstacle := describe_absence(source, space):
            raise AtlasError(f"{obstacle}.")
        if obstacle := find_obstacle(TEMPLATEFLOW_SERVER):
            raise AtlasError(f"{Path(name).name} is not available locally, and {obstacle}.")
        found = target() / TEMPLATEFLOW / name
        download(f"{TEMPLATEFLOW_SERVER}/{name}", found, pin=load_published()[name])
    return found


LOG = logging.getLogger("bids_semantoks")

FETCH_HINT: Final = (
    f"Run `bids_semantoks-fetch DIR` on a machine with network access, then set --atlas-dir DIR or "
    f"{DIRECTORY_VARIABLE}=DIR here."
)

#: Maximum number of file sets listed in a message.
_N_SETS: Final = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A label file of an atlas, found on this machine."""

    path: Path
    file: LabelFile
    listed_in: Path  # entry or table, for messages
    space: str = ""  # template space of an image; empty for that of the data
    transform: Path | None = None  # maps points in the data's space to this space

    @property
    def licence(self) -> str:
        """One line on licence and source."""
        source = f", from {self.file.source}" if self.file.source else ""
        return f"{self.path.name}: {self.file.licence or 'n/a'}{source}"

    @property
    def pin(self) -> Pin:
        """Checksums of the published file; unknown if the file was renamed."""
        first = Path(self.file.files[0]).name
        return self.file.pin if self.path.name.removesuffix(".gz") == first.removesuffix(".gz") else UNKNOWN

    def as_volume(
        self, sha256: str, values: Sequence[int], parcels: Sequence[int], *, map_index: int = 0
    ) -> AtlasVolume:
        """Build the record of the file; `parcels` are the positions in the atlas of `values`."""
        return AtlasVolume(
            path=self.path,
            sha256=sha256,
            values=np.asarray(values, dtype=np.int64),
            parcels=np.asarray(parcels, dtype=np.int64),
            licence=self.licence,
            space=self.space,
            transform=self.transform,
            transform_sha256=hash_file(self.transform) if self.transform is not None else "",
            map_index=map_index,
            other_sha256=tuple(one for one in self.pin.sha256 if one != sha256),
        )


def check_published(part: Part, sha256: str, labels: str) -> None:
    """Raise AtlasError if a file with this SHA-256 and hash of `labels` is not the published one: neither its bytes
    (compressed or not) nor its labels match."""
    pin = part.pin
    # MD5 and size are compared only after a download: the file may have been recompressed elsewhere.
    fault = Pin(sha256=pin.sha256).find_fault(part.path) if sha256 not in pin.sha256 else ""
    if fault and pin.labels == labels:
        LOG.info("%s differs from the published file but has the same labels.", part.path)
    elif fault:
        raise AtlasError(
            f"{part.path} {fault}, and its labels differ: it is not the file published as {part.path.name}.",
            hint="It is damaged or was modified: fetch it again (bids_semantoks-fetch), or give a custom file with "
            "--atlas PATH.",
        )


def find_local_parts(entry: Entry, recipes: Iterable[Recipe], space: str, places: Places) -> tuple[Part, ...] | None:
    """Find the files of the first recipe (preferred first) that is complete locally, in the user's directories first.
    None if no recipe is complete; transforms are included if a part is in another space."""
    recipes = tuple(recipes)
    # Surface recipes differ in coverage: coverage takes precedence over location.
    for narrow in [places] if entry.on_surfaces else places.narrow():
        for recipe in recipes:
            if parts := _collect_parts(entry, recipe, space, narrow):
                return parts
    return None


def find_parts(entry: Entry, space: str, places: Places, target: Target, *, hint: str = FETCH_HINT) -> tuple[Part, ...]:
    """Find or fetch all images of an atlas for a template space, from the first recipe available, local ones first.
    Raises AtlasError, with the missing files and a remedy, if no recipe is available."""
    recipes = entry.find_recipes(space)
    if parts := find_local_parts(entry, recipes, space, places):
        return parts
    # Recipes with a transform to this space; if there are none, all, and the error explains it.
    recipes = _find_possible(entry, recipes, space, places)
    obstacles = []
    for recipe in recipes:
        # Half an atlas is useless: do not download a part if the rest is unavailable.
        reason = _describe_obstacle(entry, recipe, space, places)
        try:
            if not reason and (parts := _collect_parts(entry, recipe, space, places, target)):
                return parts
        except AtlasError as error:
            reason = str(error)
        obstacles.append(reason)
    raise refuse(entry, (space,), places, obstacles, hint=hint)


def fetch_labels(entry: Entry, space: str, places: Places, target: Path) -> tuple[Part, ...]:
    """Find the label files of an atlas on surfaces, fetching missing ones into `target`, from the first recipe that is
    available, in order of coverage. Raises AtlasError, with all failures, if none is available or known."""
    if space not in entry.recipes:
        known = ", ".join(entry.recipes) or "no surfaces"
        raise AtlasError(f"The atlas {entry.path.stem} is available on {known}, not on surfaces in {space}.")
    failures: dict[str, None] = {}
    for recipe in entry.recipes[space]:
        try:
            parts = _collect_parts(entry, recipe, space, places, lambda: target)
        except AtlasError as error:
            failures[error.message.rstrip(".")] = None
            continue
        if parts:
            for failure in failures:
                LOG.warning("%s.", failure)
            warn_of_masked(entry, parts)
            return parts
    raise AtlasError(
        f"The label files of the atlas {entry.name} for {space} cannot be downloaded: {'; '.join(failures)}.",
        hint=f"Download them elsewhere and copy them to {target / ATLASES}.",
    )


def log_unused(entry: Entry, space: str, places: Places, parts: Sequence[Part]) -> None:
    """Log the label files in the user's directories that are not used, and why."""
    used = [path for part in parts for path in (part.path, part.transform) if path is not None]
    if unused := describe_unused(entry, space, places, used):
        LOG.info("Ignored files in %s: %s.", " and ".join(map(str, places.given)), unused)


def warn_of_masked(entry: Entry, parts: Sequence[Part]) -> None:
    """Log the missing files of a surface atlas if some of its parcels have none."""
    here = {index for part in parts for index in part.file.indices}
    best = next((recipe for recipes in entry.recipes.values() for recipe in recipes if parts[0].file in recipe), ())
    lacking = [file for file in best if not set(file.indices) <= here]
    if n_masked := len({index for file in lacking for index in file.indices} - here):
        LOG.warning(
            "Masking %d parcels of %s: %s not found.",
            *(n_masked, entry.name, " and ".join(f"{one.files[0]} is" for one in lacking)),
        )


def _collect_parts(
    entry: Entry, recipe: Recipe, space: str, places: Places, target: Target | None = None
) -> tuple[Part, ...] | None:
    """Collect the files and transforms of a recipe, downloading missing files if there is a target; None if any
    is missing, AtlasError if a download fails."""
    parts = []
    for file in recipe:
        path = find_file(file, places)
        if path is None and target is not None:
            path = _fetch_file(file, target())
        is_warped = entry.is_warped(file, space)
        transform = find_transform(file.space, space, places, target) if path and is_warped else None
        if path is None or (is_warped and transform is None):
            return None
        own = file.space if is_warped or entry.on_surfaces else ""
        parts.append(Part(path=path, file=file, listed_in=entry.path, space=own, transform=transform))
    return tuple(parts)


def _fetch_file(file: LabelFile, target: Path) -> Path:
    if file.repository:
        try:
            return fetch_hub_file(file.repository, file.files[0], cache=target / HUB)
        except FetchError as error:
            raise AtlasError(f"{file.files[0]} of {file.repository} is not available locally, and {error}.") from error
    path = target / ATLASES / file.files[0] if file.url else target / TEMPLATEFLOW / file.templateflow
    download(file.address, path, pin=file.pin)
    return path


def _describe_obstacle(entry: Entry, recipe: Recipe, space: str, places: Places) -> str:
    """Describe why the images and transforms of a recipe cannot be downloaded; empty if they may be."""
    if absent := _find_absent(entry, recipe, space, places):
        return absent
    for file in recipe:
        is_here = find_file(file, places) is not None
        if not is_here and not file.address:
            return f"{file.names[0]} is not available as a separate download"
        # Without the name, which is in the list of required files: the reason is usually the same for all.
        if not is_here and (obstacle := find_obstacle(file.address)):
            return obstacle
    is_lacking = any(entry.is_warped(file, space) and not find_transform(file.space, space, places) for file in recipe)
    return find_obstacle(TEMPLATEFLOW_SERVER) if is_lacking else ""


def refuse(
    entry: Entry, spaces: Iterable[str], places: Places, obstacles: Sequence[str] = (), *, hint: str = FETCH_HINT
) -> AtlasError:
    """Build the AtlasError for an atlas whose files are missing from `places` in all of `spaces`. `obstacles` are the
    reasons why they were not downloaded; `hint` is used only with these."""
    recipes = {space: _find_possible(entry, entry.find_recipes(space), space, places) for space in spaces}
    whole = [space for space, some in entry.recipes.items() if any(is_in(one, space) for one in some)]
    foreign = [space for space, some in recipes.items() if not any(is_in(one, space) for one in some)]
    own = " or ".join(whole or entry.recipes)
    reasons = "; ".join(dict.fromkeys(one.rstrip(".") for one in obstacles))
    smaller = _find_smaller(entry, recipes, places)
    others = (f" Or process the data in {own} (--space)." if foreign else "") + (
        f" Or use a part of it that is available: --atlas {' or '.join(smaller)}." if smaller else ""
    )
    where = foreign[0] if foreign else ""
    apart = f"The atlas {entry.name} is in space {own}, the data in {where or 'an unknown space'}"
    absent = [_find_absent(entry, one, where, places) for one in recipes[where]] if foreign else []
    if absent and all(absent):
        return AtlasError(
            f"{apart}. {absent[0]}.",
            hint=f"Give an atlas in {where or 'their space'} with --atlas PATH, or a transform named like "
            f"TemplateFlow's ({Path(name_transform('SPACE', where or 'SPACE')).name}) in --atlas-dir.{others}",
        )
    lacking = (
        f"{apart}, and the transform between them was" if foreign else f"The images of the atlas {entry.name} were"
    )
    searched = " and ".join([*map(str, places.given), "the user's caches"])
    needed = "; ".join(f"for {space}: {_describe_all(some, space)}" for space, some in recipes.items())
    unused = describe_unused(entry, next(iter(recipes), ""), places, is_strict=True)
    return AtlasError(
        f"{lacking} not found in {searched}. Required files, {needed}."
        + (f" Ignored files: {unused}." if unused else "")
        + (f" Not downloaded: {reasons}." if obstacles else ""),
        hint=(hint if obstacles else f"Set --atlas-dir or {DIRECTORY_VARIABLE} to their directory.") + others,
    )


def _find_possible(entry: Entry, recipes: tuple[Recipe, ...], space: str, places: Places) -> tuple[Recipe, ...]:
    """Find the recipes whose transforms exist somewhere; all recipes if there are none."""
    return tuple(one for one in recipes if not _find_absent(entry, one, space, places)) or recipes


def _find_absent(entry: Entry, recipe: Recipe, space: str, places: Places) -> str:
    """Describe a required transform that does not exist anywhere; empty if all exist."""
    absent = (
        describe_absence(file.space, space)
        for file in recipe
        if entry.is_warped(file, space) and not find_transform(file.space, space, places)
    )
    return next(filter(None, absent), "")


def is_in(recipe: Recipe, space: str) -> bool:
    """Return whether all files of a recipe are in a space."""
    return all(one.space == space for one in recipe)


def _find_smaller(entry: Entry, spaces: Iterable[str], places: Places) -> list[str]:
    """Find registry atlases that are part of this one and available in one of the spaces, largest first."""
    parcels = set(load_label_table(entry.table).parcels)
    found = {}
    for other in map(load_entry, list_registered()):
        own = set(load_label_table(other.table).parcels)
        recipes = {space: [one for one in other.recipes.get(space, ()) if is_in(one, space)] for space in spaces}
        if own < parcels and any(find_local_parts(other, some, space, places) for space, some in recipes.items()):
            found[other.name] = len(own)
    return sorted(found, key=lambda name: -found[name])


def _describe_all(recipes: Sequence[Recipe], space: str) -> str:
    sets = list(dict.fromkeys(_describe(one, space) for one in recipes))
    n_others = len(sets) - _N_SETS
    others = f" (or {n_others} other set{'s' if n_others > 1 else ''})" if n_others > 0 else ""
    return ", or ".join(sets[:_N_SETS]) + others


def _describe(recipe: Recipe, space: str) -> str:
    transforms = sorted({Path(name_transform(one.space, space)).name for one in recipe if one.space != space})
    return " with ".join([*(one.names[0] for one in recipe), *transforms])
