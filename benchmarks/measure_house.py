"""Size of the package, and how far one call walks through it.

Counts files and lines (code, docstrings) of the package, and runs the participant level on one synthetic run and the
group level with one phenotype, counting the files that each call enters and how often it changes from one to another
(functions of the main thread, one process).
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import subprocess
import sys
import tempfile
import tokenize
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "bids_semantoks"
NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
DEFINITIONS = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
OPTIONS = ("--model", "random:tiny", "--n-procs", "1")

# Run in a process of its own, as the first call of a program is.
TRACE = """
import sys
from bids_semantoks.cli import call
root, calls = sys.argv[1] + "/", []

def note(frame, event, _):
    code = frame.f_code
    if event == "call" and code.co_flags & 1 and code.co_filename.startswith(root):
        calls.append(code.co_filename)

sys.setprofile(note)
status = call(sys.argv[2:])
sys.setprofile(None)
assert status == 0, status
print(len(set(calls)), sum(a != b for a, b in zip(calls, calls[1:])))
"""


def count_lines(path: Path) -> tuple[int, int, int]:
    """Count the lines of a file: all, code, docstrings."""
    text = path.read_text()
    documented: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, DEFINITIONS) and ast.get_docstring(node, clean=False) is not None:
            documented.update(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    code = {line for one in tokens if one.type not in NO_CODE for line in range(one.start[0], one.end[0] + 1)}
    return text.count("\n"), len(code - documented), len(documented)


def trace(*arguments: object) -> str:
    """Trace a call of the command line: files entered and changes of file."""
    command = [sys.executable, "-c", TRACE, str(PACKAGE), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return "{} files, {} changes of file".format(*done.stdout.split()[-2:])


def write_demo(directory: Path, *arguments: str) -> Path:
    """Write a synthetic study."""
    command = [sys.executable, "-m", "bids_semantoks.demo", str(directory), "--short", *arguments]
    subprocess.run(command, check=True, capture_output=True)
    return directory


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--by-folder", action="store_true", help="lines of each folder, too")
    by_folder: dict[str, list[tuple[int, int, int]]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        by_folder.setdefault(str(path.parent.relative_to(PACKAGE)), []).append(count_lines(path))
    folders = {"all": [one for found in by_folder.values() for one in found]}
    if parser.parse_args().by_folder:
        folders |= by_folder
    for name, counts in folders.items():
        lines, code, documented = (sum(column) for column in zip(*counts, strict=True))
        print(f"{name}: {len(counts)} files, {lines} lines, {code} of code, {documented} of docstrings")
    texts = [path.read_text() for path in PACKAGE.rglob("*.py") if path != PACKAGE / "files.py"]
    for what, pattern in {
        "that read a table by hand": r"csv\.(?:DictR|r)eader\(|\.split\(b?\"\\t\"\)",
        "that write through a temporary name": r"\.tmp\"",
        "that call the frozen encoder": r"\bfrozen\.encode\(",
    }.items():
        print(f"files {what}, besides files.py: {sum(bool(re.search(pattern, text)) for text in texts)}")
    with tempfile.TemporaryDirectory() as folder:
        one = write_demo(Path(folder, "one"), "--participants", "1")
        print("one participant run:", trace(one, f"{one}-out", "participant", "--atlas", "Demo457", *OPTIONS))
        many = write_demo(Path(folder, "many"), "--participants", "24", "--parcellated")
        trace(many, f"{many}-out", "participant", *OPTIONS)
        probe = ("--probe", "sex", "--n-repeats", "2", "--n-permutations", "50")
        print("one group call:", trace(many, f"{many}-out", "group", *probe, *OPTIONS))


if __name__ == "__main__":
    main()
