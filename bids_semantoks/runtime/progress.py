"""Progress of long tasks: a bar on a terminal, one line per minute in a log, and the estimated time left."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sized
from typing import Final, TypeVar

LOGGER = logging.getLogger("bids_semantoks")

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
