"""Data that are no BIDS: which file is which, as a JSON file says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from helpers.trees import names_of, open_dataset, runs_of

from bids_semantoks.config import SelectionConfig
from bids_semantoks.errors import ConfigurationError, InputError
from bids_semantoks.inputs.layouts import load_layout
from bids_semantoks.inputs.runs import find_participants
from bids_semantoks.inputs.series_runs import find_series
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
    text = open_dataset(root, layout="hcp").describe()
    assert "HCP minimal preprocessing" in text
    assert str(root) in text


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
    assert "images are already denoised" in open_dataset(root, layout="ukb").describe_recognised()[0]


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
        assert "prefers another" in caplog.text


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
    with pytest.raises(InputError, match=r"HCP.*1 \(y\).*\{participant\}.*lab/y.*z\.nii\.gz"):
        runs_of(root, layout="hcp", participant_label=("y",))
    empty = touch(tmp_path / "empty", "derivatives/x")
    with pytest.raises(InputError, match=r"HCP.*\{participant\}/MNINonLinear"):
        runs_of(empty, layout="hcp")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": 1}, "unknown keys: colour"),
        ({"name": 3}, "name must be a JSON str, found 3"),
        ({"denoised": "yes"}, "denoised must be a JSON bool, found 'yes'"),
        ({"runs": []}, "has no runs"),
        ({"runs": [{**OWN["runs"][0], "repetition_time": 0}]}, r"runs\[0\]: repetition_time must be .*found 0"),
        ({"runs": [{**OWN["runs"][0], "bold": "x/{session}.nii"}]}, r"bold 'x/\{session\}\.nii' needs \{partic"),
        ({"runs": [{**OWN["runs"][0], "mask": "{echo}.nii"}]}, "mask has echo in braces"),
        ({"runs": [{**OWN["runs"][0], "bold": "{participant}/{visit}.nii"}]}, "in braces"),
        ({"runs": [{**OWN["runs"][0], "entities": {"task": "a_b"}}]}, "letters and digits, found task: 'a_b'"),
        ({"space": "a-b c"}, "space must be a label of letters and digits, found 'a-b c'"),
        ({"runs": [{**OWN["runs"][0], "repetition_time": float("inf")}]}, "repetition_time must be .*found inf"),
        ({"runs": [{"repetition_time": 2}]}, r"runs\[0\] lacks bold"),
        ({"runs": [{"bold": []}]}, r"runs\[0\] has no path under bold"),
        ({"runs": [{"bold": ["{participant}/a.nii", 3]}]}, r"bold must be a path or a list of paths, found \["),
        (
            {"runs": [{"bold": ["{participant}/{session}.nii", "{participant}/a.nii"]}]},
            r"the alternatives of bold must have the same entities in braces, found '\{participant\}/a\.nii'",
        ),
        ({"runs": [{"bold": "{participant}/a.ptseries.nii"}]}, "it under series"),
        ({"runs": [{"series": "{participant}/a.mat"}]}, r"a\.mat';"),
        ({"runs": [{"series": "{participant}/{space}.csv"}]}, "in braces"),
        ({"runs": [{"series": "{participant}.csv", "volumes": "both"}]}, "volumes must be rows or columns, found 'b"),
        ({"runs": [{"series": "{participant}.csv", "mask": "m.nii"}]}, "has unknown keys: mask"),
        ({"runs": [{"bold": "{participant}.nii", "series": "x.csv"}]}, "has unknown keys: bold"),
        (
            {"runs": [{**OWN["runs"][0], "bold": "/{participant}/a.nii"}]},
            "bold must be a path below BIDS_DIR, found '/",
        ),
        ({"runs": [{**OWN["runs"][0], "mask": "../m.nii"}]}, r"mask must be a path below BIDS_DIR, found '\.\./m"),
        (
            {"runs": [{"bold": "{participant}/a.mat", "repetition_time": 2}]},
            r"bold must be an image .*found '.*a\.mat'",
        ),
        ({"runs": [{**OWN["runs"][0], "columns": ["pitch"]}]}, r"\['pitch'\].*trans_x"),
    ],
)
def test_bad_layouts(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load_layout(write_layout(tmp_path, **changes))


def test_unknown_layouts_and_what_contradicts(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="Did you mean hcp"):
        load_layout("hpc")
    with pytest.raises(ConfigurationError, match=r"--layout.*--derivatives"):
        open_dataset(write_hcp(tmp_path / "hcp"), layout="hcp", derivatives=("x",))


def test_two_patterns_for_one_run_are_refused(tmp_path: Path) -> None:
    root = touch(tmp_path / "lab", "s1/a.nii", "s1/b.nii")
    kinds = [
        {"bold": f"{{participant}}/{name}.nii", "entities": {"task": "rest"}, "repetition_time": 1} for name in "ab"
    ]
    with pytest.raises(InputError, match=r"a\.nii.*b\.nii"):
        runs_of(root, layout=write_layout(tmp_path, runs=kinds))


def write_results(root: Path, participant: str, *names: str) -> Path:
    """Touch files of HCP's folders by name; the folder is the part of the name that is a run's."""
    for name in names:
        stem = re.match(r"[rt]fMRI_[A-Z0-9]+(_7T)?_[A-Z]+", name)
        assert stem is not None
        touch(root, f"{participant}/MNINonLinear/Results/{stem[0]}/{name}")
    return root


def test_cleaned_images_of_hcp(tmp_path: Path) -> None:
    root = write_hcp(tmp_path / "hcp")
    write_results(root, "99", "rfMRI_REST1_LR_Atlas_MSMAll_hp2000_clean.dtseries.nii")
    write_results(root, "99", "rfMRI_REST1_LR_Atlas_hp2000_clean.dtseries.nii", "tfMRI_WM_RL_hp0_clean.nii.gz")
    runs = runs_of(root, layout="hcp-fix", participant_label=("99",), preferred_spaces=("MNI152NLin6Asym",))
    assert [run.bold.name for run in runs] == [
        "tfMRI_MOTOR_LR_hp2000_clean.nii.gz",
        "tfMRI_WM_RL_hp0_clean.nii.gz",
        "rfMRI_REST1_LR_hp2000_clean.nii.gz",
        "rfMRI_REST2_RL_hp2000_clean.nii.gz",
    ]
    assert all(run.is_denoised and run.confounds is None for run in runs)
    assert [path.name for path in runs[2].tables] == ["Movement_Regressors.txt"]
    on_surface = runs_of(root, layout="hcp-fix", participant_label=("99",), space="fsLR")
    # MSMAll is read where both are there; the runs that are only volumes are named with their problem.
    assert [run.bold.name for run in on_surface if not run.problem] == [
        "rfMRI_REST1_LR_Atlas_MSMAll_hp2000_clean.dtseries.nii"
    ]
    assert len([run for run in on_surface if run.problem]) == 3


def test_the_lifespan_has_its_session_in_the_folder_of_the_participant(tmp_path: Path) -> None:
    root = tmp_path / "fmriresults01"
    for label in ("HCA6002236_V1_MR", "HCA6002236_V2_MR", "HCD0008117_V1_MR"):
        write_results(root, label, "rfMRI_REST1_AP_Atlas_MSMAll_hp0_clean.dtseries.nii", "rfMRI_REST1_AP.nii.gz")
    write_results(root, "HCD0008117_V1_MR", "tfMRI_CARIT_PA_Atlas_MSMAll_hp0_clean_rclean_tclean.dtseries.nii")
    runs = runs_of(root, layout="hcp-lifespan", session_id=("V1",))
    assert [build_stem(run, "A") for run in runs] == [
        "sub-HCA6002236_ses-V1_task-rest_dir-AP_run-1_space-fsLR_atlas-A",
        "sub-HCD0008117_ses-V1_task-CARIT_dir-PA_space-fsLR_atlas-A",
        "sub-HCD0008117_ses-V1_task-rest_dir-AP_run-1_space-fsLR_atlas-A",
    ]
    assert runs[0].is_denoised
    with pytest.raises(InputError, match=r"HCP ICA-FIX.*--layout hcp-lifespan\?"):
        runs_of(root, layout="hcp-fix")


@pytest.mark.parametrize("is_cleaned", [False, True])
def test_seven_tesla_is_read_cleaned_where_it_was(tmp_path: Path, is_cleaned: bool) -> None:
    name = "rfMRI_REST1_7T_PA"
    root = write_results(tmp_path / "hcp", "100610", f"{name}.nii.gz", f"{name}_Atlas_1.6mm_MSMAll.dtseries.nii")
    touch(root, f"100610/MNINonLinear/Results/{name}/brainmask_fs.1.60.nii.gz")
    if is_cleaned:
        write_results(root, "100610", f"{name}_Atlas_1.6mm_MSMAll_hp2000_clean.dtseries.nii")
        write_results(root, "100610", f"{name}_Atlas_MSMAll_hp2000_clean.dtseries.nii")
    (run,) = runs_of(root, layout="hcp-7t")
    assert run.is_denoised is is_cleaned
    assert run.bold.name == (f"{name}_Atlas_MSMAll_hp2000_clean.dtseries.nii" if is_cleaned else f"{name}.nii.gz")
    assert (run.mask is None) is is_cleaned
    assert (run.entity("dir"), run.entity("run"), run.entity("task")) == ("PA", "1", "rest")


ABCC = "sub-X1/ses-baseline/func/sub-X1_ses-baseline_task-rest"


def test_abcc_is_read_by_what_is_there(tmp_path: Path) -> None:
    runs_only = touch(tmp_path / "a", f"{ABCC}_run-01_bold_timeseries.dtseries.nii", f"{ABCC}_run-01_motion.tsv")
    (run,) = runs_of(runs_only, layout="abcc")
    assert (run.is_denoised, run.entity("run"), len(run.columns)) == (False, "01", 12)
    parcels = f"{ABCC}_bold_atlas-Gordon2014FreeSurferSubcortical_desc-filtered_timeseries.ptseries.nii"
    with_parcels = touch(tmp_path / "b", parcels, f"{ABCC}_run-01_bold_timeseries.dtseries.nii")
    dataset = open_dataset(with_parcels, layout="abcc")
    assert dataset.is_parcellated
    selection = SelectionConfig(layout="abcc")
    label, (series,) = find_series(dataset, selection, find_participants(dataset, selection))
    assert (label, series.bold) == ("Gordon2014FreeSurferSubcortical", with_parcels / parcels)
    # Grayordinates come first, and series when they are asked for.
    both = touch(with_parcels, f"{ABCC}_bold_desc-filtered_timeseries.dtseries.nii")
    (run,) = runs_of(both, layout="abcc")
    assert (run.is_denoised, run.space, run.entity("run")) == (True, "fsLR", None)
    assert open_dataset(both, layout="abcc").derivatives[0].source.is_filtered
    assert open_dataset(both, layout="abcc", input_type="series").is_parcellated
    with pytest.raises(ConfigurationError, match="--input-type series: the layout HCP"):
        open_dataset(both, layout="hcp", input_type="series")


@pytest.mark.parametrize("mask", ["brainmask_fs.2.nii.gz", "brainmask_fs.2.0.nii.gz"])
def test_masks_of_hcp_have_two_names(tmp_path: Path, mask: str) -> None:
    root = write_results(tmp_path / "hcp", "1", "rfMRI_REST1_LR.nii.gz")
    touch(root, f"1/MNINonLinear/Results/rfMRI_REST1_LR/{mask}")
    (run,) = runs_of(root, layout="hcp")
    assert run.mask is not None
    assert run.mask.name == mask


def test_wildcards(tmp_path: Path) -> None:
    root = touch(tmp_path / "lab", "site1/s01/rest_20240101.nii", "site2/s02/rest_20230304.nii", "site1/s01/m_a.nii")
    kind = {"bold": "site*/{participant}/rest_*.nii", "mask": "site*/{participant}/m_*.nii", "entities": {"task": "a"}}
    layout = write_layout(tmp_path, runs=[kind])
    runs = runs_of(root, layout=layout, participant_label=("s01", "s02"))
    assert [(run.entity("sub"), run.mask is None) for run in runs] == [("s01", False), ("s02", True)]
    assert runs[0].repetition_time is None
    touch(root, "site1/s01/m_b.nii")
    with pytest.raises(InputError, match=r"m_\*\.nii matches 2 files in .*m_a\.nii and .*m_b\.nii"):
        runs_of(root, layout=layout)
    touch(root, "site1/s01/rest_20240202.nii")
    (root / "site1/s01/m_b.nii").unlink()
    with pytest.raises(InputError, match=r"20240101\.nii.*20240202\.nii"):
        runs_of(root, layout=layout)


def test_the_repetition_time_may_stand_beside_the_image(tmp_path: Path) -> None:
    root = touch(tmp_path / "lab", "s1/rest.nii.gz", "s1/rest.json")
    (root / "s1/rest.json").write_text('{"RepetitionTime": 1.25}')
    kind = {"bold": "{participant}/rest.nii.gz", "entities": {"task": "rest"}}
    assert runs_of(root, layout=write_layout(tmp_path, runs=[kind]))[0].repetition_time == 1.25


def test_the_atlas_of_a_layout_lies_beside_it(tmp_path: Path) -> None:
    touch(tmp_path, "mine.tsv")
    assert load_layout(write_layout(tmp_path, atlas="mine.tsv")).atlas == str(tmp_path / "mine.tsv")
    assert load_layout(write_layout(tmp_path, atlas="Schaefer400")).atlas == "Schaefer400"


def test_what_a_mac_leaves_beside_a_file_is_passed_over(tmp_path: Path) -> None:
    run = {**OWN["runs"][0], "bold": "data/{participant}/*_{acquisition}.nii", "confounds": "data/{participant}/*.par"}
    layout = write_layout(tmp_path, runs=[run])
    root = touch(tmp_path / "lab", *(f"data/s1/{name}" for name in ("x_a.nii", "._x_a.nii", "m.par", "._m.par")))
    (found,) = runs_of(root, layout=layout)
    assert found.bold.name == "x_a.nii"
    assert found.confounds is not None
    assert found.confounds.name == "m.par"
