"""The log of a call: kept in memory until the output directory is known to be good, then in a file."""

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
    """Holds records back until `open_log` gives them a file."""

    def __init__(self) -> None:
        super().__init__(capacity=1_000_000, flushLevel=logging.CRITICAL + 1)


class LogFile(logging.FileHandler):
    """The log file of a call; what only moves a bar on a terminal is left out."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record.

        Parameters
        ----------
        record : logging.LogRecord
            What was logged.
        """
        if not getattr(record, "is_fleeting", False):
            super().emit(record)


def open_log(out_dir: Path, config: dict[str, Any]) -> Path:
    """Open the log of this call below the output directory and write down its configuration.

    Parameters
    ----------
    out_dir : Path
        Output dataset.
    config : dict
        Configuration as plain JSON values.

    Returns
    -------
    Path
        ``OUT_DIR/logs/<run id>``.
    """
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
