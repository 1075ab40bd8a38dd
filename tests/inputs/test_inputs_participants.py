"""Which participants are selected."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from inputs_trees import FMRIPREP, RAW, open_dataset, write_description, write_fmriprep

from bids_semantoks.config import SelectionConfig
from bids_semantoks.errors import InputError
from bids_semantoks.inputs.runs import find_participants
from bids_semantoks.inputs.selection import read_labels

LABELS = ("2", "10", "1", "A03", "A3")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_fmriprep(tmp_path / "fmriprep", LABELS)


def participants_of(root: Path, **selection: Any) -> tuple[str, ...]:
    return find_participants(open_dataset(root), SelectionConfig(**selection))


def test_all_in_natural_order_without_reports(root: Path) -> None:
    (root / "sub-99").touch()
    (root / "sub-98").symlink_to("nowhere")
    assert participants_of(root) == ("1", "2", "10", "A03", "A3")


def test_labels_with_and_without_prefix(root: Path) -> None:
    assert participants_of(root, participant_label=("sub-10", "1", "sub-1")) == ("1", "10")


def test_labels_from_files(root: Path, tmp_path: Path) -> None:
    listed = tmp_path / "labels.txt"
    listed.write_text("# pilot\nsub-10, 2\n\nA3 # late\n")
    assert participants_of(root, participant_label=(f"@{listed}", "1")) == ("1", "2", "10", "A3")
    table = tmp_path / "participants.tsv"
    table.write_text("age\tparticipant_id\tnote\n23\tsub-10\tgood one\nn/a\tsub-2\t\n")
    assert participants_of(root, participant_label=(f"@{table}",)) == ("2", "10")


def test_unreadable_and_empty_label_files(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"File of labels .*/gone\.txt cannot be read"):
        participants_of(root, participant_label=(f"@{tmp_path / 'gone.txt'}",))
    (tmp_path / "empty.txt").write_text("# nobody\n")
    with pytest.raises(InputError, match=r"empty\.txt holds no label"):
        participants_of(root, participant_label=(f"@{tmp_path / 'empty.txt'}",))


@pytest.mark.parametrize("empty", ["", " ", "sub-"])
def test_an_empty_label_does_not_select_everybody(root: Path, empty: str) -> None:
    with pytest.raises(InputError, match="Empty label among"):
        participants_of(root, participant_label=(empty,))


def test_exclusions(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert participants_of(root, exclude_participant_label=("sub-10", "A03")) == ("1", "2", "A3")
    with caplog.at_level(logging.WARNING):
        assert participants_of(root, participant_label=("1",), exclude_participant_label=("77",)) == ("1",)
    assert "77" in caplog.text
    with pytest.raises(InputError, match=r"No participant is left: 1 \(2\) selected"):
        participants_of(root, participant_label=("2",), exclude_participant_label=("2",))


def test_one_unknown_label_among_several(root: Path) -> None:
    with pytest.raises(InputError, match=r"Participant 'B03' not found in .*: found 5 \(1, 2, 10, A03, A3\)") as raised:
        participants_of(root, participant_label=("1", "sub-B03"))
    assert raised.value.exit_code == 3
    assert raised.value.hint == "Did you mean A03?"


def test_leading_zeros_tell_participants_apart(root: Path) -> None:
    with pytest.raises(InputError, match=r"'01' not found.*Did you mean 1\?"):
        participants_of(root, participant_label=("01",))


def test_long_lists_are_shortened(tmp_path: Path) -> None:
    root = write_description(tmp_path / "fmriprep", FMRIPREP)
    for number in range(30):
        (root / f"sub-{number:02d}").mkdir()
    with pytest.raises(InputError, match=r"found 30 \(00, 01, .*, 11, \.\.\.\)"):
        participants_of(root, participant_label=("x",))


def test_no_participants(tmp_path: Path) -> None:
    root = write_description(tmp_path / "fmriprep", FMRIPREP)
    with pytest.raises(InputError, match=r"holds no participant: expected folders named sub-\*"):
        participants_of(root, participant_label=("01",))


def test_participant_that_only_the_raw_dataset_has(tmp_path: Path) -> None:
    root = write_description(tmp_path / "study", RAW)
    write_fmriprep(root / "derivatives" / "fmriprep", ("01",))
    (root / "sub-02").mkdir()
    with pytest.raises(InputError, match=r"'02' not found in .*derivatives/fmriprep: found 1 \(01\)"):
        participants_of(root, participant_label=("02",))


def test_labels_keep_their_order_and_lose_doubles() -> None:
    assert read_labels(("task-rest", "nback", "rest"), "task-") == ("rest", "nback")
