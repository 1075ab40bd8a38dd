"""Runs without content are one sentence with one command, whose patterns match all of their files."""

from __future__ import annotations

import re
from glob import glob
from pathlib import Path

import pytest
from helpers.trees import C2009, runs_of, write_fmriprep, write_run

from bids_semantoks.inputs.content import describe_absent_content


def empty(paths):
    for path in paths:
        path.unlink()
        path.symlink_to("../../.git/annex/objects/gone")


@pytest.mark.parametrize("labels", [("01",), ("01", "02", "03")])
def test_one_command_gets_everything_that_is_absent(tmp_path: Path, labels: tuple[str, ...]) -> None:
    root = write_fmriprep(tmp_path / "data set", labels)
    if len(labels) > 1:
        write_run(root, "sub-04_ses-1_task-rest")
    images = [
        *root.rglob(f"*_space-{C2009}_desc-*_bold.nii.gz"),
        *root.rglob(f"*_space-{C2009}_desc-brain_mask.nii.gz"),
    ]
    empty(images)
    text = describe_absent_content(runs_of(root, space=C2009))
    n_runs = len(images) // 2
    assert text.startswith(f"{n_runs} run{'s' if n_runs > 1 else ''} ")
    assert "no_content" in text
    assert text.count("datalad get") == 1
    assert len(text.replace(str(tmp_path), "")) < 500
    patterns = re.split(r" datalad get ", text)[1].split()
    # As a shell does, which takes links without content.
    assert {root / path for pattern in patterns for path in glob(pattern, root_dir=root)} == set(images)  # noqa: PTH207
    assert f"cd '{root}' &&" in text


def test_the_screen_shows_one_sentence_and_the_log_all_runs(own_study, tmp_path, app):
    empty((own_study / "derivatives" / "fmriprep").rglob("*_bold.nii.gz"))
    code, text = app(own_study, tmp_path / "out", "--signals-only")
    assert code == 0
    assert text.count("datalad get") == 1
    assert text.count("no_content") == 1
    (log,) = (tmp_path / "out" / "logs").rglob("*.log")
    assert len(re.findall(r"sub-\S+: skipped, no_content", log.read_text())) == int(
        re.search(r"(\d+) skipped", text)[1]
    )
