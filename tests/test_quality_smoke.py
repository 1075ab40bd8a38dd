"""The quality of runs, from the participant level to exclusion at the group level."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path

import pytest

from bids_semantoks import version


def read_qc(out: Path) -> dict[str, dict[str, str]]:
    with (out / "group_qc.tsv").open(encoding="utf-8", newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file, delimiter="\t")}


@pytest.fixture
def out(outputs, tmp_path):
    shutil.copytree(outputs, tmp_path / "out")
    return tmp_path / "out"


def test_a_participant_call_reports_on_all_unless_some_were_selected(study, outputs, tmp_path, app):
    rows = read_qc(outputs)
    assert [row["usable"] for row in rows.values()].count("true") == 6
    for name, row in rows.items():
        if row["status"] == "ok":
            sidecar = json.loads(next(outputs.rglob(f"{name}_stat-mean_timeseries.json")).read_text())
            assert float(row["mean_fd"]) == pytest.approx(sidecar["MeanFramewiseDisplacement"])
            assert float(row["tsnr"]) == pytest.approx(sidecar["TemporalSNR"]["Median"], abs=1e-3)
            kept = sidecar["VolumesKept"]
            assert (int(row["num_retained_volumes"]), int(row["num_volumes"])) == (kept, sidecar["VolumesTotal"])
            assert float(row["kept_seconds"]) == pytest.approx(kept * sidecar["RepetitionTime"])
            assert (float(row["seconds"]) > 0, row["version"]) == (True, version.__version__)
            # The one window has no other to be similar to.
            assert (row["window_similarity"], row["n_windows"]) == ("n/a", "1")
            assert float(row["cohort_distance"]) > 0
        else:
            assert (row["reason"], row["mean_fd"]) == ("too_short", "n/a")
    page = (outputs / "group_qc.html").read_text(encoding="utf-8")
    for name, row in rows.items():
        # A click leads to the run's place in the page of its participant.
        report = f"{row['participant_id']}.html"
        assert f"<a href={report}>{name.partition('_space-')[0]}</a>" in page
        assert f'id="{name}"' in (outputs / report).read_text(encoding="utf-8")
    chosen = tmp_path / "chosen"
    assert app(study, chosen, "--participant-label", "001", "--signals-only")[0] == 0
    assert not list(chosen.glob("group_qc*"))
    assert [path.name for path in chosen.glob("logs/sub-*")] == ["sub-001"]


def test_quality_needs_no_encoder(study, out, app):
    (out / "group_qc.tsv").unlink()
    shutil.rmtree(out / "sub-003")
    shutil.rmtree(out / "logs" / "sub-003")
    for options in (("--signals-only", "--model", "/nowhere"), ("--reports-only", "--model", "/nowhere")):
        code, text = app(study, out, *options, level="group")
        assert code == 0, text
        rows = read_qc(out)
        assert rows.pop("sub-003")["status"] == "no_derivatives"
        assert len(rows) == 5
        if "--signals-only" in options:
            said = "4 usable, 0 failed, 1 too short, 1 without derivatives"
            assert text.splitlines()[-1] == f"bids_semantoks: {said} (see {out / 'group_qc.html'})"
        (out / "group_qc.tsv").unlink()
    assert not (out / "phenotype").exists()


def test_excluded_runs_are_left_out_and_named(study, out, app):
    rows = [row for row in read_qc(out).values() if row["status"] == "ok"]
    worst = max(rows, key=lambda row: float(row["mean_fd"]))
    limit = sorted(float(row["mean_fd"]) for row in rows)[-2]
    (out / "list.txt").write_text("sub-004_task-rest_run-1_bold.nii.gz\n")
    options = ("--exclude-by", f"mean_fd>{limit:.6f}", "--exclude-runs", f"@{out / 'list.txt'}")
    code, text = app(study, out, *options, level="group")
    assert code == 0, text
    assert "4 usable, 2 excluded, 0 failed, 1 too short" in text
    found = {row["name"]: row["excluded_by"] for row in read_qc(out).values() if row["excluded_by"] != "n/a"}
    assert found[worst["name"]].startswith(f"mean_fd>{limit:.6f} (")
    assert len(found) == 2
    text = (out / "logs" / "CITATION.md").read_text().replace("\\", "")
    assert "3 further runs were excluded: 2 excluded by quality control; 1 shorter than required." in text
    assert f"Quality control excluded runs by mean_fd > {limit:.6f}; a list of runs." in text
    table = (out / "phenotype" / "Demo457RandomTiny.tsv").read_text()
    assert "sub-004" not in table
    assert "\tskipped\texcluded\t" in (out / "group_status.tsv").read_text()
    # Drawn again, the page still tells what the last call excluded.
    assert app(study, out, "--reports-only", level="group")[0] == 0
    assert {row["name"] for row in read_qc(out).values() if row["excluded_by"] != "n/a"} == set(found)
    code, text = app(study, out, "--exclude-by", "mean_fd>0", level="group")
    assert (code, "exclude all" in text) == (3, True)
    assert app(study, out, "--exclude-by", "motion>0", level="group")[0] == 3
    assert app(study, out, "--exclude-by", "mean_fd", level="group")[0] == 4


def test_good_runs_stay_ok_with_their_seconds(study, out, app):
    paths = sorted(out.glob("logs/sub-*/*_status.json"))
    before = [json.loads(path.read_text()) for path in paths]
    table = (out / "group_qc.tsv").read_text()
    code, text = app(study, out)
    assert (code, "6 ok, 1 skipped, 0 failed" in text) == (0, True)
    after = [json.loads(path.read_text()) for path in paths]
    for old, new in zip(before, after, strict=True):
        if old["status"] == "ok":
            assert new == old | {"action": "kept"}
    assert (out / "group_qc.tsv").read_text() == table
    assert app(study, out, "--reports-only", "--participant-label", "001")[0] == 0
    (path,) = (out / "logs" / "sub-001").glob("*_status.json")
    assert json.loads(path.read_text())["action"] == "redrawn"


def test_studies_of_earlier_versions_go_on(study, out, app):
    former = out / "logs" / "runs"
    former.mkdir()
    for path in out.glob("logs/sub-*/*_status.json"):
        status = json.loads(path.read_text())
        status.pop("action")
        if status["status"] == "ok" and "sub-001" in path.name:
            status |= {"status": "skipped", "reason": "already_done", "seconds": 0.0}
        (former / path.name).write_text(json.dumps(status))
    for path in [*out.glob("logs/sub-*/*_status.json"), *out.glob("logs/sub-*/*_qc.json")]:
        path.unlink()
    code, text = app(study, out, level="group")
    assert (code, "6 usable, 0 failed, 1 too short" in text) == (0, True)
    assert app(study, out, "--participant-label", "001", "002")[0] == 0
    (path,) = (out / "logs" / "sub-001").glob("*_status.json")
    status = json.loads(path.read_text())
    assert (status["status"], status["action"], status["seconds"]) == ("ok", "kept", None)
    seconds = [json.loads(path.read_text())["seconds"] for path in (out / "logs" / "sub-002").glob("*_status.json")]
    assert min(seconds) > 0
    assert len(list((out / "logs" / "sub-002").glob("*_qc.json"))) == 2


def test_outputs_of_older_versions_can_be_made_again(study, out, app, monkeypatch):
    (path,) = (out / "sub-001").rglob("*_stat-mean_timeseries.json")
    sidecar = json.loads(path.read_text())
    sidecar["SoftwareVersions"]["bids_semantoks"] = "0.0.9"
    path.write_text(json.dumps(sidecar))
    select = ("--participant-label", "001", "002")
    code, text = app(study, out, *select)
    assert (code, "1 run was processed by other versions of bids_semantoks (1 by 0.0.9" in text) == (0, True)
    assert json.loads(path.read_text())["SoftwareVersions"]["bids_semantoks"] == "0.0.9"
    older = ("--redo-older-than", "0.0.9")
    assert "Keeping 3 runs " in app(study, out, *select, *older)[1]
    code, text = app(study, out, *select, "--redo-older-than", version.__version__)
    assert (code, "Keeping 2 runs " in text) == (0, True)
    assert json.loads(path.read_text())["SoftwareVersions"]["bids_semantoks"] == version.__version__
    code, text = app(study, out, "--redo-older-than", "99")
    assert (code, "newer than this version" in text) == (4, True)
    assert app(study, out, "--redo-older-than", "new")[0] == 4


def test_a_dry_run_for_scripts(study, out, app):
    shutil.rmtree(out / "sub-002")
    code, text = app(study, out, "--dry-run", "--check", "--format", "tsv")
    assert code == 0
    lines = [line.split("\t") for line in text.splitlines() if "\t" in line]
    assert lines[0] == ["run", "participant_id", "action", "reason", "recorded", "message", "is_current"]
    found = {(cells[1], *cells[2:5]) for cells in lines[1:]}
    assert ("sub-001", "keep", "n/a", "ok") in found
    assert ("sub-002", "make", "n/a", "ok") in found
    assert ("sub-004", "skip", "too_short", "skipped") in found
    assert len(lines) == 8
    assert {cells[6] for cells in lines[1:]} == {"true"}
    # No image is opened; with another limit the record says nothing.
    opened: list[str] = []
    is_watched = [True]
    sys.addaudithook(lambda name, what: opened.append(str(what[0])) if name == "open" and is_watched else None)
    _, text = app(study, out, "--dry-run", "--format", "tsv", "--min-time", "1", "--participant-label", "004")
    is_watched.clear()
    assert [name for name in opened if "_bold.nii" in name] == []
    assert any(name.endswith("_status.json") for name in opened)
    (cells,) = [line.split("\t") for line in text.splitlines() if line.startswith("sub-004") and "run-2" in line]
    assert (cells[2], cells[4], cells[6]) == ("make", "skipped", "false")
    assert app(study, out, "--format", "tsv")[0] == 4


def test_versions_sort_as_versions_do():
    texts = ["unknown", "0.1", "0.2rc1", "0.2", "0.2.1", "0.10"]
    assert sorted(set(texts), key=version.parse_version) == texts
    assert version.parse_version("0.2.0") == version.parse_version("v0.2")
