"""Atlases on surfaces: CIFTI dlabel, and pairs of label.gii or annot. G grayordinates of a file, P parcels."""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from xml.parsers.expat import ExpatError

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from bids_semantoks.atlases.label_images import find_positions, read_label_image
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
    Entry,
    LabelFile,
    describe_unused,
    find_places,
    is_surface_atlas,
    strip_suffix,
)
from bids_semantoks.atlases.supply import Part, check_published, find_local_parts, log_unused, warn_of_masked
from bids_semantoks.bids_names import format_label
from bids_semantoks.errors import AtlasError, name_some
from bids_semantoks.images.gifti import find_hemisphere
from bids_semantoks.images.grayordinates import (
    CEREBELLAR,
    LEFT,
    RIGHT,
    CiftiError,
    Grayordinates,
    build_hemispheres,
    load_cifti,
    read_grayordinate_rows,
    read_grayordinates,
    read_label_names,
)
from bids_semantoks.images.volumes import DAMAGED, check_compressed
from bids_semantoks.records import Atlas, AtlasVolume, Indices
from bids_semantoks.runtime.downloads import check_file

# Names for vertices without a parcel in label files; compared in lower case, letters only.
_NOTHING: Final = ("", "unknown", "medialwall", "medialwallmask", "backgroundfreesurferdefinedmedialwall", "none")

_UNREADABLE: Final[tuple[type[Exception], ...]] = (*DAMAGED, CiftiError, ExpatError, IndexError)

# Template spaces by the vertices of their mesh.
_SPACES: Final = {10242: ("fsaverage5", "fsaverage"), 40962: ("fsaverage6", "fsaverage"), 32492: ("fsLR",)}
_SIDE: Final = re.compile(r"^(lh|rh)\.|hemi-[LR]_?|\.(L|R)(?=\.)")
#: Maximum number of maps listed in a message.
_N_MAPS: Final = 10


def choose(names: Sequence[str], choice: str) -> list[int]:
    """Find the positions of the chosen name: exact matches, else ignoring case and punctuation, else by number."""
    exact = [n for n, name in enumerate(names) if name == choice]
    asked, *plain = (re.sub(r"[\W_]", "", name).casefold() for name in (choice, *names))
    loose = [n for n, name in enumerate(plain) if name == asked != ""]
    number = int(choice) - 1 if choice.isdecimal() else -1
    return exact or loose or ([number] if 0 <= number < len(names) else [])


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SurfaceLabels:
    """Labels of the grayordinates of one file."""

    grayordinates: Grayordinates
    keys: Indices  # (G,) label keys
    names: dict[int, str]  # of the keys that are parcels


def load_surface_labels(path: Path, map_index: int = 0) -> SurfaceLabels:
    """Read a ``.dlabel.nii``, ``.label.gii`` or ``.annot`` file: keys of a map, and the names in use. Raises
    AtlasError if it cannot be read, its hemisphere is unknown, it has no parcels or uses a key without a name."""
    try:
        status = path.stat()
    except OSError as error:
        raise AtlasError(f"The atlas {path} cannot be read: {error.strerror}.") from error
    # Cached: every run needs it, and reading takes as long as a short run.
    return _load_labels(path, map_index, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _load_labels(path: Path, map_index: int, _size: int, _mtime: int) -> SurfaceLabels:
    load = _load_dlabel if path.name.endswith(".dlabel.nii") else _load_hemisphere
    try:
        grayordinates, values, names = load(path, map_index)
    except _UNREADABLE as error:
        raise AtlasError(f"The atlas {path} cannot be read: {error}.") from error
    keys = np.rint(np.nan_to_num(values)).astype(np.int64)
    if -1 not in names:
        keys[keys == -1] = 0
    used = {int(key) for key in np.unique(keys)}
    parcels = {
        key: name for key, name in names.items() if key in used and re.sub(r"[^a-z]", "", name.lower()) not in _NOTHING
    }
    if nameless := sorted(key for key in used if key != 0 and not names.get(key, "")):
        raise AtlasError(
            f"The atlas {path} uses keys without a name in its label table: {name_some(nameless)}.",
            hint="Give each key a name (wb_command -cifti-label-import, -metric-label-import).",
        )
    if not parcels:
        raise AtlasError(f"The atlas {path} contains no parcels: none of the {keys.size} grayordinates has a label.")
    return SurfaceLabels(grayordinates=grayordinates, keys=keys, names=parcels)


def list_maps(path: Path) -> tuple[str, ...]:
    """List the names of the maps of a label file. Raises AtlasError if it cannot be read."""
    try:
        if path.name.endswith(".annot"):
            return ("",)
        if path.name.endswith(".dlabel.nii"):
            file = load_cifti(path)
            file.check_kinds("LABELS", "BRAIN_MODELS")
            return tuple((one.map_name or "").strip() for one in file.axes[0].named_maps) or ("",)
        image: Any = nib.load(path)
        return tuple((one.meta.get("Name") or "").strip() for one in image.darrays) or ("",)
    except _UNREADABLE as error:
        raise AtlasError(f"The atlas {path} cannot be read: {error}.") from error


def choose_map(path: Path, choice: str) -> int:
    """Find the position of the chosen map in a label file. Raises AtlasError if the file has several and
    none is chosen, or has no such map."""
    names = list_maps(path)
    found = choose(names, choice) if choice else list(range(len(names)))
    if len(found) == 1:
        return found[0]
    listed = ", ".join(f"{number} '{name}'" for number, name in enumerate(names[:_N_MAPS], 1))
    listed += f" and {len(names) - _N_MAPS} more" if len(names) > _N_MAPS else ""
    raise AtlasError(
        f"The atlas {path} has {len(names)} map{'s' if len(names) > 1 else ''}: {listed}"
        f"{f'; {len(found) or None} is {choice}' if choice else ''}.".replace("; None is", "; none is"),
        hint=f"Choose one by name or number: --atlas {shlex.quote(f'{path}:{names[0] or 1}')}.",
    )


def _load_dlabel(path: Path, map_index: int) -> tuple[Grayordinates, NDArray[Any], dict[int, str]]:
    file = load_cifti(path)
    file.check_kinds("LABELS", "BRAIN_MODELS")
    grayordinates = read_grayordinates(file.axes[1])
    if grayordinates.size != file.shape[1]:
        raise CiftiError(f"describes {grayordinates.size} grayordinates but has {file.shape[1]}")
    values = np.concatenate([block[:, map_index].copy() for _, block in read_grayordinate_rows(file)])
    return grayordinates, values, read_label_names(file.axes[0], map_index)


def _load_hemisphere(path: Path, map_index: int) -> tuple[Grayordinates, NDArray[Any], dict[int, str]]:
    if path.name.endswith(".annot"):
        values, _, listed = nib.freesurfer.read_annot(path)
        names = {key: " ".join(name.decode(errors="replace").split()) for key, name in enumerate(listed)}
        # nibabel assigns -1 to vertices whose colour is not in the table.
        values = np.where(values < 0, len(listed), values)
        names[len(listed)] = "unknown"
        side = find_hemisphere(path.name)
    else:
        image: Any = nib.load(path)
        check_compressed(path)
        values = np.asarray(image.darrays[map_index].data).ravel()
        names = {
            int(key): " ".join((name or "").split()) for key, name in image.labeltable.get_labels_as_dict().items()
        }
        stated = [one.get("AnatomicalStructurePrimary") for one in (image.darrays[map_index].meta, image.meta)]
        sides = {"CortexLeft": LEFT, "CortexRight": RIGHT}
        side = find_hemisphere(path.name) or sides.get(str(stated[0] or stated[1]), "")
    if not side:
        raise ValueError("its name does not indicate the hemisphere (hemi-L_, lh. or .L.)")
    return build_hemispheres({side: values.size}), values, names


def load_surface_entry(entry: Entry, space: str, directory: Path | None) -> Atlas:
    """Load a surface atlas from its registry entry, one volume per label file. Raises AtlasError if files are
    missing, damaged or not those listed in the entry."""
    recipes, places = entry.recipes.get(space, ()), find_places(directory, beside=entry.path.parent)
    parts = find_local_parts(entry, recipes, space, places)
    if not recipes:
        raise AtlasError(
            f"The atlas {entry.name} is available on {', '.join(entry.recipes) or 'no surfaces'}; the data are on "
            f"surfaces in {space}.",
            hint="Give a label file with --atlas: a .dlabel.nii, or one of a pair of .label.gii or .annot files.",
        )
    if parts is None:
        needed = "; or ".join(" with ".join(file.files[0] for file in recipe) for recipe in recipes)
        origins = ", ".join(sorted({file.source for recipe in recipes for file in recipe}))
        unused = describe_unused(entry, space, places, is_strict=True)
        raise AtlasError(
            f"Label files of the atlas {entry.name} for surfaces in {space} not found: {needed}."
            + (f" Ignored files: {unused}." if unused else ""),
            hint=f"Run `bids_semantoks-fetch DIR --atlas {entry.name} --space {space}` on a machine with network "
            f"access (downloads from {origins}), then set --atlas-dir DIR or {DIRECTORY_VARIABLE}=DIR.",
        )
    warn_of_masked(entry, parts)
    log_unused(entry, space, places, parts)
    table = load_label_table(entry.table)
    loaded = [_load_part(part, table) for part in parts]
    return build_atlas(entry.name, space, table, loaded)


def _load_part(part: Part, table: LabelTable) -> tuple[AtlasVolume, list[Layer]]:
    values, positions = part.file.values or (), find_positions(part, table, part.file.indices)
    if is_surface_atlas(part.path):
        used = set(load_surface_labels(part.path).names)
    else:
        used = set(np.unique(read_label_image(part.path)[0]).tolist()) - {0}
    if not used & set(values):
        raise AtlasError(f"The atlas file {part.path} has none of the {len(values)} expected labels.")
    return build_surface_volume(part, values, positions)


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
    name = build_label(_SIDE.sub("", f"{strip_suffix(files[0])}.").strip("._"))
    if len(names := list_maps(files[0])) > 1:
        # Two maps in one file are two atlases.
        name = format_label(name + (names[maps[0]] or str(maps[0] + 1)))
    return build_atlas(name, space, rename_to_seven_networks(table), loaded)


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
    """List the parcels of one label file, or of left and right, and per file the position of each key among them. They
    are in the order of a table next to the files, else of the keys. Without a table, networks come from the names,
    those of voxels from the structure. Raises AtlasError for a repeated name, or a table with none of the parcels."""
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
    pairs = [dict(zip(sorted(labels.names), some, strict=True)) for labels, some in zip(files, names, strict=True)]
    networks: dict[str, str] = {}
    if table is None:
        for labels, some in zip(files, pairs, strict=True):
            networks |= {name: _find_network(labels, key, name) for key, name in some.items()}
    else:
        listed, known = load_label_table(table), set(flat)
        rows = zip(listed.parcels, listed.networks, strict=True)
        networks = {name: network for name, network in rows if name in known}
        if not networks:
            raise AtlasError(
                f"The atlas table {table} has none of the {len(flat)} parcels of its label file "
                f"(e.g. {name_some(flat)}); it has {name_some(listed.parcels)}.",
                hint="Its column `label` must contain the names of the label file's keys.",
            )
    position = {name: i for i, name in enumerate(networks)}
    whole = LabelTable(
        path=table or paths[0],
        values=tuple(range(1, len(networks) + 1)),
        parcels=tuple(networks),
        networks=tuple(networks.values()),
    )
    return whole, [{key: position[name] for key, name in some.items() if name in position} for some in pairs]


def _find_network(labels: SurfaceLabels, key: int, name: str) -> str:
    """Derive a parcel's network from its name, that of voxels from their structure."""
    structures = {model.structure for model in labels.grayordinates.models if (labels.keys[model.place] == key).any()}
    if any(structure.startswith("CORTEX") for structure in structures):
        return find_network(name)
    return "Cerebellum" if structures <= set(CEREBELLAR) else "Subcortex"


def _find_table(files: Sequence[Path]) -> Path | None:
    """Find a table next to the files with the same name, with or without the hemisphere."""
    for file in files:
        stem = strip_suffix(file)
        for name in (stem, _SIDE.sub("", stem).strip("._")):
            if (table := file.with_name(f"{name}.tsv")).is_file():
                return table
    return None
