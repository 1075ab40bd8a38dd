"""A stored sidecar counts only in the form in which it is written."""

import json
import math
import shutil

import pytest

from bids_semantoks.embedding import leave_out_damaged
from bids_semantoks.errors import RunFailed
from bids_semantoks.files import read_json, write_json
from bids_semantoks.outcomes import Tally
from bids_semantoks.outputs import store
from bids_semantoks.outputs.sidecars import check_table, describe_files, has_files, is_sidecar, note_damage
from bids_semantoks.outputs.store import OutputPaths, read_statuses


@pytest.mark.parametrize(
    "change",
    [
        {"Settings": 5},
        {"Atlas": {"SHA256": 5}},
        {"Atlas": []},
        {"VolumesKept": "9"},
        {"VolumesKept": math.inf},
        {"RepetitionTime": 0},
        {"RepetitionTime": None},
        {"VolumesDropped": {"Dummy": 5, "Scrubbed": {"Count": 0}}},
        {"VolumesDropped": {}},
        {"Files": {"x.tsv": None}},
        {"TableSHA256": 5},
    ],
)
def test_a_stored_sidecar_of_another_form_is_damaged(outputs, change):
    stored = read_json(next(outputs.glob("sub-001/**/*_stat-mean_timeseries.json")))
    assert is_sidecar(stored, of_signals=True)
    assert not is_sidecar({**stored, **change}, of_signals=True)


BAD = "001"


@pytest.fixture
def out(outputs, tmp_path):
    shutil.copytree(outputs, tmp_path / "out")
    return tmp_path / "out"


def find(out, ending, participant=BAD):
    (path,) = out.glob(f"sub-{participant}/**/*_{ending}")
    return path


def blank(path):
    path.write_bytes(bytes(path.stat().st_size))


def change_digit(path):
    content = path.read_bytes()
    place = len(content) - 4
    path.write_bytes(content[:place] + (b"1" if content[place : place + 1] != b"1" else b"2") + content[place + 1 :])


def read_features(out):
    lines = (out / "phenotype" / "Demo457RandomTiny.tsv").read_text().splitlines()
    return {line.partition("\t")[0]: line for line in lines[1:]}


def test_a_checksum_is_compared_and_the_damage_noted(tmp_path):
    table = tmp_path / "a.tsv"
    table.write_text("x\n12\n")
    sidecar = {"Settings": {}, **describe_files([table])}
    write_json(table.with_suffix(".json"), sidecar)
    check_table(table, sidecar)
    note_damage(table)
    assert json.loads(table.with_suffix(".json").read_text()) == sidecar
    assert has_files(tmp_path, sidecar)
    table.write_text("x\n13\n")
    assert has_files(tmp_path, sidecar), "the size is the same"
    with pytest.raises(RunFailed, match=r"a\.tsv") as caught:
        check_table(table, sidecar)
    assert caught.value.reason == "damaged_table"
    note_damage(table)
    assert not has_files(tmp_path, json.loads(table.with_suffix(".json").read_text()))
    check_table(table, {"Settings": {}})  # of a version that recorded no checksum


@pytest.mark.parametrize("damage", [blank, change_digit])
def test_a_damaged_embedding_is_made_again_by_the_group(study, out, app, damage):
    table = find(out, "embedding.tsv")
    whole = table.read_bytes()
    damage(table)
    code, text = app(study, out, level="group")
    assert code == 0, text
    assert str(table) in text
    assert table.read_bytes() == whole
    assert set(read_features(out)) == {f"sub-00{i}" for i in range(1, 5)}


@pytest.mark.parametrize("damage", [blank, change_digit])
def test_damaged_signals_are_named_and_made_again_by_the_participant_level(study, out, app, damage):
    table = find(out, "stat-mean_timeseries.tsv")
    whole, embedded = table.read_bytes(), find(out, "embedding.tsv").read_bytes()
    damage(table)
    for path in out.rglob("*_embedding.*"):
        path.unlink()
    code, text = app(study, out, level="group")
    assert code == 7, text
    assert str(table) in text
    assert set(read_features(out)) == {f"sub-00{i}" for i in range(2, 5)}
    (status,) = [one for name, one in read_statuses(out) if name.startswith(f"sub-{BAD}_")]
    assert (status["status"], status["reason"]) == ("failed", "damaged_table")
    code, text = app(study, out)
    assert code == 0, text
    assert table.read_bytes() == whole
    assert find(out, "embedding.tsv").read_bytes() == embedded


def test_a_run_with_damaged_signals_is_left_out_before_they_are_read(out):
    stored = list(store.find_stored_runs(out, atlas="Demo457", model="RandomTiny"))
    blank(stored[2].paths.signals)
    tally = Tally(n_ok=6, n_kept=6)
    assert leave_out_damaged(stored, tally) == [*stored[:2], *stored[3:]]
    assert (tally.n_failed, tally.n_ok, tally.reasons) == (1, 5, {"damaged_table"})
    status = json.loads(stored[2].paths.status.read_text())
    assert status["reason"] == "damaged_table"
    assert str(stored[2].paths.signals) in status["message"]
    with pytest.raises(RunFailed, match="is damaged or was modified"):
        stored[2].read_signals()


def test_the_participant_level_extracts_damaged_signals_again_before_it_embeds(study, out, app):
    table = find(out, "stat-mean_timeseries.tsv")
    whole = table.read_bytes()
    find(out, "embedding.tsv").unlink()
    blank(table)
    code, text = app(study, out)
    assert code == 0, text
    assert "is damaged or was modified" in text
    assert table.read_bytes() == whole


def test_resume_opens_no_table(study, out, app):
    table = find(out, "stat-mean_timeseries.tsv")
    blank(table)
    code, text = app(study, out)
    assert code == 0
    assert "from an earlier call with the same" in text


def test_a_run_killed_before_its_page_data_is_finished_by_the_same_call(study, outputs, tmp_path, app, monkeypatch):
    out = tmp_path / "out"

    def die(*_, **__):
        raise KeyboardInterrupt

    select = ("--participant-label", BAD)
    monkeypatch.setattr("bids_semantoks.participant.write_run_data", die)
    assert app(study, out, *select)[0] == 130
    monkeypatch.undo()
    assert find(out, "stat-mean_timeseries.tsv").is_file()
    assert not list(out.glob("logs/sub-*/*_page.json.gz"))
    assert app(study, out, *select)[0] == 0
    expected = {path.name: path.read_bytes() for path in (outputs / "logs" / f"sub-{BAD}").glob("*_page.json.gz")}
    found = {path.name: path.read_bytes() for path in (out / "logs" / f"sub-{BAD}").glob("*_page.json.gz")}
    assert found == expected
    assert expected


def test_what_shows_a_run_is_made_again_where_it_is_gone(study, out, app):
    sidecar = json.loads(find(out, "stat-mean_timeseries.json").read_text())
    shown = [out / name for name in sidecar["PageFiles"]]
    assert shown
    content = shown[0].read_bytes()
    shown[0].unlink()
    code, text = app(study, out)
    assert code == 0
    assert "from an earlier call with the same" in text
    assert shown[0].read_bytes() == content


def test_figures_of_a_label_with_underscores_are_removed(tmp_path):
    stem = "sub-A_B_1_task-rest_space-S_atlas-A"
    paths = OutputPaths(out_dir=tmp_path, directory=tmp_path / "sub-A_B_1" / "ses-1" / "func", stem=stem, model="Tiny")
    figure = tmp_path / "sub-A_B_1" / "figures" / f"{stem}_desc-carpet_bold.svg"
    figure.parent.mkdir(parents=True)
    figure.write_text("x")
    store.remove_outputs(paths)
    assert not figure.exists()
