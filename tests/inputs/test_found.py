"""XCP-D's concatenations of runs are left out, or read instead of their parts."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from helpers import bold_files
from helpers.trees import C2009, FMRIPREP, open_dataset, runs_of, write_description

from bids_semantoks.config import SelectionConfig
from bids_semantoks.errors import InputError
from bids_semantoks.inputs.found import describe_nearest_files
from bids_semantoks.inputs.layouts import load_layout
from bids_semantoks.inputs.runs import find_participants
from bids_semantoks.inputs.series_runs import find_series

XCPD = {**FMRIPREP, "Name": "XCP-D", "GeneratedBy": [{"Name": "xcp_d", "Version": "0.14.1"}]}
REST = "sub-01_task-rest"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = write_description(tmp_path / "xcp_d", XCPD)
    (root / "sub-01" / "func").mkdir(parents=True)
    return root


def write_table(root: Path, source: str, n_rows: int, *, n_kept: int | None = None, start: int = 0) -> None:
    """Write a series, and with `n_kept` as many rows only and the table of censored volumes."""
    rows = [f"{i}\t{-i}" for i in range(start, start + (n_rows if n_kept is None else n_kept))]
    folder = root / "sub-01" / "func"
    table = folder / f"{source}_space-{C2009}_seg-A_stat-mean_timeseries.tsv"
    table.write_text("\n".join(["a\tb", *rows]) + "\n")
    if n_kept is not None:
        flags = ["0"] * n_kept + ["1"] * (n_rows - n_kept)
        (folder / f"{source}_outliers.tsv").write_text("\n".join(["framewise_displacement", *flags]) + "\n")


def stems_of(root: Path, **selection: object) -> list[str]:
    config = SelectionConfig(**selection)
    dataset = open_dataset(root, **selection)
    _, runs = find_series(dataset, config, find_participants(dataset, config), atlas="A")
    return [run.bold.name.partition("_space")[0] for run in runs]


@pytest.mark.parametrize("n_kept", [None, 7])
def test_a_table_as_long_as_its_runs_is_left_out(root, caplog, n_kept):
    write_table(root, f"{REST}_run-1", 10, n_kept=n_kept)
    write_table(root, f"{REST}_run-2", 20, n_kept=n_kept)
    # With censoring its own rows need not be the sum.
    write_table(root, REST, 30, n_kept=n_kept and 13)
    with caplog.at_level(logging.WARNING):
        assert stems_of(root) == [f"{REST}_run-1", f"{REST}_run-2"]
    assert "(--combined-runs" in caplog.text
    assert stems_of(root, combined_runs="whole") == [REST]
    # The selection changes nothing about what it is.
    assert stems_of(root, run_id=("1",)) == [f"{REST}_run-1"]
    assert stems_of(root, run_id=("1",), combined_runs="whole") == [f"{REST}_run-1"]


def test_a_table_of_another_length_is_a_run(root, caplog):
    for source, n_rows in ((f"{REST}_run-1", 10), (f"{REST}_run-2", 20), (REST, 29)):
        write_table(root, source, n_rows)
    with caplog.at_level(logging.WARNING):
        assert set(stems_of(root)) == {REST, f"{REST}_run-1", f"{REST}_run-2"}
    assert "has no run- entity" in caplog.text


def test_directions_are_joined_as_well(root):
    for source, n_rows in ((f"{REST}_dir-AP_run-1", 10), (f"{REST}_dir-PA_run-1", 20), (REST, 30)):
        write_table(root, source, n_rows)
    assert stems_of(root) == [f"{REST}_dir-AP_run-1", f"{REST}_dir-PA_run-1"]


@pytest.mark.parametrize(("start", "n_runs"), [(0, 1), (1, 2)])
def test_a_copy_of_a_single_run_is_left_out(root, start, n_runs):
    write_table(root, f"{REST}_run-1", 10)
    write_table(root, REST, 10, start=start)
    assert len(stems_of(root)) == n_runs


def test_images_are_counted_by_their_headers(root):
    for source, n_volumes in ((f"{REST}_run-1", 5), (f"{REST}_run-2", 6), (REST, 11), ("sub-01_task-other", 11)):
        path = root / "sub-01" / "func" / f"{source}_space-{C2009}_desc-denoised_bold.nii.gz"
        bold_files.write_bold(path, np.zeros((*bold_files.SHAPE, n_volumes), np.float32))
    stems = [run.bold.name.partition("_space")[0] for run in runs_of(root)]
    assert stems == ["sub-01_task-other", f"{REST}_run-1", f"{REST}_run-2"]
    stems = [run.bold.name.partition("_space")[0] for run in runs_of(root, combined_runs="whole")]
    assert stems == ["sub-01_task-other", REST]


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
