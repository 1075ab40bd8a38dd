"""Atlases, found by name or path, read in the space of the data and resampled onto a run's grid."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bids_semantoks.atlases.label_images import _load_volume
from bids_semantoks.atlases.label_surfaces import (
    SURFACE_SUFFIXES,
    build_surface_atlas,
    build_surface_table,
    build_surface_volume,
    find_entry,
    find_partner,
    find_recipes,
    find_surface_spaces,
    is_surface_atlas,
    load_surface_entry,
    load_surface_labels,
)
from bids_semantoks.atlases.label_tables import LabelTable, load_label_table, rename_to_seven_networks
from bids_semantoks.atlases.registry import find_archived, find_places
from bids_semantoks.atlases.supply import (
    FETCH_HINT,
    Source,
    Sources,
    build_label,
    fetch_missing_transform,
    find_parts,
    find_sources,
    name_transform,
    refuse,
)
from bids_semantoks.errors import AtlasError
from bids_semantoks.records import Atlas, AtlasVolume

LOG = logging.getLogger("bids_semantoks")


def find_atlas_spaces(name_or_path: str | Path, *, directory: Path | None) -> tuple[str, ...]:
    """List the template spaces of an atlas that need no warping: local ones first, then those that can be fetched.
    Raises AtlasError where the atlas is unknown, or its files are neither here nor published."""
    found = find_sources(name_or_path, directory=directory)
    spaces = (*found.spaces, *(found.entry.find_fetchable_spaces() if found.entry else ()))
    if not spaces and found.entry is not None:
        raise refuse(found.entry, found.entry.recipes, find_places(directory, beside=found.entry.path.parent))
    return tuple(dict.fromkeys(spaces))


def load_atlas(name_or_path: str | Path, *, space: str, directory: Path | None, work_dir: Path | None = None) -> Atlas:
    """Load the parcels of an atlas and check its images, fetching what is not here.

    `name_or_path` is a registry name, or the path of a label image, a registry entry (``.json``) or an atlas dataset.
    Files of registry entries are searched in `directory` first; fetched files go to a temporary directory, in
    `work_dir` if given, when the cache is not writable. Raises AtlasError where the atlas is neither found nor fetched,
    has neither this space nor a transform to it, is damaged, or its table and image disagree.
    """
    found = find_sources(name_or_path, directory=directory)
    source = _choose_source(found, space, directory, work_dir)
    table = rename_to_seven_networks(load_label_table(source.table))
    landmarks = found.entry.landmarks if found.entry else {}
    volumes = tuple(_load_volume(part, table, landmarks) for part in source.parts)
    for volume in volumes:
        if volume.transform is not None:
            LOG.info(
                "%s is in %s and is laid onto %s with %s.",
                *(volume.path.name, volume.space, space, volume.transform.name),
            )
    return Atlas(
        name=found.name,
        space=space,
        parcels=table.parcels,
        networks=table.networks,
        volumes=volumes,
        sha256=_compute_checksum(table, volumes),
    )


def _choose_source(found: Sources, space: str, directory: Path | None, work_dir: Path | None) -> Source:
    if found.entry is not None:
        parts = find_parts(found.entry, space, directory=directory, work_dir=work_dir)
        return Source(table=found.entry.table, parts=parts)
    if space in found.spaces:
        return found.spaces[space]
    reason = "no space is named for them"
    for own, source in found.spaces.items() if space else ():
        try:
            transform = find_archived(name_transform(own, space), find_places(directory)) or fetch_missing_transform(
                own, space, work_dir
            )
        except AtlasError as error:
            reason = error.message.rstrip(".")
            continue
        parts = tuple(dataclasses.replace(part, space=own, transform=transform) for part in source.parts)
        return Source(table=source.table, parts=parts)
    spaces = " or ".join(found.spaces)
    raise AtlasError(
        f"The atlas {found.name} is in the space {spaces}, the data in {space or 'none named'}. "
        f"There is no transform between them: {reason}.",
        hint=f"Process the data in {spaces} (--space, or fMRIPrep's --output-spaces), or give an atlas that was warped "
        f"to {space or 'their space'}, or bring the transform: {FETCH_HINT}",
    )


def _compute_checksum(table: LabelTable, volumes: tuple[AtlasVolume, ...]) -> str:
    content = {
        "parcels": table.parcels,
        "networks": table.networks,
        "volumes": [
            [v.sha256, v.values.tolist(), v.parcels.tolist(), *([v.transform_sha256] if v.transform else [])]
            for v in volumes
        ],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


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
