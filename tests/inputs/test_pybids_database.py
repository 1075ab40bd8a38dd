"""The pybids database of --bids-database-dir."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.trees import C2009, RAW, runs_of, write_description, write_files, write_fmriprep, write_run

from bids_semantoks.errors import ConfigurationError, InputError


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_fmriprep(tmp_path_factory.mktemp("data") / "fmriprep")
    write_run(root, "sub-02_ses-1_task-nback_run-01")
    (root / "task-rest_bold.json").write_text('{"RepetitionTime": 7.0}')
    for name in ("desc-preproc_bold.nii.gz", "desc-brain_mask.nii.gz"):
        (root / "sub-02" / "func" / f"sub-02_task-gone_space-{C2009}_{name}").symlink_to("nowhere")
    return root


@pytest.fixture(scope="module")
def database(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("database") / "made"
    runs_of(root, bids_database_dir=folder)
    return folder


def test_the_same_runs_are_found(root: Path, database: Path) -> None:
    runs = runs_of(root, space=C2009, bids_database_dir=database)
    assert len(runs) == 4
    assert runs == runs_of(root, space=C2009)
    assert sorted(path.name for path in database.iterdir()) == ["layout_index.sqlite"]


def test_the_database_is_believed(root: Path, database: Path) -> None:
    write_files(root, f"sub-01_task-late_space-{C2009}_desc-preproc_bold.nii.gz")
    assert not any(run.entity("task") == "late" for run in runs_of(root, space=C2009, bids_database_dir=database))
    assert any(run.entity("task") == "late" for run in runs_of(root, space=C2009))


def test_a_database_without_the_participants_is_told_from_a_dataset_without_images(tmp_path: Path) -> None:
    root = write_fmriprep(tmp_path / "fmriprep")
    runs_of(root, bids_database_dir=tmp_path / "made")
    write_run(root, "sub-77_task-rest")
    with pytest.raises(InputError, match=r"No preprocessed BOLD.*1 \(77\).*new, delete the database .*made"):
        runs_of(root, bids_database_dir=tmp_path / "made", participant_label=("77",))


def test_a_database_of_another_dataset_is_refused(root: Path, database: Path, tmp_path: Path) -> None:
    other = write_fmriprep(tmp_path / "other")
    with pytest.raises(ConfigurationError, match=r"layout_index\.sqlite"):
        runs_of(other, bids_database_dir=database)


def test_a_damaged_database(root: Path, tmp_path: Path) -> None:
    (tmp_path / "layout_index.sqlite").write_text("no database at all, but long enough to be looked at" * 9)
    with pytest.raises(InputError, match=r"layout_index\.sqlite cannot be read.*Delete it"):
        runs_of(root, bids_database_dir=tmp_path)
    (tmp_path / "layout_index.sqlite").write_bytes(b"")
    with pytest.raises(InputError, match=r"layout_index\.sqlite cannot be read.*Delete it"):
        runs_of(root, bids_database_dir=tmp_path)


def test_a_database_below_a_file_cannot_be_made(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="/file/db"):
        runs_of(root, bids_database_dir=tmp_path / "file" / "db")


def test_a_database_is_never_made_in_an_input(tmp_path: Path) -> None:
    study = write_description(tmp_path / "study", RAW)
    prep = write_fmriprep(study / "derivatives" / "fmriprep")
    for folder in (study / "db", prep / "db", prep):
        with pytest.raises(ConfigurationError, match=f"{folder}"):
            runs_of(study, bids_database_dir=folder)
    assert not (study / "db").exists()


def test_several_datasets_have_a_database_each(tmp_path: Path) -> None:
    first, second = write_fmriprep(tmp_path / "a", ("01",)), write_fmriprep(tmp_path / "b", ("02",))
    runs = runs_of(first, derivatives=(str(first), f"more={second}"), bids_database_dir=tmp_path / "db")
    assert [run.dataset for run in runs] == [first, second]
    assert sorted(path.name for path in (tmp_path / "db").iterdir()) == ["a", "more"]


def test_files_of_denoised_images_and_old_surfaces_are_in_it(tmp_path: Path) -> None:
    description = {"Name": "XCP-D", "BIDSVersion": "1.4.0", "DatasetType": "derivative"}
    root = write_description(tmp_path / "xcp_d", {**description, "GeneratedBy": [{"Name": "xcp_d"}]})
    write_files(root, *(f"sub-01_task-rest-open_{end}.tsv" for end in ("outliers", "motion")))
    write_files(root, f"sub-01_task-rest-open_space-{C2009}_desc-denoised_bold.nii.gz")
    (run,) = runs_of(root, bids_database_dir=tmp_path / "db")
    assert run.confounds is not None
    assert [path.name for path in run.tables] == ["sub-01_task-rest-open_motion.tsv"]
    old = write_fmriprep(tmp_path / "old", ())
    write_files(old, *(f"sub-01_task-rest_space-fsaverage5_hemi-{side}.func.gii" for side in "LR"))
    (run,) = runs_of(old, bids_database_dir=tmp_path / "db2")
    assert run.partner is not None


def test_pybids_is_not_imported_without_a_database() -> None:
    """Importing pybids alone would take longer than finding one participant may."""
    code = "import sys, bids_semantoks.inputs.runs; print([m for m in ('bids', 'pandas', 'torch') if m in sys.modules])"
    checkout = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[]"
