"""What launchers set, what they leave out, and tasks that would each train alone."""

from __future__ import annotations

import pytest

from bids_semantoks.errors import ConfigurationError
from bids_semantoks.runtime import launch
from bids_semantoks.runtime.launch import Launch, check_launch, read_launch

RANKS = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "node1", "MASTER_PORT": "29500"}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    names = (*launch._REQUIRED, *launch._TASKS, "LOCAL_WORLD_SIZE", "SLURM_NTASKS", "SLURM_PROCID", "ENVIRONMENT")
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
