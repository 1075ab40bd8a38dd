"""Which runs are taken: by entity, resolution and cohort, from linked datasets and datasets without all content."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from inputs_trees import C2009, FMRIPREP, LIN6, names_of, runs_of, write_description, write_run

from bids_semantoks.errors import InputError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = write_description(tmp_path / "fmriprep", FMRIPREP)
    for direction in ("AP", "PA"):
        for acquisition in ("fast", "slow"):
            write_run(root, f"sub-01_task-rest_acq-{acquisition}_dir-{direction}_run-01", LIN6)
    return root


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
def test_directions_and_acquisitions(root: Path, selection: Any, entities: set[tuple[str, str]]) -> None:
    assert {(run.entity("acq"), run.entity("dir")) for run in runs_of(root, **selection)} == entities


def test_unknown_directions_and_echoes(root: Path) -> None:
    with pytest.raises(InputError, match=r"Direction 'LR' not found .*: found 2 \(AP, PA\)"):
        runs_of(root, direction_id=("LR",))
    with pytest.raises(InputError, match=r"Echo '1' not found .*: found none"):
        runs_of(root, echo_id=("1",))


def test_echoes(tmp_path: Path) -> None:
    root = write_description(tmp_path / "fmriprep", FMRIPREP)
    for echo in (1, 2, 3):
        write_run(root, f"sub-01_task-rest_echo-{echo}", LIN6)
    assert [run.entity("echo") for run in runs_of(root, echo_id=("02", "3"))] == ["2", "3"]


def test_resolutions(tmp_path: Path) -> None:
    root = write_description(tmp_path / "fmriprep", FMRIPREP)
    write_run(root, "sub-01_task-rest", LIN6, f"{LIN6}_res-1", f"{LIN6}_res-2")
    write_run(root, "sub-02_task-rest", f"{LIN6}_res-1", C2009)
    stem = f"sub-01_task-rest_space-{LIN6}"
    assert names_of(runs_of(root))[0].startswith(f"{stem}_res-1_")
    first, second = runs_of(root, space=f"{LIN6}:res-2")
    assert first.bold.name.startswith(f"{stem}_res-2_")
    assert (first.problem, second.entity("sub")) == ("", "02")
    assert second.problem.startswith(f"The run has no image in {LIN6}:res-2, only others such as ")
    assert names_of(runs_of(root, space=f"{LIN6}:res-native"))[0].startswith(f"{stem}_desc-")
    with pytest.raises(InputError, match=r"'3' not found .*: found 3 \(1, 2, native\)"):
        runs_of(root, space=f"{LIN6}:res-3")


def test_cohorts_are_not_mixed(tmp_path: Path) -> None:
    nibabies = {**FMRIPREP, "GeneratedBy": [{"Name": "NiBabies", "Version": "24.1.0"}]}
    root = write_description(tmp_path / "nibabies", nibabies)
    write_run(root, "sub-01_ses-1mo_task-rest", "MNIInfant_cohort-1")
    write_run(root, "sub-02_ses-8mo_task-rest", "MNIInfant_cohort-3")
    with pytest.raises(InputError, match=r"space MNIInfant are of 2 cohorts: 1, 3; .*--space MNIInfant:cohort-1"):
        runs_of(root, space="MNIInfant")
    first, second = runs_of(root, space="MNIInfant:cohort-3")
    assert (first.entity("cohort"), first.problem) == ("3", "")
    assert "no image in MNIInfant:cohort-3" in second.problem


def test_any_and_no_value_in_a_filter(root: Path, tmp_path: Path) -> None:
    write_run(root, "sub-01_task-rest", LIN6)
    path = tmp_path / "filter.json"
    for value, n_runs in ((None, 1), ("*", 4), ("Query.ANY", 4), ("Query.OPTIONAL", 5), (["AP", None], 3)):
        path.write_text(json.dumps({"bold": {"direction": value}}))
        assert len(runs_of(root, bids_filter_file=path)) == n_runs, value


def test_order_does_not_depend_on_the_file_system(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (2, 10, 3):
        write_run(root, f"sub-{number}_task-rest", LIN6, C2009)
    expected = runs_of(root)
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
    assert runs_of(root) == expected
    assert [run.entity("sub") for run in expected] == ["01"] * 4 + ["2", "3", "10"]


# --- content that is not here ---


def test_a_sidecar_without_content_is_named(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    sidecar = next(root.rglob("*acq-fast_dir-AP*_bold.json"))
    sidecar.unlink()
    sidecar.symlink_to("../../.git/annex/objects/Xx/Yy/MD5E-s21--0.json")
    (run,) = runs_of(root, direction_id=("AP",), acquisition_id=("fast",))
    assert run.repetition_time is None
    assert f"Sidecar {sidecar} cannot be read: its content is not here, fetch it with `datalad get`" in caplog.text


def test_zipped_results_are_named(tmp_path: Path) -> None:
    root = write_description(tmp_path / "fmriprep", FMRIPREP)
    for label in ("01", "02"):
        (root / f"sub-{label}_fmriprep-24-1-1.zip").touch()
    with pytest.raises(InputError, match=r"holds 2 archives such as sub-01_fmriprep-24-1-1\.zip: unpack them first"):
        runs_of(root)
