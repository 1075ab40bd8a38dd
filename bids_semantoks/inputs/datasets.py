"""Identify BIDS_DIR, choose the derivative datasets to read, and refuse output folders inside the inputs."""

from __future__ import annotations

import logging
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from bids_semantoks.bids_names import check_name
from bids_semantoks.config import SelectionConfig
from bids_semantoks.errors import ConfigurationError, InputError
from bids_semantoks.inputs.accounting import describe_first_unread
from bids_semantoks.inputs.layouts import choose_runs, load_layout
from bids_semantoks.inputs.names import (
    AROMA,
    FMRIPREP,
    NIBABIES,
    Derivative,
    Description,
    Layout,
    Pipeline,
    find_folders,
    find_kind,
    find_participant_labels,
    find_raw_root,
    read_description,
    recognise_pipeline,
    split_named,
)

LOG = logging.getLogger(__name__)

CONTENT: Final = {"fmriprep": "preprocessed BOLD", "parcellated": "parcellated series", "aroma": "ICA-AROMA components"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """BIDS_DIR as identified, with the derivative datasets to read."""

    root: Path
    kind: str  # raw, fmriprep, parcellated, or layout for data outside BIDS
    derivatives: tuple[Derivative, ...]  # at least one
    raw_root: Path | None  # raw dataset they were made from, if found

    @property
    def where(self) -> str:
        """The folders of the derivative datasets, for messages."""
        return " and ".join(str(one.path) for one in self.derivatives)

    @property
    def is_parcellated(self) -> bool:
        """Whether parcel time series are read instead of BOLD."""
        return any(one.kind == "parcellated" for one in self.derivatives)

    @property
    def layout(self) -> Layout | None:
        """The layout of data outside BIDS, which are then the only dataset; None for BIDS."""
        return self.derivatives[0].layout

    @property
    def denoised(self) -> Derivative | None:
        """First dataset with images that were already denoised by its pipeline; None if there is none."""
        return next((one for one in self.derivatives if one.is_denoised), None)

    def describe(self) -> str:
        """Summarise the inputs in one line, the first line of the log."""
        listed = "; ".join(f"{one.pipeline} ({CONTENT[one.kind]}) in {one.path}" for one in self.derivatives)
        if self.kind == "layout":
            what = CONTENT["parcellated"] if self.is_parcellated else "data"
            return f"Found {what} (layout {self.derivatives[0].pipeline}) in {self.root}"
        if self.kind == "raw":
            return f"Found a raw BIDS dataset in {self.root} with derivatives from {listed}"
        return f"Found a derivative dataset from {listed}"

    def describe_recognised(self) -> list[str]:
        """Name the pipeline recognised for each derivative dataset, one sentence each."""
        sentences = []
        for one in self.derivatives:
            what = f"Unknown pipeline {one.pipeline}: reading its outputs as if they were fMRIPrep's"
            if one.source.label:
                kind = "" if one.pipeline.startswith(one.source.label) else f" as {one.source.label}"
                what = f"Recognised {one.pipeline}{kind}"
            note = f": {one.source.note}" if one.source.note and one.kind == "fmriprep" else ""
            sentences.append(f"{what}{note}.")
        return sentences


def find_dataset(bids_dir: Path, out_dir: Path, selection: SelectionConfig) -> Dataset:
    """Identify BIDS_DIR and the derivative datasets to read (at least one); OUT_DIR never counts as an input. Raises
    InputError if BIDS_DIR is missing, empty or not BIDS, or if it has no derivative dataset or several candidates.
    Raises ConfigurationError if OUT_DIR is BIDS_DIR or an fMRIPrep dataset, or if one call would mix images with parcel
    series or denoised images with others."""
    check_name(bids_dir, InputError, "BIDS_DIR")
    description = _check_is_bids(bids_dir) if selection.layout is None else None
    may_be_raw = description is not None and not description.is_derivative
    if bids_dir.resolve() == out_dir.resolve():
        inside = bids_dir / "derivatives" / "bids_semantoks"
        raise ConfigurationError(
            f"OUT_DIR {out_dir} is the same directory as BIDS_DIR, which must not be written to.",
            hint=f"Use {inside} or another folder." if may_be_raw else "Use another folder.",
        )
    if selection.layout is not None:
        return _open_layout(bids_dir, selection, selection.layout)
    if selection.derivatives:
        named = _open_all(bids_dir, selection)
        is_raw = description is None or may_be_raw
        return Dataset(
            root=bids_dir,
            kind="raw" if is_raw else next(one.kind for one in named if one.kind != "aroma"),
            derivatives=named,
            raw_root=bids_dir if is_raw else find_raw_root(bids_dir),
        )
    kind = _find_root_kind(bids_dir, description, selection.input_type)
    if kind != "raw" and description is not None:
        own = _build_derivative(bids_dir, description, kind, bids_dir.resolve().name)
        return Dataset(root=bids_dir, kind=kind, derivatives=(own,), raw_root=find_raw_root(bids_dir))
    return Dataset(root=bids_dir, kind="raw", derivatives=(_find_fmriprep(bids_dir, out_dir),), raw_root=bids_dir)


def _open_layout(bids_dir: Path, selection: SelectionConfig, name_or_file: str) -> Dataset:
    """Open BIDS_DIR as described by a layout file instead of by BIDS."""
    if selection.derivatives:
        raise ConfigurationError(
            f"--layout {name_or_file} and --derivatives cannot be combined.", hint="Remove --derivatives."
        )
    layout = load_layout(name_or_file)
    if not bids_dir.is_dir():
        raise InputError(
            f"BIDS_DIR {bids_dir} is not a directory.", hint="Check the path (in a container: the bind mounts)."
        )
    layout = choose_runs(bids_dir, layout, selection.input_type)
    first = layout.runs[0]
    done = ("denoised", "denoised and filtered")[first.is_filtered]
    source = Pipeline(
        label=f"the layout {layout.name}",
        note=f"its images are already {done}" if first.is_denoised else "",
        is_denoised=first.is_denoised,
        is_filtered=first.is_filtered,
    )
    own = Derivative(
        name=bids_dir.resolve().name, path=bids_dir, pipeline=layout.name, kind=first.kind, source=source, layout=layout
    )
    return Dataset(root=bids_dir, kind="layout", derivatives=(own,), raw_root=None)


def check_out_dir(bids_dir: Path, out_dir: Path, dataset: Dataset, work_dir: Path | None = None) -> None:
    """Refuse an OUT_DIR or work directory inside an input, with ConfigurationError. Within BIDS_DIR, OUT_DIR may only
    be ``derivatives/<name>`` of a dataset that is not read, and never below ``sub-*``. A work directory inside OUT_DIR
    is always allowed."""
    root, out = bids_dir.resolve(), out_dir.resolve()
    hint = "Use BIDS_DIR/derivatives/<name> of a raw dataset, or a folder outside BIDS_DIR."
    read = {one.path.resolve(): f"the {one.pipeline} dataset {one.path}" for one in dataset.derivatives}
    if out == root or (dataset.raw_root is not None and out == dataset.raw_root.resolve()):
        raise ConfigurationError(f"OUT_DIR {out_dir} is an input dataset, which must not be written to.", hint=hint)
    for place, what in read.items():
        if out.is_relative_to(place):
            raise ConfigurationError(f"OUT_DIR {out_dir} is inside an input: {what}.", hint=hint)
    for folder in (out, *out.parents):
        is_in_dataset = folder.is_relative_to(root) or (folder.parent / "dataset_description.json").exists()
        if folder.name.startswith("sub-") and is_in_dataset:
            raise ConfigurationError(f"OUT_DIR {out_dir} is inside the participant folder {folder}.", hint=hint)
    if out.is_relative_to(root) and out.parent != root / "derivatives":
        raise ConfigurationError(
            f"OUT_DIR {out_dir} is inside BIDS_DIR {bids_dir}, where only derivatives/<name> is allowed.", hint=hint
        )
    work = out if work_dir is None else work_dir.resolve()
    if not work.is_relative_to(out):
        for place in (root, *read):
            if work.is_relative_to(place):
                raise ConfigurationError(
                    f"The work directory {work_dir} is inside the input {place}, which must not be written to.",
                    hint="Choose another with -w.",
                )


def _open_all(bids_dir: Path, selection: SelectionConfig) -> tuple[Derivative, ...]:
    """Open the datasets of ``-d``; refuse two of one name, by which sidecars distinguish sources, and mixed kinds."""
    named = tuple(_open_named(text, bids_dir, selection.input_type) for text in selection.derivatives)
    # ICA-AROMA datasets provide only their components when another dataset has images of the same runs.
    if any(one.kind == "fmriprep" and one.source != AROMA for one in named):
        named = tuple(replace(one, kind="aroma") if one.source == AROMA else one for one in named)
    first: dict[str, Derivative] = {}
    for one in named:
        if (other := first.setdefault(one.name, one)) is not one:
            raise InputError(
                f"--derivatives has two datasets named {one.name}: {other.path} and {one.path}.",
                hint="Give them different names: -d NAME=PATH.",
            )
    read = [one for one in named if one.kind != "aroma"]
    if not read:
        raise InputError(
            f"{named[0].path} ({named[0].pipeline}) contains ICA-AROMA components but not the corresponding images.",
            hint="Add the fMRIPrep dataset: -d fmriprep=PATH -d aroma=PATH.",
        )
    if len({(one.kind, one.is_denoised) for one in read}) > 1:
        listed = "; ".join(f"{one.path} ({'denoised BOLD' if one.is_denoised else CONTENT[one.kind]})" for one in read)
        raise ConfigurationError(
            f"--derivatives mixes datasets of different kinds: {listed}.",
            hint="Process them separately, each with its own OUT_DIR.",
        )
    return named


def _open_named(text: str, root: Path, input_type: str) -> Derivative:
    """Open the dataset of one ``-d``, also relative to ``<root>/derivatives``; InputError if it is not readable."""
    label, path = split_named(text)
    check_name(path, InputError, "The derivative dataset")
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
            hint="Give the folder that contains it.",
        )
    own = _build_derivative(path, description, "fmriprep", label or path.resolve().name)
    is_fmriprep = description.is_fmriprep and input_type != "series"
    kind = "fmriprep" if is_fmriprep else find_kind(path, own.source, wanted=input_type)
    if kind is None and own.source != AROMA:
        lacking = _describe_nothing(own.source, input_type)
        raise InputError(
            f"Derivative dataset {path} (-d {text}, {own.pipeline}) contains {lacking}.",
            hint=f"{describe_first_unread(own)}Give the path to an fMRIPrep derivative dataset.",
        )
    return replace(own, kind=kind or "aroma")


def _build_derivative(path: Path, description: Description, kind: str, name: str) -> Derivative:
    pipeline, source = description.pipeline(path), recognise_pipeline(description)
    return Derivative(name=name, path=path, pipeline=pipeline, kind=kind, source=source)


def _describe_nothing(source: Pipeline, input_type: str) -> str:
    """Name the file types a dataset lacks, to complete a message after "contains" or "with"."""
    images, series = f"*_desc-{source.descs[0]}_bold.nii.gz", "parcellated *_timeseries.tsv"
    if input_type == "auto":
        return f"neither {images} nor {series}"
    return f"no {images if input_type == 'images' else series} (--input-type {input_type})"


def _find_fmriprep(root: Path, out_dir: Path) -> Derivative:
    """Find the only fMRIPrep dataset in ``<root>/derivatives``; InputError if there is none or more than one.
    ConfigurationError if OUT_DIR is an fMRIPrep dataset."""
    base = root / "derivatives"
    found: list[Derivative] = []
    others: list[str] = []
    for folder in (base, *(base / name for name in find_folders(base))):
        try:
            description = read_description(folder)
        except InputError as error:
            # One damaged neighbour must not stop a call that does not need it.
            LOG.warning("Skipping %s: %s", folder, error)
            continue
        if description is None:
            continue
        if folder.resolve() == out_dir.resolve():
            if description.is_fmriprep:
                raise ConfigurationError(
                    f"OUT_DIR {out_dir} is a {description.pipeline(out_dir)} dataset, which must not be written to.",
                    hint="Choose a separate folder for OUT_DIR.",
                )
        elif recognise_pipeline(description) in (FMRIPREP, NIBABIES) or (
            description.names_fmriprep and find_kind(folder) == "fmriprep"
        ):
            found.append(_build_derivative(folder, description, "fmriprep", folder.name))
        else:
            others.append(f"{folder.name} ({description.pipeline(folder)})")
    if len(found) > 1:
        listed = "; ".join(f"{one.path} ({one.pipeline})" for one in found)
        raise InputError(
            f"{root} contains {len(found)} fMRIPrep datasets, expected one: {listed}.",
            hint=f"Choose one, for example -d {found[-1].path}.",
        )
    if not found:
        empty = [name for name in find_folders(base) if not any((base / name).iterdir())]
        raise InputError(
            f"{root} is a raw BIDS dataset without fMRIPrep derivatives: expected {base / 'fmriprep'} or another "
            f"folder there generated by fMRIPrep (GeneratedBy); found {', '.join(others) or 'no derivative dataset'}.",
            hint="Run fMRIPrep first, or give the path to its output with -d PATH."
            if not empty
            else f"{', '.join(empty)} is empty; for a datalad dataset, run "
            f"datalad get -n {shlex.quote(str(base / empty[0]))}.",
        )
    return found[0]


def _check_is_bids(folder: Path) -> Description | None:
    """Refuse a path that is not BIDS, with InputError; return its description, None for ``sub-*`` folders alone."""
    if not folder.exists():
        raise InputError(f"BIDS_DIR {folder} does not exist.", hint="Check the path (in a container: the bind mounts).")
    if not folder.is_dir():
        raise InputError(f"BIDS_DIR {folder} is a file; expected the root folder of a BIDS dataset.")
    description = read_description(folder)
    if description is None and not find_participant_labels(folder):
        inside = sorted(path.name for path in folder.iterdir())
        found = f"found {len(inside)} other entries ({', '.join(inside[:5])})" if inside else "it is empty"
        below = [name for name in find_folders(folder) if (folder / name / "dataset_description.json").exists()]
        raise InputError(
            f"BIDS_DIR {folder} is not a BIDS dataset: expected dataset_description.json and sub-* folders, {found}.",
            hint=f"Did you mean {folder / below[0]}?" if below else "Use --layout for data that are not in BIDS.",
        )
    return description


def _find_root_kind(folder: Path, description: Description | None, input_type: str) -> str:
    """Classify BIDS_DIR as ``raw`` or a kind of derivatives; InputError if it is unclear or has nothing to read."""
    if description is None:
        if (folder / "derivatives").is_dir():
            return "raw"
        raise InputError(
            f"BIDS_DIR {folder} has sub-* folders but no dataset_description.json (or its content is not fetched), so "
            "it is unclear whether it is raw or preprocessed.",
            hint="Restore the file from the dataset's source (for example: datalad get dataset_description.json).",
        )
    if description.is_fmriprep and input_type != "series":
        return "fmriprep"
    # Before BIDS 1.4 only the pipeline's name identifies a derivative dataset.
    is_open = not description.dataset_type and bool(description.generators)
    own = _build_derivative(folder, description, "fmriprep", "")
    kind = find_kind(folder, own.source, wanted=input_type) if description.is_derivative or is_open else None
    if kind is not None or not description.is_derivative:
        return kind or "raw"
    if own.source == AROMA:
        raise InputError(
            f"BIDS_DIR {folder} ({own.pipeline}) contains no denoised images (ICA-AROMA components at most).",
            hint="Add the fMRIPrep dataset: -d fmriprep=PATH -d aroma=PATH.",
        )
    raise InputError(
        f"BIDS_DIR {folder} is a derivative dataset from {own.pipeline} with "
        f"{_describe_nothing(own.source, input_type)} in its sub-*/func folders.",
        hint=f"{describe_first_unread(own)}Give the path to an fMRIPrep derivative dataset.",
    )
