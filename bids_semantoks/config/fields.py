"""Fields that are options of the command line, and the refusal of values."""

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
    """Describe a configuration field that is also a command-line option.

    Parameters
    ----------
    default : Any
        Default value.
    help : str
        One sentence for ``--help``.
    metavar : str, optional
        Placeholder of the value in ``--help``.
    aliases : tuple of str
        Other spellings, and short ones (``-w``).
    choices : tuple of str
        The only accepted values.
    off : str, optional
        A flag that sets the field to None, such as ``--no-band-pass``.
    is_result : bool
        Whether the value can change a result; paths, selection, processes, device and verbosity cannot.

    Returns
    -------
    Any
        A `dataclasses.field` with this metadata.
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
    """Refuse a value.

    Parameters
    ----------
    condition : bool
        What must hold.
    message : str
        What is wrong: found and expected.
    hint : str
        What to do.

    Raises
    ------
    ConfigurationError
        When it does not hold.
    """
    if not condition:
        raise ConfigurationError(message, hint=hint)
