"""Repetition times are inherited; hemispheres are paired, and densities of surfaces ranked."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from helpers import trees
from helpers.trees import C2009, FMRIPREP, LIN6, runs_of, write_description, write_files, write_fmriprep, write_run

from bids_semantoks.errors import InputError

BOLD = f"sub-01_ses-1_task-rest_space-{C2009}_desc-preproc_bold"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_description(tmp_path / "fmriprep", FMRIPREP)


@pytest.mark.parametrize(
    ("sidecars", "expected"),
    [
        ({f"sub-01/ses-1/func/{BOLD}.json": 1.5, "task-rest_bold.json": 9.0}, 1.5),
        ({f"sub-01/ses-1/func/{BOLD}.json": {"SkullStripped": False}, "task-rest_bold.json": 2.25}, 2.25),
        ({"task-rest_bold.json": 9.0, "sub-01/sub-01_task-rest_bold.json": 1.1}, 1.1),
        ({"sub-01/sub-01_task-rest_bold.json": 9.0, "sub-01/ses-1/sub-01_ses-1_bold.json": 1.2}, 1.2),
        ({"sub-01/ses-1/func/sub-01_ses-1_task-rest_bold.json": 1.3, "task-rest_bold.json": 9.0}, 1.3),
        ({"bold.json": 3.5}, 3.5),
        ({"bold.json": 9.0, "task-rest_bold.json": 1.4}, 1.4),
        ({f"task-rest_space-{C2009}_bold.json": 3}, 3.0),
        ({"task-nback_bold.json": 9.0, "sub-02/sub-02_task-rest_bold.json": 9.0}, None),
        ({"sub-01/ses-2/func/sub-01_task-rest_bold.json": 9.0}, None),
        ({"task-rest_sbref.json": 9.0}, None),
        ({}, None),
    ],
)
def test_repetition_time_is_inherited(root: Path, sidecars: dict[str, Any], expected: float | None) -> None:
    write_files(root, f"{BOLD}.nii.gz")
    for name, content in sidecars.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(json.dumps(content if isinstance(content, dict) else {"RepetitionTime": content}))
    [run] = runs_of(root, participant_label=("01",))
    assert run.repetition_time == expected


@pytest.mark.parametrize("content", ['"2.0"', "0", "-2", "true", "null", "NaN", "[2.0]"])
def test_impossible_repetition_times(root: Path, content: str, caplog: pytest.LogCaptureFixture) -> None:
    write_run(root, "sub-01_task-rest")
    next(root.rglob("*_bold.json")).write_text(f'{{"RepetitionTime": {content}}}')
    (root / "task-rest_bold.json").write_text('{"RepetitionTime": 2.0}')
    with caplog.at_level(logging.WARNING):
        assert runs_of(root)[0].repetition_time is None
    assert "RepetitionTime must be a positive number of seconds" in caplog.text


def test_broken_sidecar_spoils_only_its_run(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_fmriprep(root)
    next(root.glob(f"sub-01/func/*{LIN6}*_bold.json")).write_text('{"RepetitionTime": 2.')
    with caplog.at_level(logging.WARNING):
        assert [run.repetition_time for run in runs_of(root)] == [None, 2.0]
    assert "cannot be read" in caplog.text


SOURCE = "sub-01_task-rest"


CIFTI = f"{SOURCE}_space-fsLR_den-91k_bold"


def write_surfaces(root, *names, repetition_time=2.0):
    trees.write_description(root, trees.FMRIPREP)
    trees.write_files(root, f"{SOURCE}_desc-confounds_timeseries.tsv", *names)
    for name in names:
        stem = name.removesuffix(".dtseries.nii").removesuffix(".func.gii")
        trees.write_files(root, f"{stem}.json")
        next(root.rglob(f"{stem}.json")).write_text(json.dumps({"RepetitionTime": repetition_time}))
    return root


def pair_of(space, source=SOURCE):
    return tuple(f"{source}_hemi-{side}_space-{space}_bold.func.gii" for side in "LR")


def test_cifti_is_found_where_there_is_nothing_else(tmp_path):
    root = write_surfaces(tmp_path / "d", f"{CIFTI}.dtseries.nii")
    (run,) = trees.runs_of(root)
    assert run.bold.name == f"{CIFTI}.dtseries.nii"
    assert run.entities == (("sub", "01"), ("task", "rest"), ("space", "fsLR"), ("den", "91k"))
    assert run.confounds is not None
    assert run.confounds.name == f"{SOURCE}_desc-confounds_timeseries.tsv"
    assert (run.repetition_time, run.mask, run.partner) == (2.0, None, None)


def test_volumes_come_first_unless_surfaces_are_asked_for(tmp_path):
    root = write_surfaces(tmp_path / "d", f"{CIFTI}.dtseries.nii", *pair_of("fsaverage5"))
    trees.write_run(root, SOURCE, trees.C2009)
    assert trees.runs_of(root)[0].space == trees.C2009
    assert trees.runs_of(root, space="fsLR")[0].bold.name == f"{CIFTI}.dtseries.nii"
    assert trees.runs_of(root, preferred_spaces=("fsLR",))[0].space == "fsLR"
    assert trees.runs_of(root, space="fsaverage5")[0].bold.name.endswith("hemi-L_space-fsaverage5_bold.func.gii")


@pytest.mark.parametrize("old", [False, True])
def test_two_hemispheres_are_one_run(tmp_path, old):
    names = pair_of("fsaverage5")
    if old:
        names = tuple(f"{SOURCE}_space-fsaverage5_hemi-{side}_bold.func.gii" for side in "LR")
    (run,) = trees.runs_of(write_surfaces(tmp_path / "d", *names, repetition_time=1.5))
    assert (run.bold.name, run.partner.name) == names
    assert run.entities == (("sub", "01"), ("task", "rest"), ("space", "fsaverage5"))
    assert run.repetition_time == 1.5
    assert run.confounds is not None


@pytest.mark.parametrize("side", [0, 1])
def test_a_lone_hemisphere_is_a_run_without_partner(tmp_path, side):
    name = pair_of("fsaverage5")[side]
    (run,) = trees.runs_of(write_surfaces(tmp_path / "d", name))
    assert (run.bold.name, run.partner) == (name, None)
    assert run.entity("hemi") is None


def test_runs_do_not_share_hemispheres(tmp_path):
    other = "sub-01_task-rest_run-2"
    root = write_surfaces(tmp_path / "d", pair_of("fsaverage5")[0], *pair_of("fsaverage5", other))
    partners = {run.entity("run"): run.partner for run in trees.runs_of(root)}
    assert partners[None] is None
    assert partners["2"].name == pair_of("fsaverage5", other)[1]


@pytest.mark.parametrize("asked", [None, "fsLR:den-170k"])
def test_the_usual_density_is_taken_first(tmp_path, asked):
    fine = f"{SOURCE}_space-fsLR_den-170k_bold.dtseries.nii"
    root = write_surfaces(tmp_path / "d", fine, f"{CIFTI}.dtseries.nii", *pair_of("fsLR_den-32k"))
    (run,) = trees.runs_of(root, space=asked)
    assert run.bold.name == (fine if asked else f"{CIFTI}.dtseries.nii")


def test_two_spaces_of_surfaces_leave_a_choice(tmp_path):
    root = write_surfaces(tmp_path / "d", *pair_of("fsaverage5"), *pair_of("fsaverage"))
    with pytest.raises(InputError, match=r"chosen by itself .*: found fsaverage, fsaverage5"):
        trees.runs_of(root)


def test_denoised_surfaces_have_the_description_of_their_pipeline(tmp_path):
    root = write_surfaces(
        tmp_path / "d", f"{CIFTI}.dtseries.nii", f"{SOURCE}_space-fsLR_den-91k_desc-denoised_bold.dtseries.nii"
    )
    description = {**trees.FMRIPREP, "Name": "XCP-D", "GeneratedBy": [{"Name": "xcp_d", "Version": "0.10.7"}]}
    trees.write_description(root, description)
    (run,) = trees.runs_of(root)
    assert run.entity("desc") == "denoised"
    assert run.is_denoised
