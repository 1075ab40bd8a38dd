"""Folders of a dataset: participants, sessions, the kind of data in their files, and the raw dataset above it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from bids_semantoks.bids_names import BidsFile, natural_key, parse_name
from bids_semantoks.errors import InputError
from bids_semantoks.files import read_json
from bids_semantoks.inputs.pipelines import OTHER, Pipeline, read_description

VOLUMES: Final = (".nii.gz", ".nii")
CIFTI: Final = ".dtseries.nii"
GIFTI: Final = ".func.gii"


def split_named(text: str) -> tuple[str, Path]:
    """Split the ``NAME=PATH`` of a ``-d`` option; the name is empty for a plain path, which may itself contain
    ``=``."""
    name, equals, rest = text.partition("=")
    # Unlike pathlib, this returns False instead of failing if the text is too long for a path.
    if not equals or os.path.exists(text):  # noqa: PTH110
        return "", Path(text)
    return name, Path(rest)


def find_participant_labels(root: Path) -> tuple[str, ...]:
    """List the labels of the ``sub-*`` folders (not files) in natural order; InputError if unlistable."""
    try:
        with os.scandir(root) as entries:
            labels = [entry.name[4:] for entry in entries if entry.name.startswith("sub-") and entry.is_dir()]
    except OSError as error:
        raise InputError(f"Folder {root} cannot be listed: {error.strerror}.") from error
    return tuple(sorted(labels, key=natural_key))


def find_folders(root: Path) -> tuple[str, ...]:
    """List the visible subfolders in natural order; empty if `root` is not a folder, InputError if unlistable."""
    if not root.is_dir():
        return ()
    try:
        with os.scandir(root) as entries:
            names = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    except OSError as error:
        raise InputError(f"Folder {root} cannot be listed: {error.strerror}.") from error
    return tuple(sorted(names, key=natural_key))


def find_kind(root: Path, pipeline: Pipeline = OTHER, *, wanted: str = "auto") -> str | None:
    """Scan participants until one has data: ``fmriprep`` for BOLD, ``parcellated`` for series, None if none does.

    `wanted` is ``images``, ``series`` or ``auto``: images first, but series first if the pipeline denoises.
    """
    accepted = {"images": ("fmriprep",), "series": ("parcellated",)}.get(wanted, ("fmriprep", "parcellated"))
    if wanted == "auto" and pipeline.is_denoised:
        accepted = ("parcellated", "fmriprep")
    for label in find_participant_labels(root):
        paths = list_func_files(os.path.join(root, f"sub-{label}"))  # noqa: PTH118 - as in list_func_files
        found = {tell_kind(os.path.basename(path), pipeline) for path in paths}  # noqa: PTH119
        if chosen := next((kind for kind in accepted if kind in found), None):
            return chosen
    return None


def tell_kind(name: str, pipeline: Pipeline) -> str | None:
    """Classify a file by name: ``fmriprep`` for a readable BOLD image, ``parcellated`` for parcel series, else None."""
    if not name.endswith((*VOLUMES, GIFTI, ".tsv")) or (file := parse_name(name)) is None:
        return None
    if is_volume_series(file, pipeline) or is_surface_series(file, pipeline):
        return "fmriprep"
    return "parcellated" if is_series(file) else None


def is_volume_series(file: BidsFile, pipeline: Pipeline) -> bool:
    """Return whether a file is an image to read from this pipeline."""
    return file.suffix == "bold" and file.extension in VOLUMES and file.entity("desc") in pipeline.descs


def is_surface_series(file: BidsFile, pipeline: Pipeline) -> bool:
    """Return whether a file is a CIFTI series, or one hemisphere of a GIFTI pair, to read from this pipeline."""
    is_whole = file.extension == CIFTI and file.entity("hemi") is None
    is_half = file.extension == GIFTI and file.entity("hemi") in ("L", "R")
    return file.suffix == "bold" and (is_whole or is_half) and is_read(file.entity("desc"), pipeline)


def is_series(table: BidsFile) -> bool:
    """Return whether a file is a table of parcel means, by its name."""
    keys = dict(table.entities)
    return (
        table.suffix == "timeseries"
        and table.extension in (".tsv", ".ptseries.nii")
        and ("atlas" in keys or "seg" in keys)
        and keys.get("stat", "mean") == "mean"
        and not keys.get("desc", "").lower().startswith("raw")
    )


def list_func_files(participant: str) -> list[str]:
    """List the sorted files of ``func`` and ``ses-*/func``, plus JSON files above them that runs may inherit.

    Folders inside ``func`` count as well. Files are not opened, so dangling links are included. Plain strings: Path
    objects would dominate the search time. InputError if a folder cannot be listed.
    """
    found: list[str] = []
    folders = [participant]
    while folders:
        folder = folders.pop()
        is_func = f"{os.sep}func{os.sep}" in folder[len(participant) :] + os.sep
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    name = entry.name
                    if name.startswith("."):
                        continue
                    if is_func and entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif is_func or name.endswith(".json"):
                        found.append(entry.path)
                    elif name == "func" or (name.startswith("ses-") and folder == participant):
                        folders.append(entry.path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise InputError(f"Folder {folder} cannot be listed: {error.strerror}.") from error
    return sorted(found)


def is_surface_file(name: str) -> bool:
    """Return whether a file is a surface series, by its ending."""
    return name.endswith((CIFTI, GIFTI))


def is_read(desc: str | None, pipeline: Pipeline) -> bool:
    """Return whether surface series with this ``desc`` are read: one of the pipeline's, or no desc unless it
    denoises."""
    return desc in pipeline.descs or (desc is None and not pipeline.is_denoised)


def find_above(folder: Path) -> Path | None:
    """Find the dataset whose ``derivatives`` hold a folder, however deep; None if there is none."""
    return next((parent.parent for parent in folder.resolve().parents if parent.name == "derivatives"), None)


def find_raw_root(folder: Path) -> Path | None:
    """Find the raw root of ``<raw>/derivatives/<pipeline>``, else the one linked in the description, else None."""
    above = find_above(folder)
    return above if above is not None and _is_raw(above) else find_linked_raw(folder)


def _is_raw(folder: Path) -> bool:
    return (folder / "dataset_description.json").is_file() or (folder / "participants.tsv").is_file()


def find_linked_raw(folder: Path) -> Path | None:
    """Find the first raw dataset on this machine among ``DatasetLinks`` (``raw`` first) and ``SourceDatasets``."""
    try:
        content = read_json(folder / "dataset_description.json")
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict):
        return None
    links, sources = content.get("DatasetLinks"), content.get("SourceDatasets")
    places = [links.get("raw"), *links.values()] if isinstance(links, dict) else []
    places += [one.get("URL") for one in sources if isinstance(one, dict)] if isinstance(sources, list) else []
    for place in places:
        if not isinstance(place, str) or ("://" in place and not place.startswith("file://")):
            continue
        path = folder / unquote(place.removeprefix("file://"))
        if path.resolve() != folder.resolve() and _is_raw(path) and not _is_derivative(path):
            return path
    return None


def _is_derivative(folder: Path) -> bool:
    description = read_description(folder)
    return description is not None and (description.dataset_type == "derivative" or description.is_fmriprep)
