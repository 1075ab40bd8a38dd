"""Check of what `torch.compile` needs on this machine."""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path
from typing import Final

#: Those that Triton looks for where CC names none.
_COMPILERS: Final = ("gcc", "clang")


def find_obstacle() -> str:
    """Describe what keeps `torch.compile` from compiling for a GPU, as the start of a sentence; empty if nothing does.

    Triton launches kernels through a small C module, built against the headers of Python at run time.
    """
    asked = os.environ.get("CC", "").split()[:1]
    if not any(map(shutil.which, asked or _COMPILERS)):
        return "No C compiler is there"
    scheme = sysconfig.get_default_scheme()
    # Debian's own scheme is for what is installed beside the system; its headers are elsewhere, as Triton knows.
    folder = Path(sysconfig.get_paths("posix_prefix" if scheme == "posix_local" else scheme)["include"])
    if not (folder / "Python.h").is_file():
        return f"The headers of Python are not in {folder} (python3-dev)"
    return ""
