"""Files of a datalad or git-annex dataset whose content may not be present locally."""

from __future__ import annotations

from pathlib import Path

from bids_semantoks.errors import RunSkipped


def check_content(path: Path) -> None:
    """Raise RunSkipped no_content if a file's content was not fetched (dangling link or git-annex pointer)."""
    is_pointer = False
    if path.is_file() and path.stat().st_size < 4096:
        is_pointer = b"/annex/objects/" in path.read_bytes()[:2048]
    if is_pointer or (path.is_symlink() and not path.exists()):
        raise RunSkipped("no_content", f"The content of {path} has not been fetched.", hint="Run `datalad get` first.")
