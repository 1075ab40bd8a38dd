"""The reference is complete: options, exit codes, reasons, and all that calls write."""

from __future__ import annotations

import contextlib
import importlib
import re
import shutil
import tomllib

import pytest
from helpers.documented import DOCS, find_undocumented, matches, read_page, read_sections

from bids_semantoks.errors import RunFailed, RunSkipped, SemantoksError
from bids_semantoks.quality.run_qc import REMEDIES

SCRIPTS = tomllib.loads((DOCS.parent / "pyproject.toml").read_text())["project"]["scripts"]


def find_flags(text: str) -> set[str]:
    """Find the flags that a help text defines, without spellings with underscores."""
    lines = re.findall(r"^ {2,4}(-.*)$", text, re.MULTILINE)
    return {flag for line in lines for flag in re.findall(r"(?<![\w-])--?[a-z][a-z-]*\b(?!_)", line.split("  ")[0])}


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_option_of_every_program_stands_in_the_reference(script, capsys):
    module, _, main = SCRIPTS[script].partition(":")
    program = importlib.import_module(module)
    for name in main.split(".")[:-1]:
        program = getattr(program, name)
    with contextlib.suppress(SystemExit):
        program.call(["--help"])
    flags = find_flags(capsys.readouterr().out) - {"-h", "--help"}
    _, _, section = read_page("reference/command_line").partition(f"```{{program}} {script}\n")
    described = set(re.findall(r"--?[a-z][a-z-]*", "\n".join(re.findall(r"^```\{option\} (.*)$", section, re.M))))
    assert len(flags) > 3
    assert flags - described == set()


def test_every_exit_code_and_reason_is_explained():
    sections = read_sections("reference/exit_codes")
    kinds = [SemantoksError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    codes = {str(kind.exit_code) for kind in kinds} | {"2", "130", "143"}
    assert codes <= sections["Exit codes"]
    reasons = {*RunFailed.reasons, *RunSkipped.reasons, *REMEDIES}
    assert reasons <= sections["Why a run is not used"]


def test_every_file_column_and_key_of_the_participant_level_is_described(outputs):
    assert find_undocumented(outputs) == set()


def test_what_no_page_describes_is_found(outputs, tmp_path):
    (sidecar,) = outputs.glob("sub-001/func/*_stat-coverage_bold.json")
    copy = tmp_path / sidecar.relative_to(outputs)
    copy.parent.mkdir(parents=True)
    copy.write_text('{"Sources": [], "Atlas": {"Colour": 1}, "sheen": {"Description": "x"}}')
    shutil.copy(sidecar, tmp_path / "notes.txt")
    name = copy.relative_to(tmp_path).as_posix()
    assert find_undocumented(tmp_path) == {f"{name}: Atlas.Colour", f"{name}: sheen", "notes.txt: the file"}


def test_every_picture_of_a_page_is_there_and_every_page_in_the_contents():
    contents = set(re.findall(r"^(\w+/\w+)$", (DOCS / "index.md").read_text(), re.MULTILINE))
    pages = [path for path in DOCS.rglob("*.md") if not path.relative_to(DOCS).parts[0].startswith(("_", "auto"))]
    assert {path.relative_to(DOCS).with_suffix("").as_posix() for path in pages} - {"index"} <= contents
    for path in pages:
        for name in re.findall(r"\]\((?!\w+:)([^)#\s]+)|\{(?:image|include)\} (\S+)", path.read_text()):
            target = "".join(name)
            built = target.startswith("../auto_examples") or "/auto_examples/" in target
            assert built or (path.parent / target).exists(), (path, target)


def test_links_that_lead_nowhere_are_found(tmp_path):
    spec = importlib.util.spec_from_file_location("check_links", DOCS / "check_links.py")
    check = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(check)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "b.html").write_text('<h1 id="here">B</h1><a href="../a.html">a</a>')
    page = '<a href="{}">b</a><img src="no%20picture.png"><a href="https://example.org/x#y">x</a><a href="#">top</a>'
    (tmp_path / "a.html").write_text(page.format("b/b.html#here").replace("no%20picture", "b/b"))
    assert check.find_dead_links(tmp_path) == ["a.html: b/b.png"]
    (tmp_path / "a.html").write_text(page.format("b/b.html#there"))
    assert check.find_dead_links(tmp_path) == ["a.html: b/b.html#there", "a.html: no%20picture.png"]


def test_patterns_of_pages_match_paths():
    assert matches("phenotype/Demo457RandomTiny.tsv", "phenotype/<Atlas><Model>.tsv")
    assert matches("sub-01/func/sub-01_x_stat-mean_timeseries.tsv", "*_stat-mean_timeseries.tsv")
    assert not matches("sub-01/func/sub-01_x_stat-mean_timeseries.json", "*_stat-mean_timeseries.tsv")
