"""Identify BIDS_DIR, choose the derivative datasets to read, and refuse output folders inside the inputs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from bids_semantoks.config import SelectionConfig
from bids_semantoks.errors import ConfigurationError, InputError
from bids_semantoks.inputs.derivatives import Derivative, find_fmriprep, find_named
from bids_semantoks.inputs.descriptions import Description
from bids_semantoks.inputs.layouts import load_layout
from bids_semantoks.inputs.pipelines import AROMA, Pipeline, recognise_pipeline
from bids_semantoks.inputs.roots import check_is_bids, find_raw_root, find_root_kind

CONTENT: Final = {
    "fmriprep": "preprocessed BOLD",
    "parcellated": "parcellated series",
    "aroma": "components of ICA-AROMA",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """BIDS_DIR as identified, with the derivative datasets to read."""

    root: Path
    kind: str  # raw, fmriprep, parcellated, or layout for data outside BIDS
    derivatives: tuple[Derivative, ...]  # at least one
    raw_root: Path | None  # raw dataset they were made from, if found

    @property
    def is_parcellated(self) -> bool:
        """Whether parcel series are read instead of BOLD."""
        return any(one.kind == "parcellated" for one in self.derivatives)

    @property
    def denoised(self) -> Derivative | None:
        """First dataset whose images its pipeline already denoised; None if there is none."""
        return next((one for one in self.derivatives if one.is_denoised), None)

    def describe(self) -> str:
        """Summarise the inputs in one line, the first of the log."""
        listed = "; ".join(f"{one.pipeline} ({CONTENT[one.kind]}) in {one.path}" for one in self.derivatives)
        if self.kind == "layout":
            return f"Found data in the layout {self.derivatives[0].pipeline} in {self.root}"
        if self.kind == "raw":
            return f"Found a raw BIDS dataset in {self.root}, with derivatives of {listed}"
        return f"Found a derivative dataset of {listed}"

    def describe_recognised(self) -> list[str]:
        """Name the pipeline recognised for each derivative dataset, one sentence each."""
        sentences = []
        for one in self.derivatives:
            what = (
                f"Recognised {one.pipeline} as {one.source.label}"
                if one.source.label
                else (f"{one.pipeline} is none of the pipelines that are known, and is read as fMRIPrep's outputs are")
            )
            note = f": {one.source.note}" if one.source.note and one.kind == "fmriprep" else ""
            sentences.append(f"{what}{note}.")
        return sentences


def find_dataset(bids_dir: Path, out_dir: Path, selection: SelectionConfig) -> Dataset:
    """Identify BIDS_DIR and the derivative datasets to read (at least one); OUT_DIR never counts as an input.

    Raises InputError if BIDS_DIR is missing, empty or not BIDS, or if it offers no derivative dataset or several.
    Raises ConfigurationError if OUT_DIR is BIDS_DIR or an fMRIPrep dataset, or if one call would mix images with parcel
    series or denoised images with others.
    """
    description = check_is_bids(bids_dir) if selection.layout is None else None
    if bids_dir.resolve() == out_dir.resolve():
        inside = bids_dir / "derivatives" / "bids_semantoks"
        raise ConfigurationError(
            f"OUT_DIR {out_dir} is BIDS_DIR itself; nothing is written there.",
            hint=f"Use {inside} or a folder elsewhere." if _may_be_raw(description) else "Use a folder elsewhere.",
        )
    if selection.layout is not None:
        return _open_layout(bids_dir, selection, selection.layout)
    if selection.derivatives:
        named = _take_components(
            tuple(find_named(text, bids_dir, selection.input_type) for text in selection.derivatives)
        )
        _check_names(named)
        _check_one_kind(named)
        is_raw = description is None or _may_be_raw(description)
        return Dataset(
            root=bids_dir,
            kind="raw" if is_raw else next(one.kind for one in named if one.kind != "aroma"),
            derivatives=named,
            raw_root=bids_dir if is_raw else find_raw_root(bids_dir),
        )
    kind = find_root_kind(bids_dir, description, selection.input_type)
    if kind != "raw" and description is not None:
        own = Derivative(
            name=bids_dir.resolve().name,
            path=bids_dir,
            pipeline=description.pipeline(bids_dir),
            kind=kind,
            source=recognise_pipeline(description),
        )
        return Dataset(root=bids_dir, kind=kind, derivatives=(own,), raw_root=find_raw_root(bids_dir))
    return Dataset(root=bids_dir, kind="raw", derivatives=(find_fmriprep(bids_dir, out_dir),), raw_root=bids_dir)


def _may_be_raw(description: Description | None) -> bool:
    return description is not None and not (description.is_fmriprep or description.dataset_type == "derivative")


def _open_layout(bids_dir: Path, selection: SelectionConfig, name_or_file: str) -> Dataset:
    """Open BIDS_DIR as described by a layout file instead of by BIDS."""
    if selection.derivatives or selection.input_type == "series":
        raise ConfigurationError(
            f"--layout {name_or_file} says which file of BIDS_DIR is which, all of them images.",
            hint="Leave --derivatives and --input-type away.",
        )
    layout = load_layout(name_or_file)
    if not bids_dir.is_dir():
        raise InputError(
            f"BIDS_DIR {bids_dir} is not a directory.", hint="Check the path (in a container: the mounts)."
        )
    done = ("denoised", "denoised and filtered")[layout.is_filtered]
    source = Pipeline(
        label=f"the layout {layout.name}",
        note=f"its images are {done}, which is not done again" if layout.is_denoised else "",
        is_denoised=layout.is_denoised,
        is_filtered=layout.is_filtered,
    )
    own = Derivative(
        name=bids_dir.resolve().name, path=bids_dir, pipeline=layout.name, kind="fmriprep", source=source, layout=layout
    )
    return Dataset(root=bids_dir, kind="layout", derivatives=(own,), raw_root=None)


def check_out_dir(bids_dir: Path, out_dir: Path, dataset: Dataset, work_dir: Path | None = None) -> None:
    """Refuse an OUT_DIR or work directory inside an input, with ConfigurationError.

    Within BIDS_DIR, OUT_DIR may only be ``derivatives/<name>`` of a dataset that is not read, and never below
    ``sub-*``. A work directory inside OUT_DIR is always allowed.
    """
    root, out = bids_dir.resolve(), out_dir.resolve()
    hint = "Use BIDS_DIR/derivatives/<name> of a raw dataset, or a folder elsewhere."
    read = {one.path.resolve(): f"the {one.pipeline} dataset {one.path}" for one in dataset.derivatives}
    if out == root or (dataset.raw_root is not None and out == dataset.raw_root.resolve()):
        raise ConfigurationError(f"OUT_DIR {out_dir} is an input dataset itself; nothing is written there.", hint=hint)
    for place, what in read.items():
        if out.is_relative_to(place):
            raise ConfigurationError(f"OUT_DIR {out_dir} lies in {what}, which is only read.", hint=hint)
    for folder in (out, *out.parents):
        is_in_dataset = folder.is_relative_to(root) or (folder.parent / "dataset_description.json").exists()
        if folder.name.startswith("sub-") and is_in_dataset:
            raise ConfigurationError(f"OUT_DIR {out_dir} lies in the participant's folder {folder}.", hint=hint)
    if out.is_relative_to(root) and out.parent != root / "derivatives":
        raise ConfigurationError(
            f"OUT_DIR {out_dir} lies in BIDS_DIR {bids_dir}, where only derivatives/<name> may be written.", hint=hint
        )
    work = out if work_dir is None else work_dir.resolve()
    if not work.is_relative_to(out):
        for place in (root, *read):
            if work.is_relative_to(place):
                raise ConfigurationError(
                    f"The work directory {work_dir} lies in the input {place}; nothing is written there.",
                    hint="Choose another with -w.",
                )


def _take_components(named: tuple[Derivative, ...]) -> tuple[Derivative, ...]:
    """Use ICA-AROMA datasets for their components only when another dataset provides images of the same runs."""
    has_others = any(one.kind == "fmriprep" and one.source != AROMA for one in named)
    return tuple(replace(one, kind="aroma") if has_others and one.source == AROMA else one for one in named)


def _check_names(named: tuple[Derivative, ...]) -> None:
    """Refuse two datasets with the same name, by which sidecars distinguish sources."""
    for position, one in enumerate(named):
        if other := next((before for before in named[:position] if before.name == one.name), None):
            raise InputError(
                f"--derivatives gives two datasets the name {one.name}: {other.path} and {one.path}.",
                hint="Name them apart: -d NAME=PATH.",
            )


def _check_one_kind(named: tuple[Derivative, ...]) -> None:
    read = [one for one in named if one.kind != "aroma"]
    if not read:
        raise InputError(
            f"{named[0].path} ({named[0].pipeline}) holds components of ICA-AROMA, but no images that they belong to.",
            hint="Give the fMRIPrep dataset as well: -d fmriprep=PATH -d aroma=PATH.",
        )
    if len({(one.kind, one.is_denoised) for one in read}) > 1:
        listed = "; ".join(f"{one.path} ({'denoised BOLD' if one.is_denoised else CONTENT[one.kind]})" for one in read)
        raise ConfigurationError(
            f"--derivatives names datasets of different kinds: {listed}.",
            hint="Give them to two calls, each with its own OUT_DIR.",
        )
