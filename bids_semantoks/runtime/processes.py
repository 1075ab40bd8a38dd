"""Worker processes that load their tools once, and whose death costs one job, not the batch."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import FrameType, ModuleType
from typing import Any, Final, NoReturn, cast

from bids_semantoks.runtime.logs import relay_records

#: A process that reads from a hanging file system would never end by itself, one in a long computation too late.
_SECONDS_TO_LEAVE: Final = 2.0


class WorkerDied(Exception):
    """A worker process ended during a job; a negative exit code is a signal."""

    def __init__(self, exit_code: int | None) -> None:
        super().__init__(f"a worker process ended with exit code {exit_code}")
        self.was_killed = exit_code == -signal.SIGKILL


def run_jobs(
    build_worker: Callable[[], Callable[[Any], Any]],
    jobs: Sequence[Any],
    *,
    n_procs: int,
    is_wanted: Callable[[], bool] = lambda: True,
) -> Iterator[tuple[int, Any]]:
    """Run jobs in this process (`n_procs` 1) or in several, yielding (position, result) as they finish.

    `build_worker()` is called once per process and returns the function that runs one job; it and the jobs must pickle.
    Once `is_wanted` returns False, jobs in progress finish and no other starts. The result is a `WorkerDied` if the
    process ended, and another process takes over. Exceptions of a worker are raised here.
    """
    if n_procs <= 1:
        worker = build_worker()
        for i, job in enumerate(jobs):
            if not is_wanted():
                return
            yield i, worker(job)
        return
    crew = _Crew(build_worker, jobs, is_wanted)
    try:
        for _ in range(min(n_procs, len(jobs))):
            crew.start()
        while crew.busy:
            yield from crew.collect()
    finally:
        crew.dismiss()


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Hide the main module, which a new process would import: a script without the usual guard would run once more in
    each process, and start processes itself."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@dataclasses.dataclass
class _Crew:
    """Worker processes and the job that each is running. Each has a pipe of its own for jobs, log records and answers:
    one killed while answering leaves neither a lock nor half an answer to the others, and records arrive before the
    answer that follows them."""

    build_worker: Callable[[], Callable[[Any], Any]]
    jobs: Sequence[Any]
    is_wanted: Callable[[], bool]
    busy: dict[Connection, tuple[SpawnProcess, int]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        # Forking after a numerical library has started its threads can deadlock, so processes start afresh.
        self.context = multiprocessing.get_context("spawn")
        self.waiting = deque(range(len(self.jobs)))

    def start(self) -> None:
        """Start a process with a job, if one is waiting."""
        if not self.waiting or not self.is_wanted():
            return
        ours, theirs = self.context.Pipe()
        process = self.context.Process(target=_serve, args=(theirs, self.build_worker), daemon=True)
        with _without_main():
            process.start()
        theirs.close()
        self.give(ours, process)

    def give(self, connection: Connection, process: SpawnProcess) -> None:
        """Give a process its next job, or let it exit."""
        if not self.waiting or not self.is_wanted():
            connection.close()
            process.join()
            return
        i = self.waiting.popleft()
        self.busy[connection] = (process, i)
        # A process that died meanwhile is noticed when its answer is awaited.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.send(self.jobs[i])

    def collect(self) -> Iterator[tuple[int, Any]]:
        """Wait for answers and yield the results."""
        for connection in cast(list[Connection], wait(list(self.busy))):
            process, i = self.busy.pop(connection)
            try:
                answer = connection.recv()
            except (EOFError, OSError):  # killed before, or in the middle of, its answer
                process.join()
                if process.exitcode == -signal.SIGXCPU and callable(signal.getsignal(signal.SIGXCPU)):
                    # The limit of CPU time holds for each process, and the others are about to reach it.
                    signal.raise_signal(signal.SIGXCPU)
                yield i, WorkerDied(process.exitcode)
                self.start()
                continue
            if isinstance(answer, logging.LogRecord):
                logging.getLogger(answer.name).handle(answer)
                self.busy[connection] = (process, i)
                continue
            if isinstance(answer, Exception):
                raise answer
            yield i, answer
            self.give(connection, process)

    def dismiss(self) -> None:
        """End busy processes, with time to remove their partial files."""
        processes = [process for process, _ in self.busy.values()]
        for process in processes:
            process.terminate()
        until = time.monotonic() + _SECONDS_TO_LEAVE
        for process in processes:
            process.join(max(0.0, until - time.monotonic()))
        for process in processes:
            process.kill()
            process.join()


def _serve(connection: Connection, build_worker: Callable[[], Callable[[Any], Any]]) -> None:
    # The parent decides when to stop: a Ctrl-C in the terminal reaches every process of the group, as does a scheduler.
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_outlive_parent, daemon=True).start()
    relay_records(connection.send)
    try:
        worker = build_worker()
        while True:
            connection.send(worker(connection.recv()))
    except (EOFError, BrokenPipeError):
        # The parent process has ended.
        return
    except Exception as error:  # noqa: BLE001 - raised again in the parent, which knows what to say
        connection.send(error)


def _leave(signum: int, _: FrameType | None) -> NoReturn:
    """Exit by an exception, so that partial files are removed; a second signal must not disturb that."""
    signal.signal(signum, signal.SIG_IGN)
    raise SystemExit(128 + signum)


def _outlive_parent() -> None:
    """Exit soon after the parent was killed: nobody reads the result, and the next call repeats the job."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_SECONDS_TO_LEAVE)
        os._exit(1)
