"""Processes that train one encoder together, and sums over them; all are no-ops in a single process."""

from __future__ import annotations

import contextlib
import datetime
import os
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed.rendezvous import rendezvous

from bids_semantoks.errors import ResourceError, TrainingDiverged, TrainingStopped
from bids_semantoks.runtime.resources import read_launch

# The first process packs the signals while the others wait; that may take hours.
_PATIENCE = datetime.timedelta(hours=24)

# All start together; processes missing by then have failed or were never started.
_JOINING = datetime.timedelta(minutes=10)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """This process among all."""

    rank: int = 0  # from 0
    size: int = 1  # number of processes
    # gloo group for flags between CPUs, without waiting for a GPU; None for one process
    control: distributed.ProcessGroup | None = None

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether a flag is set in any process; collective, all processes must call it."""
        if self.control is None:
            return flag
        value = torch.tensor([int(flag)])
        distributed.all_reduce(value, op=distributed.ReduceOp.MAX, group=self.control)
        return bool(value.item())

    def wait(self) -> None:
        """Wait for all processes."""
        self.any(False)


def choose_device(device: torch.device) -> torch.device:
    """Give each process of a machine its own GPU; ResourceError if the machine has fewer GPUs than processes."""
    launch = read_launch()
    if device.type != "cuda" or launch.size == 1:
        return device
    # In every process, so that none waits for one that has failed.
    if launch.local_size > torch.cuda.device_count():
        raise ResourceError(
            f"{launch.local_size} processes on this machine, but only {torch.cuda.device_count()} GPUs are visible.",
            hint="Start at most one process per GPU (torchrun --nproc-per-node); each must see all GPUs.",
        )
    return torch.device("cuda", launch.local_rank)


@contextlib.contextmanager
def join_ranks(device: torch.device) -> Iterator[Ranks]:
    """Join the processes that torchrun started, and leave them at the end; no-op for a single process. Raises
    ResourceError if they do not find each other."""
    launch = read_launch()
    rank, size = launch.rank, launch.size
    if size == 1:
        yield Ranks()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store = _meet(rank, size)
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_PATIENCE)
    is_alone = False
    try:
        yield Ranks(rank=rank, size=size, control=distributed.new_group(backend="gloo", timeout=_PATIENCE))
    except (TrainingStopped, TrainingDiverged):
        raise
    except BaseException:
        is_alone = True
        raise
    finally:
        # NCCL must be shut down by all processes together. A failed process would wait for the others, which wait for
        # it; if it just exits, torchrun ends them.
        if not (is_alone and device.type == "cuda"):
            distributed.destroy_process_group()


def _meet(rank: int, size: int) -> Any:
    """Wait until all processes have found the store of the first one; ResourceError if they do not."""
    try:
        store, _, _ = next(rendezvous("env://", rank, size, timeout=_JOINING))
    except (distributed.DistNetworkError, distributed.DistStoreError, TimeoutError) as error:
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        if "EADDRINUSE" in str(error) or "address already in use" in str(error):
            raise ResourceError(
                f"The port of {place} (MASTER_PORT) is in use on this machine.",
                hint="Choose another port, or start the processes with torchrun --standalone, which finds a free one.",
            ) from error
        reason = textwrap.shorten(str(error), 150, placeholder=" ...").rstrip(".")
        raise ResourceError(
            f"Process {rank} of {size} could not connect to the others at {place} (MASTER_ADDR, MASTER_PORT): "
            f"{reason}.",
            hint="Check that all processes were started and that their machines can reach this address.",
        ) from error
    store.set_timeout(_PATIENCE)
    return store


class _SumOverRanks(torch.autograd.Function):
    """Sum over processes whose gradient is the sum of all processes' gradients."""

    @staticmethod
    def forward(_: object, values: Tensor) -> Tensor:
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_: object, gradient: Tensor) -> Tensor:
        return _SumOverRanks.forward(_, gradient)


def sum_over_ranks(values: Tensor) -> Tensor:
    """Sum a tensor over all processes, with gradient; returns `values` itself in a single process."""
    if not distributed.is_available() or not distributed.is_initialized() or distributed.get_world_size() == 1:
        return values
    total: Tensor = _SumOverRanks.apply(values)  # type: ignore[no-untyped-call]
    return total
