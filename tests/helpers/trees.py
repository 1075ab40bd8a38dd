"""Small datasets of empty files, named as fMRIPrep names them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bids_semantoks.bids_names import parse_entities
from bids_semantoks.config import SelectionConfig
from bids_semantoks.inputs.datasets import Dataset, find_dataset
from bids_semantoks.inputs.runs import find_participants, find_runs
from bids_semantoks.records import Run

FMRIPREP = {
    "Name": "fMRIPrep - fMRI PREProcessing workflow",
    "BIDSVersion": "1.4.0",
    "DatasetType": "derivative",
    "GeneratedBy": [{"Name": "fMRIPrep", "Version": "24.1.1"}],
}


RAW = {"Name": "A study", "BIDSVersion": "1.8.0", "DatasetType": "raw"}


LIN6 = "MNI152NLin6Asym"


C2009 = "MNI152NLin2009cAsym"


def write_description(root: Path, content: dict[str, Any]) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset_description.json").write_text(json.dumps(content))
    return root


def write_files(root: Path, *names: str, folder: str = "") -> None:
    """Touch files by name, each in its participant's (and session's) func folder unless `folder` is given."""
    for name in names:
        parts = parse_entities(name)
        place = root / f"sub-{parts['sub']}" / (f"ses-{parts['ses']}" if "ses" in parts else "") / "func"
        place = root / folder if folder else place
        place.mkdir(parents=True, exist_ok=True)
        (place / name).touch()


def write_run(root: Path, source: str, *spaces: str, repetition_time: float | None = 2.0) -> None:
    """Write the files of one run; a space is what follows ``space-``, such as ``MNI152NLin6Asym_res-2``."""
    write_files(root, f"{source}_desc-confounds_timeseries.tsv", f"{source}_desc-confounds_timeseries.json")
    for space in spaces or (C2009,):
        stem = f"{source}_space-{space}"
        write_files(
            root,
            f"{stem}_boldref.nii.gz",
            f"{stem}_desc-brain_mask.nii.gz",
            f"{stem}_desc-preproc_bold.nii.gz",
            f"{stem}_desc-preproc_bold.json",
        )
        if repetition_time is not None:
            sidecar = next(root.rglob(f"{stem}_desc-preproc_bold.json"))
            sidecar.write_text(json.dumps({"RepetitionTime": repetition_time}))


def write_fmriprep(root: Path, labels: tuple[str, ...] = ("01", "02")) -> Path:
    """Write a dataset with one resting run a participant, in two spaces."""
    write_description(root, FMRIPREP)
    for label in labels:
        write_run(root, f"sub-{label}_task-rest", C2009, f"{LIN6}_res-2")
        write_files(root, f"sub-{label}_desc-preproc_T1w.nii.gz", folder=f"sub-{label}/anat")
        (root / f"sub-{label}.html").touch()
    return root


def open_dataset(root: Path, **selection: Any) -> Dataset:
    return find_dataset(root, root.parent / "out", SelectionConfig(**selection))


def runs_of(root: Path, *, preferred_spaces: tuple[str, ...] = (), **selection: Any) -> tuple[Run, ...]:
    config = SelectionConfig(**selection)
    dataset = open_dataset(root, **selection)
    return find_runs(dataset, config, find_participants(dataset, config), preferred_spaces=preferred_spaces)


def names_of(runs: tuple[Run, ...]) -> list[str]:
    return [run.bold.name for run in runs]
