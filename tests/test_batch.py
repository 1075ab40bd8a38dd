"""After a failure all runs that were not tried are accounted for."""

import dataclasses
import json
import logging

import pytest

from bids_semantoks import outcomes
from bids_semantoks.errors import RunFailed
from bids_semantoks.outputs.store import OutputPaths


@dataclasses.dataclass(frozen=True)
class FakeJob:
    paths: OutputPaths
    settings_hash: str = "abc"


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
            build_failing_worker,
            (stems[1],),
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
        assert f"Not tried: the call stopped at the failure of {stems[1]}" in records[stem]["message"]
    assert (tally.n_ok, tally.n_failed) == (len(done) - 1, 1 + len(left_out))
    assert tally.reasons == {"no_mask"}
    assert f"{len(left_out)} runs were not tried" in caplog.text or not left_out
