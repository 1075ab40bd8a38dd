"""What libraries and worker processes log reaches the log of the call."""

import logging
import warnings
from pathlib import Path

import pytest

from bids_semantoks.runtime import processes
from bids_semantoks.runtime.logs import Console, LogFile, open_log, redirect_libraries


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
        results = dict(processes.run_jobs(build_noisy_worker, (), [5, 7, 9], n_procs=2))
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
