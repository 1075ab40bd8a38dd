"""One order of sources for the repetition time, whatever the kind of run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from helpers.trees import C2009, FMRIPREP, LIN6, RAW, runs_of, write_description, write_files, write_fmriprep, write_run

from bids_semantoks.errors import ConfigurationError, RunFailed, RunSkipped
from bids_semantoks.inputs.repetition_time import decide_repetition_time, read_header_time

BOLD = f"sub-01_ses-1_task-rest_space-{C2009}_desc-preproc_bold"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_description(tmp_path / "fmriprep", FMRIPREP)


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content if isinstance(content, dict) else {"RepetitionTime": content}))
    return path


def write_image(path: Path, step: float, unit: str = "sec", n_volumes: int = 5) -> Path:
    image = nib.Nifti1Image(np.zeros((2, 3, 4, n_volumes), np.int16), np.eye(4))
    image.header.set_zooms((2, 2, 2, step))
    image.header.set_xyzt_units("mm", unit)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.to_filename(path)
    return path


def write_cifti(path: Path, step: float) -> Path:
    model = nib.cifti2.BrainModelAxis.from_surface(np.arange(7), 32492, name="CortexLeft")
    series = nib.cifti2.SeriesAxis(0, step, 5)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Cifti2Image(np.zeros((5, 7), np.float32), header=(series, model)).to_filename(path)
    return path


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
        # The run's image in another space, and of another kind.
        ({"sub-01/ses-1/func/sub-01_ses-1_task-rest_space-T1w_desc-preproc_bold.json": 1.6}, 1.6),
        ({"sub-01/ses-1/func/sub-01_ses-1_task-rest_space-fsLR_den-91k_bold.dtseries.json": 1.7}, 1.7),
        ({"task-nback_bold.json": 9.0, "sub-02/sub-02_task-rest_bold.json": 9.0}, None),
        ({"sub-01/ses-2/func/sub-01_task-rest_bold.json": 9.0}, None),
        ({"task-rest_sbref.json": 9.0}, None),
        ({}, None),
    ],
)
def test_sidecars_are_inherited(root: Path, sidecars: dict[str, Any], expected: float | None) -> None:
    write_files(root, f"{BOLD}.nii.gz")
    for name, content in sidecars.items():
        write_json(root / name, content)
    [run] = runs_of(root, participant_label=("01",))
    assert run.repetition_time == expected
    assert (run.time_source == "") == (expected is None)


@pytest.mark.parametrize("content", ['"2.0"', "0", "-2", "true", "null", "NaN", "[2.0]", '{"RepetitionTime": 2.'])
def test_a_sidecar_that_cannot_be_used_is_named_and_the_next_asked(root: Path, content: str) -> None:
    write_run(root, "sub-01_task-rest")
    own = next(root.rglob("*_bold.json"))
    own.write_text(content if content.startswith("{") else f'{{"RepetitionTime": {content}}}')
    (root / "task-rest_bold.json").write_text('{"RepetitionTime": 2.25}')
    (run,) = runs_of(root)
    assert run.repetition_time == 2.25
    assert run.time_source == f"the sidecar {root / 'task-rest_bold.json'}"
    (problem,) = run.time_problems
    assert str(own) in problem
    assert decide_repetition_time(run)[1] == (problem,)
    (root / "task-rest_bold.json").unlink()
    with pytest.raises(RunFailed, match="RepetitionTime or SamplingFrequency") as failed:
        decide_repetition_time(runs_of(root)[0])
    assert problem in failed.value.message


def test_a_broken_sidecar_spoils_no_other_run(root: Path) -> None:
    write_fmriprep(root)
    next(root.glob(f"sub-01/func/*{LIN6}*_bold.json")).write_text('{"RepetitionTime": 2.')
    first, second = runs_of(root)
    # The run's image in the other space states it.
    assert [first.repetition_time, second.repetition_time] == [2.0, 2.0]
    assert len(first.time_problems) == 1
    assert second.time_problems == ()


def test_the_raw_dataset_follows_the_sidecars_of_images(tmp_path: Path) -> None:
    raw = write_description(tmp_path / "raw", RAW)
    root = write_description(raw / "derivatives" / "fmriprep", FMRIPREP)
    for session in ("1", "2"):
        write_files(root, f"sub-01_ses-{session}_task-rest_space-{C2009}_desc-preproc_bold.nii.gz")
    write_json(raw / "task-rest_bold.json", 3.0)
    write_json(raw / "sub-01/ses-1/func/sub-01_ses-1_task-rest_echo-1_bold.json", 1.25)
    write_json(raw / "sub-01/ses-1/func/sub-01_ses-1_task-nback_bold.json", 9.0)
    assert [run.repetition_time for run in runs_of(raw)] == [1.25, 3.0]
    write_json(root / "sub-01/ses-2/func/sub-01_ses-2_task-rest_space-T1w_desc-preproc_bold.json", 2.5)
    assert [run.repetition_time for run in runs_of(raw)] == [1.25, 2.5]


def test_headers_come_after_sidecars_and_cifti_before_nifti(root: Path) -> None:
    func = root / "sub-01/ses-1/func"
    bold = write_image(func / f"{BOLD}.nii.gz", 0.8)
    (run,) = runs_of(root)
    time, (note,) = decide_repetition_time(run)
    assert time == 0.8
    assert all(part in note for part in (bold.name, "0.8 s from its header"))
    write_image(bold, 2.0, "unknown")
    write_image(func / f"sub-01_ses-1_task-rest_space-{LIN6}_desc-preproc_bold.nii.gz", 1.5)
    write_image(func / f"sub-01_ses-1_task-other_space-{LIN6}_desc-preproc_bold.nii.gz", 9.0)
    run = next(run for run in runs_of(root, space=C2009) if run.bold == bold)
    assert decide_repetition_time(run)[0] == 1.5
    cifti = write_cifti(func / "sub-01_ses-1_task-rest_space-fsLR_den-91k_bold.dtseries.nii", 0.72)
    time, (note,) = decide_repetition_time(run)
    assert time == 0.72
    assert all(part in note for part in (bold.name, f"0.72 s from the header of {cifti.name}"))
    write_json(func / f"{BOLD}.json", 2.25)
    assert decide_repetition_time(runs_of(root, space=C2009, task_id=("rest",))[0]) == (2.25, ())


@pytest.mark.parametrize(
    ("step", "unit", "expected"),
    [
        (0.8, "sec", 0.8),
        (800, "msec", 0.8),
        (1000, "msec", 1.0),
        (2.0, "unknown", None),
        (1.0, "sec", None),
        (0.0, "sec", None),
        (1.0, "msec", None),
        (2.0, "hz", None),
    ],
)
def test_only_a_stated_unit_makes_a_header_count(
    tmp_path: Path, step: float, unit: str, expected: float | None
) -> None:
    assert read_header_time(write_image(tmp_path / "a.nii.gz", step, unit)) == expected


def test_other_files_state_no_time(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "a.dtseries.nii", "a.tsv", "a.func.gii"):
        (tmp_path / name).write_bytes(b"damaged")
        assert read_header_time(tmp_path / name) is None
    (tmp_path / "link.nii").symlink_to(tmp_path / ".git/annex/objects/x")
    assert read_header_time(tmp_path / "link.nii") is None


@pytest.mark.parametrize(
    ("stated", "in_header", "words"),
    [
        (2000, 2.0, r"2000 s, .* 2 s\."),
        (2000, None, "20 s"),
        (20.5, 20.5, r"20\.5 s"),
        (0.002, 2.0, r"0\.002 s, .* 2 s\."),
        (2.0, 0.002, r"2 s, .* 0\.002 s\."),
        (None, 2000.0, r"The header of .*\.nii\.gz gives .* 2000 s"),
    ],
)
def test_milliseconds_are_refused_and_never_converted(
    root: Path, stated: float | None, in_header: float | None, words: str
) -> None:
    write_run(root, "sub-01_task-rest", repetition_time=stated)
    (bold,) = root.rglob("*_bold.nii.gz")
    bold.unlink()
    write_image(bold, in_header or 0.0)
    (run,) = runs_of(root)
    with pytest.raises(RunFailed, match=words) as failed:
        decide_repetition_time(run, in_header)
    assert failed.value.reason == "no_repetition_time"
    assert "milliseconds" in failed.value.hint
    assert len(str(failed.value)) < 500 + len(str(root)) * 3


@pytest.mark.parametrize(("stated", "in_header"), [(2.0, 2000.0), (19.0, 19.0), (2.0, 3.0), (0.1, 0.1)])
def test_the_sidecar_is_believed_where_it_can_be_right(root: Path, stated: float, in_header: float) -> None:
    write_run(root, "sub-01_task-rest", repetition_time=stated)
    (bold,) = root.rglob("*_bold.nii.gz")
    write_image(bold, in_header)
    (run,) = runs_of(root)
    time, notes = decide_repetition_time(run, in_header)
    assert time == stated
    assert len(notes) == (stated != in_header)
    assert all(run.time_source[4:] in note and f"{in_header:g} s" in note for note in notes)


def test_a_sidecar_that_was_not_fetched_skips_its_run(root: Path) -> None:
    write_run(root, "sub-01_task-rest")
    (sidecar,) = root.rglob("*_bold.json")
    sidecar.unlink()
    sidecar.symlink_to("../.git/annex/objects/x")
    with pytest.raises(RunSkipped, match="datalad get") as skipped:
        decide_repetition_time(runs_of(root)[0], 2.0)
    assert skipped.value.reason == "no_content"


LAYOUT = {"name": "Own", "space": LIN6, "runs": [{"bold": "{participant}/{task}.nii.gz", "repetition_time": 0.72}]}


@pytest.mark.parametrize(("in_header", "unit"), [(0.725, "sec"), (0.72, "sec"), (2.0, "unknown"), (1.0, "sec")])
def test_a_layout_of_ones_own_agrees_with_the_headers(tmp_path: Path, in_header: float, unit: str) -> None:
    (tmp_path / "own.json").write_text(json.dumps(LAYOUT))
    write_image(tmp_path / "study/01/rest.nii.gz", in_header, unit)
    (run,) = runs_of(tmp_path / "study", layout=str(tmp_path / "own.json"))
    assert decide_repetition_time(run)[0] == 0.72


def test_a_layout_of_ones_own_that_differs_is_refused(tmp_path: Path) -> None:
    own = tmp_path / "own.json"
    own.write_text(json.dumps(LAYOUT))
    write_image(tmp_path / "study/01/rest.nii.gz", 0.72)
    second = write_image(tmp_path / "study/02/rest.nii.gz", 0.8)
    with pytest.raises(ConfigurationError, match=rf"layout Own gives .* 0\.72 s, the header of {second} 0\.8 s"):
        runs_of(tmp_path / "study", layout=str(own))
    write_image(second, 0.72)
    sidecar = write_json(tmp_path / "study/02/rest.json", 0.9)
    with pytest.raises(ConfigurationError, match=rf"0\.72 s, the sidecar {sidecar} 0\.9 s"):
        runs_of(tmp_path / "study", layout=str(own))
    own.write_text(json.dumps({**LAYOUT, "runs": [{**LAYOUT["runs"][0], "repetition_time": 720}]}))
    with pytest.raises(ConfigurationError, match="found 720"):
        runs_of(tmp_path / "study", layout=str(own))


def test_headers_overrule_a_shipped_layout(tmp_path: Path) -> None:
    bold = tmp_path / "HCP/100307/MNINonLinear/Results/rfMRI_REST1_LR/rfMRI_REST1_LR.nii.gz"
    write_image(bold, 0.72)
    (run,) = runs_of(tmp_path / "HCP", layout="hcp")
    assert decide_repetition_time(run) == (0.72, ())
    write_image(bold, 0.8)
    time, (note,) = decide_repetition_time(run)
    assert time == 0.8
    assert "0.8 s, the layout HCP minimal preprocessing 0.72 s;" in note
    write_image(bold, 0.8, "unknown")
    assert decide_repetition_time(run) == (0.72, ())
    write_image(bold, 720)
    with pytest.raises(RunFailed, match=r"720 s, the layout HCP minimal preprocessing 0\.72 s"):
        decide_repetition_time(run)
