"""Filter files in fMRIPrep's format."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
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
    write_fmriprep,
    write_run,
)

from bids_semantoks.config import SelectionConfig
from bids_semantoks.errors import InputError
from bids_semantoks.inputs.runs import find_participants
from bids_semantoks.inputs.selection import read_filter, read_labels


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = write_description(tmp_path / "fmriprep", FMRIPREP)
    for source in ("ses-1_task-rest_run-01", "ses-2_task-rest_acq-x_run-02", "task-nback"):
        write_run(root, f"sub-01_{source}")
    return root


def write_filter(root: Path, content: Any) -> Path:
    path = root.parent / "filter.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("bold", "tasks"),
    [
        ({}, ["nback", "rest", "rest"]),
        ({"task": "rest"}, ["rest", "rest"]),
        ({"task": ["rest", "nback"]}, ["nback", "rest", "rest"]),
        ({"session": ["1"]}, ["rest"]),
        ({"ses": "ses-1"}, ["rest"]),
        ({"session": None}, ["nback"]),
        ({"session": [None, "2"]}, ["nback", "rest"]),
        ({"session": "*"}, ["rest", "rest"]),
        ({"session": "Query.NONE"}, ["nback"]),
        ({"acquisition": "Query.OPTIONAL", "run": "Query.ANY"}, ["rest", "rest"]),
        ({"run": 1}, ["rest"]),
        ({"run": [2], "acquisition": "x"}, ["rest"]),
        (
            {"datatype": "func", "suffix": "bold", "extension": [".nii", ".nii.gz"], "part": ["mag", None]},
            ["nback", "rest", "rest"],
        ),
    ],
)
def test_filters(root: Path, bold: dict[str, Any], tasks: list[str]) -> None:
    runs = runs_of(root, bids_filter_file=write_filter(root, {"bold": bold}))
    assert sorted(str(run.entity("task")) for run in runs) == tasks


@pytest.mark.parametrize("bold", [{"task": "sleep"}, {"suffix": "sbref"}, {"session": "1", "task": "nback"}])
def test_a_filter_that_matches_nothing(root: Path, bold: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"filter\.json.*3 BOLD") as raised:
        runs_of(root, bids_filter_file=write_filter(root, {"bold": bold}))
    assert raised.value.exit_code == 3
    assert "task nback, rest" in raised.value.hint


def test_unknown_keys_warn(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_filter(root, {"bold": {"tsk": "rest"}, "t1w": {"session": "1"}, "blod": {}})
    warnings = read_filter(path).warnings
    assert len(warnings) == 2
    assert "'blod'" in warnings[0]
    assert "unknown entity 'tsk'" in warnings[1]
    # What stands before a colon tells kinds of warnings apart on the console, which says each kind once.
    assert len({warning.partition(": ")[0] for warning in warnings}) == 2
    with caplog.at_level(logging.WARNING):
        assert len(runs_of(root, bids_filter_file=path)) == 3
    assert "blod" in caplog.text


def test_a_filter_without_bold_warns(root: Path) -> None:
    assert "has no 'bold' entry" in read_filter(write_filter(root, {"t1w": {}})).warnings[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"filter\.json cannot be read"),
        ([], "a JSON object"),
        ({"bold": "rest"}, "JSON object with an object 'bold'"),
        ({"bold": {"task": True}}, "'task' .*True"),
        ({"bold": {"task": {"a": 1}}}, r"'task'.*\{'a': 1\}"),
        ({"bold": {"run": [1.5]}}, r"'run'.*found 1\.5"),
    ],
)
def test_filters_of_another_form(root: Path, content: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_filter(write_filter(root, content))


def test_missing_filter_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Filter file .*/gone\.json cannot be read"):
        read_filter(tmp_path / "gone.json")


LABELS = ("2", "10", "1", "A03", "A3")


@pytest.fixture
def root_participants(tmp_path: Path) -> Path:
    return write_fmriprep(tmp_path / "fmriprep", LABELS)


def participants_of(root_participants: Path, **selection: Any) -> tuple[str, ...]:
    return find_participants(open_dataset(root_participants), SelectionConfig(**selection))


def test_all_in_natural_order_without_reports(root_participants: Path) -> None:
    (root_participants / "sub-99").touch()
    (root_participants / "sub-98").symlink_to("nowhere")
    assert participants_of(root_participants) == ("1", "2", "10", "A03", "A3")


def test_labels_with_and_without_prefix(root_participants: Path) -> None:
    assert participants_of(root_participants, participant_label=("sub-10", "1", "sub-1")) == ("1", "10")


def test_labels_from_files(root_participants: Path, tmp_path: Path) -> None:
    listed = tmp_path / "labels.txt"
    listed.write_text("# pilot\nsub-10, 2\n\nA3 # late\n")
    assert participants_of(root_participants, participant_label=(f"@{listed}", "1")) == ("1", "2", "10", "A3")
    table = tmp_path / "participants.tsv"
    table.write_text("age\tparticipant_id\tnote\n23\tsub-10\tgood one\nn/a\tsub-2\t\n")
    assert participants_of(root_participants, participant_label=(f"@{table}",)) == ("2", "10")


def test_unreadable_and_empty_label_files(root_participants: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"/gone\.txt"):
        participants_of(root_participants, participant_label=(f"@{tmp_path / 'gone.txt'}",))
    (tmp_path / "empty.txt").write_text("# nobody\n")
    with pytest.raises(InputError, match=r"empty\.txt"):
        participants_of(root_participants, participant_label=(f"@{tmp_path / 'empty.txt'}",))


@pytest.mark.parametrize("empty", ["", " ", "sub-"])
def test_an_empty_label_does_not_select_everybody(root_participants: Path, empty: str) -> None:
    with pytest.raises(InputError, match="Empty label"):
        participants_of(root_participants, participant_label=(empty,))


def test_exclusions(root_participants: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert participants_of(root_participants, exclude_participant_label=("sub-10", "A03")) == ("1", "2", "A3")
    with caplog.at_level(logging.WARNING):
        assert participants_of(root_participants, participant_label=("1",), exclude_participant_label=("77",)) == ("1",)
    assert "77" in caplog.text
    with pytest.raises(InputError, match=r"1 \(2\)"):
        participants_of(root_participants, participant_label=("2",), exclude_participant_label=("2",))


def test_one_unknown_label_among_several(root_participants: Path) -> None:
    with pytest.raises(InputError, match=r"Participant 'B03' not found in .*: found 5 \(1, 2, 10, A03, A3\)") as raised:
        participants_of(root_participants, participant_label=("1", "sub-B03"))
    assert raised.value.exit_code == 3
    assert raised.value.hint == "Did you mean A03?"


def test_leading_zeros_tell_participants_apart(root_participants: Path) -> None:
    with pytest.raises(InputError, match=r"'01' not found.*Did you mean 1\?"):
        participants_of(root_participants, participant_label=("01",))


def test_long_lists_are_shortened(tmp_path: Path) -> None:
    root_participants = write_description(tmp_path / "fmriprep", FMRIPREP)
    for number in range(30):
        (root_participants / f"sub-{number:02d}").mkdir()
    with pytest.raises(InputError, match=r"found 30 \(00, 01, .*, 11, \.\.\.\)"):
        participants_of(root_participants, participant_label=("x",))


def test_no_participants(tmp_path: Path) -> None:
    root_participants = write_description(tmp_path / "fmriprep", FMRIPREP)
    with pytest.raises(InputError, match=r"sub-\*"):
        participants_of(root_participants, participant_label=("01",))


def test_participant_that_only_the_raw_dataset_has(tmp_path: Path) -> None:
    root_participants = write_description(tmp_path / "study", RAW)
    write_fmriprep(root_participants / "derivatives" / "fmriprep", ("01",))
    (root_participants / "sub-02").mkdir()
    with pytest.raises(InputError, match=r"'02' not found in .*derivatives/fmriprep: found 1 \(01\)"):
        participants_of(root_participants, participant_label=("02",))


def test_labels_keep_their_order_and_lose_doubles() -> None:
    assert read_labels(("task-rest", "nback", "rest"), "task-") == ("rest", "nback")


@pytest.fixture
def root_selection(tmp_path: Path) -> Path:
    root_selection = write_description(tmp_path / "fmriprep", FMRIPREP)
    for direction in ("AP", "PA"):
        for acquisition in ("fast", "slow"):
            write_run(root_selection, f"sub-01_task-rest_acq-{acquisition}_dir-{direction}_run-01", LIN6)
    return root_selection


@pytest.mark.parametrize(
    ("selection", "entities"),
    [
        ({"direction_id": ("PA",)}, {("fast", "PA"), ("slow", "PA")}),
        ({"direction_id": ("dir-PA",), "acquisition_id": ("acq-slow",)}, {("slow", "PA")}),
        (
            {"acquisition_id": ("fast", "slow"), "run_id": ("1",)},
            {(a, d) for a in ("fast", "slow") for d in ("AP", "PA")},
        ),
    ],
)
def test_directions_and_acquisitions(root_selection: Path, selection: Any, entities: set[tuple[str, str]]) -> None:
    assert {(run.entity("acq"), run.entity("dir")) for run in runs_of(root_selection, **selection)} == entities


def test_unknown_directions_and_echoes(root_selection: Path) -> None:
    with pytest.raises(InputError, match=r"Direction 'LR' not found .*: found 2 \(AP, PA\)"):
        runs_of(root_selection, direction_id=("LR",))
    with pytest.raises(InputError, match=r"Echo '1' not found .*: found none"):
        runs_of(root_selection, echo_id=("1",))


def test_echoes(tmp_path: Path) -> None:
    root_selection = write_description(tmp_path / "fmriprep", FMRIPREP)
    for echo in (1, 2, 3):
        write_run(root_selection, f"sub-01_task-rest_echo-{echo}", LIN6)
    assert [run.entity("echo") for run in runs_of(root_selection, echo_id=("02", "3"))] == ["2", "3"]


def test_resolutions(tmp_path: Path) -> None:
    root_selection = write_description(tmp_path / "fmriprep", FMRIPREP)
    write_run(root_selection, "sub-01_task-rest", LIN6, f"{LIN6}_res-1", f"{LIN6}_res-2")
    write_run(root_selection, "sub-02_task-rest", f"{LIN6}_res-1", C2009)
    stem = f"sub-01_task-rest_space-{LIN6}"
    assert names_of(runs_of(root_selection))[0].startswith(f"{stem}_res-1_")
    first, second = runs_of(root_selection, space=f"{LIN6}:res-2")
    assert first.bold.name.startswith(f"{stem}_res-2_")
    assert (first.problem, second.entity("sub")) == ("", "02")
    assert f" {LIN6}:res-2" in second.problem
    assert names_of(runs_of(root_selection, space=f"{LIN6}:res-native"))[0].startswith(f"{stem}_desc-")
    with pytest.raises(InputError, match=r"'3' not found .*: found 3 \(1, 2, native\)"):
        runs_of(root_selection, space=f"{LIN6}:res-3")


def test_cohorts_are_not_mixed(tmp_path: Path) -> None:
    nibabies = {**FMRIPREP, "GeneratedBy": [{"Name": "NiBabies", "Version": "24.1.0"}]}
    root_selection = write_description(tmp_path / "nibabies", nibabies)
    write_run(root_selection, "sub-01_ses-1mo_task-rest", "MNIInfant_cohort-1")
    write_run(root_selection, "sub-02_ses-8mo_task-rest", "MNIInfant_cohort-3")
    with pytest.raises(InputError, match=r"2 cohorts.*1, 3.*--space MNIInfant:cohort-1"):
        runs_of(root_selection, space="MNIInfant")
    first, second = runs_of(root_selection, space="MNIInfant:cohort-3")
    assert (first.entity("cohort"), first.problem) == ("3", "")
    assert "no image in MNIInfant:cohort-3" in second.problem


def test_any_and_no_value_in_a_filter(root_selection: Path, tmp_path: Path) -> None:
    write_run(root_selection, "sub-01_task-rest", LIN6)
    path = tmp_path / "filter.json"
    for value, n_runs in ((None, 1), ("*", 4), ("Query.ANY", 4), ("Query.OPTIONAL", 5), (["AP", None], 3)):
        path.write_text(json.dumps({"bold": {"direction": value}}))
        assert len(runs_of(root_selection, bids_filter_file=path)) == n_runs, value


def test_order_does_not_depend_on_the_file_system(root_selection: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (2, 10, 3):
        write_run(root_selection, f"sub-{number}_task-rest", LIN6, C2009)
    expected = runs_of(root_selection)
    scandir = os.scandir

    class Backwards:
        def __init__(self, folder: str) -> None:
            with scandir(folder) as entries:
                self.entries = sorted(entries, key=lambda entry: entry.name, reverse=True)

        def __enter__(self) -> Iterator[os.DirEntry[str]]:
            return iter(self.entries)

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(os, "scandir", Backwards)
    assert runs_of(root_selection) == expected
    assert [run.entity("sub") for run in expected] == ["01"] * 4 + ["2", "3", "10"]


# --- content that is not here ---


def test_a_sidecar_without_content_is_named(root_selection: Path) -> None:
    sidecar = next(root_selection.rglob("*acq-fast_dir-AP*_bold.json"))
    sidecar.unlink()
    sidecar.symlink_to("../../.git/annex/objects/Xx/Yy/MD5E-s21--0.json")
    (run,) = runs_of(root_selection, direction_id=("AP",), acquisition_id=("fast",))
    assert run.repetition_time is None
    (problem,) = run.time_problems
    assert all(part in problem for part in (f"{sidecar}", "`datalad get`"))


def test_zipped_results_are_named(tmp_path: Path) -> None:
    root_selection = write_description(tmp_path / "fmriprep", FMRIPREP)
    for label in ("01", "02"):
        (root_selection / f"sub-{label}_fmriprep-24-1-1.zip").touch()
    with pytest.raises(InputError, match=r"2 archives such as sub-01_fmriprep-24-1-1\.zip"):
        runs_of(root_selection)
