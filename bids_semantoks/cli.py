"""Command line: arguments to configuration, errors to exit codes."""

from __future__ import annotations

import errno
import io
import logging
import re
import signal
import sys
import traceback
from collections.abc import Iterable, Sequence
from types import FrameType
from typing import NoReturn

import click

from bids_semantoks.config import AppConfig
from bids_semantoks.config.command import parse
from bids_semantoks.errors import SemantoksError, TrainingStopped
from bids_semantoks.escaping import show_hidden
from bids_semantoks.runtime.logs import Console, LogBuffer, open_missing_streams, redirect_libraries, silence
from bids_semantoks.runtime.resources import count_threads, limit_threads, read_rank

LOGGER = logging.getLogger("bids_semantoks")


class _Terminated(BaseException):
    """The scheduler asked this process to terminate (SIGTERM or SIGUSR1)."""


def _start_logging(config: AppConfig) -> None:
    """Log to the terminal at once, and to memory until the output directory is known to be writable."""
    running = config.running
    is_quiet = running.quiet or read_rank() > 0
    console = Console(logging.ERROR if is_quiet else logging.DEBUG if running.verbose else logging.INFO)
    LOGGER.setLevel(logging.DEBUG)
    LOGGER.propagate = False
    LOGGER.handlers = [console, LogBuffer()]
    # Messages of libraries go to the log file only; those for users are our own.
    redirect_libraries()
    logging.getLogger().addHandler(LogBuffer())


def _stop_logging() -> None:
    for handler in list(LOGGER.handlers):
        LOGGER.removeHandler(handler)
        handler.close()
    root = logging.getLogger()
    for handler in list(root.handlers):
        # Handlers of others, such as test runners, stay.
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


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


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
    if config.running.dry_run and config.level == "participant":
        from bids_semantoks.participant import build_plan
        from bids_semantoks.run_plan import describe_jobs

        plan, _, jobs = build_plan(config)
        _print(describe_jobs(plan, jobs))
        _say(f"bids_semantoks: dry run of {_count(len(jobs), 'run')}, nothing was written")
        return 0
    if config.level == "participant":
        from bids_semantoks.participant import run_participants as run_level
    else:
        from bids_semantoks.group import run_group as run_level
    tally = run_level(config)
    if not tally.is_silent:
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

        _say(f"bids_semantoks: {_count(redraw(config), 'report')} written (see {config.out_dir})")
        return 0
    if config.level == "participant":
        from bids_semantoks.participant import build_plan, write_methods

        write_methods(*build_plan(config))
    else:
        from bids_semantoks.group import write_group_methods

        write_group_methods(config)
    _say(f"bids_semantoks: methods text written (see {config.out_dir / 'logs'})")
    return 0


def _raise_terminated(signum: int, _: FrameType | None) -> NoReturn:
    raise _Terminated(signum)


def _shorten(message: str) -> str:
    """Cut the middle of names that would hide the message."""
    return re.sub(r"\S{800,}", lambda match: f"{match[0][:100]}...{match[0][-100:]}", message)


def _describe(error: SemantoksError | OSError) -> tuple[str, int]:
    """Describe an error and give its exit code: 5 where the system lacks something, 4 where a file is in the way."""
    if isinstance(error, SemantoksError):
        return str(error), error.exit_code
    where = str(error.filename or "")
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EMFILE, errno.ENFILE)
    return f"{error.strerror or error}{': ' if where else ''}{where}; what is complete stays", 5 if is_full else 4


def _fail(message: str, code: int) -> int:
    _say(f"bids_semantoks: error: {_shorten(message)}", level=logging.ERROR)
    return code


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
    except (SemantoksError, OSError) as error:
        LOGGER.debug("%s", traceback.format_exc())
        return _fail(*_describe(error))
    except (KeyboardInterrupt, click.Abort):
        return _fail("interrupted; what is complete stays, the same call goes on", 130)
    except _Terminated:
        return _fail("terminated; what is complete stays, the same call goes on", 143)
    except MemoryError:
        return _fail("out of memory; give more memory or use fewer processes (--n-procs)", 5)
    except Exception:  # noqa: BLE001 - the last resort turns a bug into a report
        LOGGER.debug("%s", traceback.format_exc())
        click.echo(show_hidden(traceback.format_exc(), keep="\n\t"), err=True)
        return _fail("this is a bug, please report it with the lines above and the log file", 1)
    finally:
        _stop_logging()


def main() -> NoReturn:
    """Run the program with this process' arguments and exit."""
    open_missing_streams()
    for number in (signal.SIGTERM, signal.SIGUSR1):  # schedulers send either
        signal.signal(number, _raise_terminated)
    sys.exit(call(sys.argv[1:]))
