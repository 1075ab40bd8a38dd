"""Many runs: isolate each, remember what became of it, say so in the log."""

from __future__ import annotations

import dataclasses
import errno
import logging
import os
import tempfile
import time
import traceback
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Protocol

from bids_semantoks.config import RunningConfig, parse_memory
from bids_semantoks.errors import AtlasError, RunFailed, RunSkipped, SemantoksError
from bids_semantoks.outputs.files import check_writable
from bids_semantoks.outputs.store import OutputPaths, write_status
from bids_semantoks.pool import WorkerDied, count_cpus, count_threads, read_peak_memory, run_jobs

LOGGER = logging.getLogger("bids_semantoks")

#: What one process needs besides the encoder's weights, as measured on 2 mm runs.
_PROCESS_BYTES = 900 * 2**20
#: Processes that share a GPU unless more are asked for: each has a context and weights of its own in its memory.
_GPU_PROCS = 8
#: Where libraries keep what they make, by the variable that moves it.
_CACHES = (("MPLCONFIGDIR", "matplotlib"), ("TORCHINDUCTOR_CACHE_DIR", "inductor"), ("TRITON_CACHE_DIR", "triton"))
_RESOURCE_REASONS = ("out_of_memory", "disk_full")


class Job(Protocol):
    """What the batch must know of a job."""

    @property
    def paths(self) -> OutputPaths:
        """Where the run's outputs and status go."""

    @property
    def settings_hash(self) -> str:
        """Hash of the settings that decide the result."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of one run.

    Parameters
    ----------
    status : str
        ``ok``, ``skipped`` or ``failed``.
    reason : str
        Code of a skipped or failed run; empty otherwise.
    message : str
        The same in words.
    seconds : float
        Time that the run took.
    warnings : tuple of str
        What the user should know although the run is ok.
    details : str
        Traceback of a bug.
    """

    status: str
    reason: str = ""
    message: str = ""
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    details: str = ""


@dataclasses.dataclass(kw_only=True, slots=True)
class Tally:
    """Counts of all runs of a call.

    Parameters
    ----------
    n_ok, n_skipped, n_failed : int
        Runs by status.
    n_done : int
        Runs among the skipped that are complete from an earlier call.
    reasons : set of str
        Why runs failed.
    is_silent : bool
        Whether another process speaks for this one.
    """

    n_ok: int = 0
    n_skipped: int = 0
    n_failed: int = 0
    n_done: int = 0
    reasons: set[str] = dataclasses.field(default_factory=set)
    is_silent: bool = False

    def add(self, outcome: Outcome) -> None:
        """Count one run.

        Parameters
        ----------
        outcome : Outcome
            What became of it.
        """
        if outcome.status == "ok":
            self.n_ok += 1
        elif outcome.status == "skipped":
            self.n_skipped += 1
            self.n_done += outcome.reason == "already_done"
        else:
            self.n_failed += 1
            self.reasons.add(outcome.reason)

    def exit_code(self, *, ignore_failed: bool) -> int:
        """Choose the exit code of the call.

        Parameters
        ----------
        ignore_failed : bool
            Accept failed runs when at least one is complete.

        Returns
        -------
        int
            0, 5 (only resources were wanting) or 7.
        """
        if not self.n_failed or (ignore_failed and self.n_ok + self.n_done):
            return 0
        return 5 if self.reasons <= set(_RESOURCE_REASONS) else 7


def open_work_dir(work_dir: Path | None, out_dir: Path) -> None:
    """Send temporary files and caches of this process and its children where they may be written.

    Parameters
    ----------
    work_dir : Path or None
        Made if needed. None leaves the system's choice, as far as there is one: a container may have a read-only root
        and a user without home.
    out_dir : Path
        Holds the work directory where there is no place for temporary files.

    Raises
    ------
    ConfigurationError
        When nothing can be written there.
    """
    if work_dir is None and not _has_temporary_place():
        work_dir = out_dir / ".work"
    if work_dir is not None:
        work_dir = work_dir.resolve()
        check_writable(work_dir)
        tempfile.tempdir = str(work_dir)
        os.environ["TMPDIR"] = str(work_dir)
    elif os.access(os.environ.get("HOME", ""), os.W_OK):
        return
    caches = work_dir or Path(tempfile.gettempdir()) / f"bids_semantoks-{os.getuid()}"
    for variable, name in _CACHES:
        os.environ.setdefault(variable, str(caches / name))


def _has_temporary_place() -> bool:
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        return False
    return True


def choose_n_procs(running: RunningConfig, *, n_jobs: int, model_bytes: int, device: str = "cpu") -> int:
    """Choose the number of processes and say why when it is less than asked.

    Parameters
    ----------
    running : RunningConfig
        Asked processes and memory.
    n_jobs : int
        Runs to do.
    model_bytes : int
        Size of the encoder's weights, which every process loads.
    device : str
        Where the encoder runs.

    Returns
    -------
    int
        At least 1. By default each process gets two runs or more, since starting one costs seconds, and a GPU is fed by
        no more than it has memory for.
    """
    most = count_cpus() if device == "cpu" else min(count_cpus(), _GPU_PROCS)
    n_procs = running.n_procs or min(most, n_jobs // 2)
    n_procs = max(1, min(n_procs, n_jobs))
    if running.mem is not None:
        each = _PROCESS_BYTES + 2 * model_bytes
        fitting = max(1, parse_memory(running.mem) // each)
        if fitting < n_procs:
            LOGGER.warning(
                "%d instead of %d processes: each needs about %.1f GB and --mem is %s.",
                fitting,
                n_procs,
                each / 2**30,
                running.mem,
            )
            n_procs = fitting
    return n_procs


def isolate(work: Callable[[], tuple[str, ...]], job: Job, *, device: str) -> Outcome:
    """Do one job so that whatever goes wrong is a recorded outcome, and write its status.

    Parameters
    ----------
    work : callable
        Does the job and returns warnings.
    job : Job
        Gives the status its name.
    device : str
        Where the encoder runs, for the status.

    Returns
    -------
    Outcome
        What became of it.
    """
    started = time.monotonic()
    try:
        outcome = Outcome(status="ok", warnings=work())
    except RunSkipped as error:
        outcome = Outcome(status="skipped", reason=error.reason, message=str(error))
    except RunFailed as error:
        outcome = Outcome(status="failed", reason=error.reason, message=str(error))
    except AtlasError as error:
        # One image far from its template must not stop the others.
        outcome = Outcome(status="failed", reason="space_mismatch", message=str(error))
    except SemantoksError:
        # Concerns the whole call, not this run.
        raise
    except MemoryError:
        outcome = Outcome(status="failed", reason="out_of_memory", message="Out of memory. Use fewer processes.")
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        outcome = Outcome(
            status="failed",
            reason="disk_full" if is_full else "internal",
            message=f"{error.strerror or error}: {error.filename or job.paths.directory}",
            details="" if is_full else traceback.format_exc(),
        )
    except Exception as error:  # noqa: BLE001 - the one place that isolates a run
        message = f"{type(error).__name__}: {error}"
        outcome = Outcome(status="failed", reason="internal", message=message, details=traceback.format_exc())
    outcome = dataclasses.replace(outcome, seconds=time.monotonic() - started)
    record_status(job, outcome, device=device)
    return outcome


def record_status(job: Job, outcome: Outcome, *, device: str) -> None:
    """Write the status of a run; that this fails must not hide what became of it.

    Parameters
    ----------
    job : Job
        Gives the status its name.
    outcome : Outcome
        What became of it.
    device : str
        Where the encoder runs.
    """
    status = {
        "status": outcome.status,
        "reason": outcome.reason,
        "message": outcome.message,
        "seconds": round(outcome.seconds, 3),
        "peak_rss_mb": round(read_peak_memory() / 2**20, 1),
        "device": device,
        "config_hash": job.settings_hash,
    }
    try:
        write_status(job.paths, status)
    except OSError as error:
        LOGGER.error("Cannot write %s: %s.", job.paths.status, error.strerror or error)


def run_batch(
    build_worker: Callable[..., Callable[[Any], Outcome]],
    arguments: tuple[Any, ...],
    jobs: Sequence[Job],
    *,
    n_procs: int,
    stop_on_failure: bool,
    tally: Tally,
    on_done: Callable[[Any], None] = lambda _: None,
) -> None:
    """Do all jobs, saying one line for each.

    Parameters
    ----------
    build_worker : callable
        Called once in each process with `arguments`; returns what does one job.
    arguments : tuple
        Picklable when there are several processes.
    jobs : sequence of Job
        What to do.
    n_procs : int
        Processes.
    stop_on_failure : bool
        Begin no other run once one has failed; those in progress are finished, and the rest recorded as not tried.
    tally : Tally
        Counts the outcomes.
    on_done : callable
        Called with each job when it is done and counted.
    """
    started = time.monotonic()
    waiting, failed = dict(enumerate(jobs)), ""
    results = run_jobs(
        build_worker, arguments, jobs, n_procs=n_procs, is_wanted=lambda: not (failed and stop_on_failure)
    )
    for n_finished, (i, result) in enumerate(results, start=1):
        job, outcome = waiting.pop(i), result
        if isinstance(result, WorkerDied):
            outcome = _describe_death(result)
            record_status(job, outcome, device="")
        tally.add(outcome)
        left = (time.monotonic() - started) / n_finished * len(waiting)
        report_outcome(job, outcome, progress=f"[{n_finished}/{len(jobs)}]", left=left)
        on_done(job)
        if outcome.status == "failed":
            failed = failed or job.paths.stem
    if waiting:
        _leave_out(waiting.values(), failed, tally)


def _leave_out(jobs: Collection[Job], failed: str, tally: Tally) -> None:
    """Record runs that were not tried; that they failed too is not what decides the exit code."""
    LOGGER.warning("Stopped at the first failure, %d runs were not tried.", len(jobs))
    message = f"Not tried: the call stopped at the failure of {failed} (--stop-on-first-crash)."
    for job in jobs:
        record_status(job, Outcome(status="failed", reason="internal", message=message), device="")
    tally.n_failed += len(jobs)


def _describe_death(death: WorkerDied) -> Outcome:
    if death.was_killed:
        message = "The process was killed, most likely because memory ran out. Use fewer processes or more memory."
        return Outcome(status="failed", reason="out_of_memory", message=message)
    return Outcome(status="failed", reason="internal", message=f"{death}.")


def report_outcome(job: Job, outcome: Outcome, *, progress: str, left: float = 0.0) -> None:
    """Say what became of a run.

    Parameters
    ----------
    job : Job
        Names the run.
    outcome : Outcome
        What became of it.
    progress : str
        Which of how many.
    left : float
        Seconds until all are done, as far as can be told.
    """
    rest = f", about {_format_seconds(left)} left" if left >= 1 else ""
    line = f"{progress} {job.paths.stem}: {outcome.status}"
    if outcome.status == "ok":
        LOGGER.info("%s (%.1f s%s)", line, outcome.seconds, rest, extra={"is_progress": True})
    else:
        level = logging.ERROR if outcome.status == "failed" else logging.INFO
        LOGGER.log(level, "%s, %s. %s", line, outcome.reason, outcome.message)
    for warning in outcome.warnings:
        LOGGER.warning("%s: %s", job.paths.stem, warning, extra={"once": warning})
    if outcome.details:
        LOGGER.debug("%s", outcome.details)


def _format_seconds(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def choose_n_threads(running: RunningConfig, *, n_procs: int) -> int:
    """Choose the threads of each process.

    Parameters
    ----------
    running : RunningConfig
        Threads asked for.
    n_procs : int
        Processes that share the CPUs.

    Returns
    -------
    int
        At least 1.
    """
    return running.omp_nthreads or max(1, min(count_threads(), count_cpus() // n_procs))
