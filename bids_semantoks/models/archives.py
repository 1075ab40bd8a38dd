"""The ZIP archives in which PyTorch saves tensors."""

from __future__ import annotations

import zipfile
from pathlib import Path


def holds_pickle(path: Path) -> bool:
    """Return whether an archive may be a checkpoint of PyTorch."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("data.pkl") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return True  # PyTorch reports the problem


def find_damaged(path: Path) -> str:
    """Find a record whose CRC does not match, which PyTorch never compares; those saved without one have 0. Empty for
    none."""
    name = ""
    try:
        with zipfile.ZipFile(path) as archive:
            for record in archive.infolist():
                # PyTorch compresses nothing: what is may be endless, and is left to it to refuse.
                if record.CRC and record.compress_type == zipfile.ZIP_STORED:
                    name = record.filename
                    with archive.open(record) as content:
                        while content.read(1 << 20):
                            pass
    except (OSError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile):
        return name  # without one, PyTorch reports the problem
    return ""
