"""What a layout that finds nothing says of what is there."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.trees import runs_of

from bids_semantoks.errors import InputError
from bids_semantoks.inputs.layout_hints import describe_nearest_files
from bids_semantoks.inputs.layouts import load_layout

RUN = "MNINonLinear/Results/rfMRI_REST1_LR"


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


@pytest.mark.parametrize(
    ("files", "folder", "missing", "found"),
    [
        ([f"1/{RUN}/rfMRI_REST1_LR_s2.nii.gz"], f"1/{RUN}", "rfMRI_REST{run}_{direction}.nii.gz", "rfMRI_REST1_LR_s2"),
        (["1/MNINonLinear/Results/rest/a.nii"], "1/MNINonLinear/Results", "rfMRI_REST{run}_{direction}", "found rest"),
        (["1/T1w/a.nii"], "1", "MNINonLinear", "found T1w"),
        (["sub-01/a.nii"], "", "{participant}", "found sub-01"),
        ([], "", "{participant}", "it is empty"),
    ],
)
def test_the_deepest_folder_and_what_it_holds(
    tmp_path: Path, files: list[str], folder: str, missing: str, found: str
) -> None:
    root = touch(tmp_path / "hcp", *files)
    root.mkdir(exist_ok=True)
    sentence, hint = describe_nearest_files(root, load_layout("hcp"))
    assert all(part in sentence for part in (f"{root / folder}", f"{missing},"))
    assert found in sentence
    assert hint.startswith("Copy the layout to a JSON file")


def test_another_layout_or_folder_that_fits(tmp_path: Path) -> None:
    root = touch(tmp_path / "hcp", f"1/{RUN}/rfMRI_REST1_LR.nii.gz")
    assert describe_nearest_files(root, load_layout("hcp-fix"))[1] == "Did you mean --layout hcp?"
    assert describe_nearest_files(tmp_path, load_layout("hcp"))[1] == f"Did you mean BIDS_DIR {root}?"


def write(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def test_packed_archives_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write(tmp_path / "ukb", "1000011_20227_2_0.zip", "2000022_20227_2_0.zip", "1000011_20263_2_0.zip")
    with pytest.raises(InputError, match=r"2 archives.*(1000011_20227_2_0)\.zip -d \1`"):
        runs_of(root, layout="ukb")
    write(root, "1000011_20227_2_0/fMRI/rfMRI.ica/filtered_func_data_clean.nii.gz")
    assert len(runs_of(root, layout="ukb")) == 1
    assert all(part in caplog.text for part in ("1 archives", "`unzip 2000022_20227_2_0.zip"))
    write(root, "2000022/fMRI/rfMRI.ica/filtered_func_data_clean.nii.gz")
    caplog.clear()
    assert len(runs_of(root, layout="ukb")) == 2
    assert "packed" not in caplog.text
