"""A folder is raw or a derivative dataset, or no BIDS dataset at all, and the raw one of a derivative is found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from inputs_trees import FMRIPREP, RAW, open_dataset, write_description, write_fmriprep, write_run

from bids_semantoks.errors import InputError
from bids_semantoks.inputs.phenotypes import find_roots


def test_raw_root_above_a_derivative_dataset(tmp_path: Path) -> None:
    root = write_description(tmp_path / "study", RAW)
    assert open_dataset(write_fmriprep(root / "derivatives" / "fmriprep")).raw_root == root


def test_not_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"BIDS_DIR .*/file is a file"):
        open_dataset(tmp_path / "file")
    with pytest.raises(InputError, match=r"BIDS_DIR .*/nowhere does not exist"):
        open_dataset(tmp_path / "nowhere")


def test_empty_and_not_bids(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    with pytest.raises(InputError, match=r"photos is no BIDS dataset: expected dataset_description.*it is empty"):
        open_dataset(folder)
    (folder / "cat.jpg").touch()
    with pytest.raises(InputError, match=r"found 1 other entries \(cat\.jpg\)"):
        open_dataset(folder)
    write_fmriprep(folder / "fmriprep")
    with pytest.raises(InputError, match=r"Did you mean .*/photos/fmriprep\?") as raised:
        open_dataset(folder)
    assert raised.value.exit_code == 3


@pytest.mark.parametrize("form", ["relative", "file", "source"])
def test_raw_data_are_found_where_the_description_says(tmp_path: Path, form: str) -> None:
    raw = write_description(tmp_path / "some where" / "raw", RAW)
    places = {"relative": "../some where/raw", "file": f"file://{raw}".replace(" ", "%20"), "source": str(raw)}
    link = {"SourceDatasets": [{"DOI": "x"}, {"URL": places[form]}]} if form == "source" else {}
    link = link or {"DatasetLinks": {"templateflow": "https://x.org/y", "raw": places[form]}}
    root = write_description(tmp_path / "fmriprep", {**FMRIPREP, **link})
    write_run(root, "sub-01_task-rest")
    dataset = open_dataset(root)
    assert dataset.raw_root is not None
    assert dataset.raw_root.resolve() == raw
    assert [path.resolve() for path in find_roots(root)] == [root, raw]


@pytest.mark.parametrize("links", [{"raw": "/data"}, {"raw": "."}, {"x": 3}, ["raw"], {"raw": "../other"}])
def test_links_to_nothing_or_to_derivatives_are_passed_over(tmp_path: Path, links: Any) -> None:
    write_description(tmp_path / "other", FMRIPREP)
    root = write_description(tmp_path / "fmriprep", {**FMRIPREP, "DatasetLinks": links})
    write_run(root, "sub-01_task-rest")
    assert open_dataset(root).raw_root is None
    assert find_roots(root) == (root,)
