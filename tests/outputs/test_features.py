"""Features of participants and the status of runs, with what their sidecars say."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from bids_semantoks.errors import RunFailed
from bids_semantoks.files import read_table
from bids_semantoks.outputs import features as features_module
from bids_semantoks.outputs.features import (
    count_cohort,
    count_planned,
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


P, B, DIMS = 13, 5, 7


EMBEDDING_SIDECAR = {"Settings": {"a": 1}, "SignalsSHA256": "0f"}


def test_embedding_round_trip(paths, windows, embedding):
    features_module.write_embedding(paths, windows, embedding, EMBEDDING_SIDECAR)
    np.testing.assert_array_equal(features_module.read_embedding(paths), embedding.vectors)
    columns, rows = read_table(paths.embedding)
    assert columns[:5] == ("window", "onset", "duration", "kept", "dim0001")
    np.testing.assert_array_equal(rows[:, 1], windows.onset)
    assert np.load(paths.tokens).shape == embedding.tokens.shape


@pytest.mark.parametrize(
    ("changed", "stays"), [({}, True), ({"Settings": {"a": 2}}, False), ({"SignalsSHA256": "1e"}, False)]
)
def test_sidecar_of_another_embedding_goes_first(paths, windows, embedding, monkeypatch, changed, stays):
    features_module.write_embedding(paths, windows, embedding, EMBEDDING_SIDECAR)
    monkeypatch.setattr(features_module, "write_table", lambda *_: (_ for _ in ()).throw(OSError("killed here")))
    with pytest.raises(OSError, match="killed here"):
        features_module.write_embedding(paths, windows, embedding, EMBEDDING_SIDECAR | changed)
    for path in (paths.embedding_sidecar, paths.embedding, paths.tokens):
        assert path.is_file() == stays


def test_tokens_of_another_call_do_not_stay(paths, windows, embedding):
    features_module.write_embedding(paths, windows, embedding, EMBEDDING_SIDECAR)
    without = dataclasses.replace(embedding, tokens=None)
    features_module.write_embedding(paths, windows, without, EMBEDDING_SIDECAR | {"SignalsSHA256": "1e"})
    assert not paths.tokens.exists()


def test_wide_embeddings_are_an_array_beside_the_table(paths, windows, embedding):
    features_module.write_embedding(paths, windows, embedding, EMBEDDING_SIDECAR, as_array=True)
    assert read_table(paths.embedding)[0] == ("window", "onset", "duration", "kept")
    assert np.load(paths.vectors).dtype == np.float32
    np.testing.assert_array_equal(features_module.read_embedding(paths), embedding.vectors)
    n_windows, mean = features_module.read_mean_embedding(paths, 0.6)
    array = features_module.read_mean_embedding(paths, None)[1]
    np.testing.assert_allclose(array, embedding.vectors.mean(axis=0, dtype=np.float64))
    features_module.write_embedding(paths, windows, embedding, EMBEDDING_SIDECAR)
    assert not paths.vectors.exists()
    again = features_module.read_mean_embedding(paths, 0.6)
    assert n_windows == again[0] == 4
    np.testing.assert_array_equal(mean, again[1])


def test_a_damaged_array_is_not_read(paths, windows, embedding):
    features_module.write_embedding(paths, windows, embedding, EMBEDDING_SIDECAR, as_array=True)
    np.save(paths.vectors, np.load(paths.vectors) + 1)
    with pytest.raises(RunFailed, match=r"_embedding\.npy"):
        features_module.read_embedding(paths)


def write_status(out_dir, name, status, reason=""):
    path = out_dir / "logs" / "runs" / f"{name}_status.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"status": status, "reason": reason, "message": "m"}))


def write_study(out_dir):
    write_status(out_dir, "sub-01_task-rest_run-1_desc-Tiny", "ok")
    write_status(out_dir, "sub-01_task-rest_run-2_desc-Tiny", "skipped", "too_few_kept")
    write_status(out_dir, "sub-02_task-rest_desc-Tiny", "skipped", "already_done")
    write_status(out_dir, "sub-03_task-rest_desc-Tiny", "failed", "bad_image")
    write_status(out_dir, "sub-04_task-rest_desc-Tiny", "failed", "mystery_reason")
    write_status(out_dir, "sub-05_task-other_desc-Tiny", "failed", "bad_image")


def test_runs_are_in_or_out_once_with_the_reason_of_this_call_first(tmp_path):
    write_study(tmp_path)
    used = ["sub-01_task-rest_run-1", "sub-02_task-rest"]
    found = count_cohort(
        tmp_path,
        used,
        is_wanted=lambda stem: "task-rest" in stem,
        left_out={"sub-06_task-rest": ("too_few_kept", "9 s"), "sub-03_task-rest": ("low_coverage", "0.1")},
    )
    assert found == {
        "participants": 2,
        "runs": 2,
        "participants_out": 3,
        "runs_out": 4,
        "reasons": ["2 with too little data left", "1 with low coverage of the atlas", "1 mystery reason"],
    }


def test_a_run_that_is_used_now_is_not_out_for_what_an_earlier_call_said(tmp_path):
    write_study(tmp_path)
    found = count_cohort(tmp_path, ["sub-03_task-rest"], is_wanted=lambda stem: stem == "sub-03_task-rest")
    assert found == {"participants": 1, "runs": 1, "participants_out": 0, "runs_out": 0, "reasons": []}


def test_a_call_counts_its_own_runs_once_one_is_complete(tmp_path):
    write_study(tmp_path)
    stems = ("sub-01_task-rest_run-1", "sub-01_task-rest_run-2", "sub-03_task-rest")
    paths = [OutputPaths(out_dir=tmp_path, directory=tmp_path / "func", stem=stem, model="Tiny") for stem in stems]
    assert count_planned(paths) is None
    assert count_planned([]) is None
    paths[0].directory.mkdir()
    paths[0].embedding_sidecar.write_text("{}")
    found = count_planned(paths)
    assert (found["participants"], found["runs"], found["participants_out"], found["runs_out"]) == (1, 1, 1, 2)
    signals = [OutputPaths(out_dir=tmp_path, directory=tmp_path / "func", stem=stem, model="") for stem in stems]
    assert count_planned(signals) is None
    signals[1].signals_sidecar.write_text("{}")
    assert count_planned(signals)["runs"] == 1
