"""Surface label files: keys and names of a map in a CIFTI dlabel, label.gii or annot file."""

from __future__ import annotations

import functools
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from xml.parsers.expat import ExpatError

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from bids_semantoks.atlases.choices import choose
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
