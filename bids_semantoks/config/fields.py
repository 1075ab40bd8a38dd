"""Dataclass fields that are also command-line options, and the check of their values."""

from __future__ import annotations

import dataclasses
from typing import Any

from bids_semantoks.errors import ConfigurationError


def option(
    default: Any,
    help: str,
    *,
    metavar: str | None = None,
    aliases: tuple[str, ...] = (),
    choices: tuple[str, ...] = (),
    off: str | None = None,
    is_result: bool = True,
) -> Any:
    """Declare a dataclass field that is also a command-line option; its metadata becomes the entry in ``--help``.

    `off` names a flag that sets the field to None (``--no-band-pass``). `is_result` is False where the value cannot
    change a result: paths, selection, processes, device, verbosity.
    """
    metadata = {
        "help": help,
        "metavar": metavar,
        "aliases": aliases,
        "choices": choices,
        "off": off,
        "is_result": is_result,
    }
    return dataclasses.field(default=default, metadata=metadata)


def check(condition: bool, message: str, hint: str = "") -> None:
    """Raise ConfigurationError with `message` (found and expected) and `hint` (remedy) unless `condition` holds."""
    if not condition:
        raise ConfigurationError(message, hint=hint)
