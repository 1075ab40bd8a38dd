"""The files in cluster/ name what the command line really has."""

import importlib.util
import json
import os
import re
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from bids_semantoks.config.command import build_options
from bids_semantoks.version import __version__

ROOT = Path(__file__).resolve().parents[2]


CLUSTER = ROOT / "cluster"


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    """The script that writes the files."""
    spec = importlib.util.spec_from_file_location("generate_cluster", CLUSTER / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read_json(name: str) -> dict:
    return json.loads((CLUSTER / name).read_text())


def spellings() -> set[str]:
    return {name for _, options in build_options() for option in options for name in option.opts}


def test_committed_files_are_those_of_the_command_line(generate):
    assert generate.find_outdated() == [], "run python cluster/generate.py"


def test_the_descriptor_has_every_option(generate):
    generate.check_complete()
    inputs = {one["id"]: one for one in read_json("boutiques/bids_semantoks.json")["inputs"]}
    assert {name for name in spellings() if name.startswith("--")} >= {
        one["command-line-flag"] for one in inputs.values() if "command-line-flag" in one
    } - {"--config-file"}
    assert inputs["participant_label"]["list"] is True
    assert inputs["band_pass"]["min-list-entries"] == 2
    assert inputs["n_windows"] == inputs["n_windows"] | {"type": "Number", "integer": True}
    assert inputs["min_time"]["type"] == "Number"
    assert "integer" not in inputs["min_time"]
    assert inputs["pooling"]["value-choices"] == ["cls_avg", "cls", "avg", "networks"]
    assert inputs["dry_run"]["type"] == "Flag"
    assert inputs["work_dir"]["type"] == "String"
    assert inputs["training_config"]["type"] == "File"


def test_keys_of_the_command_line_are_those_of_the_inputs():
    descriptor = read_json("boutiques/bids_semantoks.json")
    keys = re.findall(r"\[[A-Z_]+\]", descriptor["command-line"])
    assert keys == [one["value-key"] for one in descriptor["inputs"]]
    assert keys[:3] == ["[BIDS_DIR]", "[OUT_DIR]", "[ANALYSIS_LEVEL]"]


def test_exit_codes_of_the_contract():
    codes = {one["code"] for one in read_json("boutiques/bids_semantoks.json")["error-codes"]}
    assert codes == {1, 2, 3, 4, 5, 6, 7, 8, 9, 130, 143}


def test_the_nipoppy_bundle_fits_together():
    config = read_json("nipoppy/config.json")
    assert config["VERSION"] == __version__
    ids = {one["id"] for one in read_json("nipoppy/descriptor.json")["inputs"]}
    for step in config["STEPS"]:
        assert set(read_json(f"nipoppy/{step['INVOCATION_FILE']}")) <= ids
        for key, value in step.items():
            assert not key.endswith("_FILE") or (CLUSTER / "nipoppy" / value).is_file()
    used = set(re.findall(r"\[\[([A-Z_]+)\]\]", (CLUSTER / "nipoppy" / "invocation.json").read_text()))
    assert {name for name in used if not name.startswith("NIPOPPY_")} <= set(config["VARIABLES"])
    assert not any(path.is_dir() for path in (CLUSTER / "nipoppy").iterdir())


@pytest.mark.parametrize("name", ["submit.sh", "participant.sbatch", "group.sbatch"])
def test_slurm_scripts_use_options_that_exist(name):
    text = (CLUSTER / "slurm" / name).read_text()
    calls = re.findall(r'"\$\{program\[@\]\}"(?:[^\n\\]|\\\n)*', text)
    assert calls
    assert {flag for line in calls for flag in re.findall(r"--[a-z-]+", line)} <= spellings()


@pytest.mark.parametrize("path", sorted(CLUSTER.rglob("*.s[hb]*")), ids=lambda path: path.name)
def test_scripts_are_correct_shell(path):
    subprocess.run(["bash", "-n", path], check=True)


def test_containers_name_one_place():
    program = "/opt/bids_semantoks/bin/bids_semantoks"
    assert f'ENTRYPOINT ["{program}"]' in (ROOT / "Dockerfile").read_text()
    for name in ("Singularity.def", "Singularity.scratch.def"):
        assert f'exec {program} "$@"' in (ROOT / name).read_text()
    assert program in read_json("boutiques/bids_semantoks.json")["command-line"]


def test_a_task_of_the_array_names_its_own_participants_alone(tmp_path):
    """Selected ones would be done by every task, since lists that are given twice add up."""
    called = tmp_path / "called"
    rows = (
        *("run participant_id action reason recorded message", "sub-01_task-rest sub-01 make n/a n/a extract"),
        *("sub-02_task-rest sub-02 skip too_short n/a 60s", "sub-03_task-rest sub-03 skip too_short skipped 60s"),
        *("sub-04_task-rest sub-04 keep n/a ok complete", "sub-02_task-x sub-02 fail no_mask failed none"),
    )
    lines = "\\n".join(rows)
    plan = f'echo "$*" >>"{called}"\nprintf "{lines}\\n" | tr " " "\\t"'
    for name, lines in (("bids_semantoks", plan), ("sbatch", "echo 7")):
        (tmp_path / name).write_text(f"#!/bin/bash\n{lines}\n")
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    options = ["--atlas", "Demo457", "--participant-label", "01", "02", "--mem", "4G", "--participant_label=03", "-q"]
    submit = [CLUSTER / "slurm" / "submit.sh", tmp_path, tmp_path / "out", *options]
    subprocess.run(submit, env=environment, check=True, capture_output=True)
    (job,) = (tmp_path / "out" / "logs" / "slurm").iterdir()
    environment |= {"SLURM_ARRAY_TASK_ID": "2"}
    subprocess.run(["bash", CLUSTER / "slurm" / "participant.sbatch", job, "1"], env=environment, check=True)
    subprocess.run(["bash", CLUSTER / "slurm" / "group.sbatch", job], env=environment, check=True)
    places = f"{tmp_path} {tmp_path / 'out'}"
    assert called.read_text().splitlines() == [
        f"{places} participant {' '.join(options)} --dry-run --check --format tsv",
        f"{places} participant --atlas Demo457 --mem 4G -q --ignore-failed-runs --participant-label 02",
        f"{places} group {' '.join(options)}",
    ]


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (7, 0), (1, 1), (3, 3), (5, 5)])
def test_failed_runs_do_not_hold_the_group_job_back(tmp_path, code, expected):
    for name, lines in (
        *(("directories", "/in\n/out\n"), ("task-options", "-q\n"), ("participants", "01\n")),
        ("program", f"{tmp_path}/app\n"),
        ("app", f"#!/bin/bash\nexit {code}\n"),
    ):
        (tmp_path / name).write_text(lines)
    (tmp_path / "app").chmod(0o755)
    script = ["bash", CLUSTER / "slurm" / "participant.sbatch", tmp_path, "1"]
    done = subprocess.run(script, env={**os.environ, "SLURM_ARRAY_TASK_ID": "1"}, check=False, capture_output=True)
    assert done.returncode == expected
