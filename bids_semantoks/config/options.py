"""Dataclass fields that are also command-line options, the check of their values, and their JSON form."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import types
import typing
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from bids_semantoks.errors import ConfigurationError

ConfigT = TypeVar("ConfigT")


def option(
    default: Any,
    *,
    metavar: str | None = None,
    aliases: tuple[str, ...] = (),
    choices: tuple[str, ...] = (),
    off: str | None = None,
    rest: str = "",
) -> Any:
    """Declare a dataclass field that is also a command-line option; ``data/options.json`` describes it in ``--help``.
    `off` names a flag that sets the field to None (``--no-band-pass``), `rest` a field that has no option and takes the
    values after the first."""
    metadata = {"metavar": metavar, "aliases": aliases, "choices": choices, "off": off, "rest": rest}
    return dataclasses.field(default=default, metadata=metadata)


def check(condition: bool, message: str, hint: str = "") -> None:
    """Raise ConfigurationError with `message` (found and expected) and `hint` (remedy) unless `condition` holds."""
    if not condition:
        raise ConfigurationError(message, hint=hint)


def check_effect(condition: bool, what: str, needed: str, hint: str = "") -> None:
    """Refuse options, as typed, that have no effect without another, `needed`."""
    check(condition, f"{what} has no effect without {needed}.", hint)


def spell_flag(name: str) -> str:
    """Spell the field of an option as on the command line."""
    return f"--{name.replace('_', '-')}"


def check_least(config: Any, least: int, *names: str) -> None:
    """Refuse fields, of options or of a recipe, that are neither None nor `least` or more."""
    for field in dataclasses.fields(config):
        if field.name in names and (value := getattr(config, field.name)) is not None:
            name = spell_flag(field.name) if field.metadata else field.name
            found = f"{value:g}" if isinstance(value, float) else value
            check(value >= least, f"{name} must be {least} or more, found {found}.")


def list_changed(config: Any) -> list[str]:
    """List the fields that differ from their defaults."""
    return [field.name for field in dataclasses.fields(config) if getattr(config, field.name) != field.default]


def to_json(config: Any) -> dict[str, Any]:
    """Convert a configuration dataclass to nested plain JSON values; paths become strings, tuples lists."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    # Which options were typed is not a setting.
    plain.pop("given", None)
    return plain


def from_json(kind: type[ConfigT], values: dict[str, Any], *, where: str = "configuration") -> ConfigT:
    """Build the dataclass `kind` from JSON values; missing fields keep their defaults, `where` names the source. Raises
    ConfigurationError for unknown keys and for values of another type than their field."""
    check(isinstance(values, dict), f"{where} must be a JSON object, found {values!r:.60}.")
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(values) - set(hints))
    check(not unknown, f"{where} has unknown keys: {', '.join(unknown)}.", f"Known keys: {', '.join(sorted(hints))}.")
    arguments = {key: _from_plain(hints[key], value, f"{where}: {key}") for key, value in values.items()}
    return kind(**arguments)


def _from_plain(hint: Any, value: Any, where: str) -> Any:
    """Convert one JSON value to the type of its field."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _from_plain(next(a for a in arguments if a is not type(None)), value, where)
    if dataclasses.is_dataclass(hint):
        return from_json(typing.cast(type[Any], hint), value, where=where)
    if origin is tuple:
        # Earlier versions accepted one value where several are allowed now.
        value = [value] if isinstance(value, str) and arguments == (str, Ellipsis) else value
        check(isinstance(value, list | tuple), f"{where} must be a list, found {value!r:.60}.")
        if arguments[-1] is not Ellipsis:
            check(len(value) == len(arguments), f"{where} must have {len(arguments)} values, found {value!r:.60}.")
        return tuple(_from_plain(arguments[0], item, where) for item in value)
    if hint is Path:
        check(isinstance(value, str), f"{where} must be a path, found {value!r:.60}.")
        return Path(value)
    if hint is float and type(value) in (int, float):
        # JSON readers accept Infinity and NaN, which are not valid in a configuration or in our files.
        check(abs(value) <= sys.float_info.max, f"{where} must be finite, found {value!r:.40}.")
        return float(value)
    check(type(value) is hint, f"{where} must be {hint.__name__}, found {value!r:.60}.")
    return value


#: The longer operators first, so that >= is not read as > before a value that starts with =.
_OPERATORS: Final = (">=", "<=", "!=", "==", ">", "<", "=")


class Rule(NamedTuple):
    """A comparison that leaves out the runs that meet it."""

    column: str
    operator: str  # >, >=, <, <=, = or !=
    value: str
    text: str  # as written

    @property
    def number(self) -> float | None:
        """The value as a number; None for text."""
        try:
            return float(self.value)
        except ValueError:
            return None


def parse_rule(text: str) -> Rule:
    """Parse ``COLUMN OP VALUE``, with or without spaces. Raises ConfigurationError for anything else."""
    found = re.fullmatch(rf"(.*?)({'|'.join(_OPERATORS)})(.*)", text, re.DOTALL)
    column, operator, value = map(str.strip, found.groups()) if found else ("", "", "")
    check(
        bool(column and value),
        f"--exclude-by needs COLUMN OP VALUE with one of {', '.join(op for op in _OPERATORS if op != '==')}, "
        f"found {text!r:.80}.",
        "For example 'mean_fd>0.3', in quotes, since the shell would write to a file otherwise.",
    )
    rule = Rule(column, "=" if operator == "==" else operator, value, text)
    check(
        rule.operator in ("=", "!=") or (rule.number is not None and rule.number == rule.number),
        f"--exclude-by {text!r:.80} compares with {value!r:.40}, which is not a number.",
        "Compare text with = or !=.",
    )
    return rule
