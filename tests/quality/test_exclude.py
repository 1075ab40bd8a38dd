"""Runs are excluded by rules on their quality and by name, and never by accident."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bids_semantoks.config import SelectionConfig
from bids_semantoks.config.options import parse_rule
from bids_semantoks.errors import ConfigurationError, InputError
from bids_semantoks.files import write_json
from bids_semantoks.outputs.store import OutputPaths
from bids_semantoks.quality.exclude import describe_exclusion, find_excluded

ENDING = "space-S_atlas-A"


def write_run(out: Path, source: str, **qc: Any) -> str:
    stem = f"{source}_{ENDING}"
    folder = out / stem.partition("_")[0] / "func"
    paths = OutputPaths(out_dir=out, directory=folder, stem=stem, model="M")
    write_json(paths.status, {"status": "ok", "reason": "", "message": ""})
    write_json(paths.signals_sidecar, {})
    write_json(paths.qc, {"kept_seconds": 400.0, "warnings": [], **qc})
    return stem


@pytest.fixture
def stems(tmp_path: Path) -> list[str]:
    return [
        write_run(tmp_path, "sub-01_task-rest", mean_fd=0.1, masked_networks=["Vis", "Limbic"]),
        write_run(tmp_path, "sub-01_task-rest_run-02", mean_fd=0.3, masked_networks=[]),
        write_run(tmp_path, "sub-02_ses-1_task-rest", mean_fd=0.6, input_fit="red"),
        write_run(tmp_path, "sub-03_task-rest", mean_fd=None),
    ]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("mean_fd>0.3", [2]),
        ("mean_fd >= 0.3", [1, 2]),
        ("mean_fd<=.1", [0]),
        ("mean_fd!=0.3", [0, 2]),
        ("mean_fd==0.3", [1]),
        ("n_warnings=0", [0, 1, 2, 3]),
        ("verdict=leave out", [0, 2]),
        ("input_fit=red", [2]),
        ("masked_networks=Limbic", [0]),
        ("usable=true", [0, 1, 2, 3]),
        ("mean_fd>9", []),
    ],
)
def test_rules(tmp_path: Path, stems: list[str], rule: str, expected: list[int]) -> None:
    found = find_excluded(tmp_path, SelectionConfig(exclude_by=(rule,)), stems)
    assert sorted(found) == sorted(stems[i] for i in expected)
    assert all(reason == "excluded" and why.startswith(rule) for reason, why in found.values())


def test_unknown_values_stay_and_are_named(tmp_path: Path, stems: list[str], caplog: pytest.LogCaptureFixture) -> None:
    find_excluded(tmp_path, SelectionConfig(exclude_by=("mean_fd>0.2",)), stems)
    assert all(part in caplog.text for part in (f"{stems[3]}", "1 of 4 runs,", "--exclude-by 'mean_fd>0.2'"))
    assert "2 runs" in caplog.text


@pytest.mark.parametrize(
    ("rule", "error", "said"),
    [
        ("mean_df>0.3", InputError, "Did you mean mean_fd?"),
        ("participant_id>3", InputError, "participant_id, which"),
        ("mean_fd", ConfigurationError, "COLUMN OP VALUE"),
        (">3", ConfigurationError, "COLUMN OP VALUE"),
        ("mean_fd>", ConfigurationError, "COLUMN OP VALUE"),
        ("mean_fd>high", ConfigurationError, "not a number"),
        ("mean_fd>nan", ConfigurationError, "not a number"),
    ],
)
def test_rules_that_cannot_hold(tmp_path: Path, stems: list[str], rule: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said.replace("?", "[?]")):
        find_excluded(tmp_path, SelectionConfig(exclude_by=(rule,)), stems)


def test_equal_signs_belong_to_the_longest_operator() -> None:
    assert [parse_rule(f"a{op}1").operator for op in (">=", "<=", "!=", "==", "=", ">", "<")] == [
        *(">=", "<=", "!=", "=", "=", ">", "<")
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (f"sub-01_task-rest_{ENDING}", [0]),
        ("sub-01_task-rest_run-2", [1]),
        ("ds/sub-01/func/sub-01_task-rest_run-02_space-X_desc-preproc_bold.nii.gz", [1]),
        ("sub-01", [0, 1]),
        ("sub-02_ses-1_task-rest\t0.6\tblurred", [2]),
        ("sub-03_task-rest,blurred", [3]),
    ],
)
def test_lists(tmp_path: Path, stems: list[str], line: str, expected: list[int]) -> None:
    path = tmp_path / "list.txt"
    path.write_text(f"name\tnote\n# seen by two raters\n\n{line}\n")
    found = find_excluded(tmp_path, SelectionConfig(exclude_runs=(f"@{path}",)))
    assert sorted(found) == sorted(stems[i] for i in expected)
    assert set(found.values()) == {("excluded", "--exclude-runs @list.txt")}
    # Without the file, as names.
    if "\t" not in line and "," not in line:
        assert find_excluded(tmp_path, SelectionConfig(exclude_runs=(line,))).keys() == found.keys()


def test_names_that_no_run_has_are_refused(tmp_path: Path, stems: list[str]) -> None:
    with pytest.raises(InputError, match="sub-01_task-nback"):
        find_excluded(tmp_path, SelectionConfig(exclude_runs=("sub-01_task-nback",)))
    with pytest.raises(InputError, match="cannot be read"):
        find_excluded(tmp_path, SelectionConfig(exclude_runs=("@nowhere.txt",)))


def test_exclusions_are_a_sentence_of_the_methods() -> None:
    selection = SelectionConfig(exclude_by=("mean_fd>0.3", "coverage<0.8"), exclude_runs=("@x",))
    said = "Quality control excluded runs by mean_fd > 0.3; coverage < 0.8; a list of runs."
    assert describe_exclusion(selection) == said
    assert describe_exclusion(SelectionConfig()) == ""
