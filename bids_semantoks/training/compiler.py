"""Whether encoders can be compiled for a GPU here, and what is missing otherwise."""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path
from typing import Final

#: Those that Triton looks for where CC names none.
_COMPILERS: Final = ("gcc", "clang")


def find_obstacle() -> str:
    """Find what keeps ``torch.compile`` from compiling for a GPU when the training runs.

    Kernels are launched by a small module in C, which is built against the headers of Python at run time.

    Returns
    -------
    str
        What is missing, as the beginning of a sentence; empty when nothing is.
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
