"""Atlases on surfaces: CIFTI dlabel, and pairs of label.gii or annot. G grayordinates of a file, P parcels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from bids_semantoks.atlases.label_images import read_label_image
from bids_semantoks.atlases.label_tables import (
    LabelTable,
    Layer,
    build_atlas,
    build_grid_layer,
    build_label,
    describe_grid,
    find_network,
    hash_labels,
    load_label_table,
    look_up,
    rename_to_seven_networks,
)
from bids_semantoks.atlases.registry import (
    DIRECTORY_VARIABLE,
    SURFACE_SUFFIXES,
    Entry,
    LabelFile,
    describe_unused,
    find_places,
    is_surface_atlas,
)
from bids_semantoks.atlases.supply import Part, check_published, find_local_parts, log_unused, warn_of_masked
from bids_semantoks.atlases.surface_labels import SurfaceLabels, choose_map, list_maps, load_surface_labels
from bids_semantoks.bids_names import format_label
from bids_semantoks.errors import AtlasError, name_some
from bids_semantoks.images.gifti import find_hemisphere
from bids_semantoks.images.grayordinates import CEREBELLAR
from bids_semantoks.records import Atlas, AtlasVolume
from bids_semantoks.runtime.downloads import check_file

_CORTEX: Final = "CORTEX"


_SPACES: Final = {10242: ("fsaverage5", "fsaverage"), 40962: ("fsaverage6", "fsaverage"), 32492: ("fsLR",)}
_SIDE: Final = re.compile(r"^(lh|rh)\.|hemi-[LR]_?|\.(L|R)(?=\.)")


def load_surface_entry(entry: Entry, space: str, directory: Path | None) -> Atlas:
    """Load a surface atlas from its registry entry, one volume per label file. Raises AtlasError if files are
    missing, damaged or not those listed in the entry."""
    recipes, places = entry.recipes.get(space, ()), find_places(directory, beside=entry.path.parent)
    parts = find_local_parts(entry, recipes, space, places)
    if parts is None:
        needed = "; or ".join(" with ".join(file.files[0] for file in recipe) for recipe in recipes)
        origins = ", ".join(sorted({file.source for recipe in recipes for file in recipe}))
        known = ", ".join(entry.recipes) or "no surfaces"
        unused = describe_unused(entry, space, places, is_strict=True)
        raise AtlasError(
            f"Label files of the atlas {entry.name} for surfaces in {space} not found: {needed}."
            + (f" Ignored files: {unused}." if unused else "")
            if needed
            else f"The atlas {entry.name} is available on {known}; the data are on surfaces in {space}.",
            hint=f"Run `bids_semantoks-fetch DIR --atlas {entry.name} --space {space}` on a machine with network "
            f"access (downloads from {origins}), then set --atlas-dir DIR or {DIRECTORY_VARIABLE}=DIR."
            if needed
            else "Give a label file with --atlas: a .dlabel.nii, or one of a pair of .label.gii or .annot files.",
        )
    warn_of_masked(entry, parts)
    log_unused(entry, space, places, parts)
    table = load_label_table(entry.table)
    loaded = [_load_part(part, table) for part in parts]
    return build_atlas(entry.name, space, table, *_unzip(loaded))


def _unzip(loaded: Sequence[tuple[AtlasVolume, list[Layer]]]) -> tuple[tuple[AtlasVolume, ...], list[Layer]]:
    return tuple(volume for volume, _ in loaded), [layer for _, layers in loaded for layer in layers]


def _load_part(part: Part, table: LabelTable) -> tuple[AtlasVolume, list[Layer]]:
    position = {index: i for i, index in enumerate(table.values)}
    values, indices = part.file.values or (), part.file.indices
    if not set(indices) <= set(position):
        raise AtlasError(
            f"The atlas description {part.listed_in} lists parcels for {part.path.name} that are not in its table."
        )
    if is_surface_atlas(part.path):
        used = set(load_surface_labels(part.path).names)
    else:
        used = set(np.unique(read_label_image(part.path)[0]).tolist()) - {0}
    if not used & set(values):
        raise AtlasError(f"The atlas file {part.path} has none of the {len(values)} expected labels.")
    return build_surface_volume(part, values, [position[index] for index in indices])


def load_surface_files(path: Path, space: str, choice: str = "") -> Atlas:
    """Load an atlas from a label file and, if it covers one hemisphere, its counterpart; parcels in the order of the
    table next to them, else of the files. `choice` selects one of several maps. Raises AtlasError if the files are
    damaged or in another space, or have several maps and none is chosen."""
    files = _find_files(path)
    spaces = find_surface_spaces(path, choice)
    if space not in spaces:
        raise AtlasError(
            f"The atlas {path} is in space {' or '.join(spaces)}, the data in {space}.",
            hint=f"Process the data in {' or '.join(spaces)} (--space), or give an atlas in {space}.",
        )
    maps = [choose_map(file, choice) for file in files]
    table, parcels = _build_table([load_surface_labels(*one) for one in zip(files, maps, strict=True)], files)
    loaded = []
    for file, own, map_index in zip(files, parcels, maps, strict=True):
        part = Part(path=file, file=LabelFile(files=(file.name,)), listed_in=table.path)
        loaded.append(build_surface_volume(part, list(own), list(own.values()), map_index))
    name = build_label(_SIDE.sub("", f"{_stem(files[0])}.").strip("._"))
    if len(names := list_maps(files[0])) > 1:
        # Two maps in one file are two atlases.
        name = format_label(name + (names[maps[0]] or str(maps[0] + 1)))
    return build_atlas(name, space, rename_to_seven_networks(table), *_unzip(loaded))


def build_surface_volume(
    part: Part, values: Sequence[int], parcels: Sequence[int], map_index: int = 0
) -> tuple[AtlasVolume, list[Layer]]:
    """Build the record of one label file, with checksum, and its layers; `parcels` are positions in the atlas of
    `values`. Raises AtlasError if a downloaded file has changed or differs from the published one."""
    sha256 = check_file(part.path)
    if on_surfaces := is_surface_atlas(part.path):
        surface = load_surface_labels(part.path, map_index)
        check_published(part, sha256, hash_labels(surface.keys))
    else:
        image = read_label_image(part.path)
        check_published(part, sha256, hash_labels(*image))
    volume = part.as_volume(sha256, values, parcels, map_index=map_index)
    return volume, _build_layers(surface, volume) if on_surfaces else [build_grid_layer(*image, volume, "")]


def _build_layers(labels: SurfaceLabels, volume: AtlasVolume) -> list[Layer]:
    """Build the layers of a label file: the mesh of each hemisphere, the labelled voxels of every other structure."""
    keys, grid = look_up(labels.keys, volume), labels.grayordinates
    layers = []
    for model in grid.models:
        own = keys[model.place]
        if not own.any():
            continue
        if model.n_vertices:
            mesh = np.zeros(model.n_vertices, dtype=np.int32)
            mesh[model.indices] = own
            layers.append(Layer((model.structure, model.n_vertices), mesh))
            continue
        place = (model.structure, *describe_grid(grid.shape, grid.affine))
        rows = np.column_stack([model.indices, own])[own > 0]
        # Structures do not share voxels, so none are merged; their order is irrelevant.
        layers.append(Layer(place, rows[np.lexsort(rows.T)].astype(np.int32)))
    return layers


def _find_files(path: Path) -> tuple[Path, ...]:
    """Find the left and right file of an atlas with one file per hemisphere, else the file of all structures. Raises
    AtlasError if one is missing or the name lacks the hemisphere."""
    if not path.is_file():
        raise AtlasError(f"Atlas {path} not found.", hint="Check the path given with --atlas.")
    if path.name.endswith(".dlabel.nii"):
        return (path,)
    here = find_hemisphere(path.name)
    if not here:
        raise AtlasError(
            f"The file name of the atlas {path} does not indicate a hemisphere.",
            hint="Expected hemi-L_, lh. or .L. in the name, and the other hemisphere in the same folder.",
        )
    other = re.sub(
        r"(^|[_.])(hemi-)?(L|R|lh|rh)(?=[_.])",
        lambda match: f"{match[1]}{match[2] or ''}{ {'L': 'R', 'R': 'L', 'lh': 'rh', 'rh': 'lh'}[match[3]] }",
        path.name,
    )
    partner = path.with_name(other)
    if not partner.is_file():
        raise AtlasError(
            f"The atlas {path} covers one hemisphere; the other, {partner.name}, is not in the same folder.",
            hint="Both hemispheres are required.",
        )
    return (path, partner) if here.endswith("LEFT") else (partner, path)


def find_surface_spaces(path: Path, choice: str = "") -> tuple[str, ...]:
    """Find the template spaces, most likely first, of a label file by its name, else by the size of its mesh. Raises
    AtlasError if neither identifies the space, or the file or its other hemisphere is missing or damaged."""
    path = _find_files(path)[0]
    labels = load_surface_labels(path, choose_map(path, choice))
    if path.name.endswith(".dlabel.nii"):
        return ("fsLR",)
    size = labels.grayordinates.models[0].n_vertices
    if found := re.search(r"(?:space|tpl)-(fsLR|fsaverage[3-6]?)(?=[_.])", path.name):
        return tuple(dict.fromkeys((found[1], *(_SPACES.get(size, ()) if found[1] == "fsaverage" else ()))))
    if size == 163842 and path.name.endswith(".annot"):
        return ("fsaverage",)
    if size not in _SPACES:
        raise AtlasError(
            f"The space of the atlas {path} is unknown: its mesh has {size} vertices.",
            hint="Add space- to its name (e.g. hemi-L_space-fsaverage_dseg.label.gii).",
        )
    return _SPACES[size]


def _build_table(files: Sequence[SurfaceLabels], paths: Sequence[Path]) -> tuple[LabelTable, list[dict[int, int]]]:
    """List the parcels of label files, and per file the parcel position of each key in the table.

    One file of all structures, or left and right. Parcels are in the order of a table next to them, else of the keys;
    values count from 1. Without a table, networks come from the names (``7Networks_LH_Vis_1``), those of voxels from
    the structure. Raises AtlasError for an unreadable file, a repeated name, or a table with none of the parcels.
    """
    table = _find_table(paths)
    names = [[labels.names[key] for key in sorted(labels.names)] for labels in files]
    flat = [name for some in names for name in some]
    if len(set(flat)) < len(flat):
        twice = sorted({name for name in flat if flat.count(name) > 1})
        # FreeSurfer's annotations use the same names in both hemispheres.
        prefixes = ("LH_", "RH_") if len(files) == 2 else ("",)
        names = [[prefix + name for name in some] for prefix, some in zip(prefixes, names, strict=True)]
        flat = [name for some in names for name in some]
        if len(set(flat)) < len(flat):
            raise AtlasError(f"The atlas {paths[0]} has several keys with the same name: {name_some(twice)}.")
    if table is None:
        networks = [
            network for labels, some in zip(files, names, strict=True) for network in _find_networks(labels, some)
        ]
        rows = LabelTable(
            path=paths[0], values=tuple(range(1, len(flat) + 1)), parcels=tuple(flat), networks=tuple(networks)
        )
    else:
        rows = _match_table(load_label_table(table), flat)
    position = {name: i for i, name in enumerate(rows.parcels)}
    pairs = [zip(sorted(labels.names), some, strict=True) for labels, some in zip(files, names, strict=True)]
    return rows, [{key: position[name] for key, name in some if name in position} for some in pairs]


def _match_table(table: LabelTable, flat: list[str]) -> LabelTable:
    if not set(flat) & set(table.parcels):
        raise AtlasError(
            f"The atlas table {table.path} has none of the {len(flat)} parcels of its label file "
            f"(e.g. {name_some(flat)}); it has {name_some(table.parcels)}.",
            hint="Its column `label` must contain the names of the label file's keys.",
        )
    order = [i for i, name in enumerate(table.parcels) if name in set(flat)]
    return LabelTable(
        path=table.path,
        values=tuple(range(1, len(order) + 1)),
        parcels=tuple(table.parcels[i] for i in order),
        networks=tuple(table.networks[i] for i in order),
    )


def _find_networks(labels: SurfaceLabels, names: list[str]) -> list[str]:
    """Derive networks from names, those of voxels from their structure."""
    networks = []
    for key, name in zip(sorted(labels.names), names, strict=True):
        structures = {
            model.structure for model in labels.grayordinates.models if (labels.keys[model.place] == key).any()
        }
        if any(structure.startswith(_CORTEX) for structure in structures):
            networks.append(find_network(name))
        else:
            networks.append("Cerebellum" if structures <= set(CEREBELLAR) else "Subcortex")
    return networks


def _find_table(files: Sequence[Path]) -> Path | None:
    """Find a table next to the files with the same name, with or without the hemisphere."""
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
