"""Labels on surfaces: the map that is asked for, its keys and names (CIFTI dlabel, label.gii, annot)."""

from __future__ import annotations

import functools
import os
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

from bids_semantoks.atlases.label_tables import build_label
from bids_semantoks.bids_names import check_name, natural_key
from bids_semantoks.errors import AtlasError, name_some
from bids_semantoks.images.gifti import find_hemisphere
from bids_semantoks.images.grayordinates import (
    CiftiError,
    Grayordinates,
    build_hemispheres,
    load_cifti,
    read_grayordinate_rows,
    read_grayordinates,
    read_label_names,
)
from bids_semantoks.images.volumes import DAMAGED, check_compressed

_ENDING: Final = re.compile(r"_dseg\.(nii|nii\.gz|dlabel\.nii|label\.gii)$")
_SIDE: Final = re.compile(r"_hemi-[LR](?=_)")


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


def choose(names: Sequence[str], choice: str) -> list[int]:
    """Find the positions of the chosen name: exact matches, else ignoring case and punctuation, else by number."""
    exact = [n for n, name in enumerate(names) if name == choice]
    loose = [n for n, name in enumerate(names) if _simplify(name) == _simplify(choice) != ""]
    number = int(choice) - 1 if choice.isdecimal() else -1
    return exact or loose or ([number] if 0 <= number < len(names) else [])


def _simplify(name: str) -> str:
    return re.sub(r"[\W_]", "", name).casefold()


def choose_in_dataset(directory: Path, choice: str) -> list[Path]:
    """List the label files of one atlas of a dataset (BEP038), sorted. Raises AtlasError if the dataset has none,
    or several and none is chosen."""
    paths = sorted(path for path in directory.rglob("*") if _ENDING.search(path.name) and path.name[0] != ".")
    files = [path for path in paths if path.is_file()]
    if not files:
        raise _refuse_empty(directory, paths)
    by_label: dict[str, list[Path]] = {}
    for path in files:
        by_label.setdefault(build_label(_SIDE.sub("", _ENDING.sub("_dseg", path.name))), []).append(path)
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


# Names for vertices without a parcel in label files; compared in lower case, letters only.
_NOTHING: Final = ("", "unknown", "medialwall", "medialwallmask", "backgroundfreesurferdefinedmedialwall", "none")

_UNREADABLE: Final[tuple[type[Exception], ...]] = (*DAMAGED, CiftiError, ExpatError, IndexError)

#: Maximum number of maps listed in a message.
_N_MAPS: Final = 10


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SurfaceLabels:
    """Labels of the grayordinates of one file."""

    grayordinates: Grayordinates
    keys: NDArray[np.int64]  # (G,) label keys
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
        primary = image.darrays[map_index].meta.get("AnatomicalStructurePrimary") or image.meta.get(
            "AnatomicalStructurePrimary"
        )
        side = find_hemisphere(path.name) or {"CortexLeft": "CORTEX_LEFT", "CortexRight": "CORTEX_RIGHT"}.get(
            str(primary), ""
        )
    if not side:
        raise ValueError("its name does not indicate the hemisphere (hemi-L_, lh. or .L.)")
    return build_hemispheres({side: values.size}), values, names
