"""Pretraining from the command line: signals on disk in, an encoder that both levels load out."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from bids_semantoks.cli import call
from bids_semantoks.errors import ConfigurationError
from bids_semantoks.files import read_table, write_table
from bids_semantoks.pretraining import run as module
from bids_semantoks.pretraining.card import read_training_log
from bids_semantoks.pretraining.packing import TableReader, standardise
from bids_semantoks.pretraining.run import CLAIM_FILE, claim
from bids_semantoks.training.distributed import Ranks
from bids_semantoks.training.loop import StopRequest

OPTIONS = ("--pretrain", "--encoder-config", "tiny", "--epochs", "2", "--train-batch-size", "2", "--device", "cpu")


@pytest.fixture
def out(outputs, tmp_path):
    """Outputs of the participant level that a test may change."""
    shutil.copytree(outputs, tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def pretrain(app, study):
    def run(out_dir: Path, *arguments: str) -> tuple[int, str]:
        return app(study, out_dir, *OPTIONS, *arguments, level="group")

    return run


@pytest.fixture(scope="module")
def trained(study, outputs, tmp_path_factory):
    """Outputs with an encoder pretrained on them, and what was printed. Only read it."""
    out = tmp_path_factory.mktemp("trained") / "out"
    shutil.copytree(outputs, out)
    assert call([str(study), str(out), "group", *OPTIONS, "--atlas", "Demo457", "--n-procs", "1", "-q"]) == 0
    newest = max(out.glob("logs/calls/*/bids_semantoks.log"), key=lambda path: path.stat().st_mtime_ns)
    return out, newest.read_text()


def test_an_encoder_and_what_belongs_to_it_is_written(trained):
    out, text = trained
    directory = out / "encoders" / "tiny"
    assert {path.name for path in directory.iterdir()} == {
        *("config.json", "model.safetensors", "training_log.tsv", "training_log.json", "README.md", "figures")
    }
    assert {path.name for path in (directory / "figures").iterdir()} == {"training.svg", "kernels.svg", "networks.svg"}
    assert all(part in text for part in ("6 runs of 4 participants", "2 epochs of 2 steps, fp32"))
    log = read_training_log(directory / "training_log.tsv")
    assert log["step"].tolist() == [1, 2, 3, 4]
    assert np.isfinite(log["loss"]).all()
    card = (directory / "README.md").read_text()
    sha256 = hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest()
    for words in (
        sha256,
        "participants: 4",
        "runs: 6",
        "hours: 0.2",
        "Licence",
        "Intended use",
        "0.8 to 2",
        "tasks: rest",
        "band: 0.01 to 0.1 Hz",
        "noise removed: motion, white matter and CSF",
        "global signal: kept",
        "scrubbing: none",
        "mask ratio: 0.65 to 0.85",
        "betas: 0.9, 0.999",
        "precision: fp32",
        "parts a batch is cut into: 1",
    ):
        assert words in card, words
    assert "not limited" not in card
    details = json.loads((directory / "config.json").read_text())["details"]
    assert details["limits"]["band"] == [0.01, 0.1]  # which the reports of participants compare
    for line in card.splitlines():
        if line.startswith("!["):
            assert (directory / line.split("](")[1].rstrip(")")).is_file()


def test_participants_can_be_found_among_the_hashed(trained):
    details = json.loads((trained[0] / "encoders" / "tiny" / "config.json").read_text())["details"]
    hashed = details["participants"]
    assert sorted(hashed["sha256"]) == sorted(
        hashlib.sha256(f"{hashed['salt']}{label}".encode()).hexdigest() for label in ("001", "002", "003", "004")
    )


def test_both_levels_use_the_encoder_and_agree(trained, study, tmp_path, app):
    out, _ = trained
    rows = (out / "phenotype" / "Demo457tiny.tsv").read_text().splitlines()
    assert [row.split("\t")[0] for row in rows[1:]] == [f"sub-00{i}" for i in range(1, 5)]
    fresh = tmp_path / "fresh"
    model = str(out / "encoders" / "tiny")
    assert app(study, fresh, "--model", model, "--participant-label", "001")[0] == 0
    (path,) = (fresh / "sub-001").rglob("*_desc-tiny_embedding.tsv")
    other = read_table(out / path.relative_to(fresh))[1]
    np.testing.assert_allclose(read_table(path)[1], other, atol=1e-5, rtol=0)
    sidecar = json.loads(path.with_suffix(".json").read_text())
    assert sidecar["Model"]["HasRandomWeights"] is False


def test_a_finished_encoder_is_not_trained_again(trained, study, tmp_path, app, pretrain):
    out = tmp_path / "out"
    shutil.copytree(trained[0], out)
    weights = out / "encoders" / "tiny" / "model.safetensors"
    before = weights.read_bytes()
    code, text = pretrain(out)
    assert code == 0, text
    assert "is complete; skipping training" in text
    assert "6 usable, 0 failed" in text
    assert weights.read_bytes() == before
    code, text = pretrain(out, "--epochs", "3")
    assert code == 4
    assert "recipe.epochs (on disk 2, now 3)" in text
    code, text = pretrain(out, "--participant-label", "001", "002", "003")
    assert code == 0, text
    assert "was trained on 6 runs instead of the current 5" in text
    assert weights.read_bytes() == before
    code, text = pretrain(out, "--epochs", "3", "--overwrite")
    assert code == 0, text
    assert weights.read_bytes() != before
    assert "6 usable, 0 failed" in text


def test_embeddings_of_an_earlier_encoder_do_not_cost_the_new_one(trained, study, tmp_path, app, pretrain):
    out = tmp_path / "out"
    shutil.copytree(trained[0], out)
    directory = out / "encoders" / "tiny"
    shutil.rmtree(directory)
    code, text = pretrain(out, "--random-seed", "1")
    assert code == 4
    assert "settings: model_sha256" in text
    assert f"--model {directory} --overwrite " in text
    weights = (directory / "model.safetensors").read_bytes()
    code, text = app(study, out, "--model", str(directory), "--overwrite", "--device", "cpu", level="group")
    assert code == 0, text
    assert (directory / "model.safetensors").read_bytes() == weights


def test_what_was_packed_is_not_packed_again_and_new_participants_are_added(out, pretrain):
    assert pretrain(out, "--encoder-name", "first", "--participant-label", "001", "002", "003")[0] == 0
    store = out / "encoders" / ".signals"
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*.f16")}
    code, text = pretrain(out, "--encoder-name", "second")
    assert code == 0, text
    assert "Packing 1 of 6 runs" in text
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(list(store.rglob("*.f16"))) == 2
    assert {path.stem for path in (out / "phenotype").glob("*.tsv")} == {
        f"Demo457{name}{table}" for name in ("first", "second") for table in ("", "Sessions")
    }


def test_stopped_by_the_clock_it_goes_on(out, pretrain, trained):
    code, text = pretrain(out, "--max-hours", "1e-9")
    assert code == 8
    assert text.splitlines()[-1].startswith(
        "bids_semantoks: Pretraining was stopped by --max-hours and saved at step 1"
    )
    assert not (out / "encoders" / "tiny" / "model.safetensors").exists()
    code, text = pretrain(out, "--max-hours", "1e-9", "--learning-rate", "0.001")
    assert code == 4
    assert "recipe.learning_rate (on disk 0.0007, now 0.001)" in text
    code, text = pretrain(out)
    assert code == 0, text
    assert "1 of 4" in text
    assert not (out / "encoders" / "tiny" / "checkpoints").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_asked_to_end_while_it_packs_it_keeps_what_was_packed(out, pretrain, trained, monkeypatch, number):
    read, seen = TableReader.__call__, []

    def ask(reader, source):
        seen.append(source)
        if len(seen) == 2:
            os.kill(os.getpid(), number)
        return read(reader, source)

    with monkeypatch.context() as patch:
        patch.setattr(TableReader, "__call__", ask)
        code, text = pretrain(out)
    assert code == 8
    last = text.splitlines()[-1]
    assert f"Pretraining was stopped by {number.name} while packing" in last
    assert len(seen) == 2
    code, text = pretrain(out)
    assert code == 0, text
    assert "Packing 4 of 6 runs" in text
    weights = Path("encoders", "tiny", "model.safetensors")
    assert (out / weights).read_bytes() == (trained[0] / weights).read_bytes()


def test_asked_to_end_while_it_packs_a_file(study, tmp_path, app, monkeypatch):
    rng = np.random.default_rng(0)
    path = tmp_path / "signals.h5"
    with h5py.File(path, "w") as file:
        for name, n_parcels in (("schaefer400", 400), ("tian3", 50), ("buckner7", 7)):
            file[f"timeseries/{name}"] = rng.standard_normal((4, n_parcels, 110)).astype(np.float32)
        file["long_subject_id"] = [b"a", b"b", b"c", b"d"]
    out = tmp_path / "out"
    number = iter(range(4))

    def ask(*arguments, **options):
        if next(number) == 2:
            os.kill(os.getpid(), signal.SIGUSR1)
        return standardise(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr("bids_semantoks.pretraining.packing.standardise", ask)
        code, text = app(study, out, *OPTIONS, "--pretrain-data", str(path), level="group")
    assert code == 8
    assert "stopped by SIGUSR1 while packing" in text.splitlines()[-1]
    code, text = app(study, out, *OPTIONS, "--pretrain-data", str(path), level="group")
    assert code == 0, text
    assert "Packing 2 of 4 runs" in text


def test_killed_before_its_last_words_it_writes_them(out, pretrain, trained, monkeypatch):
    """As if the process had been killed when the weights were there and the card was not."""

    def die(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("bids_semantoks.pretraining.run.write_model_card", die)
        assert pretrain(out)[0] == 130
    directory = out / "encoders" / "tiny"
    assert (directory / "config.json").exists()
    assert not (directory / "README.md").exists()
    code, text = pretrain(out)
    assert code == 0, text
    assert "4 of 4" in text
    assert not (directory / "checkpoints").exists()
    for name in ("model.safetensors", "README.md"):
        assert (directory / name).read_bytes() == (trained[0] / "encoders" / "tiny" / name).read_bytes()


def test_nothing_to_train_on(study, tmp_path, out, pretrain, app):
    code, text = pretrain(tmp_path / "empty")
    assert code == 3
    assert "No signals found in" in text
    code, text = pretrain(out, "--participant-label", "001")
    assert code == 3
    assert "found 1: 001" in text
    # Without a batch that was asked for, there is none to choose either.
    code, text = app(study, out, "--pretrain", "--encoder-config", "tiny", "--participant-label", "001", level="group")
    assert code == 3
    assert "found 1: 001" in text


def test_signals_of_two_atlases_are_not_mixed(out, app, study):
    for path in list(out.glob("sub-*/**/*_timeseries.*")):
        shutil.copy(path, path.with_name(path.name.replace("Demo457", "Other9")))
    arguments = [*OPTIONS, "--atlas", "Schaefer400Tian3Buckner7"]
    code, text = app(study, out, *arguments, level="group")
    assert code == 3
    assert "found atlas Demo457 in MNI152NLin2009cAsym, atlas Other9 in MNI152NLin2009cAsym" in text


def test_signals_that_cannot_be_used_are_left_out_and_named(out, pretrain):
    tables = sorted(out.glob("sub-*/**/*_stat-mean_timeseries.tsv"))
    parcels, values = read_table(tables[0])
    write_table(tables[0], parcels, np.full_like(values, np.nan))
    write_table(tables[1], parcels[:-1], values[:, :-1])
    tables[2].write_text(tables[2].read_text().replace("\n", "\tx\n", 3))
    for table in tables[:3]:  # as if they had been written so: another checksum would be the reason
        sidecar = json.loads(table.with_suffix(".json").read_text())
        sidecar["TableSHA256"] = sidecar["FilesSHA256"][table.name] = hashlib.sha256(table.read_bytes()).hexdigest()
        table.with_suffix(".json").write_text(json.dumps(sidecar))
    code, text = pretrain(out)
    assert "on 3 runs of 2 participants" in text
    assert "warnings" in text
    log = max(out.glob("logs/calls/*/bids_semantoks.log"), key=lambda path: path.stat().st_mtime_ns)
    lines = [line for line in log.read_text().splitlines() if "Excluded from training" in line]
    assert len(lines) == 3
    assert f"{tables[0]}: None of" in lines[0]
    assert f"{tables[1]} has 456 parcels " in lines[1]
    assert f"{tables[2]} holds something" in lines[2]
    for table in tables[3:]:
        write_table(table, parcels, np.full_like(values, np.nan))
    shutil.rmtree(out / "encoders")
    code, text = pretrain(out)
    assert code == 3
    assert "None of the 6 runs has signals" in text


def test_a_batch_larger_than_what_could_be_read_is_refused(out, pretrain):
    for table in sorted(out.glob("sub-*/**/*_stat-mean_timeseries.tsv"))[:2]:
        parcels, values = read_table(table)
        write_table(table, parcels, np.full_like(values, np.nan))
    code, text = pretrain(out, "--train-batch-size", "4")
    assert code == 4
    assert "A batch of 4 is larger than the data: 3 participants" in text


def test_a_damaged_store_is_refused(out, pretrain):
    assert pretrain(out, "--max-hours", "1e-9")[0] == 8
    (path,) = (out / "encoders" / ".signals").rglob("*.f16")
    path.write_bytes(path.read_bytes()[:-2])
    code, text = pretrain(out)
    assert code == 3
    assert "The packed signals" in text
    assert "Delete the directory" in text


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--train-batch-size", "5"), 4, "A batch of 5 is larger than the data: 4 participants"),
        (("--device", "cuda:7"), 5, "Device cuda:7 was requested but"),
        (("--encoder-config", "huge"), 4, "encoder configuration 'huge' cannot be read"),
        (("--training-config", "nowhere.json"), 4, "training configuration nowhere.json cannot be read"),
        (("--encoder-name", "../x"), 4, "found '../x'"),
        (("--accumulate", "3"), 4, "A batch of 2 cannot"),
        (("--pretrain-data", "nowhere.h5"), 3, "nowhere.h5 does not exist"),
        (("--epochs", "0"), 4, "--epochs must be 1 or more, found 0"),
    ],
)
def test_bad_calls(outputs, pretrain, tmp_path, arguments, code, words):
    out = tmp_path / "out"
    shutil.copytree(outputs, out)
    found, text = pretrain(out, *arguments)
    assert found == code
    assert words in text


def test_a_device_that_is_taken_is_said(out, pretrain, monkeypatch):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(torch.nn.Module, "to", fail)
    code, text = pretrain(out)
    assert code == 5
    assert "The encoder tiny does not fit in the free memory of cpu" in text


def test_what_would_do_nothing_is_said(outputs, app, study, pretrain, tmp_path):
    code, text = app(study, outputs, "--encoder-config", "tiny", "--epochs", "2", level="group")
    assert code == 4
    assert "--encoder-config, --epochs has no effect without --pretrain" in text
    out = tmp_path / "out"
    shutil.copytree(outputs, out)
    code, text = app(study, out, "--pretrain", "--signals-only", level="participant")
    assert code == 0, text
    assert "--pretrain is ignored at the participant level" in text
    code, text = pretrain(out, "--model", "random:small", "--max-hours", "1e-9")
    assert code == 8
    assert "--model random:small is ignored" in text


def test_a_recipe_from_a_file(out, pretrain, tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({"mask": "block", "ttr_weight": 0.0, "epochs": 7}))
    assert pretrain(out, "--training-config", str(path))[0] == 0
    details = json.loads((out / "encoders" / "tiny" / "config.json").read_text())["details"]
    assert (details["recipe"]["mask"], details["recipe"]["ttr_weight"], details["recipe"]["epochs"]) == (
        "block",
        0.0,
        2,
    )
    path.write_text(json.dumps({"masks": "block"}))
    code, text = pretrain(out, "--training-config", str(path))
    assert code == 4
    assert "has unknown keys: masks. Known keys: adam_eps" in text


def test_an_hdf5_file_is_enough(study, tmp_path, app):
    rng = np.random.default_rng(0)
    path = tmp_path / "signals.h5"
    with h5py.File(path, "w") as file:
        for name, n_parcels in (("schaefer400", 400), ("tian3", 50), ("buckner7", 7)):
            values = rng.standard_normal((5, n_parcels, 110)).astype(np.float32)
            values[1, :, 105:] = np.nan
            values[2] = np.nan
            values[3, 2, 50] = np.nan if name == "tian3" else 0.5
            values[4, :, 80:] = 0
            file[f"timeseries/{name}"] = values
        file["long_subject_id"] = [b"a", b"b", b"c", b"d", b"a"]
    out = tmp_path / "out"
    code, text = app(study, out, *OPTIONS, "--pretrain-data", str(path), "--dry-run", level="group")
    assert code == 0, text
    assert "Would pretrain an encoder on 5 runs of 4 participants" in text
    assert not out.exists()
    code, text = app(study, out, *OPTIONS, "--pretrain-data", str(path), level="group")
    assert code == 0, text
    assert "participant c, row 2" in text
    log = max(out.glob("logs/calls/*/bids_semantoks.log")).read_text()
    assert "participant d, row 3: NaN before the end of the run: timeseries/tian3, parcel 2, volume 50 of 110" in log
    assert "Participant a, row 4: 30 volumes at the end" in text
    assert all(part in text for part in ("3 runs of 2 participants", "2 epochs of 1 steps"))
    details = json.loads((out / "encoders" / "tiny" / "config.json").read_text())["details"]
    assert details["data"]["participants"] == 2
    assert len(details["participants"]["sha256"]) == 2


def test_dry_run_trains_nothing(outputs, pretrain):
    code, text = pretrain(outputs, "--dry-run")
    assert code == 0, text
    assert all(part in text for part in ("6 runs of 4 participants", "2 epochs of 2 steps,"))
    assert not (outputs / "encoders").exists()
    assert pretrain(outputs, "--dry-run", "--train-batch-size", "5")[0] == 4


def test_two_processes_speak_with_one_voice(out, study):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "bids_semantoks", str(study), str(out), "group", *OPTIONS, "--atlas", "Demo457", "--n-procs", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=240)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("fp32 on cpu, 2 processes.") == 1
    assert result.stderr.count("bids_semantoks: 6 usable, 0 failed") == 1
    assert len(list((out / "logs" / "calls").glob("*Z_*"))) == 2  # the participant level's and this
    assert read_training_log(out / "encoders" / "tiny" / "training_log.tsv")["step"].tolist() == [1, 2, 3, 4]


def test_an_encoder_in_training_is_left_alone_but_a_finished_one_can_be_used(out, trained, pretrain):
    directory = out / "encoders" / "tiny"
    with claim(directory, Ranks(), StopRequest()):
        for arguments in ((), ("--overwrite",)):
            code, text = pretrain(out, *arguments)
            assert code == 4
            assert "is being trained by process" in text
        assert [path.name for path in directory.iterdir()] == [".training.json"]
        shutil.copytree(trained[0] / "encoders" / "tiny", directory, dirs_exist_ok=True)
        code, text = pretrain(out)
        assert code == 0, text


def test_tasks_that_would_each_train_are_refused_and_other_levels_go_on(out, pretrain, app, study, monkeypatch):
    for name, value in (("SLURM_JOB_ID", "77"), ("SLURM_NTASKS", "2"), ("SLURM_PROCID", "1")):
        monkeypatch.setenv(name, value)
    code, text = pretrain(out)
    assert code == 4
    assert "SLURM_NTASKS=2" in text
    assert not (out / "encoders").exists()
    assert app(study, out, "--signals-only", level="participant")[0] == 0


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for name, seconds in (("_BEAT", 0.05), ("_PATIENCE", 0.5), ("_POLL", 0.02)):
        monkeypatch.setattr(module, name, seconds)


def hold(folder, request=None):
    return claim(folder, Ranks(), request or StopRequest())


def write_claim(folder, **changes):
    folder.mkdir(exist_ok=True)
    found = module._identify_call(StopRequest()) | changes
    (folder / CLAIM_FILE).write_text(json.dumps(found))


def test_the_second_call_is_refused_and_the_first_goes_on(tmp_path):
    folder = tmp_path / "tiny"
    with hold(folder):
        with pytest.raises(ConfigurationError, match=rf"tiny is being trained by process {os.getpid()} on ") as caught:
            hold(folder).__enter__()
        assert "--encoder-name" in str(caught.value)
        (folder / "config.json").touch()
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    with hold(folder):
        pass


def test_nothing_is_left_where_nothing_was_written(tmp_path):
    with hold(tmp_path / "tiny"):
        pass
    assert not (tmp_path / "tiny").exists()


def test_a_call_that_was_killed_on_this_machine_holds_nobody_back(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_PATIENCE", 60.0)
    dead = subprocess.Popen(["sleep", "60"])
    since = module.read_start(dead.pid)
    write_claim(tmp_path, process=dead.pid, since=since)
    with pytest.raises(ConfigurationError, match=f"process {dead.pid}"):
        hold(tmp_path).__enter__()
    dead.kill()
    dead.wait()
    started = time.monotonic()
    with hold(tmp_path):
        assert time.monotonic() - started < 5
    # Another process has its number meanwhile.
    write_claim(tmp_path, since="1")
    with hold(tmp_path):
        assert json.loads((tmp_path / CLAIM_FILE).read_text())["since"] != "1"


def test_a_call_on_another_machine_is_believed_while_it_gives_signs_of_life(tmp_path):
    write_claim(tmp_path, host="node7")
    has_ended = threading.Event()

    def beat():
        while not has_ended.wait(0.05):
            os.utime(tmp_path / CLAIM_FILE)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(ConfigurationError, match="on node7"):
            hold(tmp_path).__enter__()
    finally:
        has_ended.set()
        thread.join()
    with hold(tmp_path):  # silent for longer than the patience
        assert json.loads((tmp_path / CLAIM_FILE).read_text())["host"] == socket.gethostname()


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_claim_that_says_nothing_is_waited_for(tmp_path, text):
    (tmp_path / CLAIM_FILE).write_text(text)
    with hold(tmp_path):
        assert "process" in json.loads((tmp_path / CLAIM_FILE).read_text())


def test_a_call_whose_claim_was_taken_over_is_asked_to_stop(tmp_path):
    request = StopRequest()
    with hold(tmp_path, request):
        write_claim(tmp_path, host="node7")
        until = time.monotonic() + 10
        while not request.reason and time.monotonic() < until:
            time.sleep(0.02)
    assert request.reason == "another call, which trains the same encoder"
    assert (tmp_path / CLAIM_FILE).exists()


def test_a_call_gives_signs_of_life(tmp_path):
    with hold(tmp_path):
        before = (tmp_path / CLAIM_FILE).stat().st_mtime_ns
        until = time.monotonic() + 10
        while (tmp_path / CLAIM_FILE).stat().st_mtime_ns == before and time.monotonic() < until:
            time.sleep(0.02)
        assert (tmp_path / CLAIM_FILE).stat().st_mtime_ns > before


def test_of_two_calls_that_find_a_dead_claim_the_slower_leaves_the_claim_of_the_quicker(tmp_path):
    path = tmp_path / CLAIM_FILE
    write_claim(tmp_path, process=1, since="1")
    dead = json.loads(path.read_text())
    write_claim(tmp_path)  # the quicker one
    assert not module._remove(path, dead)
    assert json.loads(path.read_text())["process"] == os.getpid()
    assert [one.name for one in tmp_path.iterdir()] == [CLAIM_FILE]
    assert module._remove(path, json.loads(path.read_text()))
    assert not module._remove(path, dead)
    assert list(tmp_path.iterdir()) == []
