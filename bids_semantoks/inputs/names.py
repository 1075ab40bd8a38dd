"""Folders of a dataset: participants, sessions, and the kind of data in their files."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from bids_semantoks.bids_names import BidsFile, natural_key, parse_name
from bids_semantoks.errors import InputError
from bids_semantoks.inputs.pipelines import OTHER, Pipeline


def find_participant_labels(root: Path) -> tuple[str, ...]:
    """List the labels of the ``sub-*`` folders (not files) in natural order; InputError if unlistable."""
    try:
        with os.scandir(root) as entries:
            labels = [entry.name[4:] for entry in entries if entry.name.startswith("sub-") and entry.is_dir()]
    except OSError as error:
        raise InputError(f"Folder {root} cannot be listed: {error.strerror}.") from error
    return tuple(sorted(labels, key=natural_key))


def find_folders(root: Path) -> tuple[str, ...]:
    """List the visible subfolders in natural order; empty if `root` is not a folder."""
    if not root.is_dir():
        return ()
    with os.scandir(root) as entries:
        names = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    return tuple(sorted(names, key=natural_key))


def find_kind(root: Path, pipeline: Pipeline = OTHER, *, wanted: str = "auto") -> str | None:
    """Scan participants until one has data: ``fmriprep`` for BOLD, ``parcellated`` for series, None if none has any.

    `wanted` is ``images``, ``series`` or ``auto``: images first, but series first if the pipeline denoises.
    """
    accepted = {"images": ("fmriprep",), "series": ("parcellated",)}.get(wanted, ("fmriprep", "parcellated"))
    if wanted == "auto" and pipeline.is_denoised:
        accepted = ("parcellated", "fmriprep")
    for label in find_participant_labels(root):
        paths = list_func_files(os.path.join(root, f"sub-{label}"))  # noqa: PTH118 - as in list_func_files
        found = {tell_kind(os.path.basename(path), pipeline) for path in paths}  # noqa: PTH119
        for kind in accepted:
            if kind in found:
                return kind
    return None


def tell_kind(name: str, pipeline: Pipeline) -> str | None:
    """Classify a file by name: ``fmriprep`` for a readable BOLD image, ``parcellated`` for parcel series, else None."""
    if "_bold." not in name and "_timeseries." not in name:
        return None
    parsed = parse_name(name)
    keys = dict(parsed.entities) if parsed else {}
    if "_bold.nii" in name and keys.get("desc") in pipeline.descs:
        return "fmriprep"
    if is_surface_file(name) and is_read(keys.get("desc"), pipeline):
        return "fmriprep"
    if name.endswith(("_timeseries.tsv", "_timeseries.ptseries.nii")) and ("atlas" in keys or "seg" in keys):
        return "parcellated"
    return None


def list_func_files(participant: str) -> list[str]:
    """List the sorted entries of ``func`` and ``ses-*/func``, plus JSON files above them, which runs may inherit.

    Entries are not opened, so dangling links are included. Plain strings: Path objects would dominate the search time.
    """
    found: list[str] = []
    folders = [participant]
    while folders:
        folder = folders.pop()
        is_func = folder.endswith(os.sep + "func")
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    name = entry.name
                    if is_func or name.endswith(".json"):
                        found.append(entry.path)
                    elif name == "func" or (name.startswith("ses-") and folder == participant):
                        folders.append(entry.path)
        except (FileNotFoundError, NotADirectoryError):
            continue
    return sorted(found)


SURFACE_ENDS: Final = ("_bold.dtseries.nii", "_bold.func.gii")


_CIFTI: Final = ".dtseries.nii"


_GIFTI: Final = ".func.gii"


# The usual densities of template surfaces come first: atlases are made for them.
_DENSITIES: Final = ("91k", "32k", "10k", "170k", "59k", "41k", "164k")


def is_surface_file(name: str) -> bool:
    """Tell surface series from images by the file ending."""
    return name.endswith((_CIFTI, _GIFTI))


def is_read(desc: str | None, pipeline: Pipeline) -> bool:
    """Tell whether surface series with this ``desc`` are read: one of the pipeline's, or none unless it denoises."""
    return desc in pipeline.descs or (desc is None and not pipeline.is_denoised)


def find_surface_files(files: Iterable[BidsFile], pipeline: Pipeline) -> list[tuple[BidsFile, str | None]]:
    """List a participant's surface series, each with the path of the right hemisphere if its file is the left one.

    The hemisphere is dropped from the entities; the path is None for CIFTI or a missing hemisphere.
    """
    found: dict[tuple[frozenset[tuple[str, str]], str], dict[str, BidsFile]] = {}
    for file in files:
        keys = dict(file.entities)
        hemisphere = keys.get("hemi", "")
        is_whole = file.extension == _CIFTI and not hemisphere
        is_half = file.extension == _GIFTI and hemisphere in ("L", "R")
        if file.suffix == "bold" and (is_whole or is_half) and is_read(keys.get("desc"), pipeline):
            run = frozenset(pair for pair in file.entities if pair[0] not in ("hemi", "desc"))
            pair = found.setdefault((run, file.extension), {})
            if hemisphere not in pair or _rank_desc(file, pipeline) < _rank_desc(pair[hemisphere], pipeline):
                pair[hemisphere] = file
    whole: list[tuple[BidsFile, str | None]] = []
    for pair in found.values():
        first = pair.get("") or pair.get("L") or pair["R"]
        right = pair.get("R") if "L" in pair else None
        whole.append((drop_hemisphere(first), right.path if right else None))
    return whole


def drop_hemisphere(file: BidsFile) -> BidsFile:
    """Drop the hemisphere from a file's entities, since it does not distinguish runs."""
    if not any(key == "hemi" for key, _ in file.entities):
        return file
    return dataclasses.replace(file, entities=tuple(pair for pair in file.entities if pair[0] != "hemi"))


def rank_density(file: BidsFile) -> tuple[int, int, str]:
    """Build a sorting key for the files of a run in one space: image, CIFTI, GIFTI; usual densities first."""
    if not is_surface_file(file.path):
        return 0, 0, ""
    density = dict(file.entities).get("den", "")
    rank = _DENSITIES.index(density) if density in _DENSITIES else len(_DENSITIES)
    return (_CIFTI, _GIFTI).index(file.extension) + 1, rank, density


def _rank_desc(file: BidsFile, pipeline: Pipeline) -> int:
    desc = dict(file.entities).get("desc")
    return pipeline.descs.index(desc) + 1 if desc in pipeline.descs else 0
