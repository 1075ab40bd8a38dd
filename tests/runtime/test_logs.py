"""What libraries and worker processes log reaches the log of the call."""

import contextlib
import logging
import warnings
from pathlib import Path

import pytest

from bids_semantoks.runtime import logs, processes
from bids_semantoks.runtime.logs import (
    Console,
    LogFile,
    Pace,
    Progress,
    describe_seconds,
    draw_bar,
    open_log,
    redirect_libraries,
)


def build_noisy_worker():
    def work(job):
        logging.getLogger("bids_semantoks").debug("detail %d", job)
        logging.getLogger("somebody.else").warning("library %d", job)
        warnings.warn(f"python {job}", stacklevel=1)
        try:
            raise ZeroDivisionError(f"zero {job}")
        except ZeroDivisionError:
            logging.getLogger("bids_semantoks").warning("caught", exc_info=True)
        return job

    return work


def test_records_of_worker_processes_reach_the_parent(caplog, capfd):
    with caplog.at_level(logging.DEBUG):
        results = dict(processes.run_jobs(build_noisy_worker, [5, 7, 9], n_procs=2))
    assert results == {0: 5, 1: 7, 2: 9}
    for job in (5, 7, 9):
        for text in (f"detail {job}", f"library {job}", f"python {job}", f"ZeroDivisionError: zero {job}"):
            assert text in caplog.text
    assert capfd.readouterr() == ("", "")


def test_libraries_with_handlers_of_their_own_are_redirected(caplog, capfd):
    noisy = logging.getLogger("nibabel.global")
    own = logging.StreamHandler()
    noisy.addHandler(own)
    try:
        redirect_libraries()
        noisy.warning("pixdim is odd")
    finally:
        noisy.removeHandler(own)
        logging.captureWarnings(False)
    assert "pixdim is odd" in caplog.text
    assert capfd.readouterr() == ("", "")


FAKE = "2020-01-01 00:00:00,000 ERROR fake"


STEERING = f"sub-01\x1b[2J\x1b]0;title\x07\r{FAKE}\n{FAKE}\u2028\x9b\u202e"


@pytest.mark.parametrize("level", [logging.INFO, logging.WARNING, logging.ERROR])
@pytest.mark.parametrize("extra", [{}, {"is_progress": True}])
def test_names_steer_no_terminal(monkeypatch, capsys, level, extra):
    monkeypatch.setenv("NO_COLOR", "1")
    console = Console(logging.INFO)
    console.handle(logging.makeLogRecord({"levelno": level, "levelname": "X", "msg": STEERING + "\udcff", **extra}))
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.rstrip("\n").isprintable()
    assert "\\x1b[2J" in said


def test_repeated_warnings_are_counted_at_the_end(capsys):
    console = Console(logging.INFO)
    console.finish()
    assert capsys.readouterr().err == ""
    for _ in range(3):
        console.handle(logging.makeLogRecord({"levelno": logging.WARNING, "levelname": "WARNING", "msg": "Odd."}))
    console.finish(has_log=False)
    assert capsys.readouterr().err.splitlines()[-1].startswith("2 ")


def test_only_records_start_a_line_of_the_log(tmp_path):
    loggers = [logging.getLogger(), logging.getLogger("bids_semantoks")]
    before = [list(logger.handlers) for logger in loggers]
    folder = open_log(tmp_path, {"name": STEERING})
    (log,) = {one for logger in loggers for one in logger.handlers} - {one for some in before for one in some}
    for logger, handlers in zip(loggers, before, strict=True):
        logger.handlers = handlers
    try:
        raise ValueError(STEERING)
    except ValueError as error:
        caught = (type(error), error, error.__traceback__)
    for values in ({"msg": STEERING + "\udcff"}, {"msg": "caught", "exc_info": caught}):
        log.handle(logging.makeLogRecord({"levelname": "WARNING", **values}))
    log.close()
    text = (folder / "bids_semantoks.log").read_text(encoding="utf-8")
    lines = text.split("\n")[:-1]
    assert sum(line.startswith("20") for line in lines) == 2
    assert not any(line.startswith("2020") for line in lines)
    assert all(line[:2] == "20" or line[:4] == "    " for line in lines)
    assert not set(text) & set("\x1b\x07\r\u2028\x9b\u202e")
    assert "    ValueError: sub-01" in text


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_log_that_cannot_be_written_costs_one_warning(tmp_path, caplog, capfd):
    (tmp_path / "log").symlink_to("/dev/full")
    log = LogFile(tmp_path / "log", encoding="utf-8")
    for number in range(3):
        log.handle(logging.makeLogRecord({"msg": f"record {number}", "levelname": "INFO"}))
    log.close()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "No space left on device" in caplog.text
    assert capfd.readouterr() == ("", "")


class Clock:
    """A time that passes only when told to."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(logs, "time", clock)
    return clock


@pytest.fixture
def said(monkeypatch) -> list[logging.LogRecord]:
    records: list[logging.LogRecord] = []
    logger, handler = logging.getLogger("bids_semantoks"), logging.Handler()
    handler.emit = records.append
    monkeypatch.setattr(logger, "handlers", [handler])
    monkeypatch.setattr(logger, "level", logging.INFO)
    logger.manager._clear_cache()
    return records


def test_each_unit_is_named_and_time_is_estimated_from_the_third_on(clock, said):
    for _ in Progress("Fetching").each("file", ["a", "b", "c", "d"]):
        clock.now += 10
    messages = [record.getMessage() for record in said]
    assert messages == [
        "[....................] Fetching: file 1 of 4",
        "[#####...............] Fetching: file 2 of 4",
        "[##########..........] Fetching: file 3 of 4, about 20 s left",
        "[###############.....] Fetching: file 4 of 4, about 10 s left",
        "",  # the bar is gone
    ]
    assert all(record.is_progress and record.is_fleeting for record in said)


def test_a_slow_first_unit_does_not_count(clock, said):
    for number in Progress().each("run", range(12)):
        clock.now += 500 if number == 0 else 1
    assert "run 3 of 12, about 10 s left" in said[2].getMessage()


def test_units_lie_in_one_another(clock, said):
    counted = Progress()
    for _ in counted.each("model", "abc"):
        for _ in counted.each("fold", range(4)):
            clock.now += 60
    messages = [record.getMessage().partition("] ")[2] for record in said if record.getMessage()]
    assert messages[:3] == ["model 1 of 3", "model 1 of 3, fold 2 of 4", "model 1 of 3, fold 3 of 4, about 10 min left"]
    assert messages[-1] == "model 3 of 3, fold 4 of 4, about 60 s left"


def test_the_parts_of_a_level_are_one_count(clock, said):
    counted = Progress()
    for total, before, part in ((5, 0, "abc"), (5, 3, "de")):
        for _ in counted.each("model", part, total=total, before=before):
            clock.now += 1
    named = [record.getMessage().partition("] ")[2].partition(",")[0] for record in said if record.getMessage()]
    assert named == [f"model {number} of 5" for number in range(1, 6)]


def test_a_log_gets_a_line_a_minute(clock, said):
    for _ in Progress().each("run", range(600)):
        clock.now += 1
    lines = [record.getMessage() for record in said if not record.is_fleeting]
    assert len(lines) == 9
    assert "run 61 of 600, about 9 min left" in lines[0]


def test_a_terminal_is_not_flooded(clock, said):
    for _ in Progress().each("run", range(1000)):
        clock.now += 0.01
    assert len(said) < 25


def test_a_loop_that_is_left_early_leaves_no_level_behind(clock, said):
    counted = Progress()
    for _ in counted.each("model", "ab"):
        for _ in counted.each("fold", range(9)):
            break
        clock.now += 1
    assert "model 2 of 2" in said[-2].getMessage()
    with contextlib.suppress(OSError):
        for _ in counted.each("model", "ab"):
            raise OSError
    clock.now += 1
    assert list(counted.each("run", "x")) == ["x"]
    assert said[-2].getMessage().endswith("run 1 of 1")


def test_nothing_is_estimated_from_nothing(clock):
    pace = Pace()
    assert pace.describe_left(0.5) == ""
    pace.finish(0.25)
    pace.finish(0.25)
    assert pace.describe_left(0.25) == ""


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (5399, "90 min"), (9000, "2.5 h")]
)
def test_durations_are_in_one_unit(seconds, words):
    assert describe_seconds(seconds) == words


def test_bars_are_full_only_at_the_end():
    assert [draw_bar(share).count("#") for share in (0.0, 0.049, 0.5, 0.999, 1.0)] == [0, 0, 10, 19, 20]
