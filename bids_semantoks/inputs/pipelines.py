"""Pipelines, recognised by GeneratedBy, their file naming, and the derivative datasets they wrote."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bids_semantoks.errors import InputError
from bids_semantoks.files import read_json


@dataclass(frozen=True, kw_only=True, slots=True)
class Pipeline:
    """Properties of a pipeline's outputs."""

    label: str  # in messages and sidecars; empty for unknown pipelines
    names: tuple[str, ...] = ()  # prefixes of its GeneratedBy name, lower case without separators
    descs: tuple[str, ...] = ("preproc",)  # desc- of the BOLD images to read, best first
    note: str = ""  # for the log: how its images are treated
    is_denoised: bool = False  # confounds already removed
    is_filtered: bool = False  # already band-pass filtered

    @property
    def image_ends(self) -> tuple[str, ...]:
        """Endings of its image names, best first."""
        return tuple(f"_desc-{desc}_bold{end}" for desc in self.descs for end in (".nii.gz", ".nii"))


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
OTHER: Final = Pipeline(label="", descs=("preproc",))
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
