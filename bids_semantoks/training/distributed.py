"""Processes that train one encoder together, and sums over them; all are no-ops in a single process."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from bids_semantoks.errors import ResourceError, TrainingDiverged, TrainingStopped

# The first process packs the signals while the others wait; that may take hours.
_PATIENCE = datetime.timedelta(hours=24)

_VARIABLES = (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))


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
        """Whether a flag is up in any process; collective, all processes must call it."""
        if self.control is None:
            return flag
        value = torch.tensor([int(flag)])
        distributed.all_reduce(value, op=distributed.ReduceOp.MAX, group=self.control)
        return bool(value.item())

    def wait(self) -> None:
        """Wait until all processes are here."""
        self.any(False)


def read_ranks() -> tuple[int, int, int]:
    """Read rank, number of processes and rank on this machine from the environment, as torchrun sets it."""
    return tuple(int(os.environ.get(name) or default) for name, default in _VARIABLES)  # type: ignore[return-value]


def choose_device(device: torch.device) -> torch.device:
    """Give each process of a machine its own GPU; ResourceError where the machine has fewer GPUs than processes."""
    _, size, local_rank = read_ranks()
    if device.type != "cuda" or size == 1:
        return device
    if local_rank >= torch.cuda.device_count():
        raise ResourceError(
            f"Process {local_rank} of this machine has no GPU: {torch.cuda.device_count()} are there.",
            hint="Start no more processes than GPUs (torchrun --nproc-per-node).",
        )
    return torch.device("cuda", local_rank)


@contextlib.contextmanager
def join_ranks(device: torch.device) -> Iterator[Ranks]:
    """Join the processes that torchrun started, and leave them at the end; a single process joins nothing."""
    rank, size, _ = read_ranks()
    if size == 1:
        yield Ranks()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    is_alone = False
    try:
        yield Ranks(rank=rank, size=size, control=distributed.new_group(backend="gloo", timeout=_PATIENCE))
    except (TrainingStopped, TrainingDiverged):
        raise
    except BaseException:
        is_alone = True
        raise
    finally:
        # NCCL is shut down by all processes together. One that fails alone would wait for the others, which wait for
        # it; when it just ends, torchrun ends them.
        if not (is_alone and device.type == "cuda"):
            distributed.destroy_process_group()


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
