"""Load atlases by name or path in the space of the data."""

from __future__ import annotations

import dataclasses
import difflib
import logging
import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from bids_semantoks.atlases.label_images import load_volume
from bids_semantoks.atlases.label_surfaces import choose, find_surface_spaces, load_surface_entry, load_surface_files
from bids_semantoks.atlases.label_tables import build_atlas, build_label, load_label_table, rename_to_seven_networks
from bids_semantoks.atlases.registry import (
    Entry,
    LabelFile,
    Places,
    find_entry,
    find_places,
    is_surface_atlas,
    list_registered,
    load_entry,
    strip_suffix,
)
from bids_semantoks.atlases.supply import (
    FETCH_HINT,
    Part,
    describe_absence,
    find_local_parts,
    find_parts,
    find_transform,
    is_in,
    join_cohort,
    log_unused,
    refuse,
    split_cohort,
)
from bids_semantoks.bids_names import check_name, group_by, natural_key, parse_entities
from bids_semantoks.errors import AtlasError, name_some
from bids_semantoks.files import read_json
from bids_semantoks.records import Atlas
from bids_semantoks.runtime.downloads import find_target

LOG = logging.getLogger("bids_semantoks")

#: Spaces of BIDS and fMRIPrep that differ between participants.
_NATIVE_SPACES: Final = frozenset(
    ("T1w", "T2w", "anat", "bold", "boldref", "func", "individual", "native", "orig", "scanner")
)

_IMAGE_SUFFIXES: Final = (".nii", ".nii.gz")
_ENDING: Final = re.compile(r"_dseg\.(nii|nii\.gz|dlabel\.nii|label\.gii)$")
_HEMISPHERE: Final = re.compile(r"_hemi-[LR](?=_)")


def split_choice(name_or_path: str | Path) -> tuple[str, str]:
    """Split ``PATH:CHOICE`` into a path that exists and the choice, which is empty for a path or name alone."""
    text = str(name_or_path)
    # Unlike pathlib, this returns False instead of failing if the name of a map makes the path too long.
    if not os.path.exists(text):  # noqa: PTH110
        for colon in re.finditer(":", text):
            if colon.start() and os.path.exists(text[: colon.start()]):  # noqa: PTH110
                return text[: colon.start()], text[colon.end() :].strip()
    check_name(text, AtlasError, "The atlas")
    return text, ""


def find_all_spaces(name_or_path: str | Path, *, directory: Path | None) -> tuple[str, ...]:
    """Find the template spaces of an atlas, images before available surfaces; AtlasError for an unknown atlas."""
    chosen, choice = split_choice(name_or_path)
    if is_surface_atlas(Path(chosen)):
        return find_surface_spaces(Path(chosen), choice)
    path = find_entry(chosen)
    if path is None:
        spaces = (*find_images(name_or_path), *_find_dataset_surfaces(name_or_path))
        # Runs give template and cohort in two entities or in one.
        return tuple(dict.fromkeys(one for space in spaces for one in (split_cohort(space)[0], space)))
    entry, places = load_entry(path, on_surfaces=True), find_places(directory, beside=path.parent)
    here = (space for space, recipes in entry.recipes.items() if find_local_parts(entry, recipes, space, places))
    on_surfaces = tuple(here)
    try:
        return tuple(dict.fromkeys((*_find_image_spaces(load_entry(path), places), *on_surfaces)))
    except AtlasError:
        if not on_surfaces:
            raise
        return on_surfaces


def _find_image_spaces(entry: Entry, places: Places) -> Iterable[str]:
    """List the spaces that need no warping: local ones first, then those that can be fetched."""
    own = {space: [one for one in recipes if is_in(one, space)] for space, recipes in entry.recipes.items()}
    here = [space for space, recipes in own.items() if find_local_parts(entry, recipes, space, places)]
    if spaces := dict.fromkeys((*here, *entry.find_fetchable_spaces())):
        return spaces
    raise refuse(entry, entry.recipes, places)


def load_surface_atlas(name_or_path: str | Path, *, space: str, directory: Path | None) -> Atlas:
    """Load an atlas for data on surfaces by name or path; parcels in the order of the table, else of the files. A path
    is a ``.dlabel.nii``, or one ``.label.gii`` or ``.annot`` with the other hemisphere next to it. Files of entries are
    searched in `directory`, BIDS_SEMANTOKS_ATLAS_DIR and our cache. Raises AtlasError if the atlas is missing, damaged
    or lacks surfaces of this space."""
    chosen, choice = split_choice(name_or_path)
    if entry := find_entry(chosen):
        return load_surface_entry(load_entry(entry, on_surfaces=True), space, directory)
    path = _find_dataset_surfaces(name_or_path).get(space)
    if path is not None:
        return load_surface_files(path, space)
    path = Path(chosen)
    if not is_surface_atlas(path) or not path.is_file():
        raise AtlasError(
            f"The data in {space} are on surfaces, but the atlas {name_or_path} "
            f"{'is volumetric' if path.exists() else 'does not exist'}.",
            hint="Give a .dlabel.nii file or one of a pair of .label.gii or .annot files; or use volumes (--space).",
        )
    return load_surface_files(path, space, choice)


def load_atlas(
    name_or_path: str | Path, *, space: str, directory: Path | None, work_dir: Path | None = None, cohort: str = ""
) -> Atlas:
    """Load the parcels of an atlas and check its images, downloading missing files.

    `name_or_path` is a registry name, or the path of a label image, a registry entry (``.json``) or an atlas dataset,
    from which ``:NAME`` chooses one of several atlases. `cohort` is that of the data's template, unless `space`
    includes it (``MNIInfant+1``). Files of registry entries are searched in `directory` first; downloads go to
    a temporary directory, in `work_dir` if given, if the cache is not writable. Raises AtlasError if the atlas is
    neither found nor downloaded, has neither this space nor a transform to it, is damaged, or its table and image
    disagree.
    """
    landmarks: Mapping[int, tuple[float, ...]] = {}
    own = join_cohort(space, cohort)
    if path := find_entry(name_or_path):
        entry, places = load_entry(path), find_places(directory, beside=path.parent)
        name, table_path, landmarks = entry.name, entry.table, entry.landmarks
        if space in _NATIVE_SPACES and space not in entry.recipes:
            raise AtlasError(
                f"The data are in {space}, each participant's native space; a template atlas cannot be used there.",
                hint=f"Choose data in {' or '.join(entry.recipes)} with --space, or rerun fMRIPrep with "
                "--output-spaces.",
            )
        parts = find_parts(entry, own, places, lambda: find_target(work_dir))
        log_unused(entry, own, places, parts)
    else:
        on_surfaces = is_surface_atlas(Path(split_choice(name_or_path)[0]))
        images = {} if on_surfaces else find_images(name_or_path)
        if not images:
            raise AtlasError(
                f"The atlas {name_or_path} is on surfaces, but the data in {own or 'native space'} are volumetric.",
                hint="Choose surface data (--space) or a volumetric atlas (.nii.gz).",
            )
        name = build_label(strip_suffix(next(iter(images.values())).path))
        # If an image's name gives the template without a cohort, trust the user.
        fitting = images.get(own) or images.get(split_cohort(own)[0])
        parts = (fitting or _warp_image(name, images, own, directory, work_dir),)
        table_path = parts[0].listed_in
    table = rename_to_seven_networks(load_label_table(table_path))
    loaded = [load_volume(part, table, landmarks, space=own) for part in parts]
    for part in parts:
        if part.transform is not None:
            LOG.info("Warping atlas %s from %s to %s with %s.", part.path.name, part.space, own, part.transform.name)
    return dataclasses.replace(build_atlas(name, own, table, loaded), space=space)


def _warp_image(
    name: str, images: Mapping[str, Part], space: str, directory: Path | None, work_dir: Path | None
) -> Part:
    """Find the first image with a transform to a space, downloading the transform if needed."""
    absent: list[str] = []
    failures: list[str] = []
    for own, image in images.items() if space else ():
        try:
            transform = find_transform(own, space, find_places(directory), lambda: find_target(work_dir))
        except AtlasError as error:
            (absent if describe_absence(own, space) else failures).append(error.message)
            continue
        return dataclasses.replace(image, space=own, transform=transform)
    spaces = " or ".join(images)
    raise AtlasError(
        f"The atlas {name} is in space {spaces}, the data in {space or 'an unknown space'}. "
        + (failures or absent or ["Specify the space of the data."])[0],
        hint=f"Process the data in {spaces} (--space, or fMRIPrep's --output-spaces), or give an atlas in "
        f"{space or 'their space'}{f', or download the transform: {FETCH_HINT}' if failures else '.'}",
    )


def find_images(name_or_path: str | Path) -> dict[str, Part]:
    """Find the label images of an atlas dataset (directory), or one by its path, with their tables, by template space;
    empty for a dataset of surfaces. Raises AtlasError if no atlas or several match."""
    chosen, choice = split_choice(name_or_path)
    path = Path(chosen)
    if path.is_dir():
        return _find_dataset(path, choice)
    if path.is_file() and path.name.endswith(_IMAGE_SUFFIXES):
        if choice:
            raise AtlasError(
                f"The atlas image {path} does not have several maps to choose from ({choice}).",
                hint="Only .dlabel.nii and .label.gii files can have several maps.",
            )
        return {_find_space(path): _describe_image(path, _find_root(path))}
    if path.exists():
        raise AtlasError(f"{path} is not an atlas: expected a .nii or .nii.gz label image or a directory.")
    known = [found.stem for found in list_registered()]
    near = difflib.get_close_matches(str(name_or_path), known, n=1, cutoff=0.4)
    raise AtlasError(
        f"Atlas {name_or_path} not found: expected a file, a directory or one of {', '.join(known)}.",
        hint=f"Did you mean {near[0]}?" if near else "",
    )


def _choose_in_dataset(directory: Path, choice: str) -> list[Path]:
    """List the label files of one atlas of a dataset (BEP038), sorted. Raises AtlasError if the dataset has none,
    or several and none is chosen."""
    paths = sorted(path for path in directory.rglob("*") if _ENDING.search(path.name) and path.name[0] != ".")
    files = [path for path in paths if path.is_file()]
    if not files:
        raise _refuse_empty(directory, paths)
    by_label = group_by(files, lambda path: build_label(_HEMISPHERE.sub("", _ENDING.sub("_dseg", path.name))))
    labels = sorted(by_label, key=natural_key)
    # Also match the entities themselves, such as atlas-4S_scale-156.
    found = choose(labels, choice) or choose(labels, build_label(choice)) if choice else list(range(len(labels)))
    if len(found) == 1:
        return by_label[labels[found[0]]]
    listed = f"{len(labels)} atlas{'es' if len(labels) > 1 else ''}: {name_some(labels)}"
    raise AtlasError(
        f"The atlas dataset {directory} contains {listed}{f'; none is {choice}' if choice else ''}.",
        hint=f"Choose one: --atlas {shlex.quote(f'{directory}:{labels[0]}')}.",
    )


def _refuse_empty(directory: Path, links: Sequence[Path]) -> AtlasError:
    if links:
        return AtlasError(
            f"The directory {directory} contains {len(links)} label files without content, such as {links[0].name}.",
            hint="Run `datalad get` first.",
        )
    if maps := sorted(directory.rglob("*_probseg.nii*")):
        return AtlasError(
            f"The atlas dataset {directory} contains only probability maps ({len(maps)} *_probseg files, such as "
            f"{maps[0].name}) and no *_dseg.nii.gz.",
            hint="Convert them to a label image (the most probable parcel in each voxel) with a table next to it.",
        )
    return AtlasError(
        f"The directory {directory} contains no *_dseg.nii.gz.", hint="Give an atlas dataset (BEP038) or a label image."
    )


def _find_dataset(directory: Path, choice: str) -> dict[str, Part]:
    images = [path for path in _choose_in_dataset(directory, choice) if not is_surface_atlas(path)]
    by_space = group_by(images, _find_space)
    for space, found in by_space.items():
        others = {tuple(sorted((_entities(p) | {"res": ""}).items())) for p in found}
        if len(others) > 1:
            raise AtlasError(
                f"The atlas dataset {directory} contains {len(found)} images in {space}: "
                f"{name_some([p.name for p in found])}.",
                hint="Give the path of one image.",
            )
    # Names sort res-01 before res-02: the finest wins.
    return {space: _describe_image(found[0], directory) for space, found in by_space.items()}


def _find_dataset_surfaces(name_or_path: str | Path) -> dict[str, Path]:
    """Find the surface label files of an atlas dataset (directory), one per space; empty for anything else."""
    chosen, choice = split_choice(name_or_path)
    if not Path(chosen).is_dir():
        return {}
    files = [path for path in _choose_in_dataset(Path(chosen), choice) if is_surface_atlas(path)]
    found: dict[str, Path] = {}
    for path in files:
        entities = _entities(path)
        if space := entities.get("space") or entities.get("tpl"):
            found.setdefault(space, path)
    return found


def _describe_image(image: Path, root: Path) -> Part:
    table = _find_table(image, root)
    licence = ""
    for folder in _upwards(image.parent, root):
        for sidecar in (folder / f"{strip_suffix(image)}.json", *sorted(folder.glob("atlas-*_description.json"))):
            licence = licence or _read_field(sidecar, ("License", "Licence"))
    return Part(path=image, file=LabelFile(files=(image.name,), licence=licence), listed_in=table)


def _find_table(image: Path, root: Path) -> Path:
    same = image.with_name(f"{strip_suffix(image)}.tsv")
    if same.is_file():
        return same
    # Inheritance principle: a table applies if the image has all of its entities; the nearest wins.
    wanted = _entities(image).items()
    for folder in _upwards(image.parent, root):
        fitting = [p for p in sorted(folder.glob("*_dseg.tsv")) if _entities(p).items() <= wanted]
        if fitting:
            return max(fitting, key=lambda p: len(_entities(p)))
    raise AtlasError(
        f"The atlas image {image} has no table {same.name} next to it.",
        hint="Add one with the columns index, label and network_label.",
    )


def _find_root(image: Path) -> Path:
    """Find the atlas dataset (BEP038) whose tables an image in a ``tpl-`` folder inherits; else the image's folder."""
    near = (image.parent, *image.parent.parents[:2])
    return next((folder.parent for folder in near if folder.name.startswith("tpl-")), image.parent)


def _upwards(folder: Path, root: Path) -> list[Path]:
    return [folder, *(parent for parent in folder.parents if parent == root or root in parent.parents)]


def _find_space(image: Path) -> str:
    entities = _entities(image)
    sidecar = image.with_name(f"{strip_suffix(image)}.json")
    space = entities.get("space") or entities.get("tpl") or _read_field(sidecar, ("Space", "SpatialReference"))
    space = join_cohort(space, entities.get("cohort"))
    if not space:
        raise AtlasError(
            f"The template space of the atlas image {image} is unknown.",
            hint="Add space- to its name (e.g. _space-MNI152NLin6Asym_dseg.nii.gz), or Space to its JSON sidecar.",
        )
    return space


def _read_field(sidecar: Path, names: tuple[str, ...]) -> str:
    if not sidecar.is_file():
        return ""
    try:
        content = read_json(sidecar)
    except (OSError, ValueError) as error:
        raise AtlasError(f"The atlas sidecar {sidecar} cannot be read: {error}.") from error
    found = [content[name] for name in names if name in content] if isinstance(content, dict) else []
    return found[0] if found and isinstance(found[0], str) else ""


def _entities(path: Path) -> dict[str, str]:
    # Names chosen by users may contain further dots.
    return parse_entities(strip_suffix(path).replace(".", ""))
