"""Filter files in fMRIPrep's format."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from inputs_trees import FMRIPREP, runs_of, write_description, write_run

from bids_semantoks.errors import InputError
from bids_semantoks.inputs.selection import read_filter


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
    with pytest.raises(InputError, match=r"Filter file .*filter\.json matches none of 3 BOLD images") as raised:
        runs_of(root, bids_filter_file=write_filter(root, {"bold": bold}))
    assert raised.value.exit_code == 3
    assert "task nback, rest" in raised.value.hint


def test_unknown_keys_warn(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_filter(root, {"bold": {"tsk": "rest"}, "t1w": {"session": "1"}, "blod": {}})
    warnings = read_filter(path).warnings
    assert len(warnings) == 2
    assert "has the key 'blod', which is not known" in warnings[0]
    assert "has the entity 'tsk', which is not known" in warnings[1]
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
        ([], "must hold a JSON object"),
        ({"bold": "rest"}, "must hold a JSON object with an object 'bold'"),
        ({"bold": {"task": True}}, "'task' must be text, .* found True"),
        ({"bold": {"task": {"a": 1}}}, r"'task' must be text, .* found \{'a': 1\}"),
        ({"bold": {"run": [1.5]}}, r"'run' must be text, .* found 1\.5"),
    ],
)
def test_filters_of_another_form(root: Path, content: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_filter(write_filter(root, content))


def test_missing_filter_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Filter file .*/gone\.json cannot be read"):
        read_filter(tmp_path / "gone.json")
