"""Logs of a call: terminal, log file, records of libraries and workers; and the progress of long tasks."""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from pathlib import Path
from typing import Any, Final, TextIO, TypeVar

from bids_semantoks.errors import ConfigurationError, name_count, show_hidden
from bids_semantoks.files import write_json

_COLOURS = {logging.WARNING: "33", logging.ERROR: "1;31"}
_CLEAR = "\r\x1b[2K"
_STDERR = 2
# These libraries write to the terminal through handlers of their own.
_SELF_MADE = ("nibabel.global", "nilearn", "huggingface_hub", "matplotlib")
LOGGER = logging.getLogger("bids_semantoks")


class _Indented(logging.Formatter):
    """Only records start a line: what follows a newline, in a traceback or in text of others, is indented."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one record."""
        return show_hidden(super().format(record), keep="\n\t").replace("\n", "\n    ")


_FORMAT = _Indented("%(asctime)s %(levelname)s %(message)s")


def silence(stream: TextIO) -> None:
    """Redirect a standard stream without a reader to the null device."""
    # A stream without a file descriptor, as in tests, cannot be redirected.
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def open_missing_streams() -> None:
    """Open standard streams that were closed at start (``2>&-``) on the null device; otherwise the next file opened
    would get their descriptor, and everything that libraries print."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - open to the end


class Console(logging.Handler):
    """Log handler for stderr, from `level` up. On a terminal, records marked ``is_progress`` overwrite each other on
    the last line; those marked ``is_fleeting`` appear nowhere else. A warning is shown once however many runs it
    concerns; the log file has every occurrence."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.stream = sys.stderr
        self.is_terminal = self.stream.isatty() and os.environ.get("TERM") != "dumb"
        self.has_colours = self.is_terminal and not os.environ.get("NO_COLOR")
        self.status = ""
        self.seen: set[str] = set()
        self.n_repeated = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Show one record."""
        if getattr(record, "is_said", False):
            # The command line prints it itself, whatever the level.
            return
        text = show_hidden(record.getMessage())
        if record.levelno == logging.WARNING and self._is_repeated(getattr(record, "once", text)):
            return
        if self.is_terminal and getattr(record, "is_progress", False) and self.level > logging.DEBUG:
            self.status = text
            self._write(f"{_CLEAR}{self._fit(text)}")
            return
        if getattr(record, "is_fleeting", False):
            return
        if record.levelno > logging.INFO:
            text = f"{self._paint(f'{record.levelname.lower()}:', record.levelno)} {text}"
        if self.status:
            self._write(f"{_CLEAR}{text}\n{self._fit(self.status)}")
        else:
            self._write(f"{text}\n")

    def finish(self, *, has_log: bool = True) -> None:
        """Clear the progress line and report how many repeated warnings were held
        back (and are in the log, if `has_log`)."""
        if self.status:
            self._write(_CLEAR)
            self.status = ""
        if self.n_repeated and self.level <= logging.INFO:
            where = "; see the log" if has_log else ""
            self._write(f"{name_count(self.n_repeated, 'similar warning')} suppressed{where}.\n")
        self.n_repeated = 0

    def _write(self, text: str) -> None:
        try:
            self.stream.write(text)
            self.stream.flush()
        except OSError:
            # The reader is gone (`2>&1 | head`, a lost terminal): continue, since the log file has everything.
            silence(self.stream)

    def _is_repeated(self, text: str) -> bool:
        # Warnings that differ only in runs, numbers and lists of names count as the same.
        kind = re.sub(r"\S*sub-\S*|\d+(\.\d+)?", "#", text.partition(": ")[0])
        if kind in self.seen:
            self.n_repeated += 1
            return True
        self.seen.add(kind)
        return False

    def _fit(self, text: str) -> str:
        width = shutil.get_terminal_size().columns - 1
        if len(text) <= width:
            return text
        # Cut the middle, a long run name: the end has the estimated time.
        half = max(1, (width - 3) // 2)
        return f"{text[:half]}...{text[-half:]}"

    def _paint(self, text: str, level: int) -> str:
        colour = _COLOURS.get(min(level, logging.ERROR))
        return f"\x1b[{colour}m{text}\x1b[0m" if colour and self.has_colours else text


@contextlib.contextmanager
def show_log() -> Iterator[None]:
    """Show what is logged from INFO on, and progress, for programs without a log file."""
    console, level = Console(logging.INFO), LOGGER.level
    LOGGER.addHandler(console)
    LOGGER.setLevel(logging.INFO)
    try:
        yield
    finally:
        console.finish(has_log=False)
        LOGGER.removeHandler(console)
        LOGGER.setLevel(level)


def redirect_libraries() -> None:
    """Send warnings and records of libraries to the root logger's handlers only."""
    logging.captureWarnings(True)
    for name in _SELF_MADE:
        logging.getLogger(name).addFilter(_redirect)


def _redirect(record: logging.LogRecord) -> bool:
    """Pass a library's record to the root logger, and keep it from the library's own handlers."""
    logging.getLogger().handle(record)
    return False


class Relay(logging.Handler):
    """Sends the records of a worker process to its parent by `send`, which takes one picklable record."""

    def __init__(self, send: Callable[[logging.LogRecord], object]) -> None:
        super().__init__()
        self.send = send

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record as text: arguments and tracebacks may not pickle."""
        text = record.getMessage()
        if record.exc_info:
            text = f"{text}\n{logging.Formatter().formatException(record.exc_info)}"
        record.msg, record.args, record.exc_info = text, None, None
        self.send(record)


def relay_records(send: Callable[[logging.LogRecord], object]) -> None:
    """Leave the logging of this process to its parent; `send` takes one picklable record."""
    redirect_libraries()
    logging.getLogger("bids_semantoks").setLevel(logging.DEBUG)
    logging.getLogger().handlers = [Relay(send)]


class LogBuffer(logging.Handler):
    """Holds records until `open_log` gives them a file."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Hold a record."""
        self.records.append(record)


class LogFile(logging.FileHandler):
    """Log file of a call; skips records marked ``is_fleeting``, which only move a progress line."""

    has_gap = False  # whether records were lost to a full disk

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        if not getattr(record, "is_fleeting", False):
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Report once that the file cannot be written; results count for more than the log."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self.has_gap:
            self.has_gap = True
            LOGGER.warning("The log %s is incomplete: %s.", self.baseFilename, error.strerror or error)

    def close(self) -> None:
        """Close the file, whether or not the disk takes the last records."""
        with contextlib.suppress(OSError):
            super().close()


def open_log(out_dir: Path, config: dict[str, Any]) -> Path:
    """Open the log of this call in ``OUT_DIR/logs/calls/<run id>``, with its
    configuration next to it, and return that folder."""
    now = datetime.datetime.now(datetime.UTC)
    directory = out_dir / "logs" / "calls" / f"{now:%Y%m%dT%H%M%SZ}_{os.urandom(3).hex()}"
    try:
        directory.mkdir(parents=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ConfigurationError(
            f"{directory.parent} or {out_dir / 'logs'} is a file, but must be a folder for logs.",
            hint="Move the file, or use another output directory.",
        ) from error
    write_json(directory / "config.json", config)
    file_handler = LogFile(directory / "bids_semantoks.log", encoding="utf-8")
    file_handler.setFormatter(_FORMAT)
    for logger in (LOGGER, logging.getLogger()):
        for handler in list(logger.handlers):
            if isinstance(handler, LogBuffer):
                for record in handler.records:
                    file_handler.handle(record)
                logger.removeHandler(handler)
        logger.addHandler(file_handler)
    return directory


LINE_SECONDS: Final = 60.0
BAR_SECONDS: Final = 0.5
_BAR_WIDTH: Final = 20
#: The first units may include start-up costs and are not representative.
FIRST_ESTIMATE: Final = 3
_Item = TypeVar("_Item")


def describe_seconds(seconds: float) -> str:
    """Format a duration in seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def draw_bar(share: float) -> str:
    """Draw what share (0 to 1) of the work is done."""
    return f"[{'#' * int(share * _BAR_WIDTH):.<{_BAR_WIDTH}}]"


class Pace:
    """Decides when to report progress, and estimates the time left from the completed units."""

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None  # when the first unit was done, and the share done by then
        self._n_done = 0
        # Short tasks need no progress line.
        self._line_at, self._bar_at = time.monotonic(), 0.0

    def finish(self, share: float) -> None:
        """Count a unit as done; `share` (0 to 1) of all work is done with it."""
        self._n_done += 1
        if self._first is None:
            self._first = time.monotonic(), share

    def describe_left(self, share: float) -> str:
        """Estimate the time that is left where `share` is done: ``, about 4 min left``; empty before the third unit."""
        if self._first is None or self._n_done < FIRST_ESTIMATE - 1 or share <= self._first[1]:
            return ""
        seconds = (time.monotonic() - self._first[0]) / (share - self._first[1]) * (1 - share)
        return f", about {describe_seconds(seconds)} left"

    def choose(self) -> dict[str, bool] | None:
        """Choose how to log now: as a line, or only on the last line of a terminal; None for not at all."""
        now = time.monotonic()
        is_line = now - self._line_at >= LINE_SECONDS
        if not is_line and now - self._bar_at < BAR_SECONDS:
            return None
        self._bar_at = now
        self._line_at = now if is_line else self._line_at
        return {"is_progress": True, "is_fleeting": not is_line}


class Progress:
    """Counts nested units of work: ``model 3 of 9, fold 12 of 50, about 4 min left``."""

    def __init__(self, what: str = "") -> None:
        self._what = f"{what}: " if what else ""
        self._levels: list[tuple[str, int, int]] = []  # unit, number from 1, how many
        self._pace = Pace()

    def each(self, unit: str, items: Iterable[_Item], *, total: int | None = None, before: int = 0) -> Iterator[_Item]:
        """Yield items and tell which one is being worked on; `total` where they have no length, or are but the part
        of the units that follows `before` others."""
        n_items = total if total is not None else len(items) if isinstance(items, Sized) else 0
        depth = len(self._levels)
        try:
            for number, item in enumerate(items, start=before + 1):
                # An inner loop that was left early is over.
                self._levels[depth:] = [(unit, number, n_items)]
                self._say()
                yield item
                had_inner, self._levels[depth:] = len(self._levels) > depth + 1, [(unit, number + 1, n_items)]
                if not had_inner:
                    self._pace.finish(self._share())
        finally:
            del self._levels[depth:]
            if not depth:
                LOGGER.info("", extra={"is_progress": True, "is_fleeting": True})

    def _share(self) -> float:
        share, width = 0.0, 1.0
        for _, number, total in self._levels:
            width /= max(total, number)
            share += (number - 1) * width
        return min(share, 1.0)

    def _say(self) -> None:
        if extra := self._pace.choose():
            share = self._share()
            where = ", ".join(f"{unit} {number} of {total}" for unit, number, total in self._levels)
            LOGGER.info("%s %s%s%s", draw_bar(share), self._what, where, self._pace.describe_left(share), extra=extra)
