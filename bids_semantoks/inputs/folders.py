"""Folders of a dataset: participants, sessions, and what kind of data their files hold."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from bids_semantoks.errors import InputError
from bids_semantoks.inputs.names import natural_key, parse_name


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


def find_kind(root: Path) -> str | None:
    """Look through a derivative dataset until one file tells what it holds.

    Parameters
    ----------
    root : Path
        Root of the dataset.

    Returns
    -------
    str or None
        ``fmriprep`` for preprocessed BOLD in fMRIPrep's naming, ``parcellated`` for series of parcels.
    """
    for name in _iterate_func_names(root):
        if "_bold.nii" not in name and "_timeseries.tsv" not in name:
            continue
        parsed = parse_name(name)
        keys = dict(parsed.entities) if parsed else {}
        if "_bold.nii" in name and keys.get("desc") == "preproc":
            return "fmriprep"
        if name.endswith("_timeseries.tsv") and ("atlas" in keys or "seg" in keys):
            return "parcellated"
    return None


def _iterate_func_names(root: Path) -> Iterator[str]:
    for label in find_participant_labels(root):
        for path in list_func_files(os.path.join(root, f"sub-{label}")):  # noqa: PTH118 - as in list_func_files
            yield os.path.basename(path)  # noqa: PTH119


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
