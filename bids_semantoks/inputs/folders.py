"""Folders of a dataset: participants, sessions, and what kind of data their files hold."""

from __future__ import annotations

import os
from pathlib import Path

from bids_semantoks.errors import InputError
from bids_semantoks.inputs.names import natural_key, parse_name
from bids_semantoks.inputs.pipelines import OTHER, Pipeline
from bids_semantoks.inputs.surfaces import is_read, is_surface_file


def find_participant_labels(root: Path) -> tuple[str, ...]:
    """List the participants of a dataset.

    Parameters
    ----------
    root : Path
        Root of the dataset.

    Returns
    -------
    tuple of str
        Labels of its ``sub-*`` folders (files such as reports do not count), in natural order.

    Raises
    ------
    InputError
        When the folder cannot be listed.
    """
    try:
        with os.scandir(root) as entries:
            labels = [entry.name[4:] for entry in entries if entry.name.startswith("sub-") and entry.is_dir()]
    except OSError as error:
        raise InputError(f"Folder {root} cannot be listed: {error.strerror}.") from error
    return tuple(sorted(labels, key=natural_key))


def find_folders(root: Path) -> tuple[str, ...]:
    """List the folders in a folder.

    Parameters
    ----------
    root : Path
        Any path.

    Returns
    -------
    tuple of str
        Names in natural order, hidden ones left out; empty when `root` is no folder.
    """
    if not root.is_dir():
        return ()
    with os.scandir(root) as entries:
        names = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    return tuple(sorted(names, key=natural_key))


def find_kind(root: Path, pipeline: Pipeline = OTHER, *, wanted: str = "auto") -> str | None:
    """Look through a derivative dataset until the files of one participant tell what it holds.

    Parameters
    ----------
    root : Path
        Root of the dataset.
    pipeline : Pipeline
        Who wrote it, which tells how its images are named.
    wanted : str
        ``images``, ``series``, or ``auto`` for images, but series where the images were denoised by the pipeline that
        made both.

    Returns
    -------
    str or None
        ``fmriprep`` for BOLD images, ``parcellated`` for series of parcels; None when there is no such file.
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
    """Tell what a file holds.

    Parameters
    ----------
    name : str
        File name.
    pipeline : Pipeline
        Who wrote it.

    Returns
    -------
    str or None
        ``fmriprep`` for a BOLD image that can be read, ``parcellated`` for series of parcels, None for all else.
    """
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
    """List what may belong to a participant's functional runs.

    Parameters
    ----------
    participant : str
        The participant's folder; plain strings, because Path objects would take most of the time of a search.

    Returns
    -------
    list of str
        Entries of ``func`` and ``ses-*/func``, and JSON files beside these folders (which may be inherited), sorted.
        Entries are not looked at, so links without content are among them.
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
