"""Route log records of libraries and worker processes to the log of the call, never straight to the terminal."""

from __future__ import annotations

import logging
from collections.abc import Callable

# These libraries write to the terminal through handlers of their own.
_SELF_MADE = ("nibabel.global", "nilearn", "huggingface_hub", "matplotlib")


class _Redirect(logging.Filter):
    """Passes a library's records to the root logger and keeps them from the library's own handlers."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Redirect one record; always False."""
        logging.getLogger().handle(record)
        return False


def redirect_libraries() -> None:
    """Send warnings and records of libraries to the root logger's handlers only."""
    logging.captureWarnings(True)
    for name in _SELF_MADE:
        logger = logging.getLogger(name)
        if not any(isinstance(one, _Redirect) for one in logger.filters):
            logger.addFilter(_Redirect())


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


def receive_record(record: logging.LogRecord) -> None:
    """Log a record sent by another process through `relay_records`."""
    logging.getLogger(record.name).handle(record)
