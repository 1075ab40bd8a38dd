"""Error handling of the additional commands: an error becomes one line and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable

from bids_semantoks.errors import InputError, ResourceError, SemantoksError, show_hidden
from bids_semantoks.runtime.logs import show_log


def run_command(name: str, work: Callable[[], None], *, hint: str = "") -> int:
    """Run `work` with its log on stderr; return 0, or the exit code of the error that was printed, with `hint`."""
    try:
        with show_log():
            work()
    except SemantoksError as error:
        # That a run is skipped is no error of a level, but of these commands.
        text, code = f"{error} {hint}".rstrip(), error.exit_code or InputError.exit_code
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        text, code = f"{place}{error.strerror or error}.", ResourceError.exit_code
    else:
        return 0
    print(f"{name}: error: {show_hidden(text)}", file=sys.stderr)
    return code
