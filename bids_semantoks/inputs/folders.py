"""Folders of a dataset: participants, sessions, and the kind of data in their files."""

from __future__ import annotations

import os
from pathlib import Path

from bids_semantoks.bids_names import natural_key, parse_name
from bids_semantoks.errors import InputError
from bids_semantoks.inputs.pipelines import OTHER, Pipeline
from bids_semantoks.inputs.surfaces import is_read, is_surface_file


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
