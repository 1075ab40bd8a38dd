"""Command line: arguments to configuration, errors to exit codes."""

from __future__ import annotations

import errno
import io
import logging
import re
import signal
import sys
import time
import traceback
from collections.abc import Iterable, Sequence
from types import FrameType
from typing import NoReturn

import click

from bids_semantoks.config import AppConfig
from bids_semantoks.config.command import parse
from bids_semantoks.disk import is_full
from bids_semantoks.errors import SemantoksError, TrainingStopped, name_count, show_hidden
from bids_semantoks.runtime.logs import Console, LogBuffer, open_missing_streams, redirect_libraries, silence
from bids_semantoks.runtime.resources import STOPPING, count_threads, handle_signals, limit_threads, read_rank

LOGGER = logging.getLogger("bids_semantoks")


#: A process group, a scheduler and a terminal may send several signals at once; they must not interrupt the clean-up.
_SECONDS_TO_TIDY = 5.0


class _Terminated(BaseException):
    """This process was asked to terminate by one of `STOPPING`."""


class _Interrupted(_Terminated):
    """Ctrl-C; with a KeyboardInterrupt in library code, Python would exit without our exit code."""


def _start_logging(config: AppConfig) -> None:
    """Log to the terminal at once, and to memory until the output directory is known to be writable."""
    running = config.running
    is_quiet = running.quiet or read_rank() > 0
    console = Console(logging.ERROR if is_quiet else logging.DEBUG if running.verbose else logging.INFO)
    LOGGER.setLevel(logging.DEBUG)
    LOGGER.propagate = False
    LOGGER.handlers = [console, LogBuffer()]
    # Library messages go to the log file only; messages for users are our own.
    redirect_libraries()
    logging.getLogger().addHandler(LogBuffer())


def _stop_logging() -> None:
    for handler in list(LOGGER.handlers):
        LOGGER.removeHandler(handler)
        handler.close()
    root = logging.getLogger()
    for handler in list(root.handlers):
        # Keep the handlers of others, such as test runners.
        if type(handler).__module__.startswith("bids_semantoks"):
            root.removeHandler(handler)
            handler.close()


def _say(text: str, *, level: int = logging.INFO) -> None:
    """Print a message on its own line and add it to the log file."""
    if LOGGER.handlers:
        LOGGER.log(level, "%s", text, extra={"is_said": True})
    has_log = any(isinstance(handler, logging.FileHandler) for handler in LOGGER.handlers)
    for handler in LOGGER.handlers:
        if isinstance(handler, Console):
            handler.finish(has_log=has_log)
    try:
        click.echo(show_hidden(text), err=True)
    except OSError:
        silence(sys.stderr)


def _print(lines: Iterable[str]) -> None:
    """Print lines to stdout until its reader closes it."""
    try:
        for line in lines:
            click.echo(show_hidden(line))
    except BrokenPipeError:
        silence(sys.stdout)


def _run(config: AppConfig) -> int:
    _start_logging(config)
    # Libraries read the variables when they are imported.
    limit_threads(config.running.omp_nthreads or count_threads())
    if config.running.reports_only or config.running.boilerplate_only:
        return _write_words(config)
    if config.level == "participant":
        from bids_semantoks.inputs.runs import open_inputs

        # Folders and labels are checked before the slower imports.
        inputs = open_inputs(config)
        from bids_semantoks.participant import build_plan, run_participants

        if config.running.dry_run:
            from bids_semantoks.run_plan import describe_jobs

            plan, _, jobs = build_plan(config, inputs)
            lines, counts = describe_jobs(plan, jobs)
            _print(lines)
            _say(f"bids_semantoks: dry run of {name_count(len(jobs), 'run')}: {counts}; nothing was written")
            return 0
        tally = run_participants(config, inputs)
    else:
        from bids_semantoks.group import run_group

        tally = run_group(config)
    if tally.cohort:
        where = "dry run, nothing was written" if config.running.dry_run else f"see {config.out_dir / 'group_qc.html'}"
        _say(f"bids_semantoks: {tally.cohort} ({where})")
    elif not tally.is_silent:
        _say(
            f"bids_semantoks: {tally.n_ok} ok, {tally.n_skipped} skipped, {tally.n_failed} failed "
            f"(see {config.out_dir / 'logs'})"
        )
    return tally.exit_code(ignore_failed=config.running.ignore_failed_runs)


def _write_words(config: AppConfig) -> int:
    """Write only the reports, or only the methods text."""
    if config.running.reports_only:
        if config.level == "participant":
            from bids_semantoks.reports.reporting import redraw_reports as redraw
        else:
            from bids_semantoks.reports.group_page import redraw_group_page as redraw

        _say(f"bids_semantoks: {name_count(redraw(config), 'report')} written (see {config.out_dir})")
        return 0
    if config.level == "participant":
        from bids_semantoks.participant import build_plan, write_methods

        write_methods(*build_plan(config))
    else:
        from bids_semantoks.group import write_group_methods

        write_group_methods(config)
    _say(f"bids_semantoks: methods text written (see {config.out_dir / 'logs'})")
    return 0


class _Stopper:
    """Signal handler that raises, and raises again only if that has not ended the call within seconds: an exception
    that meets a destructor or a callback of a library is lost."""

    signum, raised_at = 0, -_SECONDS_TO_TIDY

    def __call__(self, signum: int, _: FrameType | None) -> None:
        """Raise _Interrupted or _Terminated."""
        if signum != signal.SIGALRM:
            if time.monotonic() - self.raised_at < _SECONDS_TO_TIDY:
                return
            self.signum = signum
        self.raised_at = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, _SECONDS_TO_TIDY)
        raise (_Interrupted if self.signum == signal.SIGINT else _Terminated)(self.signum)

    def raise_again(self, lost: sys.UnraisableHookArgs) -> None:
        """Raise at the next moment what a destructor or a callback has swallowed; report all else as Python does."""
        if isinstance(lost.exc_value, _Terminated):
            signal.setitimer(signal.ITIMER_REAL, 0.01)
        else:
            sys.__unraisablehook__(lost)


def _shorten(message: str) -> str:
    """Shorten names in the middle so that they do not hide the message."""
    return re.sub(r"\S{800,}", lambda match: f"{match[0][:100]}...{match[0][-100:]}", message)


def _describe(error: Exception) -> tuple[str, int]:
    """Describe an error and give its exit code: 5 if the system lacks resources, 4 if a file is in the way."""
    lacks_room = is_full(error)
    if isinstance(error, SemantoksError):
        return str(error), 5 if lacks_room else error.exit_code
    what, where = str(error) or type(error).__name__, ""
    lacks_more = isinstance(error, OSError) and error.errno in (errno.EIO, errno.EMFILE, errno.ENFILE)
    if isinstance(error, OSError):
        what, where = error.strerror or what, f": {error.filename}" if error.filename else ""
    remedy = "; free disk space and rerun to resume" if lacks_room else ""
    return f"{what}{where}; completed outputs are kept{remedy}", 5 if lacks_room or lacks_more else 4


def _fail(message: str, code: int) -> int:
    _say(f"bids_semantoks: error: {_shorten(message)}", level=logging.ERROR)
    return code


def _report(error: Exception) -> int:
    LOGGER.debug("%s", traceback.format_exc())
    if isinstance(error, MemoryError):
        return _fail("out of memory; provide more memory or use fewer processes (--n-procs)", 5)
    if isinstance(error, SemantoksError | OSError) or is_full(error):
        return _fail(*_describe(error))
    click.echo(show_hidden(traceback.format_exc(), keep="\n\t"), err=True)
    return _fail("this is a bug; please report it with the lines above and the log file", 1)


def call(arguments: Sequence[str]) -> int:
    """Run the program with a command line (without the program name) and return its exit code."""
    try:
        return _run(parse(arguments))
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        error.show(shown := io.StringIO())
        click.echo(show_hidden(_shorten(shown.getvalue()), keep="\n\t"), err=True, nl=False)
        return error.exit_code
    except TrainingStopped as error:
        if read_rank() == 0:
            _say(f"bids_semantoks: {error}")
        return error.exit_code
    except (KeyboardInterrupt, _Interrupted, click.Abort):
        return _fail("interrupted; completed outputs are kept, rerun to resume", 130)
    except _Terminated:
        return _fail("terminated; completed outputs are kept, rerun to resume", 143)
    except Exception as error:  # noqa: BLE001 - the last resort turns a bug into a report
        return _report(error)
    finally:
        _stop_logging()


def main() -> NoReturn:
    """Run the program with this process' arguments and exit."""
    open_missing_streams()
    numbers = (signal.SIGINT, *STOPPING)
    stopper = _Stopper()
    handle_signals(numbers, stopper)
    signal.signal(signal.SIGALRM, stopper)
    sys.unraisablehook = stopper.raise_again
    code = 0
    try:
        code = call(sys.argv[1:])
        sys.stdout.flush()
    except _Terminated as error:  # during the final message
        code = 130 if isinstance(error, _Interrupted) else 143
    except OSError:
        silence(sys.stdout)
        code = code or 5
    handle_signals((*numbers, signal.SIGALRM), signal.SIG_IGN)
    sys.exit(code)
