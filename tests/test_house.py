"""What keeps the house in order: the checks themselves check something."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

RIGHT = '"""Room."""\n\n\ndef double(value):\n    """Double a value: (T,) -> (T,)."""\n    return 2 * value\n'
WRONG = {
    "GL08": RIGHT.replace('    """Double a value: (T,) -> (T,)."""\n', ""),
    "PR02": RIGHT.replace(
        "(T,) -> (T,).", "\n\n    Parameters\n    ----------\n    number : int\n        A number.\n\n    "
    ),
}


@pytest.mark.parametrize("file", ["Makefile", ".pre-commit-config.yaml"])
@pytest.mark.parametrize("code", ["", *WRONG])
def test_the_docstring_check_finds_wrong_docstrings(tmp_path, file, code):
    """Run the command as `file` has it, which once was a module that checked nothing."""
    module = re.search(r"python -m (numpydoc[\w. ]*\w)", (ROOT / file).read_text())[1].split()
    # The settings are those of the project around the files.
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "room.py").write_text(WRONG.get(code, RIGHT))
    command = [sys.executable, "-m", *module, "room.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == bool(code), done.stdout + done.stderr
    assert code in done.stdout + done.stderr


_LOADED = """
import json, sys
from bids_semantoks.cli import call
arguments = [*sys.argv[1:], "--atlas", "Demo457", "--signals-only", "--n-procs", "1", "-q"]
loaded = []
for more in (["--dry-run"], []):
    assert call([*arguments, *more]) == 0
    loaded.append([name for name in sys.modules if name.count(".") < 2])
print("\\n" + json.dumps(loaded))
"""


def test_a_participant_call_does_not_wait_for_what_it_does_not_need(study, tmp_path):
    """Neither a plan nor signals need a library that is slow to load."""
    command = [
        sys.executable,
        "-c",
        _LOADED,
        str(study),
        str(tmp_path / "out"),
        "participant",
        "--participant-label",
        "001",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    before, after = map(set, json.loads(done.stdout.splitlines()[-1]))
    slow = {"nilearn", "bids", "templateflow", "pandas", "sklearn", "torch", "scipy.signal", "scipy.interpolate"}
    assert before.isdisjoint(slow | {"matplotlib", "jinja2"})
    assert after.isdisjoint(slow)


_REFUSED = """
import sys
from bids_semantoks.cli import call
code = call(sys.argv[1:])
print("\\n" + " ".join([str(code), *sorted(name for name in sys.modules if "." not in name)]))
"""


@pytest.mark.parametrize("wrong", ["folder", "label", "value"])
def test_a_wrong_call_is_refused_before_anything_slow_is_loaded(study, tmp_path, wrong):
    root = tmp_path / "nowhere" if wrong == "folder" else study
    more = {"folder": [], "label": ["--participant-label", "999"], "value": ["--min-time", "-1"]}[wrong]
    command = [sys.executable, "-c", _REFUSED, str(root), str(tmp_path / "out"), "participant", *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    code, *loaded = done.stdout.splitlines()[-1].split()
    assert code == ("4" if wrong == "value" else "3"), done.stderr
    slow = {
        "numpy",
        "nibabel",
        "scipy",
        "nilearn",
        "matplotlib",
        "bids",
        "templateflow",
        "pandas",
        "sklearn",
        "torch",
        "jinja2",
    }
    assert slow.isdisjoint(loaded)


@pytest.mark.parametrize(
    ("what", "pattern"),
    [
        ("reads a table by hand", r"csv\.\w*[rR]eader\(|split\(b?\"\\t\"\)"),
        ("writes through a temporary name", r"\.tmp\"\)|\.tmp\"$|os\.replace\((?!Path\(folder\))"),
        ("computes a checksum of a file by hand", r"file_digest|sha256\(path\.read_bytes"),
    ],
)
def test_what_has_one_place_has_no_other(what, pattern):
    found = [path for path in (ROOT / "bids_semantoks").rglob("*.py") if path.name not in ("files.py", "disk.py")]
    assert [str(path) for path in found if re.search(pattern, path.read_text(), re.MULTILINE)] == [], what


def test_no_template_prints_what_it_is_given_as_it_is():
    templates = list((ROOT / "bids_semantoks" / "data").glob("*.jinja"))
    assert templates
    for path in templates:
        assert not re.search(r"\|\s*safe|autoescape", path.read_text()), path
        assert path.name.endswith(".md.jinja") or "Content-Security-Policy" in path.read_text(), path


def test_tests_mirror_the_tree():
    rooms = [room.name for room in (ROOT / "bids_semantoks").iterdir() if (room / "__init__.py").is_file()]
    tests = [test for room in rooms for test in (ROOT / "tests" / room).glob("test_*.py")]
    modules = [test.stem.removeprefix("test_").replace("main", "__main__") for test in tests]
    places = [
        ROOT / "bids_semantoks" / test.parent.name / f"{one}.py" for test, one in zip(tests, modules, strict=True)
    ]
    assert [str(place) for place in places if not place.is_file()] == []


def test_a_file_is_one_sitting():
    files = (ROOT / "bids_semantoks").rglob("*.py")
    assert [str(path) for path in files if len(path.read_text().splitlines()) > 400] == []


# A machine for training has torch and NumPy but nothing of BIDS: everything that trains must start there.


START = """
import importlib, pkgutil, runpy, sys
for absent in ("bids", "nibabel", "nilearn", "templateflow", "pandas", "click"):
    sys.modules[absent] = None
import bids_semantoks.models, bids_semantoks.training
for package in (bids_semantoks.models, bids_semantoks.training):
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
for script in ("bench_pretrain", "bench_packing", "compare_pretraining"):
    sys.argv = [script, "--help"]
    try:
        runpy.run_path(f"benchmarks/{script}.py", run_name="__main__")
    except SystemExit as end:
        assert end.code == 0, script
"""


def test_all_starts_without_what_speaks_bids():
    command = [sys.executable, "-c", START]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=240)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("usage:") == 3


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="asks git which files are the project's")
def test_what_scripts_and_pages_import_is_there():
    """Neither ruff nor mypy reads Python within shell scripts and pages."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    paths = [ROOT / name for name in tracked if not name.endswith(".py")]
    texts = [path.read_text(errors="ignore") for path in paths if path.is_file()]
    found = [pair for text in texts for pair in re.findall(r"from (bids_semantoks[\w.]*) import ([\w, ]+)", text)]
    assert found
    for module, names in found:
        there = dir(importlib.import_module(module))
        assert set(names.replace(" ", "").split(",")) <= set(there), module
