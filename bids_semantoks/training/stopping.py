"""Requests to save and stop, from the scheduler's signals or the clock."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(slots=True)
class StopRequest:
    """Whether this process was asked to save and stop."""

    reason: str = ""  # empty until someone asks
    # monotonic seconds at the start of the call, so that packing counts too
    started: float = field(default_factory=time.monotonic)


@contextlib.contextmanager
def watch_signals() -> Iterator[StopRequest]:
    """Turn SIGTERM and SIGUSR1, which schedulers send before time is up, into a request to save and stop."""
    request = StopRequest()

    def ask(number: int, _: object) -> None:
        """Record which signal came."""
        request.reason = signal.Signals(number).name

    numbers = (signal.SIGTERM, signal.SIGUSR1)
    before = [signal.signal(number, ask) for number in numbers]
    try:
        yield request
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
