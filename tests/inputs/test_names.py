"""Folders are listed: what lies in func, what is hidden, and what may not be read."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest
from helpers.trees import (
    C2009,
    FMRIPREP,
    LIN6,
    RAW,
    names_of,
    open_dataset,
    runs_of,
    write_description,
    write_files,
    write_fmriprep,
    write_run,
)

from bids_semantoks.errors import ConfigurationError, InputError
from bids_semantoks.inputs.names import Description, find_folders, list_func_files, recognise_pipeline, split_named


@pytest.mark.parametrize(
    ("description", "pipeline"),
    [
        ({"Name": "x", "PipelineDescription": {"Name": "fMRIPrep", "Version": "1.5.3"}}, "fMRIPrep 1.5.3"),
        ({"Name": "fMRIPrep - fMRI PREProcessing workflow"}, "fMRIPrep"),
        ({"Name": "x", "GeneratedBy": [{"Name": "fMRIPrep"}]}, "fMRIPrep"),
        ({"Name": "x", "GeneratedBy": {"Name": "fmriprep-docker", "Version": "2"}}, "fmriprep-docker 2"),
    ],
)
def test_old_and_odd_descriptions_of_fmriprep(tmp_path: Path, description: dict[str, object], pipeline: str) -> None:
    root = write_fmriprep(tmp_path / "old")
    write_description(root, description)
    assert open_dataset(root).derivatives[0].pipeline == pipeline


def test_broken_description(tmp_path: Path) -> None:
    root = write_fmriprep(tmp_path / "fmriprep")
    (root / "dataset_description.json").write_text('{"Name": "fMRIPrep",')
    with pytest.raises(InputError, match=r"fmriprep/dataset_description\.json cannot be read as JSON: .*line 1"):
        open_dataset(root)
    (root / "dataset_description.json").write_text("[]")
    with pytest.raises(InputError, match="a JSON object, found list"):
        open_dataset(root)


def test_description_missing_or_without_content(tmp_path: Path) -> None:
    root = write_fmriprep(tmp_path / "fmriprep")
    (root / "dataset_description.json").unlink()
    with pytest.raises(InputError, match=r"sub-\* folders but no dataset_description"):
        open_dataset(root)
    (root / "dataset_description.json").symlink_to(".git/annex/objects/gone")
    with pytest.raises(InputError, match="datalad get"):
        open_dataset(root)


def described(name: str, version: str = "1") -> dict[str, Any]:
    return {**RAW, "DatasetType": "derivative", "GeneratedBy": [{"Name": name, "Version": version}]}


def write_denoised(root: Path, *, stem: str = "sub-01_task-rest", desc: str = "denoised") -> Path:
    write_description(root, described("xcp_d", "0.10.6"))
    write_files(
        root,
        f"{stem}_space-{C2009}_res-2_desc-{desc}_bold.nii.gz",
        f"{stem}_space-{C2009}_res-2_desc-denoisedSmoothed_bold.nii.gz",
        f"{stem}_space-{C2009}_res-2_desc-brain_mask.nii.gz",
        f"{stem}_outliers.tsv",
        f"{stem}_motion.tsv",
        f"{stem}_desc-confounds_timeseries.tsv",
    )
    write_files(root, f"{stem}_space-{C2009}_res-2_desc-{desc}_bold.json")
    next(root.rglob("*_bold.json")).write_text('{"RepetitionTime": 2.5}')
    return root


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("fMRIPrep", "fMRIPrep"),
        ("fmriprep", "fMRIPrep"),
        ("NiBabies", "NiBabies"),
        ("nibabies", "NiBabies"),
        ("xcp_d", "XCP-D"),
        ("XCP-D", "XCP-D"),
        ("fMRIPost-AROMA", "fMRIPost-AROMA"),
        ("giga_connectome", "giga_connectome"),
        ("bids_semantoks", "bids_semantoks"),
        ("HALFpipe", ""),
    ],
)
def test_pipelines_are_recognised_by_generated_by(name: str, label: str) -> None:
    description = Description(name="x", dataset_type="derivative", generators=((name, "1"), ("fMRIPrep", "23")))
    assert recognise_pipeline(description).label == label


def test_datasets_before_generated_by_are_recognised_by_their_name() -> None:
    description = Description(name="fMRIPrep - fMRI PREProcessing workflow", dataset_type="", generators=())
    assert recognise_pipeline(description).label == "fMRIPrep"
    assert recognise_pipeline(None).label == ""


@pytest.mark.parametrize(
    ("version", "confounds", "key"),
    [
        ("1.5.3", "desc-confounds_regressors", "PipelineDescription"),
        ("20.1.0", "desc-confounds_regressors", "PipelineDescription"),
        ("20.2.1", "desc-confounds_timeseries", "GeneratedBy"),
        ("21.0.4", "desc-confounds_timeseries", "GeneratedBy"),
        ("23.1.2", "desc-confounds_timeseries", "GeneratedBy"),
        ("24.1.1", "desc-confounds_timeseries", "GeneratedBy"),
        ("25.0.0", "desc-confounds_timeseries", "GeneratedBy"),
    ],
)
def test_versions_of_fmriprep(tmp_path: Path, version: str, confounds: str, key: str) -> None:
    entry: Any = {"Name": "fMRIPrep", "Version": version}
    content = {"Name": "fMRIPrep", "BIDSVersion": "1.4.0", key: entry if key.startswith("P") else [entry]}
    content |= {"DatasetType": "derivative"} if key.startswith("G") else {}
    root = write_description(tmp_path / "fmriprep", content)
    stem = "sub-01_ses-pre_task-rest_acq-seq_run-01"
    write_files(root, f"{stem}_{confounds}.tsv", f"{stem}_{confounds}.json")
    for res in ("", "_res-2"):
        write_files(root, *(f"{stem}_space-{LIN6}{res}_desc-{end}.nii.gz" for end in ("preproc_bold", "brain_mask")))
    (run,) = runs_of(root)
    assert (run.recognised, run.pipeline, run.is_denoised) == ("fMRIPrep", f"fMRIPrep {version}", False)
    assert run.confounds is not None
    assert run.confounds.name == f"{stem}_{confounds}.tsv"
    assert run.bold.name == f"{stem}_space-{LIN6}_res-2_desc-preproc_bold.nii.gz"
    assert run.mask is not None
    assert run.mask.name == f"{stem}_space-{LIN6}_res-2_desc-brain_mask.nii.gz"


def test_nibabies_is_found_below_a_raw_dataset(tmp_path: Path) -> None:
    raw = write_description(tmp_path / "raw", RAW)
    root = write_description(raw / "derivatives" / "nibabies", described("NiBabies", "25.0.1"))
    write_run(root, "sub-01_ses-1mo_task-rest", "MNIInfant_cohort-1_res-1", LIN6)
    assert [derivative.source.label for derivative in open_dataset(raw).derivatives] == ["NiBabies"]
    (run,) = runs_of(raw, space="MNIInfant:cohort-1")
    assert run.entities[-3:-1] == (("cohort", "1"), ("res", "1"))
    assert run.mask is not None
    assert names_of(runs_of(raw))[0].startswith(f"sub-01_ses-1mo_task-rest_space-{LIN6}")


@pytest.mark.parametrize("desc", ["denoised", "interpolated", "residual"])
def test_denoised_images_of_xcpd(tmp_path: Path, desc: str) -> None:
    root = write_denoised(tmp_path / "xcp_d", desc=desc)
    (run,) = runs_of(root)
    assert run.bold.name == f"sub-01_task-rest_space-{C2009}_res-2_desc-{desc}_bold.nii.gz"
    assert (run.recognised, run.is_denoised, run.repetition_time) == ("XCP-D", True, 2.5)
    assert run.mask is not None
    assert run.confounds is not None
    assert run.confounds.name == "sub-01_task-rest_outliers.tsv"
    assert [path.name for path in run.tables] == ["sub-01_task-rest_motion.tsv"]
    dataset = open_dataset(root)
    assert dataset.denoised is not None
    (sentence,) = dataset.describe_recognised()
    assert all(part in sentence for part in (" xcp_d 0.10.6 as XCP-D", "already denoised and filtered"))


def test_of_xcpd_series_come_first_unless_images_are_asked_for(tmp_path: Path) -> None:
    root = write_denoised(tmp_path / "xcp_d")
    write_files(root, f"sub-01_task-rest_space-{C2009}_seg-4S456Parcels_stat-mean_timeseries.tsv")
    dataset = open_dataset(root)
    assert dataset.is_parcellated
    assert dataset.denoised is None
    assert open_dataset(root, input_type="series").is_parcellated
    assert not open_dataset(root, input_type="images").is_parcellated
    assert runs_of(root, input_type="images")[0].is_denoised


def test_what_is_asked_for_must_be_there(tmp_path: Path) -> None:
    root = write_denoised(tmp_path / "xcp_d")
    with pytest.raises(
        InputError, match=r"xcp_d 0\.10\.6 with no parcellated \*_timeseries\.tsv \(--input-type series"
    ):
        open_dataset(root, input_type="series")
    raw = write_description(tmp_path / "raw", RAW)
    with pytest.raises(InputError, match=r"xcp_d 0\.10\.6\)"):
        open_dataset(raw, input_type="series", derivatives=(str(root),))


def test_denoised_and_other_images_are_not_mixed(tmp_path: Path) -> None:
    root = write_denoised(tmp_path / "xcp_d")
    fmriprep = write_description(tmp_path / "fmriprep", described("fMRIPrep"))
    write_run(fmriprep, "sub-02_task-rest")
    with pytest.raises(
        ConfigurationError, match=r"different kinds: .*xcp_d \(denoised BOLD\); .*\(preprocessed BOLD\)"
    ):
        open_dataset(root, derivatives=(str(root), str(fmriprep)))


def test_components_alone_are_no_images(tmp_path: Path) -> None:
    root = write_description(tmp_path / "aroma", described("fMRIPost-AROMA", "0.0.12"))
    write_files(root, "sub-01_task-rest_desc-aroma_timeseries.tsv")
    with pytest.raises(InputError, match=r"\(fMRIPost-AROMA 0\.0\.12\)"):
        open_dataset(root)
    raw = write_description(tmp_path / "raw", RAW)
    with pytest.raises(InputError, match="ICA-AROMA"):
        open_dataset(raw, derivatives=(f"aroma={root}",))


def test_images_that_aroma_denoised_are_read_as_they_are(tmp_path: Path) -> None:
    root = write_description(tmp_path / "aroma", described("fMRIPost-AROMA"))
    write_files(
        root, *(f"sub-01_task-rest_space-{LIN6}_res-2_desc-{d}Denoised_bold.nii.gz" for d in ("nonaggr", "aggr"))
    )
    (run,) = runs_of(root)
    assert run.bold.name == f"sub-01_task-rest_space-{LIN6}_res-2_desc-nonaggrDenoised_bold.nii.gz"
    assert (run.recognised, run.is_denoised, run.mask, run.confounds) == ("fMRIPost-AROMA", True, None, None)


def test_unknown_pipelines_are_read_like_fmriprep_and_said_to_be(tmp_path: Path) -> None:
    root = write_description(tmp_path / "halfpipe", described("HALFpipe", "1.2"))
    write_run(root, "sub-01_task-rest")
    assert runs_of(root)[0].recognised == ""
    (sentence,) = open_dataset(root).describe_recognised()
    assert all(part in sentence for part in ("HALFpipe 1.2", "fMRIPrep"))


def test_an_empty_subdataset_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    raw = write_description(tmp_path / "raw", RAW)
    (raw / "derivatives" / "fmriprep").mkdir(parents=True)
    with pytest.raises(InputError, match="fmriprep is empty"):
        open_dataset(raw)


def test_components_of_another_dataset_go_with_their_runs(tmp_path: Path) -> None:
    fmriprep = write_description(tmp_path / "fmriprep", described("fMRIPrep", "24.1.1"))
    aroma = write_description(tmp_path / "aroma", described("fMRIPost-AROMA", "0.0.12"))
    for run in (1, 2, 3):
        write_run(fmriprep, f"sub-01_task-rest_run-{run}", LIN6)
    # The first has the table of noise components; the second the parts it is made of; the third nothing.
    write_files(aroma, "sub-01_task-rest_run-1_desc-aroma_timeseries.tsv")
    for run in (1, 2):
        stem = f"sub-01_task-rest_run-{run}"
        write_files(aroma, f"{stem}_space-{LIN6}_res-2_desc-melodic_mixing.tsv", f"{stem}_desc-aroma_metrics.tsv")
        write_files(aroma, f"{stem}_space-{LIN6}_res-2_desc-nonaggrDenoised_bold.nii.gz")
    raw = write_description(tmp_path / "raw", RAW)
    for order in ((f"fmriprep={fmriprep}", f"aroma={aroma}"), (f"aroma={aroma}", f"fmriprep={fmriprep}")):
        dataset = open_dataset(raw, derivatives=order)
        assert sorted((one.name, one.kind) for one in dataset.derivatives) == [
            ("aroma", "aroma"),
            ("fmriprep", "fmriprep"),
        ]
        assert dataset.denoised is None
        runs = runs_of(raw, derivatives=order)
        assert [run.recognised for run in runs] == ["fMRIPrep"] * 3
        assert [[path.name for path in run.tables] for run in runs] == [
            ["sub-01_task-rest_run-1_desc-aroma_timeseries.tsv"],
            [
                f"sub-01_task-rest_run-2_space-{LIN6}_res-2_desc-melodic_mixing.tsv",
                "sub-01_task-rest_run-2_desc-aroma_metrics.tsv",
            ],
            [],
        ]


def test_several_datasets_hold_different_participants(tmp_path: Path) -> None:
    raw = write_description(tmp_path / "raw", RAW)
    for name, label in (("first", "02"), ("second", "01")):
        write_run(write_description(tmp_path / name, described("fMRIPrep")), f"sub-{label}_task-rest")
    runs = runs_of(raw, derivatives=(f"a={tmp_path / 'first'}", f"b={tmp_path / 'second'}"))
    assert [(run.entity("sub"), run.dataset.name) for run in runs] == [("01", "second"), ("02", "first")]


def test_folders_in_func_count_and_hidden_files_do_not(tmp_path: Path) -> None:
    names = ("sub-01/func/a.tsv", "sub-01/func/task-rest/b.tsv", "sub-01/ses-1/func/c.tsv", "sub-01/d.json")
    for name in (*names, "sub-01/func/._a.tsv", "sub-01/anat/e.tsv", "sub-01/f.tsv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert list_func_files(str(tmp_path / "sub-01")) == sorted(str(tmp_path / name) for name in names)


@pytest.mark.parametrize("closed", ["sub-01/func", "sub-01", "."])
def test_a_folder_that_may_not_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed: str) -> None:
    description = {**FMRIPREP, "GeneratedBy": [{"Name": "other"}]}
    root = write_description(write_fmriprep(tmp_path / "prep", ("01",)), description)
    real = os.scandir

    def scan(folder):
        if Path(folder) == root / closed:
            raise PermissionError(13, "Permission denied", str(folder))
        return real(folder)

    monkeypatch.setattr(os, "scandir", scan)
    with pytest.raises(InputError, match=rf"Folder {root / closed} cannot be listed: Permission denied"):
        open_dataset(root)
    if closed == ".":
        with pytest.raises(InputError, match="cannot be listed"):
            find_folders(root)


def test_a_name_is_split_from_its_path_unless_the_path_is_there(tmp_path: Path) -> None:
    (tmp_path / "a=b").mkdir()
    assert split_named(f"{tmp_path}/a=b") == ("", tmp_path / "a=b")
    assert split_named(f"prep={tmp_path}/a=b") == ("prep", tmp_path / "a=b")
    assert split_named("/x/y") == ("", Path("/x/y"))
