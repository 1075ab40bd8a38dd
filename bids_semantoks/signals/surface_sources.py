"""Atlases on surfaces by name or path, and the spaces in which an atlas is available."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bids_semantoks.errors import AtlasError
from bids_semantoks.records import Atlas
from bids_semantoks.signals.atlas import find_atlas_spaces
from bids_semantoks.signals.orders import rename_to_seven_networks
from bids_semantoks.signals.sources import build_label
from bids_semantoks.signals.surface_atlas import (
    SURFACE_SUFFIXES,
    build_surface_table,
    find_partner,
    find_surface_spaces,
    is_surface_atlas,
    load_surface_labels,
)
from bids_semantoks.signals.surface_entries import find_entry, find_recipes, load_surface_entry
from bids_semantoks.signals.surface_volumes import build_surface_atlas, build_surface_volume

_SIDE: Final = re.compile(r"^(lh|rh)\.|hemi-[LR]_?|\.(L|R)(?=\.)")


def find_all_spaces(name_or_path: str | Path, *, directory: Path | None) -> tuple[str, ...]:
    """Find the template spaces of an atlas, preferred first: images, then surfaces whose files are here.
    Raises AtlasError for an unknown atlas."""
    path = Path(name_or_path)
    if is_surface_atlas(path):
        left = (_find_files(path))[0]
        return find_surface_spaces(left, load_surface_labels(left))
    entry = find_entry(name_or_path)
    on_surfaces = () if entry is None else tuple(find_recipes(entry, directory))
    try:
        return tuple(dict.fromkeys((*find_atlas_spaces(name_or_path, directory=directory), *on_surfaces)))
    except AtlasError:
        if not on_surfaces:
            raise
        return on_surfaces


def load_surface_atlas(name_or_path: str | Path, *, space: str, directory: Path | None) -> Atlas:
    """Load an atlas for data on surfaces by name or path; parcels in the order of the table, else of the files.

    A path is a ``.dlabel.nii``, or one ``.label.gii`` or ``.annot`` with its other hemisphere beside it. Files of
    entries are searched in `directory`, BIDS_SEMANTOKS_ATLAS_DIR and our cache. Raises AtlasError if the atlas is
    missing, damaged or lacks surfaces of this space.
    """
    path = Path(name_or_path)
    entry = find_entry(name_or_path)
    if entry is not None:
        return load_surface_entry(entry, space, directory)
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
        volumes.append(build_surface_volume(file, [key for key, _ in pairs], [parcel for _, parcel in pairs], ""))
    return build_surface_atlas(_label(files[0]), space, table, tuple(volumes))


def check_is_volumetric(name_or_path: str | Path, space: str) -> None:
    """Raise AtlasError for a surface label file where the data are images."""
    if is_surface_atlas(Path(name_or_path)):
        raise AtlasError(
            f"The atlas {name_or_path} lies on surfaces, the data in {space or 'native space'} are images.",
            hint="Choose data on surfaces (--space), or an atlas of images (.nii.gz).",
        )


def _find_files(path: Path) -> tuple[Path, ...]:
    if not path.is_file():
        raise AtlasError(f"There is no atlas {path}.", hint="Check the path given with --atlas.")
    return find_partner(path) or (path,)


def _find_table(files: Sequence[Path]) -> Path | None:
    """Find a table beside the files with the same name, with or without the hemisphere."""
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
    return build_label(_SIDE.sub("", f"{_stem(path)}.").strip("._"))
