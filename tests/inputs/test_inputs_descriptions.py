"""Descriptions of datasets, old, odd, broken or gone."""

from __future__ import annotations

from pathlib import Path

import pytest
from inputs_trees import open_dataset, write_description, write_fmriprep

from bids_semantoks.errors import InputError


@pytest.mark.parametrize(
    ("description", "pipeline"),
    [
        ({"Name": "x", "PipelineDescription": {"Name": "fMRIPrep", "Version": "1.5.3"}}, "fMRIPrep 1.5.3"),
        ({"Name": "fMRIPrep - fMRI PREProcessing workflow"}, "fMRIPrep"),
        ({"Name": "x", "GeneratedBy": [{"Name": "fMRIPrep"}]}, "fMRIPrep"),
        ({"Name": "x", "GeneratedBy": {"Name": "fmriprep-docker", "Version": "2"}}, "fmriprep-docker 2"),
    ],
)
def test_old_and_odd_descriptions_of_fmriprep(tmp_path: Path, description: dict[str, object], pipeline: str) -> None:
    root = write_fmriprep(tmp_path / "old")
    write_description(root, description)
    assert open_dataset(root).derivatives[0].pipeline == pipeline


def test_broken_description(tmp_path: Path) -> None:
    root = write_fmriprep(tmp_path / "fmriprep")
    (root / "dataset_description.json").write_text('{"Name": "fMRIPrep",')
    with pytest.raises(InputError, match=r"fmriprep/dataset_description\.json cannot be read as JSON: .*line 1"):
        open_dataset(root)
    (root / "dataset_description.json").write_text("[]")
    with pytest.raises(InputError, match="must hold a JSON object, found list"):
        open_dataset(root)


def test_description_missing_or_without_content(tmp_path: Path) -> None:
    root = write_fmriprep(tmp_path / "fmriprep")
    (root / "dataset_description.json").unlink()
    with pytest.raises(InputError, match=r"sub-\* folders but no dataset_description"):
        open_dataset(root)
    (root / "dataset_description.json").symlink_to(".git/annex/objects/gone")
    with pytest.raises(InputError, match="datalad get"):
        open_dataset(root)
