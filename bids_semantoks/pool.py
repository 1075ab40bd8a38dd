"""Worker processes that each load their tools once and whose death costs one job, not the batch."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import resource
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn, cast

from bids_semantoks.relay import receive_record, relay_records

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
#: A process that reads from a file system that hangs would never end by itself.
_SECONDS_TO_LEAVE: Final = 10.0


class WorkerDied(Exception):
    """A worker process ended in the middle of a job.

    Parameters
    ----------
    exit_code : int or None
        Exit code of the process, negative for a signal.
    """

    def __init__(self, exit_code: int | None) -> None:
        super().__init__(f"a worker process ended with exit code {exit_code}")
        self.was_killed = exit_code == -signal.SIGKILL


def count_cpus() -> int:
    """Count the CPUs that this process may use.

    Returns
    -------
    int
        The least of the affinity mask, the cgroup's quota and SLURM_CPUS_PER_TASK.
    """
    counts = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1]
    slurm = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if slurm.isdecimal():
        counts.append(int(slurm))
    counts += _read_cgroup_quota(Path("/sys/fs/cgroup"))
    return max(1, min(counts))


def count_threads() -> int:
    """Count the threads that one process may use.

    Returns
    -------
    int
        As many as CPUs, or as OMP_NUM_THREADS says if these are fewer.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "")
    # OpenMP allows a list, one number for each level of nesting.
    first = asked.partition(",")[0].strip()
    return max(1, min(count_cpus(), int(first))) if first.isdecimal() else count_cpus()


def read_peak_memory() -> int:
    """Read the largest memory that this program has had.

    Returns
    -------
    int
        Bytes. Where the kernel tells, those since the program began: what getrusage says is at least the size of the
        process that started it.
    """
    with contextlib.suppress(OSError, LookupError, ValueError):
        text = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return 1024 * int(text.partition("VmHWM:")[2].split()[0])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def read_rank() -> int:
    """Read which of the processes that torchrun started this is.

    Returns
    -------
    int
        0 for the first, and where there is only one.
    """
    rank = os.environ.get("RANK", "")
    return int(rank) if rank.isdecimal() and "WORLD_SIZE" in os.environ else 0


def _read_cgroup_quota(root: Path) -> list[int]:
    """Read the CPU quota of cgroup v2 or v1, rounded up; empty when there is none."""
    try:
        quota, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (root / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return []
    return [-(-int(quota) // int(period))] if quota.isdecimal() and int(quota) > 0 else []


def limit_threads(n_threads: int) -> None:
    """Limit the threads of numerical libraries that this process or its children load from now on.

    Parameters
    ----------
    n_threads : int
        Threads of one process.
    """
    for variable in _THREAD_VARIABLES:
        os.environ[variable] = str(n_threads)
    # Threads that wait in a spin take the CPUs from whoever they wait for when a machine is busy.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def run_jobs(
    build_worker: Callable[..., Callable[[Any], Any]],
    arguments: tuple[Any, ...],
    jobs: Sequence[Any],
    *,
    n_procs: int,
    is_wanted: Callable[[], bool] = lambda: True,
) -> Iterator[tuple[int, Any]]:
    """Run jobs in this process or in several, yielding results as they come.

    Parameters
    ----------
    build_worker : callable
        Called once in each process with `arguments`; returns the function that does one job.
    arguments : tuple
        Picklable.
    jobs : sequence
        Picklable.
    n_procs : int
        Processes; 1 works in this one.
    is_wanted : callable
        Asked before a job is begun; when it says no, jobs in progress are finished and no other is begun.

    Yields
    ------
    int
        Position of the job.
    Any
        Its result, or `WorkerDied` when its process ended; another process then takes over.

    Raises
    ------
    Exception
        Whatever building a worker or doing a job raised, in whichever process.
    """
    if n_procs <= 1:
        worker = build_worker(*arguments)
        for i, job in enumerate(jobs):
            if not is_wanted():
                return
            yield i, worker(job)
        return
    crew = _Crew(build_worker, arguments, jobs, is_wanted)
    try:
        for _ in range(min(n_procs, len(jobs))):
            crew.start()
        while crew.busy:
            yield from crew.collect()
    finally:
        crew.dismiss()


class _Crew:
    """Processes and the job that each is busy with."""

    def __init__(
        self,
        build_worker: Callable[..., Callable[[Any], Any]],
        arguments: tuple[Any, ...],
        jobs: Sequence[Any],
        is_wanted: Callable[[], bool],
    ) -> None:
        # Forking after a numerical library has started its threads can deadlock, so processes start afresh.
        self.context = multiprocessing.get_context("spawn")
        self.build_worker = build_worker
        self.arguments = arguments
        self.jobs = jobs
        self.is_wanted = is_wanted
        self.waiting = deque(range(len(jobs)))
        self.busy: dict[Connection, tuple[SpawnProcess, int]] = {}

    def start(self) -> None:
        """Start a process and give it a job, if any waits."""
        if not self.waiting or not self.is_wanted():
            return
        ours, theirs = self.context.Pipe()
        process = self.context.Process(target=_serve, args=(theirs, self.build_worker, self.arguments), daemon=True)
        process.start()
        theirs.close()
        self.give(ours, process)

    def give(self, connection: Connection, process: SpawnProcess) -> None:
        """Give a process its next job, or let it go."""
        if not self.waiting or not self.is_wanted():
            connection.close()
            process.join()
            return
        i = self.waiting.popleft()
        self.busy[connection] = (process, i)
        # A process that died meanwhile is noticed when its answer is awaited.
        with contextlib.suppress(BrokenPipeError):
            connection.send(self.jobs[i])

    def collect(self) -> Iterator[tuple[int, Any]]:
        """Wait for answers and yield them."""
        for connection in cast(list[Connection], wait(list(self.busy))):
            process, i = self.busy.pop(connection)
            try:
                answer = connection.recv()
            except (EOFError, ConnectionResetError):
                process.join()
                yield i, WorkerDied(process.exitcode)
                self.start()
                continue
            if isinstance(answer, logging.LogRecord):
                receive_record(answer)
                self.busy[connection] = (process, i)
                continue
            if isinstance(answer, Exception):
                raise answer
            yield i, answer
            self.give(connection, process)

    def dismiss(self) -> None:
        """End the processes that are still busy, letting them take away what they wrote in part."""
        processes = [process for process, _ in self.busy.values()]
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(_SECONDS_TO_LEAVE)
            process.kill()
            process.join()


def _serve(
    connection: Connection, build_worker: Callable[..., Callable[[Any], Any]], arguments: tuple[Any, ...]
) -> None:
    # The parent decides when to stop: a Ctrl-C in the terminal reaches every process of the group, as does a scheduler.
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    relay_records(connection.send)
    try:
        worker = build_worker(*arguments)
        while True:
            connection.send(worker(connection.recv()))
    except (EOFError, BrokenPipeError):
        # The parent is gone.
        return
    except Exception as error:  # noqa: BLE001 - raised again in the parent, which knows what to say
        connection.send(error)


def _leave(signum: int, _: FrameType | None) -> NoReturn:
    """End by way of an exception, so that half-written files are taken away."""
    raise SystemExit(128 + signum)
