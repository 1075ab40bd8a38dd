"""After a failure all runs that were not tried are accounted for."""

import dataclasses
import errno
import functools
import json
import logging
import re
from pathlib import Path

import pytest

from bids_semantoks import outcomes
from bids_semantoks.errors import AtlasError, ModelError, RunFailed, RunSkipped
from bids_semantoks.outputs.store import OutputPaths


@dataclasses.dataclass(frozen=True)
class FakeJob:
    paths: OutputPaths
    settings_hash: str = "abc"
    attempt_hash: str = "def"


def build_failing_worker(bad):
    def work(job):
        def attempt():
            if job.paths.stem == bad:
                raise RunFailed("no_mask", "There is no brain mask.")
            return ()

        return outcomes.isolate(attempt, job, device="cpu")

    return work


@pytest.mark.parametrize("n_procs", [1, 2])
def test_runs_that_were_not_tried_after_a_failure_have_a_status(tmp_path, caplog, n_procs):
    stems = [f"sub-{number:02d}_task-rest" for number in range(1, 8)]
    jobs = [FakeJob(OutputPaths(out_dir=tmp_path, directory=tmp_path / stem, stem=stem, model="")) for stem in stems]
    tally = outcomes.Tally()
    done = []
    with caplog.at_level(logging.WARNING, logger="bids_semantoks"):
        outcomes.run_batch(
            functools.partial(build_failing_worker, stems[1]),
            jobs,
            n_procs=n_procs,
            stop_on_failure=True,
            tally=tally,
            on_done=lambda job: done.append(job.paths.stem),
        )
    records = {job.paths.stem: json.loads(job.paths.status.read_text()) for job in jobs}
    left_out = [stem for stem in stems if stem not in done]
    assert stems[1] in done
    if n_procs == 1:
        assert left_out == stems[2:]
    assert {records[stem]["status"] for stem in done if stem != stems[1]} == {"ok"}
    assert records[stems[1]]["reason"] == "no_mask"
    for stem in left_out:
        assert (records[stem]["status"], records[stem]["reason"]) == ("failed", "internal")
        assert f"when {stems[1]} failed" in records[stem]["message"]
    assert (tally.n_ok, tally.n_failed) == (len(done) - 1, 1 + len(left_out))
    assert tally.reasons == {"no_mask"}
    assert not left_out or re.search(rf"{len(left_out)} runs? (was|were) not attempted", caplog.text)


@pytest.fixture
def job(tmp_path):
    return FakeJob(OutputPaths(out_dir=tmp_path, directory=tmp_path / "sub-01", stem="sub-01_task-rest", model=""))


def raising(error):
    def work():
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (RunSkipped("too_short", "30 s"), "skipped", "too_short"),
        (RunFailed("no_mask", "none", hint="x"), "failed", "no_mask"),
        (AtlasError("far away"), "failed", "space_mismatch"),
        (MemoryError(), "failed", "out_of_memory"),
        (OSError(errno.ENOSPC, "No space left on device"), "failed", "disk_full"),
        (OSError(errno.EIO, "Input/output error"), "failed", "internal"),
        (ZeroDivisionError("oops"), "failed", "internal"),
    ],
)
def test_errors_become_outcomes_with_a_status_file(job, error, status, reason):
    outcome = outcomes.isolate(raising(error), job, device="cpu")
    assert (outcome.status, outcome.reason) == (status, reason)
    record = json.loads(job.paths.status.read_text())
    assert record["status"] == status
    assert record["reason"] == reason
    assert record["config_hash"] == "abc"
    assert record["peak_rss_mb"] > 1
    assert bool(outcome.details) == (reason == "internal")


def test_what_concerns_the_whole_call_is_raised(job):
    with pytest.raises(ModelError, match="damaged"):
        outcomes.isolate(raising(ModelError("damaged")), job, device="cpu")


def test_a_status_that_cannot_be_written_hides_nothing(job, caplog):
    Path(job.paths.out_dir, "logs").write_text("in the way")
    with caplog.at_level(logging.ERROR, logger="bids_semantoks"):
        outcome = outcomes.isolate(lambda: ("careful",), job, device="cpu")
    assert outcome.status == "ok"
    assert outcome.warnings == ("careful",)


def build_tally(*runs):
    tally = outcomes.Tally()
    for status, reason in runs:
        tally.add(outcomes.Outcome(status=status, reason=reason))
    return tally


@pytest.mark.parametrize(
    ("runs", "strict", "lenient"),
    [
        ([("ok", ""), ("skipped", "too_short")], 0, 0),
        ([("skipped", "too_short")], 0, 0),
        ([("ok", ""), ("failed", "no_mask")], 7, 0),
        ([("skipped", "too_short"), ("failed", "no_mask")], 7, 7),
        ([("ok", ""), ("failed", "disk_full")], 5, 5),
        ([("ok", ""), ("failed", "no_mask"), ("failed", "disk_full")], 5, 5),
        ([("failed", "out_of_memory"), ("failed", "no_mask")], 7, 7),
    ],
)
def test_exit_codes(runs, strict, lenient):
    tally = build_tally(*runs)
    assert tally.exit_code(ignore_failed=False) == strict
    assert tally.exit_code(ignore_failed=True) == lenient


def build_filling_worker(number):
    def work(job):
        def attempt():
            if job.paths.stem.startswith(f"sub-{number}"):
                raise OSError(errno.EDQUOT, "Disk quota exceeded")
            return ()

        return outcomes.isolate(attempt, job, device="cpu")

    return work


def test_no_run_starts_on_a_full_disk(tmp_path):
    stems = [f"sub-{number:02d}_task-rest" for number in range(1, 8)]
    jobs = [FakeJob(OutputPaths(out_dir=tmp_path, directory=tmp_path / stem, stem=stem, model="")) for stem in stems]
    tally = outcomes.Tally()
    arguments = {"n_procs": 1, "stop_on_failure": False, "tally": tally}
    outcomes.run_batch(functools.partial(build_filling_worker, "02"), jobs, **arguments)
    records = [json.loads(job.paths.status.read_text()) for job in jobs]
    assert [record["reason"] for record in records] == ["", *["disk_full"] * 6]
    assert all(f"the disk was full when processing {stems[1]}" in record["message"] for record in records[2:])
    assert (tally.n_ok, tally.n_failed) == (1, 6)
    assert tally.exit_code(ignore_failed=True) == 5


@pytest.mark.parametrize("kind", [AtlasError, ModelError, RuntimeError])
def test_a_full_disk_is_one_whatever_wraps_it(job, kind):
    def work():
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise kind("The file cannot be kept.") from error

    outcome = outcomes.isolate(work, job, device="cpu")
    assert (outcome.status, outcome.reason, outcome.details) == ("failed", "disk_full", "")
    assert "cannot be kept" in outcome.message


def test_a_status_that_cannot_be_written_leaves_no_older_one(job, monkeypatch, caplog):
    outcomes.isolate(lambda: (), job, device="cpu")
    assert job.paths.status.is_file()

    def refuse(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(outcomes, "write_json", refuse)
    outcome = outcomes.isolate(raising(OSError(errno.ENOSPC, "full")), job, device="cpu")
    assert outcome.reason == "disk_full"
    assert not job.paths.status.exists()
    assert "No space left on device" in caplog.text
