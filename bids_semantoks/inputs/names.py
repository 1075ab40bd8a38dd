"""Derivative datasets: the pipeline that wrote them, their folders, what their files are, and the raw dataset above."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from bids_semantoks.bids_names import BidsFile, natural_key, parse_names
from bids_semantoks.errors import InputError
from bids_semantoks.files import read_json, read_object


@dataclass(frozen=True, kw_only=True, slots=True)
class Pipeline:
    """Properties of a pipeline's outputs."""

    label: str  # in messages and sidecars; empty for unknown pipelines
    names: tuple[str, ...] = ()  # prefixes of its GeneratedBy name, lower case without separators
    descs: tuple[str, ...] = ("preproc",)  # desc- of the BOLD images to read, best first
    note: str = ""  # for the log: how its images are treated
    is_denoised: bool = False  # confounds already removed
    is_filtered: bool = False  # already band-pass filtered


FMRIPREP: Final = Pipeline(label="fMRIPrep", names=("fmriprep",))
NIBABIES: Final = Pipeline(label="NiBabies", names=("nibabies",))
XCPD: Final = Pipeline(
    label="XCP-D",
    names=("xcpd",),
    # Up to 0.2 it wrote residuals; its abcd and hbcd modes write interpolated images instead of censored ones.
    descs=("denoised", "interpolated", "residual"),
    note="its images are already denoised and filtered; only a linear trend is removed",
    is_denoised=True,
    is_filtered=True,
)
AROMA: Final = Pipeline(
    label="fMRIPost-AROMA",
    names=("fmripostaroma",),
    descs=("nonaggrDenoised", "orthaggrDenoised", "aggrDenoised"),
    note="its images are already denoised by ICA-AROMA; no confounds are regressed",
    is_denoised=True,
)
GIGA: Final = Pipeline(label="giga_connectome", names=("gigaconnectome",))
OURS: Final = Pipeline(label="bids_semantoks", names=("bidssemantoks",))
OTHER: Final = Pipeline(label="")
_KNOWN: Final = (FMRIPREP, NIBABIES, XCPD, AROMA, GIGA, OURS)


def recognise_pipeline(description: Description | None) -> Pipeline:
    """Recognise a pipeline by its first GeneratedBy entry (the latest) or else the dataset name; OTHER if unknown."""
    if description is None:
        return OTHER
    name = description.latest.lower().replace("_", "").replace("-", "").replace(" ", "")
    return next((one for one in _KNOWN if name.startswith(one.names)), OTHER)


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """Relevant fields of dataset_description.json."""

    name: str
    dataset_type: str  # raw, derivative, or empty if unstated (before BIDS 1.4)
    generators: tuple[tuple[str, str], ...]  # (name, version), the last pipeline to touch the dataset first

    @property
    def latest(self) -> str:
        """Name of the first generator listed, else of the dataset."""
        return self.generators[0][0] if self.generators else self.name

    @property
    def is_fmriprep(self) -> bool:
        """Whether the latest pipeline is fMRIPrep."""
        return self.latest.lower().startswith("fmriprep")

    @property
    def is_derivative(self) -> bool:
        """Whether the dataset says that it is a derivative one, or is known to be."""
        return self.dataset_type == "derivative" or self.is_fmriprep

    @property
    def names_fmriprep(self) -> bool:
        """Whether fMRIPrep is among the generators."""
        return any(name.lower().startswith("fmriprep") for name, _ in self.generators)

    def pipeline(self, folder: Path) -> str:
        """Name the pipeline, with its version if known; falls back on the dataset name, then the folder name."""
        if self.generators:
            return " ".join(part for part in self.generators[0] if part)
        return "fMRIPrep" if self.is_fmriprep else self.name or folder.resolve().name


def read_description(folder: Path) -> Description | None:
    """Read dataset_description.json; None if missing or a dangling link, InputError unless it is a JSON object."""
    path = folder / "dataset_description.json"
    try:
        content = read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}.", hint="Repair or restore the file.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} must contain a JSON object, found {type(content).__name__}.")
    return Description(
        name=_text(content.get("Name")),
        dataset_type=_text(content.get("DatasetType")).lower(),
        generators=tuple(_find_generators(content)),
    )


def _find_generators(content: dict[str, Any]) -> list[tuple[str, str]]:
    # fMRIPrep up to 20.1 wrote PipelineDescription, from the draft that became GeneratedBy.
    entries = content.get("GeneratedBy") or content.get("PipelineDescription") or []
    if not isinstance(entries, list):
        entries = [entries]
    return [
        (_text(entry.get("Name")), _text(entry.get("Version")))
        for entry in entries
        if isinstance(entry, dict) and entry.get("Name")
    ]


def _text(value: Any) -> str:
    return value.strip() if isinstance(value, str) else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPattern:
    """Paths of one kind of run, relative to BIDS_DIR: the first that exists is read; * matches any text."""

    kind: str  # fmriprep for images, parcellated for series, as of a derivative dataset
    bold: tuple[str, ...]  # the images or tables of series, with {participant} and other entities in braces
    mask: tuple[str, ...]  # may use the entities of bold; empty if absent
    confounds: tuple[str, ...]  # may use the entities of bold; empty if absent
    columns: tuple[str, ...]  # of motion regressors without a header; empty for an fMRIPrep table
    entities: tuple[tuple[str, str], ...]  # shared by all these runs
    space: str  # template space; empty for series of an unknown one
    is_denoised: bool  # these and is_filtered (band-pass) are the same for all runs of a call
    is_filtered: bool
    volumes: str  # of tables of series: rows or columns; empty if unstated
    repetition_time: float | None  # s; None if the runs' own files state it
    warp: tuple[str, ...]  # FSL's field to the template space if bold is in native space; may use the entities of bold
    is_fallback: bool  # read only where no pattern above gives the run


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Layout of a dataset outside BIDS."""

    name: str  # as written in messages and sidecars
    atlas: str  # name or path of the atlas of its series, or for its images; empty if unstated
    runs: tuple[RunPattern, ...]  # at least one
    is_shipped: bool = False  # with this package


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


VOLUMES: Final = (".nii.gz", ".nii")
CIFTI: Final = ".dtseries.nii"
GIFTI: Final = ".func.gii"


def split_named(text: str) -> tuple[str, Path]:
    """Split the ``NAME=PATH`` of a ``-d`` option; the name is empty for a plain path, even one with ``=``."""
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
        files = parse_names(path for path in paths if path.endswith((*VOLUMES, GIFTI, ".tsv")))
        found = {tell_kind(file, pipeline) for file in files}
        if chosen := next((kind for kind in accepted if kind in found), None):
            return chosen
    return None


def tell_kind(file: BidsFile, pipeline: Pipeline) -> str | None:
    """Classify a file by name: ``fmriprep`` for a readable BOLD image, ``parcellated`` for parcel series, else None."""
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
