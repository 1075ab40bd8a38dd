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


@pytest.mark.parametrize("kind", ["processing", "extraction"])
def test_nipoppy_pipelines_fit_together(kind):
    config = read_json(f"nipoppy/{kind}/config.json")
    assert (config["VERSION"], config["PIPELINE_TYPE"]) == (__version__, kind)
    ids = {one["id"] for one in read_json(f"nipoppy/{kind}/descriptor.json")["inputs"]}
    (step,) = config["STEPS"]
    assert set(read_json(f"nipoppy/{kind}/{step['INVOCATION_FILE']}")) <= ids
    for key, value in step.items():
        assert not key.endswith("_FILE") or (CLUSTER / "nipoppy" / kind / value).is_file()
    used = set(re.findall(r"\[\[([A-Z_]+)\]\]", (CLUSTER / "nipoppy" / kind / "invocation.json").read_text()))
    assert {name for name in used if not name.startswith("NIPOPPY_")} <= set(config["VARIABLES"])
    assert not any(path.is_dir() for path in (CLUSTER / "nipoppy" / kind).iterdir())


def test_features_are_extracted_from_what_was_processed():
    processing, extraction = (read_json(f"nipoppy/{kind}/config.json") for kind in ("processing", "extraction"))
    expected = {"NAME": processing["NAME"], "VERSION": __version__, "STEP": processing["STEPS"][0]["NAME"]}
    assert extraction["PROC_DEPENDENCIES"] == [expected]
    ids = {one["id"] for one in read_json("nipoppy/extraction/descriptor.json")["inputs"]}
    assert {"task_id", "sessions", "n_procs", "atlas"} <= ids
    assert "probe" not in ids


def test_listings_name_what_is_in_the_image_and_this_version():
    yaml = pytest.importorskip("yaml")
    (entry,) = yaml.safe_load((CLUSTER / "listings" / "bids_apps.yml").read_text())
    assert (ROOT / ".github" / "workflows" / f"{entry['workflow']}.yml").is_file()
    assert entry["ds_type"] == ["derivative"]
    recipe = yaml.safe_load((CLUSTER / "listings" / "neurodesk.yaml").read_text())
    assert recipe["build"]["base-image"] == f"{entry['dh']}:{__version__}"
    assert recipe["version"] == read_json("listings/zenodo.json")["version"] == __version__
    assert f"{recipe['deploy']['path'][0]}/bids_semantoks" in (ROOT / "Dockerfile").read_text()
    for line in recipe["structured_readme"]["example"].splitlines():
        assert {word for word in line.split() if word.startswith("-")} <= spellings()


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


PLAN = (
    *(
        "run participant_id action reason recorded message is_current",
        "sub-01_task-rest sub-01 make n/a n/a extract n/a",
    ),
    *("sub-02_task-rest sub-02 skip too_short n/a 60s n/a", "sub-03_task-rest sub-03 skip too_short skipped 60s true"),
    *("sub-04_task-rest sub-04 keep n/a ok complete true", "sub-02_task-x sub-02 fail no_mask failed none true"),
    *("sub-05_task-x sub-05 make n/a failed extract true", "sub-06_task-x sub-06 make n/a failed extract false"),
    *("sub-07_task-x sub-07 skip too_short skipped 60s false", "sub-08_task-x sub-08 skip too_short ok 60s false"),
)


@pytest.fixture
def submit(tmp_path):
    """Submit to programs that note how they were called; returns the calls and the labels by task."""
    called, out = tmp_path / "called", tmp_path / "out"

    def call(*options, rows=PLAN, **settings):
        lines = "\n".join(rows)
        (tmp_path / "plan").write_text(f"{lines}\n".replace(" ", "\t"))
        programs = {
            "bids_semantoks": f'echo "$*" >>"{called}"\ncat "{tmp_path}/plan"',
            "sbatch": f'echo "sbatch $*" >>"{called}.sbatch"\necho 7',
            "scontrol": "exit 1",
        }
        for name, text in (programs | settings.pop("programs", {})).items():
            (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
            (tmp_path / name).chmod(0o755)
        environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", **settings}
        script = [CLUSTER / "slurm" / "submit.sh", tmp_path, out, *options]
        done = subprocess.run(script, env=environment, check=True, capture_output=True, text=True)
        (job,) = (out / "logs" / "slurm").iterdir()
        return job, environment, done.stdout + done.stderr

    return call


def test_a_task_of_the_array_names_its_own_participants_alone(submit, tmp_path):
    """Selected ones would be done by every task, since lists that are given twice add up."""
    options = ["--atlas", "Demo457", "--participant-label", "01", "02", "--mem", "4G", "--participant_label=03", "-q"]
    job, environment, _ = submit(*options)
    environment |= {"SLURM_ARRAY_TASK_ID": "2"}
    subprocess.run(["bash", CLUSTER / "slurm" / "participant.sbatch", job, "1"], env=environment, check=True)
    subprocess.run(["bash", CLUSTER / "slurm" / "group.sbatch", job], env=environment, check=True)
    places = f"{tmp_path} {tmp_path / 'out'}"
    assert (tmp_path / "called").read_text().splitlines() == [
        f"{places} participant {' '.join(options)} --dry-run --format tsv",
        f"{places} participant --atlas Demo457 --mem 4G -q --ignore-failed-runs --participant-label 02",
        f"{places} group {' '.join(options)}",
    ]


def test_each_phenotype_has_a_task_and_a_last_job_joins_them(submit, tmp_path):
    options = ["--probe", "age", "sex", "-q", "--probe=iq"]
    job, environment, said = submit(*options)
    assert "array of 3 phenotypes: 7" in said
    submitted = [line.split(" ", 1)[1] for line in (tmp_path / "called.sbatch").read_text().splitlines()]
    assert [re.findall(r"--array=\S+|--dependency=\S+", line) for line in submitted] == [
        ["--array=1-6%100"],
        ["--dependency=afterok:7"],
        ["--array=1-3%100", "--dependency=afterok:7"],
        ["--dependency=afterany:7"],
    ]
    script = ["bash", CLUSTER / "slurm" / "group.sbatch", job]
    subprocess.run([*script, "0"], env=environment, check=True)
    subprocess.run([*script, "array"], env=environment | {"SLURM_ARRAY_TASK_ID": "2"}, check=True)
    subprocess.run(script, env=environment, check=True)
    call = f"{tmp_path} {tmp_path / 'out'} group {' '.join(options)}"
    expected = [f"{call} --probe-part 0", f"{call} --probe-part 2", call]
    assert (tmp_path / "called").read_text().splitlines()[1:] == expected


@pytest.mark.parametrize("options", [("--probe", "age"), ("--probe", "age", "sex", "--scaling", "0.5"), ("-q",)])
def test_what_has_no_parts_is_one_group_job(submit, tmp_path, options):
    submit(*options)
    assert len((tmp_path / "called.sbatch").read_text().splitlines()) == 2


@pytest.mark.parametrize(("retry", "expected"), [("yes", "01 02 05 06 07 08"), ("no", "01 02 06 07 08")])
def test_records_of_other_files_or_settings_hold_nobody_back(submit, retry, expected):
    job, _, _ = submit("-q", RETRY_FAILED=retry)
    assert (job / "participants").read_text().split() == expected.split()


@pytest.mark.parametrize(("limit", "block"), [("", 2), ("MaxArraySize            = 41", 31)])
def test_an_array_is_no_larger_than_the_cluster_allows(submit, tmp_path, limit, block):
    rows = (PLAN[0], *(f"sub-{i:04d}_task-x sub-{i:04d} make n/a n/a extract n/a" for i in range(1, 1207)))
    _, _, said = submit("-q", rows=rows, programs={"scontrol": f'echo "{limit}"'})
    n_tasks = -(-1206 // block)
    assert f"array of {n_tasks} tasks for 1206 participants" in said
    array = (tmp_path / "called.sbatch").read_text().splitlines()[0]
    assert f"--array=1-{n_tasks}%" in array
    assert array.endswith(f" {block}")
    assert n_tasks <= int(limit.rpartition(" ")[2] or 1001) - 1


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
