"""Additional console scripts, and the one way to run them: an error becomes one line and an exit code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple, NoReturn

from bids_semantoks.errors import InputError, ResourceError, SemantoksError, show_hidden
from bids_semantoks.runtime.downloads import is_offline
from bids_semantoks.runtime.logs import open_missing_streams, show_log


class Program(NamedTuple):
    """A console script: its parser, and what it does with the options."""

    build_parser: Callable[[], argparse.ArgumentParser]
    work: Callable[[argparse.Namespace], None]
    is_intermixed: bool = False  # options may stand between positional arguments
    offline_hint: str = ""  # added to errors while downloads are disabled

    def call(self, arguments: Sequence[str] | None = None) -> int:
        """Run the program with these arguments (default: those of the process) and return its exit code."""
        parser = self.build_parser()
        options = (parser.parse_intermixed_args if self.is_intermixed else parser.parse_args)(arguments)
        hint = self.offline_hint if is_offline() else ""
        try:
            with show_log():
                self.work(options)
        except SemantoksError as error:
            # That a run is skipped is no error of a level, but of these commands.
            text, code = f"{error} {hint}".rstrip(), error.exit_code or InputError.exit_code
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            text, code = f"{place}{error.strerror or error}.", ResourceError.exit_code
        else:
            return 0
        print(f"{parser.prog}: error: {show_hidden(text)}", file=sys.stderr)
        return code

    def main(self) -> NoReturn:
        """Run the program with this process' arguments and exit."""
        open_missing_streams()
        sys.exit(self.call())
