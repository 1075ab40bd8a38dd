"""Derivative datasets of a raw dataset: found by GeneratedBy, or named by the user."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from bids_semantoks.errors import ConfigurationError, InputError
from bids_semantoks.inputs.descriptions import Description, read_description
from bids_semantoks.inputs.folders import find_folders, find_kind
from bids_semantoks.inputs.layouts import Layout
from bids_semantoks.inputs.pipelines import AROMA, FMRIPREP, NIBABIES, OTHER, Pipeline, recognise_pipeline

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Derivative:
    """Derivative dataset to read."""

    name: str  # given by the user, else the folder name
    path: Path
    pipeline: str  # name and version, such as fMRIPrep 24.1.1
    # fmriprep (BOLD images), parcellated (*_timeseries.tsv), or aroma (components for another dataset's images)
    kind: str
    source: Pipeline = OTHER
    layout: Layout | None = None  # for data outside BIDS

    @property
    def is_denoised(self) -> bool:
        """Whether BOLD images are read that this pipeline already denoised."""
        return self.kind == "fmriprep" and self.source.is_denoised


def find_named(text: str, root: Path, input_type: str = "auto") -> Derivative:
    """Open the dataset of one ``-d`` (``PATH`` or ``NAME=PATH``, also relative to ``<root>/derivatives``). InputError
    if the folder is missing or is not a readable derivative dataset."""
    name, equals, rest = text.partition("=")
    path = Path(rest) if equals and not Path(text).exists() else Path(text)
    label = name if path != Path(text) else ""
    if not path.exists() and (root / "derivatives" / path).is_dir():
        path = root / "derivatives" / path
    if not path.is_dir():
        there = ", ".join(find_folders(root / "derivatives")) or "none"
        raise InputError(
            f"Derivative dataset {path} (-d {text}) is not a directory.",
            hint=f"Folders in {root / 'derivatives'}: {there}.",
        )
    description = read_description(path)
    if description is None:
        raise InputError(
            f"Derivative dataset {path} (-d {text}) has no dataset_description.json.",
            hint="Give the folder that holds it.",
        )
    source = recognise_pipeline(description)
    is_fmriprep = description.is_fmriprep and input_type != "series"
    kind = "fmriprep" if is_fmriprep else find_kind(path, source, wanted=input_type)
    if kind is None and source == AROMA:
        kind = "aroma"
    if kind is None:
        raise InputError(
            f"Derivative dataset {path} (-d {text}, {description.pipeline(path)}) holds "
            f"{describe_nothing(source, input_type)}.",
            hint="Give the folder of an fMRIPrep derivative dataset.",
        )
    pipeline = description.pipeline(path)
    return Derivative(name=label or path.resolve().name, path=path, pipeline=pipeline, kind=kind, source=source)


def describe_nothing(source: Pipeline, input_type: str) -> str:
    """Name the file types a dataset lacks, to complete a message after "holds" or "with"."""
    images, series = f"*{source.image_ends[0]}", "parcellated *_timeseries.tsv"
    if input_type == "auto":
        return f"neither {images} nor {series}"
    return f"no {images if input_type == 'images' else series} (--input-type {input_type})"


def find_fmriprep(root: Path, out_dir: Path) -> Derivative:
    """Find the only fMRIPrep dataset in ``<root>/derivatives``; InputError if there is none or more than one.
    ConfigurationError if OUT_DIR is an fMRIPrep dataset."""
    base = root / "derivatives"
    found: list[Derivative] = []
    others: list[str] = []
    for folder in (base, *(base / name for name in find_folders(base))):
        description = _try_description(folder)
        if description is None:
            continue
        if folder.resolve() == out_dir.resolve():
            _check_is_ours(out_dir, description)
        elif (source := recognise_pipeline(description)) in (FMRIPREP, NIBABIES) or (
            description.names_fmriprep and find_kind(folder) == "fmriprep"
        ):
            pipeline = description.pipeline(folder)
            found.append(Derivative(name=folder.name, path=folder, pipeline=pipeline, kind="fmriprep", source=source))
        else:
            others.append(f"{folder.name} ({description.pipeline(folder)})")
    if len(found) > 1:
        listed = "; ".join(f"{one.path} ({one.pipeline})" for one in found)
        raise InputError(
            f"{root} holds {len(found)} fMRIPrep datasets, expected one: {listed}.",
            hint=f"Choose one, such as -d {found[-1].path}.",
        )
    if not found:
        empty = [name for name in find_folders(base) if not any((base / name).iterdir())]
        raise InputError(
            f"{root} is a raw BIDS dataset without fMRIPrep derivatives: expected {base / 'fmriprep'}, or another "
            f"folder there whose GeneratedBy names fMRIPrep; found {', '.join(others) or 'no derivative dataset'}.",
            hint="Run fMRIPrep first, or say where its output is with -d PATH."
            if not empty
            else f"{', '.join(empty)} is empty; of a datalad dataset: datalad get -n {base / empty[0]}.",
        )
    return found[0]


def _check_is_ours(out_dir: Path, description: Description) -> None:
    if description.is_fmriprep:
        raise ConfigurationError(
            f"OUT_DIR {out_dir} is a dataset of {description.pipeline(out_dir)}, which would be written into.",
            hint="Choose a folder of its own for OUT_DIR.",
        )


def _try_description(folder: Path) -> Description | None:
    try:
        return read_description(folder)
    except InputError as error:
        # One damaged neighbour must not stop a call that does not need it.
        LOG.warning("Passed over %s: %s", folder, error)
        return None
