"""Features of participants and the status of runs, with what their sidecars say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from bids_semantoks.outputs.features import (
    describe_sessions,
    keep_first_sessions,
    remove_features,
    write_features,
    write_group_status,
    write_session_features,
)
from bids_semantoks.outputs.store import OutputPaths, StoredRun


def test_features_are_described_column_by_column(tmp_path: Path) -> None:
    rows = [("01", 2, 7, np.array([0.5, -1 / 3]), "")]
    path = write_features(tmp_path, atlas="Own", model="Tiny", description="By chance.", rows=rows)
    assert path == tmp_path / "phenotype" / "OwnTiny.tsv"
    assert path.read_text() == "participant_id\tn_runs\tn_windows\tdim0001\tdim0002\nsub-01\t2\t7\t0.5\t-0.333333333\n"
    sidecar = json.loads(path.with_suffix(".json").read_text())
    order = ["Description", "participant_id", "MeasurementToolMetadata", "n_runs", "n_windows", "dim0001", "dim0002"]
    assert list(sidecar) == order
    assert sidecar["Description"] == "Mean embedding of each participant. By chance."
    assert sidecar["dim0002"] == {"Description": "Dimension 2 of the embedding."}


def build_stored(label: str, session: str) -> StoredRun:
    paths = OutputPaths(out_dir=Path(), directory=Path(), stem=f"sub-{label}_ses-{session}", model="")
    return StoredRun(entities={"sub": label} | ({"ses": session} if session else {}), paths=paths, sidecar={})


def test_sessions_are_counted_and_the_first_is_that_of_the_lowest_number() -> None:
    runs = [build_stored(*pair) for pair in (("01", "10"), ("01", "2"), ("01", "2"), ("02", "10"), ("03", ""))]
    assert keep_first_sessions(runs) == runs[1:]
    assert describe_sessions(runs[1:], "mean") == ""
    said = describe_sessions(runs, "first")
    assert said.startswith("1 of 3 participants")
    assert "(2 in all)" in said
    assert "(ses-2 of 1)" in said


def test_people_who_left_are_removed_from_features(tmp_path: Path) -> None:
    rows = [("01", 1, 7, np.array([0.5]), "1"), ("01", 1, 7, np.array([0.25]), ""), ("1", 2, 7, np.array([1.0]), "1")]
    path = write_features(tmp_path, atlas="Own", model="Tiny", description="", rows=rows)
    header, first, second, third = path.read_text().splitlines()
    assert header == "participant_id\tsession_id\tn_runs\tn_windows\tdim0001"
    assert (first, second.split("\t")[1]) == ("sub-01\tses-1\t1\t7\t0.5", "n/a")
    assert "session_id" in json.loads(path.with_suffix(".json").read_text())
    for labels, left in (({"02"}, [first, second, third]), ({"01"}, [third])):
        remove_features(tmp_path, atlas="Own", model="Tiny", participants=labels)
        assert path.read_text().splitlines() == [header, *left]
    remove_features(tmp_path, atlas="Own", model="Tiny", participants={"1"})
    assert list((tmp_path / "phenotype").iterdir()) == []
    remove_features(tmp_path, atlas="Own", model="Tiny", participants={"1"})


def test_tables_by_session_join_by_their_index_alone(tmp_path: Path) -> None:
    rows = [("01", 2, 7, np.array([0.5, 1.0]), "1"), ("02", 1, 3, np.array([0.25, 2.0]), "")]
    path = write_session_features(tmp_path, atlas="Own", model="Tiny", description="By chance.", rows=rows)
    assert path.read_text().splitlines() == [
        "participant_id\tsession_id\tOwnTiny_n_runs\tOwnTiny_n_windows\tOwnTiny_dim0001\tOwnTiny_dim0002",
        "sub-01\tses-1\t2\t7\t0.5\t1",
        "sub-02\tses-unnamed\t1\t3\t0.25\t2",
    ]
    sidecar = json.loads(path.with_suffix(".json").read_text())
    assert sidecar["IndexColumns"] == ["participant_id", "session_id"]
    columns = path.read_text().splitlines()[0].split("\t")
    assert [key for key in sidecar if key in columns] == columns
    remove_features(tmp_path, atlas="Own", model="Tiny", participants={"01"})
    assert [line[:6] for line in path.read_text().splitlines()] == ["partic", "sub-02"]
    remove_features(tmp_path, atlas="Own", model="Tiny", participants={"02"})
    assert list(path.parent.iterdir()) == []


def test_the_limits_of_a_call_stand_in_the_status_of_its_runs(tmp_path: Path) -> None:
    (tmp_path / "logs" / "runs").mkdir(parents=True)
    for label, reason in (("01", ""), ("02", "too_few_kept"), ("03", "no_mask")):
        text = json.dumps({"status": "skipped" if reason else "ok", "reason": reason, "message": reason})
        (tmp_path / "logs" / "runs" / f"sub-{label}_desc-Tiny_status.json").write_text(text)
    write_group_status(
        tmp_path, used=["sub-02"], left_out={"sub-01": ("low_coverage", "x"), "sub-04": ("too_few_kept", "y")}
    )
    lines = [line.split("\t") for line in (tmp_path / "group_status.tsv").read_text().splitlines()[1:]]
    assert [(cells[0][:6], *cells[1:3], cells[-1]) for cells in lines] == [
        ("sub-01", "skipped", "low_coverage", "x"),
        ("sub-02", "ok", "n/a", "n/a"),
        ("sub-03", "skipped", "no_mask", "no_mask"),
        ("sub-04", "skipped", "too_few_kept", "y"),
    ]


def test_the_status_of_each_run_is_listed(tmp_path: Path) -> None:
    folder = tmp_path / "logs" / "runs"
    folder.mkdir(parents=True)
    status = {"status": "skipped", "reason": "too_short", "seconds": 0.25, "device": None, "host": "x"}
    (folder / "sub-01_task-rest_status.json").write_text(json.dumps(status))
    write_group_status(tmp_path)
    header, line = (tmp_path / "group_status.tsv").read_text().splitlines()
    assert line.split("\t") == ["sub-01_task-rest", "skipped", "too_short", "0.25", "n/a", "n/a", "n/a"]
    assert list(json.loads((tmp_path / "group_status.json").read_text())) == header.split("\t")


def test_wide_features_are_an_array_whose_rows_go_with_their_participants(tmp_path):
    rows = [(label, 1, 2, np.full(5, float(label)), "") for label in "123"]
    path = write_features(tmp_path, atlas="Own", model="Wide", description="", rows=rows, as_array=True)
    array = path.with_suffix(".npy")
    assert path.read_text().splitlines()[0] == "participant_id\tn_runs\tn_windows"
    assert np.load(array).dtype == np.float32
    remove_features(tmp_path, atlas="Own", model="Wide", participants={"2"})
    assert [line.partition("\t")[0] for line in path.read_text().splitlines()[1:]] == ["sub-1", "sub-3"]
    np.testing.assert_array_equal(np.load(array), [[1.0] * 5, [3.0] * 5])
    write_features(tmp_path, atlas="Own", model="Wide", description="", rows=rows)
    assert not array.exists()
    write_features(tmp_path, atlas="Own", model="Wide", description="", rows=rows, as_array=True)
    remove_features(tmp_path, atlas="Own", model="Wide", participants=set("123"))
    assert list(path.parent.iterdir()) == []
