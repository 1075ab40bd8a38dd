"""The record that pretraining leaves for those who started it by torchrun."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from bids_semantoks.config import RunningConfig
from bids_semantoks.errors import ConfigurationError, ResourceError, TrainingDiverged, TrainingStopped
from bids_semantoks.runtime import resources
from bids_semantoks.runtime.resources import Launch, check_launch, find_record, read_launch, record_end

OPTIONS = ("--pretrain", "--encoder-config", "tiny", "--epochs", "2", "--train-batch-size", "2", "--device", "cpu")


@pytest.fixture(autouse=True)
def launch(monkeypatch):
    """Torchrun started this process, its first."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "37-1")
    monkeypatch.delenv("RANK", raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (TrainingStopped("Saved at step 3."), "stopped", 8),
        (TrainingDiverged("Loss is nan at step 3."), "failed", 9),
        (ResourceError("No room at step 3."), "failed", 5),
        (RuntimeError("peer gone at step 3."), "failed", 1),
    ],
)
def test_errors_leave_their_exit_code(tmp_path, error, status, code):
    with pytest.raises(type(error), match="step 3"), record_end(tmp_path):
        raise error
    record = json.loads((tmp_path / "logs" / "launch-37-1.json").read_text())
    assert (record["status"], record["exit_code"]) == (status, code)
    assert "at step 3." in record["message"]


def test_what_was_interrupted_leaves_nothing_not_even_an_earlier_record(tmp_path):
    with record_end(tmp_path):
        pass
    record = tmp_path / "logs" / "launch-37-1.json"
    assert json.loads(record.read_text()) == {"status": "ok", "exit_code": 0, "message": ""}
    with pytest.raises(KeyboardInterrupt), record_end(tmp_path):
        raise KeyboardInterrupt
    assert not record.exists()


def test_only_the_first_of_launched_processes_writes(tmp_path, launch):
    launch.setenv("TORCHELASTIC_RUN_ID", "job/7 x")
    assert find_record(tmp_path) == tmp_path / "logs" / "launch-job_7_x.json"
    launch.setenv("WORLD_SIZE", "2")
    launch.setenv("RANK", "1")
    assert find_record(tmp_path) is None
    launch.setenv("RANK", "0")
    assert find_record(tmp_path) is not None
    launch.delenv("TORCHELASTIC_RUN_ID")
    assert find_record(tmp_path) is None


def test_a_full_disk_does_not_hide_the_error(tmp_path):
    (tmp_path / "logs").write_text("in the way of the folder")
    with pytest.raises(TrainingStopped, match=r"Saved at step 3\."), record_end(tmp_path):
        raise TrainingStopped("Saved at step 3.")


def test_pretraining_says_what_its_exit_code_says(app, study, outputs, tmp_path):
    shutil.copytree(outputs, tmp_path / "out")
    record = tmp_path / "out" / "logs" / "launch-37-1.json"
    for limit, expected in (("1e-9", 8), ("1", 0)):
        code, text = app(study, tmp_path / "out", *OPTIONS, "--max-hours", limit, level="group")
        assert code == expected, text
        assert json.loads(record.read_text())["exit_code"] == expected


def test_processes_fit_cpus_runs_and_memory(monkeypatch, caplog):
    monkeypatch.setattr(resources, "count_cpus", lambda: 8)
    assert resources.choose_n_procs(RunningConfig(), n_jobs=100, model_bytes=0) == 8
    assert resources.choose_n_procs(RunningConfig(), n_jobs=5, model_bytes=0) == 2
    monkeypatch.setattr(resources, "count_cpus", lambda: 64)
    assert resources.choose_n_procs(RunningConfig(), n_jobs=100, model_bytes=0) == 50
    assert resources.choose_n_procs(RunningConfig(), n_jobs=100, model_bytes=0, device="cuda:1") == 8
    assert resources.choose_n_procs(RunningConfig(n_procs=12), n_jobs=100, model_bytes=0, device="cuda") == 12
    monkeypatch.setattr(resources, "count_cpus", lambda: 8)
    assert resources.choose_n_procs(RunningConfig(), n_jobs=1, model_bytes=0) == 1
    assert resources.choose_n_procs(RunningConfig(n_procs=3), n_jobs=100, model_bytes=0) == 3
    assert resources.choose_n_procs(RunningConfig(n_procs=3), n_jobs=2, model_bytes=0) == 2
    with caplog.at_level(logging.WARNING, logger="bids_semantoks"):
        assert resources.choose_n_procs(RunningConfig(n_procs=8, mem="4G"), n_jobs=100, model_bytes=500 << 20) == 2
    assert "2 instead of 8 processes" in caplog.text
    assert resources.choose_n_procs(RunningConfig(n_procs=8, mem="100M"), n_jobs=100, model_bytes=0) == 1
    monkeypatch.setattr(resources, "count_cpus", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert resources.choose_n_threads(RunningConfig(), n_procs=2) == 4
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert resources.choose_n_threads(RunningConfig(), n_procs=2) == 2
    assert resources.choose_n_threads(RunningConfig(omp_nthreads=3), n_procs=2) == 3


@pytest.fixture
def homeless(tmp_path, monkeypatch):
    """No home and no caches; returns the place of temporary files."""
    for name, _ in resources._CACHES:
        monkeypatch.setenv(name, "restored in the end")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", "/nonexistent")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def find_caches(out):
    resources.open_work_dir(None, out)
    (folder,) = {Path(os.environ[name]).parent for name, _ in resources._CACHES}
    return folder


def test_caches_without_a_home_lie_in_a_folder_of_the_user(homeless):
    folder = find_caches(homeless / "out")
    assert folder == homeless / f"bids_semantoks-{os.getuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("kind", ["link", "file", "writable", "owner"])
def test_caches_are_not_put_where_others_wait(homeless, monkeypatch, kind, caplog):
    usual, trap = homeless / f"bids_semantoks-{os.getuid()}", homeless / "trap"
    trap.mkdir()
    if kind == "link":
        usual.symlink_to(trap)
    elif kind == "file":
        usual.touch()
    else:
        usual.mkdir()
        usual.chmod(0o777 if kind == "writable" else 0o700)
    if kind == "owner":
        if os.getuid():
            pytest.skip("needs the right to give files away")
        os.chown(usual, 65534, 65534)
    monkeypatch.setattr(logging.getLogger("bids_semantoks"), "propagate", True)
    folder = find_caches(homeless / "out")
    assert folder != usual
    assert folder.parent == homeless
    assert folder.stat().st_mode & 0o777 == 0o700
    assert not any(trap.iterdir())
    assert str(usual) in caplog.text


def test_a_folder_of_an_earlier_version_is_closed_to_others(homeless):
    usual = homeless / f"bids_semantoks-{os.getuid()}"
    usual.mkdir(mode=0o755)
    assert find_caches(homeless / "out") == usual
    assert usual.stat().st_mode & 0o777 == 0o700


RANKS = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "node1", "MASTER_PORT": "29500"}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    names = (*resources._REQUIRED, *resources._TASKS, "LOCAL_WORLD_SIZE", "SLURM_NTASKS", "SLURM_PROCID", "ENVIRONMENT")
    for name in names:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def set_variables(monkeypatch):
    def set_all(variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_all


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, Launch()),
        ({"MASTER_ADDR": "node1", "RANK": ""}, Launch()),
        (RANKS, Launch(rank=3, size=4, local_rank=1, local_size=2)),
        (RANKS | {"LOCAL_WORLD_SIZE": "4"}, Launch(rank=3, size=4, local_rank=1, local_size=4)),
        ({"WORLD_SIZE": "1"}, Launch()),
        ({"WORLD_SIZE": "1", "RANK": "0"}, Launch()),
    ],
)
def test_what_torchrun_sets_is_read(set_variables, variables, expected):
    set_variables(variables)
    assert read_launch() == expected
    check_launch()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"WORLD_SIZE": ""}, "RANK=3, LOCAL_RANK=1 without WORLD_SIZE"),
        ({"RANK": ""}, "without RANK"),
        ({"LOCAL_RANK": ""}, "without LOCAL_RANK"),
        ({"MASTER_ADDR": ""}, "without MASTER_ADDR"),
        ({"MASTER_PORT": ""}, "without MASTER_PORT"),
        ({"RANK": "", "WORLD_SIZE": ""}, "LOCAL_RANK=1 without RANK, WORLD_SIZE"),
        ({"RANK": "4"}, "RANK is 4, expected less than WORLD_SIZE"),
        ({"WORLD_SIZE": "1"}, "RANK is 3, expected less than WORLD_SIZE.*1"),
        ({"WORLD_SIZE": "0"}, "RANK is 3, expected less than WORLD_SIZE.*0"),
        ({"RANK": "0"}, "LOCAL_RANK is 1, expected less than"),
        ({"LOCAL_WORLD_SIZE": "1"}, "LOCAL_RANK is 1, expected less than LOCAL_WORLD_SIZE"),
        ({"LOCAL_WORLD_SIZE": "5"}, "WORLD_SIZE.*is 4"),
        ({"RANK": "-1"}, "RANK is '-1', expected an integer"),
        ({"WORLD_SIZE": "four"}, "WORLD_SIZE is 'four', expected an integer"),
        ({"LOCAL_RANK": "1.0"}, "LOCAL_RANK is '1.0', expected an integer"),
        ({"MASTER_PORT": "http"}, "MASTER_PORT is 'http', expected an integer"),
        ({"MASTER_PORT": "70000"}, "MASTER_PORT is 70000, expected 1 to 65535"),
    ],
)
def test_variables_that_cannot_be_are_refused(set_variables, changes, message):
    set_variables(RANKS | changes)
    with pytest.raises(ConfigurationError, match=message) as caught:
        read_launch()
    assert "torchrun" in str(caught.value)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"}, "SLURM_STEP_NUM_TASKS=2"),
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "1"}, "SLURM_NTASKS=2"),
        ({"OMPI_COMM_WORLD_SIZE": "3"}, "mpirun started 3 tasks"),
        ({"PMI_SIZE": "3"}, "PMI_SIZE=3"),
        # A launcher on each node, but none knows of the others.
        ({"SLURM_STEP_NUM_TASKS": "2", "RANK": "0", "WORLD_SIZE": "1"}, "WORLD_SIZE is 1"),
        # A batch script whose steps start several tasks.
        ({"ENVIRONMENT": "BATCH", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"}, "srun started 2 tasks"),
    ],
)
def test_several_tasks_that_would_train_alone_are_refused(set_variables, variables, words):
    set_variables(variables)
    with pytest.raises(ConfigurationError, match=words) as caught:
        check_launch()
    assert "torchrun" in str(caught.value)
    assert "cluster/slurm" in str(caught.value)


@pytest.mark.parametrize(
    "variables",
    [
        {"SLURM_NTASKS": "8"},  # a shell of salloc
        {"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "ENVIRONMENT": "BATCH"},  # a script of sbatch
        {"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"},  # srun --ntasks=1 in an allocation
        {"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "PMI_SIZE": "1"},
        {"SLURM_STEP_NUM_TASKS": "2", **RANKS},  # torchrun on two nodes
    ],
)
def test_one_task_or_tasks_that_know_each_other_may_train(set_variables, variables):
    set_variables(variables)
    check_launch()
