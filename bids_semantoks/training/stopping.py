"""Requests to save and end: from schedulers, by signals, and from the clock."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(slots=True)
class StopRequest:
    """Whether this process was asked to save and end.

    Parameters
    ----------
    reason : str
        Why; empty as long as nobody asked.
    started : float
        When the call began (monotonic seconds): packing the signals takes of its time, too.
    """

    reason: str = ""
    started: float = field(default_factory=time.monotonic)


@contextlib.contextmanager
def watch_signals() -> Iterator[StopRequest]:
    """Turn SIGTERM and SIGUSR1, which schedulers send before the time is up, into a request to save and end.

    Yields
    ------
    StopRequest
        Filled by the signal.
    """
    request = StopRequest()

    def ask(number: int, _: object) -> None:
        request.reason = signal.Signals(number).name

    numbers = (signal.SIGTERM, signal.SIGUSR1)
    before = [signal.signal(number, ask) for number in numbers]
    try:
        yield request
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
