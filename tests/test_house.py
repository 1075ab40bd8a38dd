"""What keeps the house in order: the checks themselves check something."""

from __future__ import annotations

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
