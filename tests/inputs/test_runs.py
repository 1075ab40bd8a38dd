"""Which runs are found, and which files belong to each."""

from __future__ import annotations

import itertools
import json
import logging
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.trees import (
    C2009,
    FMRIPREP,
    LIN6,
    open_dataset,
    runs_of,
    write_description,
    write_files,
    write_fmriprep,
    write_run,
)

from bids_semantoks.config import SelectionConfig
from bids_semantoks.errors import InputError
from bids_semantoks.inputs import names
from bids_semantoks.inputs.datasets import find_dataset
from bids_semantoks.inputs.runs import find_listed, find_participants, warn_of_missing, warn_of_missing_outputs


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_description(tmp_path / "fmriprep", FMRIPREP)


def test_a_run_with_all_its_files(root: Path) -> None:
    write_run(root, "sub-01_ses-1_task-rest_acq-seq_dir-AP_run-02", f"{LIN6}_res-2", repetition_time=0.8)
    [run] = runs_of(root)
    func = root / "sub-01" / "ses-1" / "func"
    source = "sub-01_ses-1_task-rest_acq-seq_dir-AP_run-02"
    assert run.entities == (
        ("sub", "01"),
        ("ses", "1"),
        ("task", "rest"),
        ("acq", "seq"),
        ("dir", "AP"),
        ("run", "02"),
        ("space", LIN6),
        ("res", "2"),
        ("desc", "preproc"),
    )
    assert run.bold == func / f"{source}_space-{LIN6}_res-2_desc-preproc_bold.nii.gz"
    assert run.mask == func / f"{source}_space-{LIN6}_res-2_desc-brain_mask.nii.gz"
    assert run.confounds == func / f"{source}_desc-confounds_timeseries.tsv"
    assert run.repetition_time == 0.8
    assert (run.pipeline, run.dataset) == ("fMRIPrep 24.1.1", root)


def test_unknown_entities_are_kept_where_they_stand_and_known_ones_sorted(root: Path) -> None:
    write_files(root, f"sub-01_task-rest_run-1_acq-x_zz-9_space-{C2009}_desc-preproc_bold.nii.gz")
    [run] = runs_of(root)
    assert [key for key, _ in run.entities] == ["sub", "task", "acq", "zz", "run", "space", "desc"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("acq-AP", "acq-PA"),
        ("acq-AP", ""),
        ("ce-a", "ce-b"),
        ("rec-a", "rec-b"),
        ("dir-AP", "dir-PA"),
        ("run-1", "run-01"),
        ("run-1", "run-2"),
        ("run-1", ""),
        ("echo-1", "echo-2"),
        ("echo-1", ""),
        ("part-mag", "part-phase"),
        ("zz-1", "zz-2"),
        ("zz-1", ""),
    ],
)
def test_runs_that_differ_in_one_entity_share_no_file(root: Path, first: str, second: str) -> None:
    names = ["_".join(filter(None, ("sub-01_task-rest", entity))) for entity in (first, second)]
    write_run(root, names[0], repetition_time=2.5)
    write_run(root, names[1], repetition_time=0.5)
    runs = runs_of(root)
    assert len(runs) == 2
    for run in runs:
        source = run.bold.name.removesuffix(f"_space-{C2009}_desc-preproc_bold.nii.gz")
        assert run.mask is not None
        assert run.mask.name == f"{source}_space-{C2009}_desc-brain_mask.nii.gz"
        assert run.confounds is not None
        assert run.confounds.name == f"{source}_desc-confounds_timeseries.tsv"
    by_source = {run.bold.name.partition("_space")[0]: run.repetition_time for run in runs}
    assert by_source == {names[0]: 2.5, names[1]: 0.5}


@pytest.mark.parametrize("entity", ["acq-PA", "run-1", "echo-1", "zz-1", "ses-1"])
def test_files_of_another_run_are_not_borrowed(root: Path, entity: str) -> None:
    """One run has only its BOLD, its neighbour has only mask and confounds: nothing is paired, either way round."""
    plain, other = "sub-01_task-rest", f"sub-01_task-rest_{entity}"
    for label, pair in {"01": (plain, other), "02": (other, plain)}.items():
        bold, rest = (name.replace("sub-01", f"sub-{label}") for name in pair)
        folder = f"sub-{label}/func"
        write_files(root, f"{bold}_space-{C2009}_desc-preproc_bold.nii.gz", folder=folder)
        write_files(root, f"{rest}_space-{C2009}_desc-brain_mask.nii.gz", folder=folder)
        write_files(root, f"{rest}_desc-confounds_timeseries.tsv", folder=folder)
    runs = runs_of(root)
    assert [(run.mask, run.confounds, run.repetition_time) for run in runs] == [(None, None, None)] * 2


def test_a_mask_must_share_space_and_resolution(root: Path) -> None:
    write_run(root, "sub-01_task-rest", f"{LIN6}_res-2", C2009)
    func = root / "sub-01" / "func"
    (func / f"sub-01_task-rest_space-{LIN6}_res-2_desc-brain_mask.nii.gz").rename(
        func / f"sub-01_task-rest_space-{LIN6}_res-1_desc-brain_mask.nii.gz"
    )
    assert runs_of(root, space=LIN6)[0].mask is None
    mask = runs_of(root, space=C2009)[0].mask
    assert mask == func / f"sub-01_task-rest_space-{C2009}_desc-brain_mask.nii.gz"


def test_optimally_combined_echoes_keep_their_own_confounds(root: Path) -> None:
    write_run(root, "sub-01_task-rest")
    for echo in (1, 2, 3):
        write_files(root, f"sub-01_task-rest_echo-{echo}_desc-preproc_bold.nii.gz")
    [run] = runs_of(root)
    assert run.entity("echo") is None
    assert run.confounds is not None


def test_names_of_old_fmriprep(root: Path) -> None:
    stem = "sub-132_task-trust_run-01"
    write_files(
        root,
        f"{stem}_desc-confounds_regressors.tsv",
        f"{stem}_desc-confounds_regressors.json",
        f"{stem}_space-{C2009}_desc-brain_mask.nii.gz",
        f"{stem}_space-{C2009}_desc-preproc_bold.nii.gz",
        f"{stem}_space-{C2009}_desc-smoothAROMAnonaggr_bold.nii.gz",
    )
    [run] = runs_of(root)
    assert run.confounds is not None
    assert run.confounds.name == f"{stem}_desc-confounds_regressors.tsv"
    write_files(root, f"{stem}_desc-confounds_timeseries.tsv")
    [run] = runs_of(root)
    assert run.confounds is not None
    assert run.confounds.name == f"{stem}_desc-confounds_timeseries.tsv"


def test_only_preprocessed_volumes_count(root: Path) -> None:
    write_run(root, "sub-01_task-rest")
    write_files(
        root,
        "sub-01_task-rest_bold.nii.gz",
        f"sub-01_task-rest_space-{C2009}_desc-denoised_bold.nii.gz",
        "sub-01_task-rest_hemi-L_space-fsaverage_bold.func.gii",
        "sub-01_task-rest_space-fsLR_den-91k_bold.dtseries.nii",
        f"sub-01_task-rest_space-{C2009}_desc-preproc_bold.nii.gz.tmp",
        folder="sub-01/func",
    )
    write_files(root, f"sub-02_task-rest_space-{C2009}_desc-preproc_bold.nii.gz", folder="sub-01/func")
    read, other = runs_of(root)
    assert read.bold.name == f"sub-01_task-rest_space-{C2009}_desc-preproc_bold.nii.gz"
    assert (other.reason, other.entity("sub")) == ("unreadable_name", "01")
    assert all(part in other.problem for part in ("sub-01", "participant 02,"))


def test_uncompressed_images(root: Path) -> None:
    stem = f"sub-01_task-rest_space-{C2009}"
    write_files(root, f"{stem}_desc-preproc_bold.nii", f"{stem}_desc-brain_mask.nii")
    [run] = runs_of(root)
    assert (run.bold.name, run.mask and run.mask.name) == (
        f"{stem}_desc-preproc_bold.nii",
        f"{stem}_desc-brain_mask.nii",
    )
    write_files(root, f"{stem}_desc-preproc_bold.nii.gz")
    with pytest.raises(InputError, match=f"/{stem}_desc-preproc_bold.nii.*nii.gz"):
        runs_of(root)


def test_links_without_content_still_make_a_run(root: Path) -> None:
    func = root / "sub-01" / "func"
    func.mkdir(parents=True)
    stem = f"sub-01_task-rest_space-{C2009}"
    names = [f"{stem}_desc-preproc_bold.nii.gz", f"{stem}_desc-preproc_bold.json", f"{stem}_desc-brain_mask.nii.gz"]
    for name in (*names, "sub-01_task-rest_desc-confounds_timeseries.tsv"):
        (func / name).symlink_to(f"../../.git/annex/objects/{name}")
    [run] = runs_of(root)
    assert not run.bold.exists()
    assert run.bold.is_symlink()
    assert run.mask == func / names[2]
    assert run.confounds == func / "sub-01_task-rest_desc-confounds_timeseries.tsv"
    assert run.repetition_time is None


def test_links_are_followed(tmp_path: Path, root: Path) -> None:
    store = write_fmriprep(tmp_path / "store", ("01",))
    (root / "sub-01").symlink_to(store / "sub-01")
    (root / "sub-02").mkdir()
    (root / "sub-02" / "func").symlink_to(store / "sub-01" / "func")
    assert [run.bold.parent for run in runs_of(root, participant_label=("01",))] == [root / "sub-01" / "func"]


class _Shuffled:
    """`os.scandir` with its entries in another order."""

    def __init__(self, path: Any, seed: int) -> None:
        with _SCANDIR(path) as entries:
            self.entries = sorted(entries, key=lambda entry: entry.name)
        random.Random(seed).shuffle(self.entries)

    def __enter__(self) -> Iterator[os.DirEntry[str]]:
        return iter(self.entries)

    def __exit__(self, *error: object) -> None:
        pass


_SCANDIR: Callable[..., Any] = os.scandir


def test_order_is_natural_and_not_the_file_systems(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for label, session, number in itertools.product(("10", "9"), ("b", "a"), ("10", "2", "1")):
        write_run(root, f"sub-{label}_ses-{session}_task-rest_run-{number}", f"{LIN6}_res-2", f"{LIN6}_res-1")
    expected = [
        (label, session, number) for label in ("9", "10") for session in ("a", "b") for number in ("1", "2", "10")
    ]
    results = []
    for seed in range(4):
        monkeypatch.setattr(names.os, "scandir", lambda path, seed=seed: _Shuffled(path, seed))
        results.append(runs_of(root))
    assert [(run.entity("sub"), run.entity("ses"), run.entity("run")) for run in results[0]] == expected
    assert all(result == results[0] for result in results)


def test_nothing_is_written_and_only_the_asked_are_listed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_fmriprep(root, ("01", "02", "03"))
    before = {path: path.lstat().st_mtime_ns for path in root.rglob("*")}
    listed = []
    monkeypatch.setattr(names.os, "scandir", lambda path: (listed.append(str(path)), _SCANDIR(path))[1])
    runs_of(root, participant_label=("02",))
    monkeypatch.undo()
    assert {path: path.lstat().st_mtime_ns for path in root.rglob("*")} == before
    assert sorted(set(listed)) == [str(root), str(root / "sub-02"), str(root / "sub-02" / "func")]


@pytest.fixture
def study(root: Path) -> Path:
    for label, session, task in itertools.product(("01", "02"), ("1", "2"), ("rest", "nback")):
        if (session, task) != ("1", "nback"):
            write_run(root, f"sub-{label}_ses-{session}_task-{task}_run-01")
    write_run(root, "sub-02_ses-2_task-rest_run-02")
    write_run(root, "sub-02_ses-3_task-rest")
    return root


@pytest.mark.parametrize(
    ("selection", "count"),
    [
        ({}, 8),
        ({"session_id": ("2",)}, 5),
        ({"session_id": ("ses-1", "3")}, 3),
        ({"task_id": ("nback",)}, 2),
        ({"task_id": ("task-rest",)}, 6),
        ({"run_id": ("1",)}, 6),
        ({"run_id": ("02",)}, 1),
        ({"session_id": ("2",), "task_id": ("rest",), "run_id": ("1", "2")}, 3),
    ],
)
def test_selection(study: Path, selection: dict[str, Any], count: int) -> None:
    assert len(runs_of(study, **selection)) == count


@pytest.mark.parametrize(
    ("selection", "message", "nearest"),
    [
        ({"session_id": ("2", "4")}, r"Session '4' not found in the selected .*: found 3 \(1, 2, 3\)", "1"),
        ({"task_id": ("resting",)}, r"Task 'resting' not found in the selected .*: found 2 \(nback, rest\)", "rest"),
        ({"run_id": ("12",)}, r"Run '12' not found in the selected .*: found 2 \(01, 02\)", "02"),
        ({"session_id": ("3",), "participant_label": ("01",)}, r"Session '3' not found .*: found 2 \(1, 2\)", "1"),
    ],
)
def test_unknown_selections(study: Path, selection: dict[str, Any], message: str, nearest: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        runs_of(study, **selection)
    assert raised.value.exit_code == 3
    assert raised.value.hint.startswith("Did you mean ")


def test_a_session_that_one_selected_participant_has_is_enough(study: Path) -> None:
    assert [run.entity("sub") for run in runs_of(study, session_id=("3",))] == ["02"]


def test_selections_that_exclude_each_other(study: Path) -> None:
    with pytest.raises(InputError, match="session 1 and task nback"):
        runs_of(study, session_id=("1",), task_id=("nback",))


def test_no_bold_at_all(root: Path) -> None:
    write_files(root, "sub-01_T1w.nii.gz", folder="sub-01/anat")
    (root / "sub-02").mkdir()
    with pytest.raises(InputError, match=r"BOLD.*2 \(01, 02\)") as raised:
        runs_of(root)
    assert raised.value.exit_code == 3


def test_parcellated_series_are_said_to_hold_no_bold(tmp_path: Path) -> None:
    root = write_description(tmp_path / "xcp", {"Name": "xcp_d", "DatasetType": "derivative"})
    write_files(root, f"sub-01_task-rest_space-{C2009}_seg-X_timeseries.tsv")
    with pytest.raises(InputError, match=r"desc-preproc_bold\.nii\.gz for at least one of 1 \(01\)"):
        runs_of(root)


def test_two_datasets_with_the_same_run(tmp_path: Path) -> None:
    first, second = write_fmriprep(tmp_path / "a", ("01",)), write_fmriprep(tmp_path / "b", ("01", "02"))
    both = (str(first), str(second))
    with pytest.raises(InputError, match=r"/a/sub-01/.*/b/sub-01/"):
        runs_of(first, derivatives=both)
    assert [run.dataset for run in runs_of(first, derivatives=both, participant_label=("02",))] == [second]


def test_the_real_hybrid_dataset() -> None:
    shared = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "fmriprep_hybrid"
    if not shared.is_dir():
        pytest.skip("the shared data are not here")
    runs = runs_of(shared)
    assert [(run.entity("sub"), run.space, run.repetition_time) for run in runs] == [
        ("001", C2009, 3.0),
        ("004", C2009, 3.0),
    ]
    assert all(run.mask is not None and run.confounds is not None for run in runs)
    assert open_dataset(shared).raw_root == shared


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
    with pytest.raises(InputError, match=r"MNI152NLin6Asym,.*T1w\..*--space"):
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


@pytest.mark.parametrize("spelled", ["MNIInfant+1", "MNIInfant_cohort-1"])
@pytest.mark.parametrize("asked", ["MNIInfant", "MNIInfant+1", "MNIInfant:cohort-1", "MNIInfant_cohort-1"])
def test_cohorts_may_be_spelled_in_two_ways(root: Path, spelled: str, asked: str) -> None:
    write_run(root, "sub-01_ses-1mo_task-rest", spelled)
    (run,) = runs_of(root, space=asked)
    assert (run.space, run.entity("cohort")) == ("MNIInfant", "1")
    assert run.mask is not None
    with pytest.raises(InputError, match=r"Cohort of space MNIInfant '2' not found"):
        runs_of(root, space="MNIInfant+2")
    for value, n_runs in (("MNIInfant+1", 1), ("MNIInfant", 1)):
        path = root.parent / "filter.json"
        path.write_text(json.dumps({"bold": {"space": value}}))
        assert len(runs_of(root, space=asked, bids_filter_file=path)) == n_runs


@pytest.mark.parametrize("name", ["_bold.dtseries.nii", "_space-fsaverage5_hemi-L.func.gii"])
def test_surfaces_of_old_fmriprep(root: Path, name: str) -> None:
    write_files(root, f"sub-01_task-rest{name}", f"sub-01_task-rest{name.replace('-L', '-R')}")
    (run,) = runs_of(root)
    assert run.space == ("fsaverage5" if "hemi" in name else "fsLR")
    assert (run.partner is not None) == ("hemi" in name)


def test_runs_none_of_which_can_be_read_still_fail_one_by_one(root: Path) -> None:
    write_run(root, "sub-01_task-rest_run-1_run-1", C2009)
    (run,) = runs_of(root)
    assert (run.reason, run.space) == ("unreadable_name", C2009)


def test_output_of_level_minimal_is_named_as_such(root: Path) -> None:
    write_files(root, "sub-01_task-rest_desc-hmc_boldref.nii.gz", "sub-01_task-rest_desc-coreg_boldref.nii.gz")
    with pytest.raises(
        InputError, match=rf"--level minimal.*fmriprep RAW OUT participant --derivatives minimal={root}"
    ):
        runs_of(root)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Participants 01 and 02 with BOLD, 03 with a folder, 04 with raw data alone, 05 in the table alone."""
    fmriprep = tmp_path / "raw" / "derivatives" / "fmriprep"
    for label in ("01", "02", "03"):
        (fmriprep / f"sub-{label}" / "func").mkdir(parents=True)
    for label in ("01", "02"):
        (fmriprep / f"sub-{label}" / "func" / f"sub-{label}_task-rest_space-S_desc-preproc_bold.nii.gz").touch()
    description = {
        "Name": "x",
        "BIDSVersion": "1.8.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "fMRIPrep"}],
    }
    (fmriprep / "dataset_description.json").write_text(json.dumps(description))
    (tmp_path / "raw" / "sub-04").mkdir()
    (tmp_path / "raw" / "dataset_description.json").write_text(json.dumps({"Name": "x", "BIDSVersion": "1.8.0"}))
    (tmp_path / "raw" / "participants.tsv").write_text("participant_id\tage\nsub-01\t9\nsub-05\t8\nn/a\t\n")
    return tmp_path / "raw"


@pytest.mark.parametrize("folder", ["", "derivatives/fmriprep"])
def test_those_without_derivatives_are_named(raw: Path, folder: str, caplog: pytest.LogCaptureFixture) -> None:
    def tell(**asked: tuple[str, ...]) -> str:
        caplog.clear()
        selection = SelectionConfig(space="S", **asked)
        dataset = find_dataset(raw / folder, raw.parent / "out", selection)
        warn_of_missing(dataset, selection, find_participants(dataset, selection))
        return caplog.text

    text = tell()
    assert f"Participants of {raw} without derivatives in {raw / 'derivatives' / 'fmriprep'}: 2 (04, 05)" in text
    assert "2 (04, 05)" in tell(exclude_participant_label=("02",))
    assert tell(participant_label=("01",)) == ""
    warn_of_missing_outputs(raw / folder, raw.parent / "out", {"01", "03", "05"})
    assert "without signals in" in caplog.text
    assert find_listed(raw) == {"01", "04", "05"}


def test_absent_labels_are_named_and_passed_over(raw: Path, caplog: pytest.LogCaptureFixture) -> None:
    labels = raw / "labels.txt"
    labels.write_text("01 04\n99\n")

    def find(*asked: str, lenient: bool = True) -> tuple[str, ...]:
        selection = SelectionConfig(participant_label=asked, ignore_missing_participants=lenient)
        return tuple(find_participants(find_dataset(raw, raw.parent / "out", selection), selection))

    assert find(f"@{labels}") == ("01",)
    assert "2 of 3 requested" in caplog.text
    assert "2 (04, 99)" in caplog.text
    for asked, lenient in ((("99",), True), ((f"@{labels}",), False)):
        with pytest.raises(InputError, match="'99' not found in"):
            find(*asked, lenient=lenient)
