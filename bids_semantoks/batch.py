"""Run many jobs in one process or several; count, record and report the outcome of each."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

from bids_semantoks.outcomes import Job, Outcome, Tally, record_status, report_outcome
from bids_semantoks.runtime.processes import WorkerDied, run_jobs

LOGGER = logging.getLogger("bids_semantoks")


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
    """Run all jobs in `n_procs` processes, logging one line per job and counting its outcome in `tally`.

    `build_worker(*arguments)` is called once per process (with several, the arguments must pickle) and returns the
    function that runs one job. With `stop_on_failure`, no job starts after the first failure: jobs in progress finish,
    the
    rest are recorded as not tried. `on_done` is called with each job once it is counted.
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
    """Record runs that were never tried as failed; their reason is not tallied, since it must not decide the exit
    code."""
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
