"""Repetition times are inherited, and impossible ones are ignored."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from helpers.trees import C2009, FMRIPREP, LIN6, runs_of, write_description, write_files, write_fmriprep, write_run

BOLD = f"sub-01_ses-1_task-rest_space-{C2009}_desc-preproc_bold"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_description(tmp_path / "fmriprep", FMRIPREP)


@pytest.mark.parametrize(
    ("sidecars", "expected"),
    [
        ({f"sub-01/ses-1/func/{BOLD}.json": 1.5, "task-rest_bold.json": 9.0}, 1.5),
        ({f"sub-01/ses-1/func/{BOLD}.json": {"SkullStripped": False}, "task-rest_bold.json": 2.25}, 2.25),
        ({"task-rest_bold.json": 9.0, "sub-01/sub-01_task-rest_bold.json": 1.1}, 1.1),
        ({"sub-01/sub-01_task-rest_bold.json": 9.0, "sub-01/ses-1/sub-01_ses-1_bold.json": 1.2}, 1.2),
        ({"sub-01/ses-1/func/sub-01_ses-1_task-rest_bold.json": 1.3, "task-rest_bold.json": 9.0}, 1.3),
        ({"bold.json": 3.5}, 3.5),
        ({"bold.json": 9.0, "task-rest_bold.json": 1.4}, 1.4),
        ({f"task-rest_space-{C2009}_bold.json": 3}, 3.0),
        ({"task-nback_bold.json": 9.0, "sub-02/sub-02_task-rest_bold.json": 9.0}, None),
        ({"sub-01/ses-2/func/sub-01_task-rest_bold.json": 9.0}, None),
        ({"task-rest_sbref.json": 9.0}, None),
        ({}, None),
    ],
)
def test_repetition_time_is_inherited(root: Path, sidecars: dict[str, Any], expected: float | None) -> None:
    write_files(root, f"{BOLD}.nii.gz")
    for name, content in sidecars.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(json.dumps(content if isinstance(content, dict) else {"RepetitionTime": content}))
    [run] = runs_of(root, participant_label=("01",))
    assert run.repetition_time == expected


@pytest.mark.parametrize("content", ['"2.0"', "0", "-2", "true", "null", "NaN", "[2.0]"])
def test_impossible_repetition_times(root: Path, content: str, caplog: pytest.LogCaptureFixture) -> None:
    write_run(root, "sub-01_task-rest")
    next(root.rglob("*_bold.json")).write_text(f'{{"RepetitionTime": {content}}}')
    (root / "task-rest_bold.json").write_text('{"RepetitionTime": 2.0}')
    with caplog.at_level(logging.WARNING):
        assert runs_of(root)[0].repetition_time is None
    assert "RepetitionTime must be a positive number of seconds" in caplog.text


def test_broken_sidecar_spoils_only_its_run(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_fmriprep(root)
    next(root.glob(f"sub-01/func/*{LIN6}*_bold.json")).write_text('{"RepetitionTime": 2.')
    with caplog.at_level(logging.WARNING):
        assert [run.repetition_time for run in runs_of(root)] == [None, 2.0]
    assert "cannot be read" in caplog.text
