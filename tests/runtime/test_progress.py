"""Progress: what is said, when, and how long it will still take."""

import contextlib
import logging

import pytest

from bids_semantoks.runtime import progress
from bids_semantoks.runtime.progress import Pace, Progress, describe_seconds, draw_bar


class Clock:
    """A time that passes only when told to."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
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
