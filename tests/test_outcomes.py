"""Whatever goes wrong with a run is a recorded outcome, and the call's exit code follows from all of them."""

import dataclasses
import errno
import json
import logging
from pathlib import Path

import pytest

from bids_semantoks import outcomes
from bids_semantoks.errors import AtlasError, ModelError, RunFailed, RunSkipped
from bids_semantoks.outputs.store import OutputPaths


@dataclasses.dataclass(frozen=True)
class FakeJob:
    paths: OutputPaths
    settings_hash: str = "abc"


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
        ([("skipped", "already_done"), ("failed", "no_mask")], 7, 0),
        ([("skipped", "too_short"), ("failed", "no_mask")], 7, 7),
        ([("ok", ""), ("failed", "disk_full")], 5, 0),
        ([("failed", "out_of_memory"), ("failed", "no_mask")], 7, 7),
    ],
)
def test_exit_codes(runs, strict, lenient):
    tally = build_tally(*runs)
    assert tally.exit_code(ignore_failed=False) == strict
    assert tally.exit_code(ignore_failed=True) == lenient
