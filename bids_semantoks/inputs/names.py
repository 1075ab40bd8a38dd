"""Folders of a dataset: participants, sessions, the kind of data in their files, and the raw dataset above it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from bids_semantoks.bids_names import BidsFile, natural_key, parse_name
from bids_semantoks.errors import InputError
from bids_semantoks.files import read_object
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


def scan_folder(folder: str | Path, *, is_optional: bool = False) -> list[os.DirEntry[str]]:
    """List the entries of a folder, unsorted; none if it `is_optional` and missing. InputError if it is unlistable."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        if is_optional and isinstance(error, FileNotFoundError | NotADirectoryError):
            return []
        raise InputError(f"Folder {folder} cannot be listed: {error.strerror}.") from error


def find_participant_labels(root: Path) -> tuple[str, ...]:
    """List the labels of the ``sub-*`` folders (not files) in natural order; InputError if unlistable."""
    labels = [one.name[4:] for one in scan_folder(root) if one.name.startswith("sub-") and one.is_dir()]
    return tuple(sorted(labels, key=natural_key))


def find_folders(root: Path) -> tuple[str, ...]:
    """List the visible subfolders in natural order; empty if `root` is not a folder, InputError if unlistable."""
    entries = scan_folder(root) if root.is_dir() else ()
    return tuple(sorted((one.name for one in entries if one.is_dir() and one.name[0] != "."), key=natural_key))


def find_kind(root: Path, pipeline: Pipeline = OTHER, *, wanted: str = "auto") -> str | None:
    """Scan participants until one has data: ``fmriprep`` for BOLD, ``parcellated`` for series, None if none does.
    `wanted` is ``images``, ``series`` or ``auto``: images first, but series first if the pipeline denoises."""
    accepted = {"images": ("fmriprep",), "series": ("parcellated",)}.get(wanted, ("fmriprep", "parcellated"))
    if wanted == "auto" and pipeline.is_denoised:
        accepted = ("parcellated", "fmriprep")
    for label in find_participant_labels(root):
        paths = list_func_files(os.path.join(root, f"sub-{label}"))  # noqa: PTH118 - as in list_func_files
        found = {_tell_kind(path, pipeline) for path in paths}
        if chosen := next((kind for kind in accepted if kind in found), None):
            return chosen
    return None


def _tell_kind(path: str, pipeline: Pipeline) -> str | None:
    if not path.endswith((*VOLUMES, GIFTI, ".tsv")) or (file := parse_name(path)) is None:
        return None
    if is_volume_series(file, pipeline) or is_surface_series(file, pipeline):
        return "fmriprep"
    return "parcellated" if is_series(file) else None


def is_volume_series(file: BidsFile, pipeline: Pipeline) -> bool:
    """Return whether a file is an image to read from this pipeline."""
    return file.suffix == "bold" and file.extension in VOLUMES and file.entity("desc") in pipeline.descs


def is_surface_series(file: BidsFile, pipeline: Pipeline) -> bool:
    """Return whether a file is a CIFTI series, or one hemisphere of a GIFTI pair, to read from this pipeline: with one
    of its descs, or without desc unless it denoises."""
    is_whole = file.extension == CIFTI and file.entity("hemi") is None
    is_half = file.extension == GIFTI and file.entity("hemi") in ("L", "R")
    descs = pipeline.descs if pipeline.is_denoised else (*pipeline.descs, None)
    return file.suffix == "bold" and (is_whole or is_half) and file.entity("desc") in descs


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
    """List the sorted files of ``func`` and ``ses-*/func``, plus JSON files above them that runs may inherit. Folders
    inside ``func`` count as well. Files are not opened, so dangling links are included. Plain strings: Path objects
    would dominate the search time. InputError if a folder cannot be listed."""
    found: list[str] = []
    folders = [participant]
    while folders:
        folder = folders.pop()
        is_func = f"{os.sep}func{os.sep}" in folder[len(participant) :] + os.sep
        for entry in scan_folder(folder, is_optional=True):
            name = entry.name
            if name.startswith("."):
                continue
            if is_func and entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)
            elif is_func or name.endswith(".json"):
                found.append(entry.path)
            elif name == "func" or (name.startswith("ses-") and folder == participant):
                folders.append(entry.path)
    return sorted(found)


def is_surface_file(name: str) -> bool:
    """Return whether a file is a surface series, by its ending."""
    return name.endswith((CIFTI, GIFTI))


def find_above(folder: Path) -> Path | None:
    """Find the dataset whose ``derivatives`` hold a folder, however deep; None if there is none."""
    return next((parent.parent for parent in folder.resolve().parents if parent.name == "derivatives"), None)


def find_roots(bids_dir: Path) -> tuple[Path, ...]:
    """List BIDS_DIR, the raw root above ``derivatives/`` and the raw dataset its description links to, if any."""
    found = (bids_dir, find_above(bids_dir), find_linked_raw(bids_dir))
    return tuple(root for root in found if root is not None)


def find_raw_root(folder: Path) -> Path | None:
    """Find the raw root of ``<raw>/derivatives/<pipeline>``, else the one linked in the description, else None."""
    above = find_above(folder)
    return above if above is not None and _is_raw(above) else find_linked_raw(folder)


def _is_raw(folder: Path) -> bool:
    return (folder / "dataset_description.json").is_file() or (folder / "participants.tsv").is_file()


def find_linked_raw(folder: Path) -> Path | None:
    """Find the first raw dataset on this machine among ``DatasetLinks`` (``raw`` first) and ``SourceDatasets``."""
    content = read_object(folder / "dataset_description.json")
    links, sources = content.get("DatasetLinks"), content.get("SourceDatasets")
    places = [links.get("raw"), *links.values()] if isinstance(links, dict) else []
    places += [one.get("URL") for one in sources if isinstance(one, dict)] if isinstance(sources, list) else []
    for place in places:
        if not isinstance(place, str) or ("://" in place and not place.startswith("file://")):
            continue
        path = folder / unquote(place.removeprefix("file://"))
        if path.resolve() == folder.resolve() or not _is_raw(path):
            continue
        if (description := read_description(path)) is None or not description.is_derivative:
            return path
    return None
