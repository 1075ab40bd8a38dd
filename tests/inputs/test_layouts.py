"""Data that are no BIDS: which file is which, as a JSON file says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.trees import names_of, open_dataset, runs_of

from bids_semantoks.errors import ConfigurationError, InputError
from bids_semantoks.inputs.layouts import load_layout
from bids_semantoks.outputs.store import build_stem

HCP = ("100307", "100408", "99")


OWN = {
    "name": "Our lab",
    "space": "MNI152NLin6Asym",
    "runs": [
        {
            "bold": "data/{participant}/visit{session}/rest_{acquisition}.nii",
            "mask": "data/{participant}/mask.nii.gz",
            "confounds": "data/{participant}/visit{session}/{acquisition}_mc.par",
            "columns": ["rot_x", "rot_y", "rot_z", "trans_x", "trans_y", "trans_z"],
            "entities": {"task": "rest"},
            "repetition_time": 2,
        }
    ],
}


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def write_hcp(root: Path) -> Path:
    for label in HCP:
        for name in ("rfMRI_REST1_LR", "rfMRI_REST2_RL", "tfMRI_MOTOR_LR"):
            folder = f"{label}/MNINonLinear/Results/{name}"
            touch(
                root,
                *(f"{folder}/{end}" for end in (f"{name}.nii.gz", f"{name}_SBRef.nii.gz", "brainmask_fs.2.nii.gz")),
            )
            touch(root, f"{folder}/Movement_Regressors.txt", f"{folder}/{name}_hp2000_clean.nii.gz")
    return touch(root, "README.txt", "100307/MNINonLinear/T1w.nii.gz")


def write_layout(folder: Path, **changes: Any) -> str:
    path = folder / "layout.json"
    path.write_text(json.dumps({**OWN, **changes}))
    return str(path)


def test_hcp(tmp_path: Path) -> None:
    root = write_hcp(tmp_path / "hcp")
    runs = runs_of(root, layout="hcp")
    assert [build_stem(run, "A") for run in runs[3:6]] == [
        "sub-100307_task-MOTOR_dir-LR_space-MNI152NLin6Asym_atlas-A",
        "sub-100307_task-rest_dir-LR_run-1_space-MNI152NLin6Asym_atlas-A",
        "sub-100307_task-rest_dir-RL_run-2_space-MNI152NLin6Asym_atlas-A",
    ]
    assert [run.entity("sub") for run in runs[::3]] == ["99", "100307", "100408"]
    first = runs[1]
    folder = root / "99/MNINonLinear/Results/rfMRI_REST1_LR"
    assert (first.bold, first.mask) == (folder / "rfMRI_REST1_LR.nii.gz", folder / "brainmask_fs.2.nii.gz")
    assert (first.confounds, len(first.columns)) == (folder / "Movement_Regressors.txt", 12)
    assert (first.repetition_time, first.pipeline, first.is_denoised) == (0.72, "HCP minimal preprocessing", False)
    assert first.recognised == "the layout HCP minimal preprocessing"
    assert open_dataset(root, layout="hcp").describe() == (
        f"Found data in the layout HCP minimal preprocessing in {root}"
    )


def test_selection_of_hcp(tmp_path: Path) -> None:
    root = write_hcp(tmp_path / "hcp")
    runs = runs_of(root, layout="hcp", participant_label=("sub-99", "100408"), task_id=("rest",), run_id=("01",))
    assert [run.entity("sub") for run in runs] == ["99", "100408"]
    with pytest.raises(InputError, match=r"Participant '100309' not found in .*hcp: found 3 .*Did you mean 100307"):
        runs_of(root, layout="hcp", participant_label=("100309",))


def test_uk_biobank_comes_denoised(tmp_path: Path) -> None:
    root = tmp_path / "ukb"
    for eid, instance in (("1000011", "2"), ("1000011", "3"), ("2000022", "2")):
        folder = f"{eid}_20227_{instance}_0/fMRI/rfMRI.ica"
        touch(root, f"{folder}/filtered_func_data_clean_stand.nii.gz", f"{folder}/mc/prefiltered_func_data_mcf.par")
    runs = runs_of(root, layout="ukb")
    assert [run.entities[:3] for run in runs] == [
        (("sub", "1000011"), ("ses", "2"), ("task", "rest")),
        (("sub", "1000011"), ("ses", "3"), ("task", "rest")),
        (("sub", "2000022"), ("ses", "2"), ("task", "rest")),
    ]
    assert all(run.is_denoised and run.confounds is None and run.mask is None for run in runs)
    assert [path.name for path in runs[0].tables] == ["prefiltered_func_data_mcf.par"]
    assert "denoised, which is not done again" in open_dataset(root, layout="ukb").describe_recognised()[0]


def test_uk_biobank_as_downloaded(tmp_path: Path) -> None:
    root = tmp_path / "ukb"
    for folder in ("1000011_20227_2_0", "1000011_20227_3_0", "2000022_20227_2_0", "3000033"):
        ica = f"{folder}/fMRI/rfMRI.ica"
        touch(root, f"{ica}/filtered_func_data_clean.nii.gz", f"{ica}/filtered_func_data.nii.gz", f"{ica}/mask.nii.gz")
    touch(root, "1000011_20227_2_0/fMRI/rfMRI.ica/reg/example_func2standard_warp.nii.gz", "notes/x.txt")
    runs = runs_of(root, layout="ukb")
    assert [run.entities[:-1] for run in runs] == [
        (("sub", "1000011"), ("ses", "2"), ("task", "rest")),
        (("sub", "1000011"), ("ses", "3"), ("task", "rest")),
        (("sub", "2000022"), ("ses", "2"), ("task", "rest")),
        (("sub", "3000033"), ("task", "rest")),
    ]
    for run, folder in zip(
        runs, ("1000011_20227_2_0", "1000011_20227_3_0", "2000022_20227_2_0", "3000033"), strict=True
    ):
        ica = root / folder / "fMRI/rfMRI.ica"
        assert (run.bold, run.mask) == (ica / "filtered_func_data_clean.nii.gz", ica / "mask.nii.gz")
        # Also where it is missing, so that the run is refused by its name.
        assert run.warp == ica / "reg/example_func2standard_warp.nii.gz"
        assert (run.space, run.averaged_over) == ("MNI152NLin6Asym", "voxels inside the native brain mask")


@pytest.mark.parametrize("folder", ["1000011_20227_2_0", "1000011"])
def test_the_result_of_applywarp_comes_before_the_native_run(
    tmp_path: Path, folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    ica = f"{folder}/fMRI/rfMRI.ica"
    root = touch(tmp_path / "ukb", f"{ica}/filtered_func_data_clean.nii.gz", f"{ica}/mask.nii.gz")
    for end in ("_standard", "_stand"):
        touch(root, f"{ica}/filtered_func_data_clean{end}.nii.gz")
        caplog.clear()
        with caplog.at_level("INFO"):
            (run,) = runs_of(root, layout="ukb")
        assert run.bold.name == f"filtered_func_data_clean{end}.nii.gz"
        assert (run.warp, run.mask) == (None, None)
        assert "prefers another of the same run" in caplog.text


def test_a_layout_of_ones_own(tmp_path: Path) -> None:
    root = touch(
        tmp_path / "lab", "data/s01/visit2/rest_AP.nii", "data/s01/visit10/rest_AP.nii", "data/s01/mask.nii.gz"
    )
    touch(root, "data/s01/visit2/AP_mc.par", "data/s 02/visit1/rest_AP.nii", "data/s03/visit1/rest_A-P.nii")
    runs = runs_of(root, layout=write_layout(tmp_path))
    assert names_of(runs) == ["rest_AP.nii", "rest_AP.nii"]
    assert [run.entity("ses") for run in runs] == ["2", "10"]
    assert [run.confounds is None for run in runs] == [False, True]
    assert runs[0].mask == root / "data/s01/mask.nii.gz"
    assert runs[1].columns == ()


def test_nothing_in_the_layout(tmp_path: Path) -> None:
    root = touch(tmp_path / "lab", "x.txt", "y/z.nii.gz")
    with pytest.raises(
        InputError, match=r"No BOLD image of the layout HCP minimal .* expected \{participant\}.* 1 \(y\)"
    ):
        runs_of(root, layout="hcp", participant_label=("y",))
    empty = touch(tmp_path / "empty", "derivatives/x")
    with pytest.raises(InputError, match=r"no participant in the layout HCP minimal.*\{participant\}/MNINonLinear"):
        runs_of(empty, layout="hcp")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": 1}, "unknown keys: colour; known are name"),
        ({"name": 3}, "name must be a JSON str, found 3"),
        ({"denoised": "yes"}, "denoised must be a JSON bool, found 'yes'"),
        ({"runs": []}, "has no runs"),
        ({"runs": [{**OWN["runs"][0], "repetition_time": 0}]}, r"runs\[0\]: repetition_time must be .*found 0"),
        ({"runs": [{**OWN["runs"][0], "bold": "x/{session}.nii"}]}, r"bold 'x/\{session\}\.nii' needs \{partic"),
        ({"runs": [{**OWN["runs"][0], "mask": "{echo}.nii"}]}, "mask has echo in braces, which bold has not"),
        ({"runs": [{**OWN["runs"][0], "bold": "{participant}/{visit}.nii"}]}, "visit cannot stand in braces"),
        ({"runs": [{**OWN["runs"][0], "entities": {"task": "a_b"}}]}, "letters and digits, found task: 'a_b'"),
        ({"space": "a-b c"}, "space must be a label of letters and digits, found 'a-b c'"),
        ({"runs": [{**OWN["runs"][0], "repetition_time": float("inf")}]}, "repetition_time must be .*found inf"),
        ({"runs": [{"bold": "{participant}/a.nii"}]}, r"runs\[0\] lacks repetition_time"),
        (
            {"runs": [{**OWN["runs"][0], "bold": "/{participant}/a.nii"}]},
            "bold must be a path below BIDS_DIR, found '/",
        ),
        ({"runs": [{**OWN["runs"][0], "mask": "../m.nii"}]}, r"mask must be a path below BIDS_DIR, found '\.\./m"),
        (
            {"runs": [{"bold": "{participant}/a.mat", "repetition_time": 2}]},
            r"bold must be a NIfTI image .*found '.*a\.mat'",
        ),
        ({"runs": [{**OWN["runs"][0], "columns": ["pitch"]}]}, r"columns \['pitch'\] are unknown; known are trans_x"),
    ],
)
def test_bad_layouts(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load_layout(write_layout(tmp_path, **changes))


def test_unknown_layouts_and_what_contradicts(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nor a file hpc; layouts are hcp, ukb\. Did you mean hcp"):
        load_layout("hpc")
    with pytest.raises(ConfigurationError, match="--layout hcp says which file of BIDS_DIR is which"):
        open_dataset(write_hcp(tmp_path / "hcp"), layout="hcp", derivatives=("x",))


def test_two_patterns_for_one_run_are_refused(tmp_path: Path) -> None:
    root = touch(tmp_path / "lab", "s1/a.nii", "s1/b.nii")
    kinds = [
        {"bold": f"{{participant}}/{name}.nii", "entities": {"task": "rest"}, "repetition_time": 1} for name in "ab"
    ]
    with pytest.raises(InputError, match=r"two images the same entities: .*a\.nii and .*b\.nii"):
        runs_of(root, layout=write_layout(tmp_path, runs=kinds))
