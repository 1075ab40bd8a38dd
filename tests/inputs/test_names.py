"""Folders are listed: what lies in func, what is hidden, and what may not be read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers.trees import FMRIPREP, open_dataset, write_description, write_fmriprep

from bids_semantoks.errors import InputError
from bids_semantoks.inputs.names import find_folders, list_func_files, split_named


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
