"""Run a batch of jobs, and determine, count, record and report the outcome of each."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from bids_semantoks.disk import is_full
from bids_semantoks.errors import AtlasError, RunFailed, RunSkipped, SemantoksError, name_count
from bids_semantoks.files import read_object, write_json
from bids_semantoks.outputs.store import OutputPaths, find_statuses, read_former_status
from bids_semantoks.runtime.logs import FIRST_ESTIMATE, describe_seconds
from bids_semantoks.runtime.processes import WorkerDied, run_jobs
from bids_semantoks.runtime.resources import read_peak_memory

LOGGER = logging.getLogger("bids_semantoks")
_RESOURCE_REASONS = ("out_of_memory", "disk_full")


class _Job(Protocol):
    """The part of a job that a batch needs; the hashes are of its settings, and of all that determines its outcome."""

    @property
    def paths(self) -> OutputPaths: ...

    @property
    def settings_hash(self) -> str: ...

    @property
    def attempt_hash(self) -> str: ...  # empty if unknown


JobT = TypeVar("JobT", bound=_Job)


class Outcome(NamedTuple):
    """Outcome of one run."""

    status: str  # ok, skipped or failed
    reason: str = ""  # code of a skipped or failed run
    message: str = ""  # the reason in words
    action: str = "made"  # what this call did: made, or kept if the outputs were complete
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()  # shown although the run is ok
    details: str = ""  # traceback of a bug


@dataclasses.dataclass(kw_only=True, slots=True)
class Tally:
    """Counts of the runs of a call."""

    n_ok: int = 0
    n_skipped: int = 0
    n_failed: int = 0
    n_kept: int = 0  # runs among the ok that are complete from an earlier call
    n_refused: int = 0  # phenotypes that could not be probed, while others could
    reasons: set[str] = dataclasses.field(default_factory=set)  # codes of the failed runs
    absent: list[Any] = dataclasses.field(default_factory=list)  # jobs skipped because their content was not fetched
    is_silent: bool = False  # another process reports for this one
    cohort: str = ""  # counts of all runs of the study in words, where the call looked at them

    def add(self, outcome: Outcome) -> None:
        """Count one run."""
        if outcome.status == "ok":
            self.n_ok += 1
            self.n_kept += outcome.action == "kept"
        elif outcome.status == "skipped":
            self.n_skipped += 1
        else:
            self.n_failed += 1
            self.reasons.add(outcome.reason)

    @property
    def is_disk_full(self) -> bool:
        """Whether a full disk stopped the call."""
        return "disk_full" in self.reasons

    def exit_code(self, *, ignore_failed: bool) -> int:
        """Return the exit code: 0, 5 if runs failed only for lack of resources or a full disk stopped the call, else 7,
        also for a phenotype refused. With `ignore_failed`, failed runs are accepted as long as one run is complete and
        all were tried."""
        if self.is_disk_full:
            return 5
        if not self.n_failed or (ignore_failed and self.n_ok):
            return 7 if self.n_refused else 0
        return 5 if self.reasons <= set(_RESOURCE_REASONS) else 7


def isolate(
    work: Callable[[], tuple[str, ...]], job: _Job, *, device: str, note: str = "", action: str = "made"
) -> Outcome:
    """Run one job, convert any error to an outcome, and write its status, with `note` and `action` on success; `work`
    returns warnings. Only errors that concern the whole call (SemantoksError other than RunSkipped, RunFailed and
    AtlasError) are raised."""
    started = time.monotonic()
    try:
        outcome = Outcome("ok", message=note, action=action, warnings=work())
    except RunSkipped as error:
        outcome = Outcome("skipped", error.reason, str(error))
    except RunFailed as error:
        outcome = Outcome("failed", error.reason, str(error))
    except MemoryError:
        outcome = Outcome("failed", "out_of_memory", "Out of memory. Use fewer processes.")
    except Exception as error:  # the one place that isolates a run
        if isinstance(error, SemantoksError) and not (isinstance(error, AtlasError) or is_full(error)):
            # Concerns the whole call, not this run.
            raise
        outcome = _describe_failure(error, job)
    outcome = outcome._replace(seconds=time.monotonic() - started)
    record_status(job, outcome, device=device)
    return outcome


def _describe_failure(error: Exception, job: _Job) -> Outcome:
    """Describe an unexpected error of a run."""
    message = f"{type(error).__name__}: {error}"
    if isinstance(error, SemantoksError):
        message = str(error)
    elif isinstance(error, OSError):
        message = f"{error.strerror or error}: {error.filename or job.paths.directory}"
    if is_full(error):
        return Outcome("failed", "disk_full", message)
    if isinstance(error, AtlasError):
        # One image far from its template must not stop the others.
        return Outcome("failed", "space_mismatch", message)
    return Outcome("failed", "internal", message, details=traceback.format_exc())


def record_status(job: _Job, outcome: Outcome, *, device: str) -> None:
    """Write the status of a run and the action of this call. A failure to write is only logged, since it must not hide
    the outcome, and an earlier status, now outdated, is removed. A run that was kept also keeps its recorded time
    and memory, None if unknown."""
    effort = {
        "seconds": round(outcome.seconds, 3),
        "peak_rss_mb": round(read_peak_memory() / 2**20, 1),
        "device": device,
    }
    if outcome.action == "kept":
        former = read_former_status(job.paths)
        effort = {key: former.get(key) if former.get("status") == "ok" else None for key in effort}
    status = {key: getattr(outcome, key) for key in ("status", "reason", "message", "action")}
    status |= effort | {"config_hash": job.settings_hash, "attempt_hash": job.attempt_hash}
    try:
        write_json(job.paths.status, status, only_if_changed=True)
    except OSError as error:
        LOGGER.warning("Cannot write %s: %s.", job.paths.status, error.strerror or error, extra={"once": "status"})
        with contextlib.suppress(OSError):
            job.paths.status.unlink(missing_ok=True)


def record_redrawn(out_dir: Path, participant: str) -> None:
    """Record that a call regenerated the reports of a participant's runs; their status is unchanged."""
    for _, path in find_statuses(out_dir, participant).items():
        if found := read_object(path):
            write_json(path, {**found, "action": "redrawn"}, only_if_changed=True)


def report_outcome(job: _Job, outcome: Outcome, *, progress: str, left: float = 0.0) -> None:
    """Log the outcome of a run, with its `progress` (which of how many) and the estimated seconds `left`."""
    rest = f", about {describe_seconds(left)} left" if left >= 1 else ""
    line = f"{progress} {job.paths.stem}: {outcome.status}"
    if outcome.status == "ok":
        LOGGER.info("%s (%.1f s%s)", line, outcome.seconds, rest, extra={"is_progress": True})
    else:
        level = logging.ERROR if outcome.status == "failed" else logging.INFO
        # These are summarised in one sentence at the end.
        level = logging.DEBUG if outcome.reason == "no_content" else level
        LOGGER.log(level, "%s, %s. %s", line, outcome.reason, outcome.message)
    for warning in outcome.warnings:
        LOGGER.warning("%s: %s", job.paths.stem, warning, extra={"once": warning})
    if outcome.details:
        LOGGER.debug("%s", outcome.details)


def review(jobs: Iterable[JobT], worker: Callable[[JobT], Outcome], tally: Tally) -> list[JobT]:
    """Check runs that are complete from an earlier call, and return those skipped by the limits of this one."""
    lost = []
    for job in jobs:
        outcome = worker(job)
        tally.add(outcome)
        if outcome.status != "ok":
            report_outcome(job, outcome, progress="[done]")
            lost.append(job)
    if tally.n_kept:
        kept = name_count(tally.n_kept, "run that is", "runs that are")
        LOGGER.info("Keeping %s complete from an earlier call with the same settings", kept)
    return lost


def run_batch(
    build_worker: Callable[[], Callable[[Any], Outcome]],
    jobs: Sequence[_Job],
    *,
    n_procs: int,
    stop_on_failure: bool,
    tally: Tally,
    on_done: Callable[[Any], None] = lambda _: None,
) -> None:
    """Run all jobs in `n_procs` processes, logging one line per job and counting its outcome in `tally`.

    `build_worker()` is called once per process (with several, it must pickle), and returns the function for one job.
    Once the disk is full, and with `stop_on_failure` after the first failure, no job starts: jobs in progress finish,
    the rest are recorded as not tried. `on_done` is called with each job once it is counted.
    """
    started = time.monotonic()
    waiting, reason, cause = dict(enumerate(jobs)), "", ""
    results = run_jobs(build_worker, jobs, n_procs=n_procs, is_wanted=lambda: not reason)
    for n_finished, (i, result) in enumerate(results, start=1):
        job, outcome = waiting.pop(i), result
        if isinstance(result, WorkerDied):
            outcome = _describe_death(result)
            record_status(job, outcome, device="")
        tally.add(outcome)
        tally.absent += [job] if outcome.reason == "no_content" else []
        left = (time.monotonic() - started) / n_finished * len(waiting) if n_finished >= FIRST_ESTIMATE else 0.0
        report_outcome(job, outcome, progress=f"[{n_finished}/{len(jobs)}]", left=left)
        if not reason and outcome.reason == "disk_full":
            reason, cause = "disk_full", f"the disk was full when processing {job.paths.stem}"
        elif not reason and outcome.status == "failed" and stop_on_failure:
            reason, cause = "internal", f"the call stopped when {job.paths.stem} failed (--stop-on-first-crash)"
        on_done(job)
    if waiting:
        _leave_out(waiting.values(), reason, cause, tally)


def _leave_out(jobs: Collection[_Job], reason: str, cause: str, tally: Tally) -> None:
    """Record runs that were not attempted as failed; their reason is not
    tallied, since it must not determine the exit code."""
    LOGGER.warning("%s not attempted: %s.", name_count(len(jobs), "run was", "runs were"), cause)
    for job in jobs:
        record_status(job, Outcome("failed", reason, f"Not attempted: {cause}."), device="")
    tally.n_failed += len(jobs)


def _describe_death(death: WorkerDied) -> Outcome:
    if not death.was_killed:
        return Outcome("failed", "internal", f"{death}.")
    found = "The process was killed, most likely because it ran out of memory"
    return Outcome("failed", "out_of_memory", f"{found}. Use fewer processes or more memory.")
