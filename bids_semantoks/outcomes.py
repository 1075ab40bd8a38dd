"""What became of each run: found out, counted, written down and said."""

from __future__ import annotations

import dataclasses
import errno
import logging
import time
import traceback
from collections.abc import Callable
from typing import Protocol

from bids_semantoks.errors import AtlasError, RunFailed, RunSkipped, SemantoksError
from bids_semantoks.outputs.store import OutputPaths, write_status
from bids_semantoks.pool import read_peak_memory

LOGGER = logging.getLogger("bids_semantoks")

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
