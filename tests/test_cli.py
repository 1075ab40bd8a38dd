"""What users see, and that the log holds all of it and more."""

import io
import logging
import os
import subprocess
import sys

import pytest

from bids_semantoks import cli, participant
from bids_semantoks.runtime.logs import Console, LogFile


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def build(monkeypatch):
    """Build a logger with a console on a stream; gives logger and console."""

    def run(stream, level=logging.INFO):
        monkeypatch.setattr("sys.stderr", stream)
        logger = logging.Logger("test")
        console = Console(level)
        logger.addHandler(console)
        return logger, console

    return run


def test_progress_is_one_line_on_a_terminal(build, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    stream = Terminal()
    logger, console = build(stream)
    logger.info("[1/3] %s: ok", "sub-01_" + 80 * "x", extra={"is_progress": True})
    logger.warning("mind this")
    logger.info("[2/3] sub-02: ok", extra={"is_progress": True})
    console.finish()
    stream.write("last line\n")
    text = stream.getvalue()
    assert text.count("\n") == 2
    assert "\x1b[33mwarning:\x1b[0m mind this\n[1/3] sub-01_" in text
    assert max(len(part) for part in text.replace("\r\x1b[2K", "\n").split("\n")) <= 59
    assert text.endswith("\r\x1b[2Klast line\n")


def test_no_color_and_dumb_terminals_are_honoured(build, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    logger, _ = build(stream := Terminal())
    logger.error("broken")
    assert stream.getvalue() == "error: broken\n"
    monkeypatch.setenv("TERM", "dumb")
    logger, _ = build(stream := Terminal())
    logger.info("[1/3] sub-01: ok", extra={"is_progress": True})
    assert stream.getvalue() == "[1/3] sub-01: ok\n"


def test_a_file_gets_one_plain_line_a_run_and_each_warning_once(build):
    logger, console = build(stream := io.StringIO())
    for i in range(3):
        logger.info("[%d/3] sub-0%d: ok", i + 1, i, extra={"is_progress": True})
        note = f"{i} of 457 parcels have a coverage under 0.5 and are absent: P{i}."
        logger.warning("sub-0%d_task-rest: %s", i, note, extra={"once": note})
    logger.warning("another thing")
    console.finish()
    lines = stream.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == ["[1/3]", "warning:", "[2/3]", "[3/3]", "warning:", "2"]
    assert "\x1b" not in stream.getvalue()
    assert lines[-1].startswith("2 similar warnings ")


def test_no_log_is_promised_that_is_not_written(build):
    logger, console = build(stream := io.StringIO())
    for label in "ab":
        logger.warning("sub-%s: odd", label)
    console.finish(has_log=False)
    last = stream.getvalue().splitlines()[-1]
    assert last.startswith("1 similar warning ")
    assert "log" not in last


@pytest.fixture
def unread():
    """A stream into a pipe whose reader is gone, as that of ``| head``."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", encoding="utf-8") as stream:
        yield stream


def test_a_reader_that_leaves_stops_nothing(build, unread):
    logger, console = build(unread)
    for i in range(3):
        logger.warning("%d of the kind", i)
    console.finish()
    assert console.n_repeated == 0
    # What is left in its buffer must not fail when Python ends, either.
    unread.flush()


def test_lines_are_printed_while_somebody_reads_them(monkeypatch, unread):
    monkeypatch.setattr("sys.stdout", unread)
    printed = []
    cli._print(line for line in ("a", "b", "c") if not printed.append(line))
    assert printed == ["a"]
    unread.flush()


def test_the_last_line_need_not_be_read(monkeypatch, unread):
    monkeypatch.setattr("sys.stderr", unread)
    assert cli._fail("no such thing", 3) == 3
    unread.flush()


CLOSED = ("2>&-", ">&-", "<&- >&- 2>&-")


def call_with_closed_streams(closed, *arguments):
    return subprocess.run(
        ["sh", "-c", f'"$@" {closed}', "sh", sys.executable, *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("closed", CLOSED)
def test_no_file_takes_the_place_of_a_stream_that_is_closed_from_the_start(tmp_path, closed):
    code = """
import os, sys
from bids_semantoks.runtime.logs import open_missing_streams
open_missing_streams()
with open(sys.argv[1], "w") as file:
    assert file.fileno() > 2
    file.write("kept")
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        print("said", file=stream, flush=True)
        os.write(number, b"by a library")
"""
    done = call_with_closed_streams(closed, "-c", code, str(tmp_path / "file"))
    assert done.returncode == 0
    assert (tmp_path / "file").read_text() == "kept"
    said = "said\nby a library"
    assert (done.stdout, done.stderr) == ("" if ">&-" in closed.split() else said, "" if "2>&-" in closed else said)


@pytest.mark.parametrize("closed", CLOSED)
def test_calls_with_closed_streams_end_as_they_would(tmp_path, closed):
    app = ("-m", "bids_semantoks", str(tmp_path / "gone"), str(tmp_path / "out"), "group")
    fetch = ("-m", "bids_semantoks.commands.fetch", str(tmp_path / "to"), "--atlas", "Nothing", "--model", "none")
    for arguments, code, reason in ((app, 3, "gone"), (fetch, 6, "Unknown atlas Nothing")):
        done = call_with_closed_streams(closed, *arguments)
        assert done.returncode == code
        assert (reason in done.stderr) == ("2>&-" not in closed)


def test_what_only_moves_a_bar_is_for_terminals(build, monkeypatch, tmp_path):
    monkeypatch.setenv("TERM", "xterm")
    moving = {"is_progress": True, "is_fleeting": True}
    for stream, expected in ((io.StringIO(), "said\n"), (Terminal(), "\r\x1b[2K[#...] step 1said\n[#...] step 1")):
        logger, _ = build(stream)
        log = LogFile(tmp_path / "call.log")
        logger.addHandler(log)
        logger.info("[#...] step 1", extra=moving)
        logger.info("said")
        log.close()
        assert stream.getvalue().replace("\r\x1b[2Ksaid", "said") == expected
    assert (tmp_path / "call.log").read_text() == "said\nsaid\n"


def test_quiet_shows_errors_alone(build):
    logger, console = build(stream := io.StringIO(), logging.ERROR)
    logger.info("hello")
    logger.warning("mind this")
    logger.warning("mind this")
    logger.error("broken")
    console.finish()
    assert stream.getvalue() == "error: broken\n"


def test_quiet_call_logs_everything_and_says_one_line(study, tmp_path, app):
    out = tmp_path / "out"
    code, text = app(study, out, "--participant-label", "004", "-q", "--signals-only")
    assert code == 0
    assert text.splitlines() == [f"bids_semantoks: 1 ok, 1 skipped, 0 failed (see {out / 'logs'})"]
    log = next(out.glob("logs/calls/*/bids_semantoks.log")).read_text()
    assert "Found a raw BIDS dataset" in log
    assert "too_short" in log
    assert ": ok (" in log
    assert log.endswith(f" INFO {text}")


def test_the_log_says_how_a_call_ended(study, tmp_path, app, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(participant, "run_batch", stop)
    out = tmp_path / "out"
    code, text = app(study, out, "--participant-label", "004")
    assert code == 130
    (line,) = [line for line in text.splitlines() if "interrupted" in line]
    log = next(out.glob("logs/calls/*/bids_semantoks.log")).read_text()
    assert log.splitlines()[-1].endswith(f" ERROR {line}")


def test_a_call_that_cannot_begin_says_so_once(study, tmp_path, app):
    code, text = app(study, tmp_path / "out", "--mem", "banana")
    assert code == 4
    assert text.count("banana") == 1
