"""Participants whom a dataset lists and of whom nothing was made are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bids_semantoks.config import SelectionConfig
from bids_semantoks.errors import InputError
from bids_semantoks.inputs.datasets import find_dataset
from bids_semantoks.inputs.opening import find_listed, warn_of_missing, warn_of_missing_outputs
from bids_semantoks.inputs.runs import find_participants


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
