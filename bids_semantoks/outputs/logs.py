"""Log of a call: kept in memory until the output directory is known to be writable, then in a file."""

from __future__ import annotations

import datetime
import logging
import logging.handlers
import secrets
from pathlib import Path
from typing import Any

from bids_semantoks.outputs.files import write_json

LOGGER = logging.getLogger("bids_semantoks")
_FORMAT = logging.Formatter("%(asctime)s %(levelname)s %(message)s")


class LogBuffer(logging.handlers.MemoryHandler):
    """Holds records until `open_log` gives them a file."""

    def __init__(self) -> None:
        super().__init__(capacity=1_000_000, flushLevel=logging.CRITICAL + 1)


class LogFile(logging.FileHandler):
    """Log file of a call; skips records marked ``is_fleeting``, which only move a progress line."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        if not getattr(record, "is_fleeting", False):
            super().emit(record)


def open_log(out_dir: Path, config: dict[str, Any]) -> Path:
    """Open the log of this call in ``OUT_DIR/logs/<run id>``, with its configuration beside it, and return that
    folder."""
    now = datetime.datetime.now(datetime.UTC)
    directory = out_dir / "logs" / f"{now:%Y%m%dT%H%M%SZ}_{secrets.token_hex(3)}"
    directory.mkdir(parents=True)
    write_json(directory / "config.json", config)
    file_handler = LogFile(directory / "bids_semantoks.log", encoding="utf-8")
    file_handler.setFormatter(_FORMAT)
    for logger in (LOGGER, logging.getLogger()):
        for handler in list(logger.handlers):
            if isinstance(handler, LogBuffer):
                handler.setTarget(file_handler)
                handler.flush()
                logger.removeHandler(handler)
        logger.addHandler(file_handler)
    return directory
