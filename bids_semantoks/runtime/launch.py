"""How this process was launched: alone, by torchrun as one of several, or as one of several that know nothing of each
other."""

from __future__ import annotations

import os
from typing import Final, NamedTuple

from bids_semantoks.errors import ConfigurationError

#: What each of several processes must know to find the others, as torchrun sets it.
_REQUIRED: Final = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")

#: Variables with the number of tasks that a launcher started (SLURM; Open MPI; MPICH, Intel; MVAPICH2; LSF).
_TASKS: Final = {
    "SLURM_STEP_NUM_TASKS": "srun",
    "OMPI_COMM_WORLD_SIZE": "mpirun",
    "PMI_SIZE": "mpirun",
    "MV2_COMM_WORLD_SIZE": "mpirun",
    "JSM_NAMESPACE_SIZE": "jsrun",
}

_HINT: Final = (
    "Start the processes with torchrun, on several nodes as cluster/slurm/pretrain.sbatch does; for a single process "
    "unset RANK, WORLD_SIZE and LOCAL_RANK."
)


class Launch(NamedTuple):
    """This process among those that were launched together."""

    rank: int = 0  # from 0
    size: int = 1  # number of processes
    local_rank: int = 0  # rank on this machine
    local_size: int = 1  # number of processes on this machine, as far as it is known


def read_launch() -> Launch:
    """Read the variables that torchrun sets. ConfigurationError if some are missing, are not numbers, or contradict
    each other."""
    numbers = {name: _read_number(name) for name in (*_REQUIRED[:3], "LOCAL_WORLD_SIZE")}
    rank, size, local_rank, local_size = numbers.values()
    if rank is None and size is None and local_rank is None:
        return Launch()
    if size != 1 and (missing := [name for name in _REQUIRED if not os.environ.get(name)]):
        found = [f"{name}={value}" for name, value in numbers.items() if value is not None]
        raise ConfigurationError(
            f"Launcher variables are incomplete: {', '.join(found)} without {', '.join(missing)}.", hint=_HINT
        )
    rank, size, local_rank = rank or 0, size or 0, local_rank or 0
    # The ranks of a machine ascend, so none is smaller than the rank on the machine.
    bounds = [("RANK", rank, "WORLD_SIZE", size), ("LOCAL_RANK", local_rank, "RANK + 1", rank + 1)]
    if local_size is not None:
        bounds.append(("LOCAL_RANK", local_rank, "LOCAL_WORLD_SIZE", local_size))
        bounds.append(("LOCAL_WORLD_SIZE - 1", local_size - 1, "WORLD_SIZE", size))
    for name, value, limit, bound in bounds:
        if value >= bound:
            raise ConfigurationError(
                f"Launcher variables are inconsistent: {name} is {value}, expected less than {limit} ({bound}).",
                hint=_HINT,
            )
    if size > 1:
        port = _read_number("MASTER_PORT")
        if port is None or not 0 < port < 2**16:
            raise ConfigurationError(f"MASTER_PORT is {port}, expected 1 to 65535.", hint=_HINT)
    return Launch(rank=rank, size=size, local_rank=local_rank, local_size=max(local_size or 1, local_rank + 1))


def _read_number(name: str) -> int | None:
    """Read a variable of the launcher; None if it is not set or empty."""
    text = os.environ.get(name, "").strip()
    if text and not (text.isascii() and text.isdecimal()):
        raise ConfigurationError(f"{name} is {text[:40]!r}, expected an integer of 0 or more.", hint=_HINT)
    return int(text) if text else None


def check_launch() -> None:
    """Raise ConfigurationError if a launcher started several copies of this call that would each train alone."""
    size = read_launch().size
    name, n_tasks = _find_tasks()
    if n_tasks > size:
        alone = f"WORLD_SIZE is {size}" if os.environ.get("WORLD_SIZE") else "RANK is not set"
        raise ConfigurationError(
            f"{_TASKS.get(name, 'srun')} started {n_tasks} tasks ({name}={n_tasks}) and {alone}: each would train the "
            "whole encoder in the same folder.",
            hint="Start one task (--ntasks=1, -n 1), or one per node that starts torchrun, as "
            "cluster/slurm/pretrain.sbatch does.",
        )


def _find_tasks() -> tuple[str, int]:
    """Find the variable with the number of tasks that were launched together, and the number; 1 for none."""
    counts = {name: int(value) for name in _TASKS if (value := os.environ.get(name, "")).isdecimal()}
    # SLURM_NTASKS belongs to the allocation: salloc and sbatch set it as well, and the batch script has a SLURM_PROCID
    # too. It is believed in a task whose environment was cleaned of the variables of its step.
    is_task = os.environ.get("SLURM_PROCID", "").isdecimal() and os.environ.get("ENVIRONMENT") != "BATCH"
    allocated = os.environ.get("SLURM_NTASKS", "")
    if is_task and "SLURM_STEP_NUM_TASKS" not in counts and allocated.isdecimal():
        counts["SLURM_NTASKS"] = int(allocated)
    return max(counts.items(), key=lambda one: one[1], default=("", 1))
