"""Limits of a group call hold for runs that were stored before, and settings that cannot be applied are refused."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

from bids_semantoks.config import AppConfig, SignalsConfig
from bids_semantoks.errors import ConfigurationError
from bids_semantoks.files import write_records
from bids_semantoks.outputs.store import OutputPaths, StoredRun
from bids_semantoks.quality.fit import FitItem
from bids_semantoks.quality.run_qc import check_settings, judge, judge_run, leave_out, measure_run

FORMER = {"denoising": {"name": "simple"}, "band_pass": [0.01, 0.1], "fd_threshold": 0.5, "dummy_scans": "auto"}


def build_config(*, given: tuple[str, ...] = (), **signals: object) -> AppConfig:
    arguments = {"bids_dir": Path("in"), "out_dir": Path("out"), "level": "group", "given": given}
    return AppConfig(**arguments, signals=SignalsConfig(**signals))  # type: ignore[arg-type]


def build_run(folder: Path, label: str, n_kept: int, coverage: float, **settings: object) -> StoredRun:
    paths = OutputPaths(out_dir=folder, directory=folder, stem=f"sub-{label}_task-rest_atlas-A", model="M")
    cells = [("p1", 1.0, 9, "true"), ("p2", coverage, 9, "true"), ("p3", 0.0, 9, "false")]
    write_records(paths.coverage, ("label", "coverage", "n_voxels", "present"), cells)
    sidecar = {
        **{"VolumesKept": n_kept, "RepetitionTime": 0.72, "Atlas": {"Parcels": 3}, "Denoising": {}},
        "Settings": FORMER | {"min_coverage": 0.5} | settings,
    }
    return StoredRun(entities={"sub": label}, paths=paths, sidecar=sidecar)


def test_limits_that_are_given_leave_runs_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    runs = [
        build_run(tmp_path, "01", 150, 0.9),
        build_run(tmp_path, "02", 100, 0.9),
        build_run(tmp_path, "03", 150, 0.6),
    ]
    # The participant level may have had a lower limit, which holds until another is given.
    assert leave_out(build_config(), runs) == (runs, {})
    kept, left = leave_out(build_config(given=("min_time",)), runs)
    assert (kept, {stem[:6]: reason for stem, (reason, _) in left.items()}) == (
        [runs[0], runs[2]],
        {"sub-02": "too_few_kept"},
    )
    assert all(part in caplog.text for part in ("72 s", "100 s"))
    assert leave_out(build_config(min_time=108.0), runs)[0] == [runs[0], runs[2]]
    kept, left = leave_out(build_config(min_coverage=0.9), runs)
    assert (kept, [stem[:6] for stem in left]) == (runs[:2], ["sub-03"])
    assert "1 of 3 parcels with signals are below --min-coverage 0.9 (minimum 0.60)" in left[next(iter(left))][1]
    runs[0].paths.coverage.unlink()
    assert leave_out(build_config(min_coverage=0.9), runs)[0] == runs[1:2]


@pytest.mark.parametrize(
    ("signals", "said"),
    [
        ({"fd_threshold": 0.3}, r"fd_threshold.*0.5, now 0.3\)"),
        ({"min_coverage": 0.3}, r"min_coverage.*0.5, now 0.3\)"),
        ({"band_pass": None}, "band_pass"),
        ({"dummy_scans": "4"}, "dummy_scans"),
        ({"motion_filter": "notch:12-18"}, "motion_filter.*12.0, 18.0"),
        ({"denoise": "36p"}, "denoising"),
    ],
)
def test_settings_that_signals_were_not_made_with_are_refused(
    tmp_path: Path, signals: dict[str, object], said: str
) -> None:
    denoising = {"name": signals.get("denoise", "simple")}
    run = build_run(tmp_path, "01", 150, 0.9)
    with pytest.raises(ConfigurationError, match=f"{said}"):
        check_settings(build_config(**signals), [run], denoising)
    check_settings(build_config(fd_threshold=0.5, min_coverage=0.8), [run], denoising)
    check_settings(build_config(), [build_run(tmp_path, "02", 150, 0.9, fd_threshold=None)], denoising)
    series = build_run(tmp_path, "03", 150, 0.9, denoising=None)
    check_settings(build_config(**signals), [series], denoising)


def test_the_group_level_holds_them(study, outputs, tmp_path, app):
    out = tmp_path / "out"
    shutil.copytree(outputs, out)
    code, text = app(study, out, "--fd-threshold", "0.5", level="group")
    assert code == 4
    assert all(part in text for part in ("fd_threshold", "now 0.5)"))
    code, text = app(study, out, "--min-time", "9999", level="group")
    assert code == 3
    assert "exclude all" in text

    def read(name: str) -> list[dict[str, str]]:
        with (out / name).open(newline="") as file:
            return list(csv.DictReader(file, delimiter="\t"))

    assert app(study, out, level="group")[0] == 0
    before = {row["participant_id"] for row in read("phenotype/Demo457RandomTiny.tsv")}
    lost = max(before)
    sidecar = next((out / lost).rglob("*_stat-mean_timeseries.json"))
    for path in (out / lost).rglob("*_stat-mean_timeseries.json"):
        path.write_text(path.read_text().replace('"VolumesKept": ', '"VolumesKept": 5, "Former": '))
    code, text = app(study, out, "--min-time", "100", level="group")
    assert code == 0
    assert "stored runs (too_few_kept" in text
    assert {row["participant_id"] for row in read("phenotype/Demo457RandomTiny.tsv")} == before - {lost}
    stem = sidecar.name.removesuffix("_stat-mean_timeseries.json")
    (status,) = [row for row in read("group_status.tsv") if row["run"].startswith(f"{stem}_")]
    assert (status["status"], status["reason"]) == ("skipped", "too_few_kept")


SIGNALS = {
    "VolumesTotal": 210,
    "VolumesKept": 200,
    "VolumesDropped": {"Dummy": {"Count": 4}, "Scrubbed": {"Count": 6}},
    "RepetitionTime": 2.0,
    "MeanFramewiseDisplacement": 0.1,
}


@pytest.mark.parametrize(
    ("changes", "coverage", "level", "action", "words"),
    [
        ({}, 0.97, "green", "Use", "within their limits"),
        ({"MeanFramewiseDisplacement": 0.3}, 0.97, "amber", "Look", "Mean FD 0.30 mm"),
        ({"MeanFramewiseDisplacement": 0.6}, 0.97, "red", "Leave out", "leave out above 0.50 mm"),
        ({"MeanFramewiseDisplacement": None}, 0.97, "green", "Use", "All measures"),
        ({"VolumesKept": 149}, 0.97, "amber", "Look", "Kept data 298 s"),
        ({"VolumesKept": 49}, 0.97, "red", "Leave out", "Kept data 98 s"),
        ({"VolumesDropped": {"Dummy": {"Count": 0}, "Scrubbed": {"Count": 84}}}, 0.97, "amber", "Look", "volumes 40%"),
        ({}, 0.85, "amber", "Look", "Coverage 0.85"),
        ({}, float("nan"), "green", "Use", "All measures"),
        ({"RepetitionTime": 3.5}, 0.97, "amber", "Look", "Repetition time 3.5 s"),
        # The strongest reason comes first.
        ({"VolumesKept": 140, "MeanFramewiseDisplacement": 0.6}, 0.7, "red", "Leave out", "Mean FD 0.60 mm"),
    ],
)
def test_a_verdict_has_a_level_and_its_reason(changes, coverage, level, action, words):
    items = judge_run(measure_run({**SIGNALS, **changes}, np.full(7, coverage)))
    verdict = judge(items)
    assert (verdict.level, verdict.action) == (level, action)
    assert words in verdict.reason
    assert all(item.source for item in items)


def test_a_network_without_signal_is_a_reason():
    masked = FitItem(name="networks", value="absent: Vis", level="red", words="guess", source="ours")
    verdict = judge([*judge_run(measure_run(SIGNALS, np.ones(7))), masked, masked])
    assert verdict.action == "Leave out"
    assert verdict.reason == "Networks absent: Vis (guess)."


def test_a_run_that_failed_is_left_out_for_its_reason():
    verdict = judge([], "Torn.")
    assert (verdict.level, verdict.reason) == ("red", "Torn.")
