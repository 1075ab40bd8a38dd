"""Signals by which schedulers, terminals and limits ask a process to end."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any, Final

#: Schedulers send either of the first two; a terminal that goes away, the limit of CPU time and a user the others.
STOPPING: Final = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGXCPU, signal.SIGQUIT)


def handle_signals(
    numbers: Iterable[signal.Signals], handler: Callable[[int, FrameType | None], None] | signal.Handlers
) -> dict[signal.Signals, Any]:
    """Install a handler and return the former ones; signals that are ignored, as by nohup, stay ignored."""
    return {
        number: signal.signal(number, handler) for number in numbers if signal.getsignal(number) is not signal.SIG_IGN
    }
