"""Files of a datalad or git-annex dataset whose content may not be here."""

from __future__ import annotations

from pathlib import Path

from bids_semantoks.errors import RunSkipped


def check_content(path: Path) -> None:
    """Refuse a file whose content was not fetched (dangling link or git-annex pointer): RunSkipped no_content."""
    is_pointer = False
    if path.is_file() and path.stat().st_size < 4096:
        is_pointer = b"/annex/objects/" in path.read_bytes()[:2048]
    if is_pointer or (path.is_symlink() and not path.exists()):
        raise RunSkipped("no_content", f"The content of {path} is not here.", hint="Fetch it with `datalad get`.")
