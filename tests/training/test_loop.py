"""The loop: goes on exactly where it was, whatever ended it, and stops when nothing good can come."""

import json
import logging
import math
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.training_driver import build_training, write_store

from bids_semantoks.config import TrainingConfig
from bids_semantoks.errors import ConfigurationError, ResourceError, TrainingDiverged, TrainingStopped
from bids_semantoks.pretraining.card import append_log, read_training_log, start_log
from bids_semantoks.training import loop
from bids_semantoks.training.batches import build_schedules, choose_batch_size
from bids_semantoks.training.distributed import Ranks
from bids_semantoks.training.loop import Pretraining, StopRequest, find_states, read_last_state
from bids_semantoks.training.progress import LOG_COLUMNS, CollapseWatch

DRIVER = Path(__file__).parents[1] / "helpers" / "training_driver.py"


RECIPE = {"epochs": 8, "batch_size": 4, "learning_rate": 0.01, "warmup_epochs": 1.0}


N_STEPS = 8 * 2


def start(directory: Path, **options: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(DRIVER.parents[2])}
    command = [sys.executable, str(DRIVER), str(directory), json.dumps({"recipe": RECIPE, **options})]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=environment, text=True, **pipes)


def finish(process: subprocess.Popen[str]) -> str:
    _, text = process.communicate(timeout=120)
    assert process.returncode == 0, text
    return text


def train(directory: Path, *, view=None, request=None, recipe=None, **plan):
    training = build_training(
        directory,
        view or write_store(directory / "signals"),
        recipe=TrainingConfig(**(RECIPE | (recipe or {}))),
        **plan,
    )
    run(training, directory / "training_log.tsv", request)
    return training


def run(training, path, request=None):
    start_log(path, training.step)
    training.run(partial(append_log, path), request or StopRequest())


def weights(training):
    return {key: value.clone() for key, value in training.module.state_dict().items()}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value), key


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Weights of a training that nothing disturbed, and its table."""
    directory = tmp_path_factory.mktemp("whole")
    return weights(train(directory)), read_training_log(directory / "training_log.tsv")


def test_the_table_holds_every_step_and_the_schedules_arrive(whole):
    _, log = whole
    assert log["step"].tolist() == list(range(1, N_STEPS + 1))
    assert log["epoch"].tolist() == [1 + step // 2 for step in range(N_STEPS)]
    np.testing.assert_allclose(log["loss"], log["cls"] + log["ttr"] + log["token"], atol=2e-6)
    schedules = build_schedules(TrainingConfig(**RECIPE), steps_per_epoch=2, batch_size=4, seed=0)
    np.testing.assert_allclose(log["learning_rate"], schedules.learning_rate, rtol=1e-6)
    np.testing.assert_allclose(log["momentum"], schedules.momentum, rtol=1e-6)
    assert log["learning_rate"][2] == pytest.approx(0.01 * 4 / 256)


def test_killed_and_started_again_ends_with_the_same_bits(tmp_path, whole):
    process = start(tmp_path, checkpoint_every=1, pause_at=7)
    for line in process.stdout:
        # Step 7 is in the middle of an epoch, after the checkpoint of step 6.
        if int(line) == 7:
            process.send_signal(signal.SIGKILL)
            break
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    states = [path.name for path in find_states(tmp_path / "checkpoints")]
    assert len(states) == 2
    assert states[-1] < f"step-{N_STEPS:08d}.pt"
    text = finish(start(tmp_path, checkpoint_every=1))
    assert text == ""
    assert_same(torch.load(tmp_path / "weights-0.pt"), whole[0])
    log = read_training_log(tmp_path / "training_log.tsv")
    assert log["step"].tolist() == list(range(1, N_STEPS + 1))
    np.testing.assert_array_equal(log["loss"], whole[1]["loss"])
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_and_the_training_goes_on(tmp_path, whole, number):
    process = start(tmp_path, pause_at=1)
    assert int(process.stdout.readline()) == 1
    process.send_signal(number)
    text = process.communicate("go on\n", timeout=120)[1]
    assert f"TrainingStopped: Pretraining was stopped by {number.name} and saved at step" in text
    assert len(find_states(tmp_path / "checkpoints")) == 1
    assert_same(weights(train(tmp_path)), whole[0])


def test_the_time_is_up_after_each_step_and_the_end_is_the_same(tmp_path, whole):
    for step in range(1, N_STEPS):
        with pytest.raises(TrainingStopped, match=f"--max-hours and saved at step {step} of {N_STEPS}") as caught:
            train(tmp_path, max_seconds=0.0)
        assert caught.value.exit_code == 8
    assert_same(weights(train(tmp_path, max_seconds=0.0)), whole[0])


def test_the_time_counts_from_the_beginning_of_the_call(tmp_path):
    """Packing comes first, and a scheduler counts it."""
    with pytest.raises(TrainingStopped, match="stopped by --max-hours and saved at step 1 of"):
        train(tmp_path, request=StopRequest(started=time.monotonic() - 7200), max_seconds=3600.0)


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "flipped", "tensor"])
def test_a_damaged_checkpoint_is_left_out(tmp_path, whole, damage, caplog):
    with pytest.raises(TrainingStopped, match="saved at step 1 of"):
        train(tmp_path, max_seconds=0.0)
    with pytest.raises(TrainingStopped, match="saved at step 2 of"):
        train(tmp_path, max_seconds=0.0)
    last = find_states(tmp_path / "checkpoints")[-1]
    content = last.read_bytes()
    if damage == "tensor":
        torch.save(torch.ones(2), last)
    else:
        weight = torch.load(last, weights_only=True)["tensors"]["module"]["student.class_token"].numpy().tobytes()
        place = content.index(weight)
        flipped = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        last.write_bytes({"cut": content[:-999], "empty": b"", "text": b"gone", "flipped": flipped}[damage])
    with caplog.at_level("WARNING", logger="bids_semantoks"):
        training = build_training(tmp_path, write_store(tmp_path / "signals"), recipe=TrainingConfig(**RECIPE))
    assert training.step == 1
    assert f"{last}" in caplog.text
    assert_same(weights(train(tmp_path)), whole[0])


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    with pytest.raises(TrainingStopped, match="saved at step 1"):
        train(tmp_path, max_seconds=0.0)
    with pytest.raises(ConfigurationError, match=r"recipe.mask.*'slice',.*--overwrite"):
        train(tmp_path, recipe={"mask": "block"})


def test_accumulation_counts_optimiser_steps(tmp_path):
    training = train(tmp_path, n_slices=2)
    assert (training.step, training.n_batches) == (N_STEPS, N_STEPS)
    assert len(read_training_log(tmp_path / "training_log.tsv")["step"]) == N_STEPS


def test_steps_skipped_by_float16_move_nothing(tmp_path):
    """An overflow of the first scale repeats the step with other data; schedule and teacher wait."""
    training = build_training(
        tmp_path, write_store(tmp_path / "signals"), recipe=TrainingConfig(**RECIPE), precision="fp16"
    )
    training.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    run(training, tmp_path / "log.tsv")
    assert training.step == N_STEPS
    assert training.n_batches > N_STEPS
    log = read_training_log(tmp_path / "log.tsv")
    assert log["step"].tolist() == list(range(1, N_STEPS + 1))
    assert np.isfinite(log["gradient_norm"]).all()
    state = read_last_state(tmp_path / "checkpoints", training.plan.settings)
    assert state.n_batches == training.n_batches
    assert state.tensors["scaler"]["scale"] < 2.0**40


def test_a_loss_that_is_not_a_number_stops_and_names_the_step(tmp_path):
    with pytest.raises(TrainingStopped, match="saved at step 1"):
        train(tmp_path, max_seconds=0.0)
    training = build_training(tmp_path, write_store(tmp_path / "signals"), recipe=TrainingConfig(**RECIPE))
    with torch.no_grad():
        training.module.student.class_token[3] = math.nan
    (before,) = find_states(tmp_path / "checkpoints")
    with pytest.raises(TrainingDiverged, match=f"loss became nan at step 2. The last good checkpoint is {before}") as e:
        run(training, tmp_path / "training_log.tsv")
    assert e.value.exit_code == 9
    assert find_states(tmp_path / "checkpoints") == [before]
    assert read_training_log(tmp_path / "training_log.tsv")["step"].tolist() == [1]
    meanings = json.loads((tmp_path / "training_log.json").read_text(encoding="utf-8"))
    assert list(meanings) == list(LOG_COLUMNS)


def test_a_training_that_pulls_all_into_one_point_is_noticed(tmp_path):
    """Without the coding rate nothing keeps projections apart."""
    recipe = {"epochs": 100, "coding_rate_weight": 0.0, "learning_rate": 0.05, "momentum": (0.9, 0.9)}
    with pytest.raises(TrainingDiverged, match=r"projections collapsed: for 50 steps their spread was below 5%"):
        train(tmp_path, recipe=recipe)
    assert len(read_training_log(tmp_path / "training_log.tsv")["step"]) < 150


def test_collapse_needs_patience_and_the_end_of_warm_up():
    schedules = build_schedules(TrainingConfig(epochs=100, warmup_epochs=3.0), steps_per_epoch=10, batch_size=4, seed=0)
    watch = CollapseWatch(128, 10, schedules)
    said = [watch.add(step, rank=1.0, spread=1e-4, cosine=0.999, loss=-1.0) for step in range(200)]
    assert [bool(text) for text in said].index(True) == 60 + 49
    assert "now 0.11%, effective rank 1.00, cosine 0.9990, loss -1.0000" in said[109]
    watch = CollapseWatch(128, 10, schedules)
    assert not any(watch.add(step, rank=1.0, spread=1e-4, cosine=0.9, loss=-1.0) for step in range(200))


@pytest.mark.parametrize(
    ("error", "n_slices", "hint"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory."),
            1,
            r"4 participants .*--accumulate 2, or --train-batch-size 2\.",
        ),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory"),
            2,
            r"2 participants .*--accumulate 4, or .*-size 2\.",
        ),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when"), 2, r"2 participants .*Use --accumulate 4, or"),
        (torch.OutOfMemoryError("CUDA out of memory."), 4, r"1 participants .*Use a smaller --encoder-config"),
    ],
)
def test_too_little_memory_names_a_batch_to_try(tmp_path, monkeypatch, error, n_slices, hint):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(loop, "train_step", fail)
    with pytest.raises(ResourceError, match="at once do not fit in the memory of cpu") as caught:
        train(tmp_path, n_slices=n_slices)
    assert re.search(hint, f"{caught.value} {caught.value.hint}")
    assert caught.value.exit_code == 5


@pytest.mark.parametrize(("size", "n_slices", "n_ranks"), [(9, 1, 1), (10, 1, 2), (7, 1, 1), (3, 1, 1), (2, 1, 1)])
def test_what_to_try_is_what_the_next_call_takes(size, n_slices, n_ranks):
    training = object.__new__(loop.Pretraining)
    training.device = torch.device("cpu")
    training.plan = SimpleNamespace(recipe=TrainingConfig(batch_size=size), n_slices=n_slices)
    training.ranks = Ranks(size=n_ranks)
    hint = training._describe_memory().hint
    accumulate = int(re.search(r"--accumulate (\d+)", hint)[1])
    assert accumulate > n_slices
    assert choose_batch_size(100, size, n_parts=accumulate * n_ranks) == size
    smaller = re.search(r"--train-batch-size (\d+)", hint)
    assert (smaller is None) == (size < 4)
    if smaller:
        assert choose_batch_size(100, int(smaller[1]), n_parts=n_slices * n_ranks) < size


def test_another_error_of_a_step_is_not_taken_for_memory(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(loop, "train_step", fail)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        train(tmp_path)


def test_lines_now_and_then_and_a_bar_between_them(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("bids_semantoks.runtime.logs.BAR_SECONDS", 0.0)
    with caplog.at_level("INFO", logger="bids_semantoks"):
        train(tmp_path)
    told = [record for record in caplog.records if getattr(record, "is_progress", False)]
    assert [record.is_fleeting for record in told] == [False, *[True] * (N_STEPS - 2), False]
    first, *_, last = (record.getMessage() for record in told)
    assert re.match(rf"\[#*\.+\] epoch 1/\d+, step 1/{N_STEPS}: loss -?\d+\.\d+, rank .*participants/s$", first)
    assert last.startswith(f"[{20 * '#'}]")
    assert last.endswith("participants/s")


def test_a_full_disk_is_said_and_leaves_the_last_checkpoint(tmp_path):
    with pytest.raises(TrainingStopped, match="saved at step 1"):
        train(tmp_path, max_seconds=0.0)
    (before,) = find_states(tmp_path / "checkpoints")
    content = before.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(ResourceError, match=r"step-00000002.pt.*Free disk space") as caught:
            train(tmp_path, max_seconds=0.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.exit_code == 5
    assert before.read_bytes() == content
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.fixture
def tools(monkeypatch, tmp_path):
    """A folder for compilers and one for headers, both empty, and nothing else."""
    for name in ("bin", "include"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(sysconfig, "get_paths", lambda _: {"include": str(tmp_path / "include")})
    return tmp_path


def add_compiler(folder, name):
    (folder / "bin" / name).write_text("#!/bin/sh\n")
    (folder / "bin" / name).chmod(0o755)


@pytest.mark.parametrize("name", ["gcc", "clang"])
def test_compiler_and_headers_are_needed(tools, name):
    assert loop.find_compiler_obstacle() == "No C compiler found"
    add_compiler(tools, name)
    assert shutil.which(name) is not None
    assert loop.find_compiler_obstacle() == f"Python headers (python3-dev) not found in {tools / 'include'}"
    (tools / "include" / "Python.h").touch()
    assert loop.find_compiler_obstacle() == ""


def test_headers_of_the_python_of_debian(tools, monkeypatch):
    """Its default scheme names a folder below /usr/local that holds none."""
    add_compiler(tools, "gcc")
    folders = {"posix_local": tools / "local", "posix_prefix": tools / "include"}
    monkeypatch.setattr(sysconfig, "get_default_scheme", lambda: "posix_local")
    monkeypatch.setattr(sysconfig, "get_paths", lambda scheme="posix_local": {"include": str(folders[scheme])})
    assert loop.find_compiler_obstacle() == f"Python headers (python3-dev) not found in {tools / 'include'}"
    (tools / "include" / "Python.h").touch()
    assert loop.find_compiler_obstacle() == ""


def test_the_compiler_that_cc_names_counts(tools, monkeypatch):
    (tools / "include" / "Python.h").touch()
    add_compiler(tools, "icx")
    assert loop.find_compiler_obstacle() == "No C compiler found"
    monkeypatch.setenv("CC", "icx -O2")
    assert loop.find_compiler_obstacle() == ""
    add_compiler(tools, "gcc")
    monkeypatch.setenv("CC", "absent")
    assert loop.find_compiler_obstacle() == "No C compiler found"


@pytest.mark.parametrize(("device", "is_compiled"), [("cuda", True), ("cpu", False)])
def test_one_warning_and_no_compilation(tools, device, is_compiled, caplog, monkeypatch):
    calls = []
    training = object.__new__(Pretraining)
    training.device = torch.device(device)
    training.module = SimpleNamespace(compile_encoders=lambda: calls.append("compiled"))
    training.ranks = SimpleNamespace(size=1)
    with caplog.at_level(logging.WARNING, logger="bids_semantoks"):
        training._wrap()
    messages = [record.getMessage() for record in caplog.records]
    assert [message.startswith("No C compiler found; ") for message in messages] == ([True] if is_compiled else [])
    assert calls == []
    add_compiler(tools, "gcc")
    (tools / "include" / "Python.h").touch()
    training._wrap()
    assert calls == (["compiled"] if is_compiled else [])
