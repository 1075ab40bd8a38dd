"""Hemispheres are paired, and densities of surfaces ranked."""

from __future__ import annotations

import json

import pytest
from helpers import trees

from bids_semantoks.errors import InputError

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
    with pytest.raises(InputError, match="fsaverage5"):
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
