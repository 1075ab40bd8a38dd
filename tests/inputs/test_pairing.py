"""Hemispheres are paired, and densities of surfaces ranked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import trees
from helpers.trees import C2009, FMRIPREP, runs_of, write_description, write_files, write_run

from bids_semantoks.errors import InputError
from bids_semantoks.inputs.pairing import find_event_roots, find_events, read_events

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


BOLD, MASK = f"space-{C2009}_desc-preproc_bold.nii.gz", f"space-{C2009}_desc-brain_mask.nii.gz"
CONFOUNDS = "desc-confounds_timeseries.tsv"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_description(tmp_path / "fmriprep", FMRIPREP)


@pytest.mark.parametrize("image", ["part-mag_desc-preproc", "desc-preproc_part-mag", "desc-preproc"])
@pytest.mark.parametrize("other", ["_part-mag", ""])
def test_part_mag_may_stand_anywhere_or_be_left_out(root, image, other):
    stem = "sub-01_task-rest"
    write_files(root, f"{stem}_space-{C2009}_{image}_bold.nii.gz")
    write_files(root, f"{stem}_space-{C2009}_desc-brain{other}_mask.nii.gz")
    write_files(root, f"{stem}{other}_desc-confounds_timeseries.tsv")
    (run,) = runs_of(root)
    assert run.mask is not None
    assert run.confounds is not None
    assert run.missing == ()


def test_files_come_from_the_own_folder_never_from_another_session(root):
    for session, names in {"ses-1": (BOLD,), "ses-2": (MASK,)}.items():
        write_files(root, *(f"sub-01_task-rest_{name}" for name in names), folder=f"sub-01/{session}/func")
    write_files(root, f"sub-01_task-rest_{CONFOUNDS}", folder="sub-01/ses-2/func")
    (run,) = runs_of(root)
    assert (run.mask, run.confounds) == (None, None)
    for kind, name in (("mask", MASK), ("confounds", CONFOUNDS)):
        parts = (f" sub-01_task-rest_{name};", f" ../../ses-2/func/sub-01_task-rest_{name}.")
        assert all(part in run.describe_missing(kind) for part in parts)


def test_a_missing_file_is_named_with_the_nearest_one(root):
    write_files(
        root, f"sub-01_task-rest_run-1_{BOLD}", f"sub-01_task-rest_run-01_{MASK}", f"sub-01_task-x_run-9_{MASK}"
    )
    (run,) = runs_of(root)
    text = run.describe_missing("mask")
    assert all(part in text for part in (f" sub-01_task-rest_run-1_{MASK};", f" sub-01_task-rest_run-01_{MASK}."))
    text = run.describe_missing("confounds")
    assert f"sub-01_task-rest_run-1_{CONFOUNDS}; " in text
    assert text.count("sub-01") == 1


def test_the_message_of_a_missing_mask_says_what_was_looked_for(own_study, tmp_path, app):
    path = next((own_study / "derivatives" / "fmriprep").rglob("sub-001_*_mask.nii.gz"))
    path.rename(path.with_name(path.name.replace("task-rest", "task-rest_acq-x")))
    code, text = app(own_study, tmp_path / "out", "--participant-label", "001", "--signals-only", "--dry-run")
    assert code == 0
    assert all(part in text for part in (f"{path.name};", "sub-001_task-rest_acq-x_"))


@pytest.mark.parametrize("name", ["brainmask_fs.2.nii.gz", "brainmask_fs.2.0.nii.gz"])
def test_the_mask_of_hcp_pipelines_is_read_where_it_is_the_only_one(root, name):
    write_files(root, f"sub-01_task-rest_{BOLD}")
    (root / "sub-01" / "func" / name).touch()
    assert runs_of(root)[0].mask == root / "sub-01" / "func" / name


@pytest.mark.parametrize("kind", ["bold", "mixed"])
def test_two_files_of_one_run_are_refused_by_name(root, kind):
    write_run(root, "sub-01_task-rest")
    if kind == "bold":
        folder, name = "sub-01/ses-1/func", f"sub-01_task-rest_{BOLD}"
    else:
        folder, name = "sub-01/func", f"sub-01_task-rest_desc-preproc_space-{C2009}_bold.nii.gz"
    write_files(root, name, folder=folder)
    with pytest.raises(InputError, match="Two files") as caught:
        runs_of(root)
    assert str(root / folder / name) in str(caught.value)
    assert str(root / "sub-01" / "func" / f"sub-01_task-rest_{BOLD}") in str(caught.value)


def test_the_nearest_events_are_found_and_read(tmp_path):
    raw, derivative = tmp_path / "raw", tmp_path / "raw" / "derivatives" / "prep"
    for folder in (raw / "sub-01" / "ses-1" / "func", derivative):
        folder.mkdir(parents=True)
    roots = find_event_roots(derivative, ())
    assert roots == (derivative.resolve(), raw.resolve())
    entities = {"sub": "01", "ses": "1", "task": "nback", "run": "2", "space": "X", "atlas": "A"}
    assert find_events(entities, roots) is None
    common = raw / "task-nback_events.tsv"
    common.write_text("onset\tduration\ttrial_type\n1\t2\ta\n")
    (raw / "task-rest_events.tsv").write_text("x")
    assert find_events(entities, roots) == common.resolve()
    own = raw / "sub-01" / "ses-1" / "func" / "sub-01_ses-1_task-nback_run-2_events.tsv"
    lines = [
        "onset\tduration\ttrial_type",
        '30\t5.5\t"go left"\t',
        "8\t1\tNaN",
        "2.5\t20\tlook",
        "n/a\t1\tlook",
        "7\t1\tn/a",
    ]
    own.write_bytes("\r\n".join(lines).encode("utf-16"))
    (own.parent / "sub-01_ses-1_task-nback_run-3_events.tsv").write_text("x")
    assert find_events(entities, roots) == own.resolve()
    events, n_timeless = read_events(own, "trial_type")
    assert n_timeless == 1
    assert [(one.onset, one.duration, one.label) for one in events] == [(2.5, 20.0, "look"), (30.0, 5.5, "go left")]
    own.write_text("duration\ttrial_type\n5\ta\n")
    with pytest.raises(InputError, match="no column onset: found duration, trial_type") as error:
        read_events(own, "trial_type")
    assert "onset and duration" in str(error.value.hint)
    own.write_text("onset\tduration\ttrial_type\n1\t5\ta\n")
    with pytest.raises(InputError, match="no column stim: found onset, duration, trial_type"):
        read_events(own, "stim")
    own.write_text("onset\tduration\ttrial_type\nsoon\t5\ta\n")
    with pytest.raises(InputError, match=r"Line 2 .* onset 'soon'"):
        read_events(own, "trial_type")


def test_a_path_may_hold_an_equals_sign(tmp_path):
    (tmp_path / "a=b").mkdir()
    (tmp_path / "c").mkdir()
    roots = find_event_roots(tmp_path, (str(tmp_path / "a=b"), f"more={tmp_path / 'c'}"))
    assert roots[-2:] == (tmp_path / "a=b", tmp_path / "c")
