"""Who is in and who is out is counted from statuses of runs."""

import json

from bids_semantoks.outputs.cohort import count_cohort, count_planned
from bids_semantoks.outputs.store import OutputPaths


def write_status(out_dir, name, status, reason=""):
    path = out_dir / "logs" / "runs" / f"{name}_status.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"status": status, "reason": reason, "message": "m"}))


def write_study(out_dir):
    write_status(out_dir, "sub-01_task-rest_run-1_desc-Tiny", "ok")
    write_status(out_dir, "sub-01_task-rest_run-2_desc-Tiny", "skipped", "too_few_kept")
    write_status(out_dir, "sub-02_task-rest_desc-Tiny", "skipped", "already_done")
    write_status(out_dir, "sub-03_task-rest_desc-Tiny", "failed", "bad_image")
    write_status(out_dir, "sub-04_task-rest_desc-Tiny", "failed", "mystery_reason")
    write_status(out_dir, "sub-05_task-other_desc-Tiny", "failed", "bad_image")


def test_runs_are_in_or_out_once_with_the_reason_of_this_call_first(tmp_path):
    write_study(tmp_path)
    used = ["sub-01_task-rest_run-1", "sub-02_task-rest"]
    found = count_cohort(
        tmp_path,
        used,
        is_wanted=lambda stem: "task-rest" in stem,
        left_out={"sub-06_task-rest": ("too_few_kept", "9 s"), "sub-03_task-rest": ("low_coverage", "0.1")},
    )
    assert found == {
        "participants": 2,
        "runs": 2,
        "participants_out": 3,
        "runs_out": 4,
        "reasons": ["2 with too little data left", "1 with low coverage of the atlas", "1 mystery reason"],
    }


def test_a_run_that_is_used_now_is_not_out_for_what_an_earlier_call_said(tmp_path):
    write_study(tmp_path)
    found = count_cohort(tmp_path, ["sub-03_task-rest"], is_wanted=lambda stem: stem == "sub-03_task-rest")
    assert found == {"participants": 1, "runs": 1, "participants_out": 0, "runs_out": 0, "reasons": []}


def test_a_call_counts_its_own_runs_once_one_is_complete(tmp_path):
    write_study(tmp_path)
    stems = ("sub-01_task-rest_run-1", "sub-01_task-rest_run-2", "sub-03_task-rest")
    paths = [OutputPaths(out_dir=tmp_path, directory=tmp_path / "func", stem=stem, model="Tiny") for stem in stems]
    assert count_planned(paths) is None
    assert count_planned([]) is None
    paths[0].directory.mkdir()
    paths[0].embedding_sidecar.write_text("{}")
    found = count_planned(paths)
    assert (found["participants"], found["runs"], found["participants_out"], found["runs_out"]) == (1, 1, 1, 2)
    signals = [OutputPaths(out_dir=tmp_path, directory=tmp_path / "func", stem=stem, model="") for stem in stems]
    assert count_planned(signals) is None
    signals[1].signals_sidecar.write_text("{}")
    assert count_planned(signals)["runs"] == 1
