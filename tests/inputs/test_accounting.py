"""Every image and table is accounted for: under the names of real pipelines, and under names that nobody can read."""

from __future__ import annotations

import json
import logging
import re
from glob import glob
from pathlib import Path

import pytest
from helpers import mock_datasets
from helpers.trees import C2009, FMRIPREP, LIN6, runs_of, write_description, write_files, write_fmriprep, write_run

from bids_semantoks.cli import call
from bids_semantoks.errors import InputError
from bids_semantoks.inputs.accounting import describe_absent_content

LISTS = Path(__file__).parents[1] / "data" / "names"


def find_calls(names: list[str]) -> list[tuple[str, str, set[str]]]:
    """List the calls that a list of names allows: kind of data, space or atlas, and the stems of the runs to come."""
    calls: dict[tuple[str, str], set[str]] = {}
    for name in (path.rpartition("/")[2] for path in names if "/func/" in path):
        space = re.search(r"_space-([A-Za-z0-9]+)", name)
        where = space[1] if space else "fsLR"
        atlas = re.search(r"_(?:atlas|seg)-([A-Za-z0-9]+).*_timeseries\.tsv$", name)
        is_image = re.search(r"_desc-(preproc|denoised|nonaggrDenoised)_bold\.(nii\.gz|dtseries\.nii)$", name)
        if atlas:
            calls.setdefault(("series", atlas[1]), set()).add(cut(name))
        elif (is_image and space and where != "T1w" and "_echo-" not in name) or (
            re.search(r"(?<!desc-)[^-]_bold\.dtseries\.nii$", name) or re.search(r"fsaverage5.*\.func\.gii$", name)
        ):
            calls.setdefault(("images", where), set()).add(cut(name))
    # XCP-D's concatenations repeat what their runs hold.
    calls = {
        key: stems - {re.sub(r"_run-[^_]+", "", stem) for stem in stems if "_run-" in stem}
        for key, stems in calls.items()
    }
    # One atlas stands for all.
    first = min((key for key in calls if key[0] == "series"), default=None)
    return [(*key, stems) for key, stems in sorted(calls.items()) if key[0] == "images" or key == first]


def cut(name: str) -> str:
    return re.split(r"_(?:space|hemi|desc|atlas|seg|bold)(?=[-_.])", name)[0]


def check_list(path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every run that the list holds is found, paired with its files and extracted, and nothing else."""
    match = re.match(r"(fmriprep|xcp_d|nibabies|fmripost-aroma)-([^_]+)", path.name)
    assert match is not None
    names = path.read_text().split()
    root = mock_datasets.write_mock(folder / "data", names, match[1], match[2])
    calls = find_calls(names)
    for kind, what, stems in calls:
        out = folder / f"{kind}-{what}"
        atlas = what
        more = ["--input-type", kind]
        if kind == "images":
            atlas = str(mock_datasets.write_mock_atlas(folder / f"atlas-{what}", what))
            more += ["--space", what]
        code = call([str(root), str(out), "participant", "--signals-only", "--n-procs", "1", "--atlas", atlas, *more])
        text = capsys.readouterr().err
        assert code == 0, text
        assert {cut(one.name) for one in out.rglob("*_stat-mean_timeseries.tsv")} == stems, text
        assert f"{len(stems)} ok, 0 skipped, 0 failed" in text
        for sidecar in out.rglob("*_stat-mean_timeseries.json"):
            content = json.loads(sidecar.read_text())
            assert content["VolumesKept"] == mock_datasets.T, sidecar
            if kind == "images" and match[1] in ("fmriprep", "nibabies"):
                assert content["Inputs"]["confounds"], sidecar
    if not calls:
        assert call([str(root), str(folder / "out"), "participant", "--signals-only"]) == 3
        assert "--level minimal" in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted(LISTS.glob("*.txt")), ids=lambda path: path.stem)
def test_runs_under_the_names_of_pipelines(path, tmp_path, capsys):
    check_list(path, tmp_path, capsys)


@pytest.mark.long
def test_runs_under_all_names(shared, tmp_path, capsys):
    lists = [path for path in sorted((shared / "real_names").glob("*.txt")) if not path.name.startswith("repository")]
    assert len(lists) > 70
    for path in lists:
        check_list(path, tmp_path / path.stem, capsys)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_description(tmp_path / "fmriprep", FMRIPREP)


def problems_of(root: Path, **selection: object) -> list[tuple[str, str]]:
    return [(run.bold.name, run.problem) for run in runs_of(root, **selection) if run.reason == "unreadable_name"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        (f"sub-01_task-rest_run-1_run-1_space-{C2009}_desc-preproc_bold.nii.gz", "the entity run-"),
        ("sub-01_task-rest_bold_desc-filtered_timeseries.dtseries.nii", "'bold'"),
        ("sub-01_ses-1_task-rest_run-01_bold_timeseries.dtseries.nii", "'bold'"),
        (f"sub-01__task-rest_space-{C2009}_desc-preproc_bold.nii.gz", "underscores"),
        (f"sub-01_task-move_space-{C2009}_bold.nii.gz", "desc-preproc"),
        (f"sub-01_task-move_space-{C2009}_desc-optcom_bold.nii", "desc-preproc"),
        (f"task-rest_space-{C2009}_desc-preproc_bold.nii.gz", "(sub-)"),
        (f"sub-1_task-rest_space-{C2009}_desc-preproc_bold.nii.gz", "participant 1,"),
        ("sub-01_task-move_desc-x_timeseries.tsv", "(atlas- or seg-)"),
    ],
)
def test_what_looks_like_a_run_and_is_not_read_is_named(root, name, why):
    write_run(root, "sub-01_task-rest")
    (root / "sub-01" / "func" / name).touch()
    ((found, problem),) = problems_of(root)
    assert found == name
    assert why in problem
    assert len(problem.replace(str(root), "")) < 400


def test_versions_of_one_unreadable_run_are_one(root):
    write_run(root, "sub-01_task-rest")
    write_run(root, "sub-01_task-a_run-1_run-1", C2009, f"{LIN6}_res-2", "T1w")
    write_run(root, "sub-01_task-a_run-2_run-2", C2009)
    names = [name.partition("_space")[0] for name, _ in problems_of(root)]
    assert names == ["sub-01_task-a_run-1_run-1", "sub-01_task-a_run-2_run-2"]
    assert problems_of(root, task_id=("rest",)) == []
    assert len(problems_of(root, task_id=("a",))) == 2


def test_versions_and_byproducts_of_a_run_that_is_read_are_no_runs(root):
    source = "sub-01_task-rest_run-1"
    write_run(root, source, C2009, "T1w")
    write_files(
        root,
        f"{source}_bold.nii.gz",
        f"{source}_echo-1_desc-preproc_bold.nii.gz",
        f"{source}_space-{C2009}_desc-smoothAROMAnonaggr_bold.nii.gz",
        f"{source}_space-{LIN6}_desc-optcom_bold.nii.gz",
        f"{source}_desc-physio_timeseries.tsv",
        f"{source}_space-{C2009}_atlas-X_stat-mean_timeseries.tsv",
        "sub-01_task-gone_desc-confounds_timeseries.tsv",
        f"._{source}_space-{C2009}_desc-preproc_bold.nii.gz",
        folder="sub-01/func",
    )
    (run,) = runs_of(root)
    assert not run.problem


def test_series_beside_images_are_named_where_the_run_has_no_image(root, caplog):
    write_run(root, "sub-01_task-rest")
    write_files(root, f"sub-01_task-move_space-{C2009}_atlas-X_timeseries.tsv")
    with caplog.at_level(logging.WARNING):
        assert len(runs_of(root)) == 1
    assert all(part in caplog.text for part in ("--input-type", "1 (sub-01_task-move_"))


def test_an_unreadable_name_fails_its_run_and_no_other(own_study, tmp_path, app):
    func = own_study / "derivatives" / "fmriprep" / "sub-001" / "func"
    for path in sorted(func.glob("sub-001_task-rest_*")):
        path.rename(path.with_name(path.name.replace("task-rest", "task-rest_acq-1_acq-2")))
    out = tmp_path / "out"
    code, text = app(own_study, out, "--participant-label", "001", "003", "--signals-only")
    assert code == 7
    assert "the entity acq-" in text
    (status,) = out.glob("logs/sub-001/sub-001_*_status.json")
    assert json.loads(status.read_text())["reason"] == "unreadable_name"
    code, text = app(own_study, out, "--participant-label", "001", "--signals-only", "--dry-run")
    assert "fail, unreadable_name" in text


def test_a_dataset_in_which_no_name_can_be_read_says_why(tmp_path):
    root = write_description(tmp_path / "abcd", {**FMRIPREP, "GeneratedBy": [{"Name": "abcd-hcp-pipeline"}]})
    name = "sub-01_ses-1_task-rest_bold_desc-filtered_timeseries.dtseries.nii"
    write_files(root, name)
    with pytest.raises(InputError, match=f"{name}:.*'bold'"):
        runs_of(root)


def test_runs_of_which_none_can_be_read_fail_one_by_one(tmp_path, app):
    root = write_description(tmp_path / "prep", FMRIPREP)
    write_files(root, "sub-01_task-rest_run-1_run-1_space-fsLR_den-91k_bold.dtseries.nii")
    code, text = app(root, tmp_path / "out", "--signals-only")
    assert code == 7, text
    assert "unreadable_name" in text


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
