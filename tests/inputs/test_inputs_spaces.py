"""One space a call, at the finest resolution, or what was asked for."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from inputs_trees import (
    C2009,
    FMRIPREP,
    LIN6,
    runs_of,
    write_description,
    write_files,
    write_run,
)

from bids_semantoks.errors import InputError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_description(tmp_path / "fmriprep", FMRIPREP)


def test_spaces(root: Path) -> None:
    write_run(root, "sub-01_task-rest", C2009, f"{LIN6}_res-2", "MNIPediatricAsym_cohort-3", "T1w")
    write_files(root, "sub-01_task-rest_desc-preproc_bold.nii.gz")
    assert [run.space for run in runs_of(root)] == [LIN6]
    assert [run.space for run in runs_of(root, preferred_spaces=("Elsewhere", C2009, LIN6))] == [C2009]
    assert [run.space for run in runs_of(root, preferred_spaces=("Elsewhere",))] == [LIN6]
    assert [run.space for run in runs_of(root, space="T1w", preferred_spaces=(C2009,))] == ["T1w"]
    [run] = runs_of(root, space="MNIPediatricAsym:cohort-3")
    assert run.confounds is not None
    assert run.mask is not None


def test_default_spaces_in_turn(root: Path) -> None:
    write_run(root, "sub-01_task-rest", C2009, "T1w")
    assert [run.space for run in runs_of(root)] == [C2009]


def test_unknown_space(root: Path) -> None:
    write_run(root, "sub-01_task-rest", C2009, "T1w")
    with pytest.raises(
        InputError, match=r"Space 'MNI152NLin2009aAsym' not found.*found 2 \(MNI152NLin2009cAsym, T1w\)"
    ) as e:
        runs_of(root, space="MNI152NLin2009aAsym")
    assert e.value.hint == "Did you mean MNI152NLin2009cAsym?"
    with pytest.raises(InputError, match=r"Res of space MNI152NLin2009cAsym '2' not found"):
        runs_of(root, space=f"{C2009}:res-2")


def test_no_space_that_is_chosen_by_itself(root: Path) -> None:
    write_run(root, "sub-01_task-rest", "T1w")
    with pytest.raises(InputError, match=r"chosen by itself \(Mine, MNI152NLin6Asym, .*found T1w\..*--space"):
        runs_of(root, preferred_spaces=("Mine",))
    write_files(root, "sub-02_task-rest_desc-preproc_bold.nii.gz")
    with pytest.raises(InputError, match=r"found native space only.*--output-spaces"):
        runs_of(root, participant_label=("02",))


@pytest.mark.parametrize(
    ("there", "finest"),
    [
        (("_res-2", "_res-1"), "_res-1"),
        (("_res-10", "_res-2"), "_res-2"),
        (("_res-02", ""), "_res-02"),
        (("_res-native", "_res-3"), "_res-3"),
        (("", "_res-low"), ""),
        (("_res-low", "_res-high"), "_res-high"),
    ],
)
def test_finest_resolution(root: Path, there: tuple[str, ...], finest: str) -> None:
    write_run(root, "sub-01_task-rest", *(LIN6 + res for res in there))
    [run] = runs_of(root)
    assert run.bold.name == f"sub-01_task-rest_space-{LIN6}{finest}_desc-preproc_bold.nii.gz"
    assert run.mask is not None
    assert run.mask.name == f"sub-01_task-rest_space-{LIN6}{finest}_desc-brain_mask.nii.gz"


def test_a_resolution_can_be_named(root: Path) -> None:
    write_run(root, "sub-01_task-rest", f"{LIN6}_res-1", f"{LIN6}_res-2")
    assert [run.entity("res") for run in runs_of(root, space=f"{LIN6}:res-2")] == ["2"]


def test_runs_without_the_named_resolution_are_named_with_it(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_run(root, "sub-01_task-rest", f"{LIN6}_res-2")
    write_run(root, "sub-02_task-rest", LIN6)
    with caplog.at_level(logging.WARNING):
        assert [bool(run.problem) for run in runs_of(root, space=f"{LIN6}:res-2")] == [False, True]
    assert f"No BOLD image in space {LIN6}:res-2: 1 (sub-02_task-rest)" in caplog.text


def test_runs_without_the_chosen_space_are_named(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_run(root, "sub-01_task-rest", C2009, LIN6)
    write_run(root, "sub-02_task-rest", C2009)
    write_files(root, "sub-03_T1w.json", folder="sub-03/anat")
    with caplog.at_level(logging.WARNING):
        runs = runs_of(root)
    assert [(run.entity("sub"), run.space) for run in runs] == [
        ("01", "MNI152NLin6Asym"),
        ("02", "MNI152NLin2009cAsym"),
    ]
    assert f"No BOLD image in space {LIN6}: 1 (sub-02_task-rest)" in caplog.text
    assert "Participants without preprocessed BOLD: 1 (03)" in caplog.text
