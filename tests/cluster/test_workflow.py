"""The public workflow calls what is there, and starts on what the package says it runs on."""

import re
import subprocess
from pathlib import Path

import pytest

from bids_semantoks.config.command import build_options

yaml = pytest.importorskip("yaml")


ROOT = Path(__file__).resolve().parents[2]


WORKFLOW = ROOT / ".github" / "workflows" / "test.yml"


@pytest.fixture(scope="module")
def jobs():
    return yaml.safe_load(WORKFLOW.read_text())["jobs"]


def find_scripts():
    jobs = yaml.safe_load(WORKFLOW.read_text())["jobs"]
    return [(name, step["run"]) for name, job in jobs.items() for step in job["steps"] if "run" in step]


def test_every_python_that_the_package_names_is_tested(jobs):
    classifiers = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', (ROOT / "pyproject.toml").read_text())
    entries = jobs["test"]["strategy"]["matrix"]["include"]
    pythons = [one["python"] for one in entries]
    assert pythons == [*classifiers, "3.14"] == ["3.11", "3.12", "3.13", "3.14"]
    # Only what make setup was pinned with has run the suite, and only what the package does not name may fail.
    tried = re.search(r"Python (3\.\d+), Linux", (ROOT / "constraints.txt").read_text())[1]
    assert [one["python"] for one in entries if not one.get("untried")] == [tried]
    assert "'3.14'" in jobs["test"]["continue-on-error"]
    assert "untried" in jobs["test"]["name"]
    assert {"run": "make test"} in jobs["test"]["steps"]


@pytest.mark.parametrize(("job", "script"), find_scripts())
def test_steps_are_correct_shell_and_call_what_is_there(job, script):
    # Expressions are filled in before the shell sees them.
    script = re.sub(r"\$\{\{.*?\}\}", "filled-in", script)
    subprocess.run(["bash", "-n", "-c", script], check=True)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^make ([a-z-]+)", script, re.MULTILINE)) <= targets
    pinned = set(re.findall(r"^([\w-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    assert set(re.findall(r"grep '\^([\w-]+)=='", script)) <= pinned
    flags = set(re.findall(r"--(?:atlas|model|participants|short)\b", script))
    known = {name for _, options in build_options() for option in options for name in option.opts}
    assert flags - {"--participants", "--short"} <= known, job


def test_every_job_ends_and_says_on_what_it_runs(jobs):
    assert set(jobs) == {"test", "release", "image"}
    for job in jobs.values():
        assert job["runs-on"] == "ubuntu-24.04"
        assert job["timeout-minutes"] <= 60
        for step in job["steps"]:
            assert ("run" in step) != ("uses" in step)
            assert "uses" not in step or re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"])


def test_the_demo_runs_in_the_image_without_network_and_is_validated(jobs):
    scripts = "\n".join(step.get("run", "") for step in jobs["image"]["steps"])
    calls = re.findall(r"docker run (?:[^\n\\]|\\\n)*", scripts)
    assert len(calls) == 2
    assert all("--network none --user 12345:12345" in call for call in calls)
    assert "--read-only --tmpfs /tmp" in calls[1]
    assert '/data:ro"' in calls[1]
    assert 'bids-validator-deno "$RUNNER_TEMP/out"' in scripts


def test_the_release_is_checked_on_each_python_that_the_package_names(jobs):
    steps = jobs["release"]["steps"]
    assert {"run": "make release-check"} in steps
    (versions,) = (step["with"]["python-version"].split() for step in steps if "setup-python" in step.get("uses", ""))
    assert sorted(versions) == ["3.11", "3.12", "3.13"]
