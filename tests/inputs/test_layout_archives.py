"""Archives of a download that nobody unpacked."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.trees import runs_of

from bids_semantoks.errors import InputError


def write(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def test_packed_archives_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write(tmp_path / "ukb", "1000011_20227_2_0.zip", "2000022_20227_2_0.zip", "1000011_20263_2_0.zip")
    with pytest.raises(InputError, match=r"2 archives.*(1000011_20227_2_0)\.zip -d \1`"):
        runs_of(root, layout="ukb")
    write(root, "1000011_20227_2_0/fMRI/rfMRI.ica/filtered_func_data_clean.nii.gz")
    assert len(runs_of(root, layout="ukb")) == 1
    assert all(part in caplog.text for part in ("1 archives", "`unzip 2000022_20227_2_0.zip"))
    write(root, "2000022/fMRI/rfMRI.ica/filtered_func_data_clean.nii.gz")
    caplog.clear()
    assert len(runs_of(root, layout="ukb")) == 2
    assert "packed" not in caplog.text
