"""What BIDS_DIR is found to be."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from helpers.trees import C2009, FMRIPREP, RAW, open_dataset, write_description, write_files, write_fmriprep, write_run

from bids_semantoks.config import SelectionConfig
from bids_semantoks.errors import ConfigurationError, InputError
from bids_semantoks.inputs.datasets import check_out_dir, find_dataset
from bids_semantoks.inputs.names import find_roots

XCP_D = {
    "Name": "XCP-D",
    "BIDSVersion": "1.9.0",
    "DatasetType": "derivative",
    "GeneratedBy": [{"Name": "xcp_d", "Version": "0.10.1"}, {"Name": "fMRIPrep", "Version": "23.1.2"}],
}


def write_xcpd(root: Path) -> Path:
    write_description(root, XCP_D)
    write_files(
        root,
        f"sub-01_task-rest_space-{C2009}_desc-denoised_bold.nii.gz",
        f"sub-01_task-rest_space-{C2009}_seg-4S456Parcels_stat-mean_timeseries.tsv",
    )
    return root


def test_fmriprep_dataset_itself(tmp_path: Path) -> None:
    dataset = open_dataset(write_fmriprep(tmp_path / "fmriprep"))
    assert (dataset.kind, dataset.raw_root) == ("fmriprep", None)
    [one] = dataset.derivatives
    assert (one.name, one.path, one.pipeline, one.kind) == (
        "fmriprep",
        tmp_path / "fmriprep",
        "fMRIPrep 24.1.1",
        "fmriprep",
    )
    assert f" fMRIPrep 24.1.1 (preprocessed BOLD) in {tmp_path / 'fmriprep'}" in dataset.describe()


def test_raw_dataset_with_fmriprep_among_others(tmp_path: Path) -> None:
    root = write_description(tmp_path / "study", RAW)
    write_fmriprep(root / "derivatives" / "prep-v24")
    write_xcpd(root / "derivatives" / "xcp_d")
    write_description(root / "derivatives" / "freesurfer", {"Name": "FreeSurfer", "DatasetType": "derivative"})
    dataset = open_dataset(root)
    assert (dataset.kind, dataset.raw_root) == ("raw", root)
    assert [one.name for one in dataset.derivatives] == ["prep-v24"]
    assert f"raw BIDS dataset in {root}" in dataset.describe()
    assert "fMRIPrep 24.1.1" in dataset.describe()
    assert "\n" not in dataset.describe()


def test_a_wrapper_named_before_fmriprep_counts_when_it_holds_preprocessed_bold(tmp_path: Path) -> None:
    root = write_description(tmp_path / "study", RAW)
    generators = [{"Name": "wrapper", "Version": "7"}, {"Name": "fMRIPrep", "Version": "24.1.1"}]
    write_fmriprep(root / "derivatives" / "wrapped")
    write_description(root / "derivatives" / "wrapped", {**FMRIPREP, "GeneratedBy": generators})
    assert open_dataset(root).derivatives[0].pipeline == "wrapper 7"


def test_two_candidates_are_listed(tmp_path: Path) -> None:
    root = write_description(tmp_path / "study", RAW)
    write_fmriprep(root / "derivatives" / "fmriprep-a")
    write_fmriprep(root / "derivatives" / "fmriprep-b")
    with pytest.raises(
        InputError, match=r"2 fMRIPrep datasets.*fmriprep-a \(fMRIPrep 24\.1\.1\).*fmriprep-b"
    ) as raised:
        open_dataset(root)
    assert raised.value.exit_code == 3
    assert "-d" in raised.value.hint
    assert open_dataset(root, derivatives=("fmriprep-a",)).derivatives[0].name == "fmriprep-a"


def test_out_dir_is_no_candidate(tmp_path: Path) -> None:
    root = write_description(tmp_path / "study", RAW)
    write_fmriprep(root / "derivatives" / "fmriprep")
    out = root / "derivatives" / "semantoks"
    generators = [{"Name": "bids_semantoks", "Version": "0.1"}, {"Name": "fMRIPrep 24.1.1"}]
    write_description(out, {"Name": "ours", "DatasetType": "derivative", "GeneratedBy": generators})
    write_files(out, f"sub-01_task-rest_space-{C2009}_desc-preproc_bold.nii.gz")
    dataset = find_dataset(root, out, SelectionConfig())
    assert [one.name for one in dataset.derivatives] == ["fmriprep"]


def test_out_dir_that_is_fmriprep_is_refused(tmp_path: Path) -> None:
    root = write_description(tmp_path / "study", RAW)
    out = write_fmriprep(root / "derivatives" / "fmriprep")
    with pytest.raises(ConfigurationError, match=r"OUT_DIR.*derivatives/fmriprep.*fMRIPrep 24\.1\.1"):
        find_dataset(root, out, SelectionConfig())


def test_derivatives_by_path_and_by_name(tmp_path: Path) -> None:
    root = write_description(tmp_path / "study", RAW)
    elsewhere = write_fmriprep(tmp_path / "elsewhere" / "prep")
    by_path = open_dataset(root, derivatives=(str(elsewhere),))
    by_name = open_dataset(root, derivatives=(f"mine={elsewhere}",))
    assert [(one.name, one.path) for one in by_path.derivatives] == [("prep", elsewhere)]
    assert [(one.name, one.path) for one in by_name.derivatives] == [("mine", elsewhere)]
    assert by_path.kind == "raw"
    assert by_path.raw_root == root


def test_path_with_an_equals_sign(tmp_path: Path) -> None:
    root = write_description(tmp_path / "study", RAW)
    odd = write_fmriprep(tmp_path / "fwhm=0")
    assert open_dataset(root, derivatives=(str(odd),)).derivatives[0].path == odd


def test_unusable_derivatives(tmp_path: Path) -> None:
    root = write_description(tmp_path / "study", RAW)
    write_fmriprep(root / "derivatives" / "fmriprep")
    with pytest.raises(InputError, match=r"fmriprap \(-d fmriprap\) is not a directory.*Folders in .*: fmriprep\."):
        open_dataset(root, derivatives=("fmriprap",))
    (tmp_path / "bare").mkdir()
    with pytest.raises(InputError, match=r"bare .*has no dataset_description\.json"):
        open_dataset(root, derivatives=(str(tmp_path / "bare"),))
    with pytest.raises(InputError, match=r"\*_desc-preproc_bold"):
        open_dataset(root, derivatives=(str(root),))


@pytest.mark.parametrize("entity", ["seg-4S456Parcels_stat-mean", "atlas-Gordon", "atlas-X_desc-simple"])
def test_parcellated_datasets_are_recognised(tmp_path: Path, entity: str) -> None:
    root = write_description(tmp_path / "series", XCP_D)
    write_files(root, f"sub-07_task-rest_space-{C2009}_{entity}_timeseries.tsv")
    dataset = open_dataset(root)
    assert dataset.kind == "parcellated"
    assert dataset.derivatives[0].kind == "parcellated"
    assert "xcp_d 0.10.1 (parcellated series)" in dataset.describe()


def test_parcellated_dataset_before_dataset_types(tmp_path: Path) -> None:
    root = write_xcpd(tmp_path / "xcp_d")
    write_description(root, {"Name": "XCP-D", "GeneratedBy": [{"Name": "xcp_d", "Version": "0.1"}]})
    assert open_dataset(root).kind == "parcellated"


def test_confounds_alone_are_no_parcellated_series(tmp_path: Path) -> None:
    root = write_description(tmp_path / "series", XCP_D)
    write_files(root, "sub-07_task-rest_desc-confounds_timeseries.tsv")
    with pytest.raises(InputError, match=r"xcp_d 0\.10\.1 with"):
        open_dataset(root)


def test_damaged_neighbour_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_description(tmp_path / "study", RAW)
    write_fmriprep(root / "derivatives" / "fmriprep")
    write_description(root / "derivatives" / "broken", {})
    (root / "derivatives" / "broken" / "dataset_description.json").write_text("{")
    with caplog.at_level(logging.WARNING):
        assert open_dataset(root).derivatives[0].name == "fmriprep"
    assert "derivatives/broken" in caplog.text


def test_raw_dataset_without_derivatives(tmp_path: Path) -> None:
    root = write_description(tmp_path / "study", RAW)
    with pytest.raises(InputError, match=r"raw BIDS dataset without fMRIPrep derivatives.*no derivative dataset"):
        open_dataset(root)
    write_xcpd(root / "derivatives" / "xcp_d")
    with pytest.raises(InputError, match=r"found xcp_d \(xcp_d 0\.10\.1\).*-d PATH"):
        open_dataset(root)


@pytest.mark.parametrize("place", ["derivatives/semantoks", "derivatives/fmriprep-new", "../out", "../study-2"])
def test_allowed_out_dirs(tmp_path: Path, place: str) -> None:
    root = write_description(tmp_path / "study", RAW)
    write_fmriprep(root / "derivatives" / "fmriprep")
    out = root / place
    check_out_dir(root, out, find_dataset(root, out, SelectionConfig()), out / "work")


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (".", "is an input dataset"),
        ("derivatives/fmriprep", r"fMRIPrep 24\.1\.1 dataset"),
        ("derivatives/fmriprep/new", r"fMRIPrep 24\.1\.1 dataset"),
        ("sub-01/out", r"/study/sub-01\."),
        ("derivatives/other/sub-01", r"/other/sub-01\."),
        ("derivatives", "derivatives/<name>"),
        ("code/out", "derivatives/<name>"),
        ("derivatives/ours/new", "derivatives/<name>"),
        ("link", r"fMRIPrep 24\.1\.1 dataset"),
    ],
)
def test_refused_out_dirs(tmp_path: Path, place: str, message: str) -> None:
    root = write_description(tmp_path / "study", RAW)
    write_fmriprep(root / "derivatives" / "fmriprep")
    (root / "link").symlink_to(root / "derivatives" / "fmriprep")
    with pytest.raises(ConfigurationError, match=message) as raised:
        check_out_dir(root, root / place, open_dataset(root))
    assert raised.value.exit_code == 4


def test_out_dir_equal_to_bids_dir_is_refused_at_once(tmp_path: Path) -> None:
    root = write_description(tmp_path / "study", RAW)
    with pytest.raises(ConfigurationError, match=r"OUT_DIR.*BIDS_DIR.*study/derivatives/bids_semantoks"):
        find_dataset(root, root / "code" / "..", SelectionConfig())
    # Below a derivative dataset that is read nothing may be written, so nothing there is proposed.
    root = write_fmriprep(tmp_path / "fmriprep")
    with pytest.raises(ConfigurationError, match=r"OUT_DIR.*BIDS_DIR"):
        find_dataset(root, root, SelectionConfig())


def test_out_dir_in_a_participant_of_a_dataset_that_is_not_read(tmp_path: Path) -> None:
    root = write_fmriprep(tmp_path / "fmriprep")
    other = write_fmriprep(tmp_path / "other")
    with pytest.raises(ConfigurationError, match=r"/other/sub-02\."):
        check_out_dir(root, other / "sub-02" / "out", open_dataset(root))
    # A cluster's scratch folder may well carry a participant's label.
    check_out_dir(root, tmp_path / "scratch" / "sub-02" / "out", open_dataset(root))


def test_out_dir_equal_to_the_raw_root_above_is_refused(tmp_path: Path) -> None:
    root = write_description(tmp_path / "study", RAW)
    prep = write_fmriprep(root / "derivatives" / "fmriprep")
    with pytest.raises(ConfigurationError, match=r"OUT_DIR.*/study"):
        check_out_dir(prep, root, open_dataset(prep))


def test_work_dir_inside_an_input(tmp_path: Path) -> None:
    root = write_description(tmp_path / "study", RAW)
    prep = write_fmriprep(tmp_path / "elsewhere")
    dataset = open_dataset(root, derivatives=(str(prep),))
    for work in (root / "work", prep / "work", prep):
        with pytest.raises(ConfigurationError, match=f"{work}"):
            check_out_dir(root, tmp_path / "out", dataset, work)
    check_out_dir(root, tmp_path / "out", dataset, tmp_path / "work")


def test_two_derivatives_of_one_name_are_refused(tmp_path):
    for place in ("a", "b"):
        write_fmriprep(tmp_path / place / "fmriprep")
    named = tuple(str(tmp_path / place / "fmriprep") for place in ("a", "b"))
    with pytest.raises(InputError, match=r"a/fmriprep.*b/fmriprep\."):
        open_dataset(tmp_path / "a" / "fmriprep", derivatives=named)


def test_raw_root_above_a_derivative_dataset(tmp_path: Path) -> None:
    root = write_description(tmp_path / "study", RAW)
    assert open_dataset(write_fmriprep(root / "derivatives" / "fmriprep")).raw_root == root


def test_not_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"BIDS_DIR .*/file is a file"):
        open_dataset(tmp_path / "file")
    with pytest.raises(InputError, match=r"BIDS_DIR .*/nowhere does not exist"):
        open_dataset(tmp_path / "nowhere")


def test_empty_and_not_bids(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    with pytest.raises(InputError, match="BIDS dataset: expected dataset_description"):
        open_dataset(folder)
    (folder / "cat.jpg").touch()
    with pytest.raises(InputError, match=r"found 1 other entries \(cat\.jpg\)"):
        open_dataset(folder)
    write_fmriprep(folder / "fmriprep")
    with pytest.raises(InputError, match=r"Did you mean .*/photos/fmriprep\?") as raised:
        open_dataset(folder)
    assert raised.value.exit_code == 3


@pytest.mark.parametrize("form", ["relative", "file", "source"])
def test_raw_data_are_found_where_the_description_says(tmp_path: Path, form: str) -> None:
    raw = write_description(tmp_path / "some where" / "raw", RAW)
    places = {"relative": "../some where/raw", "file": f"file://{raw}".replace(" ", "%20"), "source": str(raw)}
    link = {"SourceDatasets": [{"DOI": "x"}, {"URL": places[form]}]} if form == "source" else {}
    link = link or {"DatasetLinks": {"templateflow": "https://x.org/y", "raw": places[form]}}
    root = write_description(tmp_path / "fmriprep", {**FMRIPREP, **link})
    write_run(root, "sub-01_task-rest")
    dataset = open_dataset(root)
    assert dataset.raw_root is not None
    assert dataset.raw_root.resolve() == raw
    assert [path.resolve() for path in find_roots(root)] == [root, raw]


@pytest.mark.parametrize("links", [{"raw": "/data"}, {"raw": "."}, {"x": 3}, ["raw"], {"raw": "../other"}])
def test_links_to_nothing_or_to_derivatives_are_passed_over(tmp_path: Path, links: Any) -> None:
    write_description(tmp_path / "other", FMRIPREP)
    root = write_description(tmp_path / "fmriprep", {**FMRIPREP, "DatasetLinks": links})
    write_run(root, "sub-01_task-rest")
    assert open_dataset(root).raw_root is None
    assert find_roots(root) == (root,)
