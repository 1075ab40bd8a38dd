"""Command-line options, generated from the configuration so that the two cannot drift apart."""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import click
from click.core import ParameterSource

from bids_semantoks.config import AppConfig, from_json, to_json
from bids_semantoks.config.options import spell_flag
from bids_semantoks.errors import ConfigurationError
from bids_semantoks.files import read_json
from bids_semantoks.version import __version__

#: Random splits of the Brainmarks benchmark.
BENCHMARK_REPEATS: Final = 100


class _Command(click.Command):
    """Command whose help groups options by stage."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section of help per stage."""
        own: list[click.Parameter] = [
            option for option in self.get_params(ctx) if option.name in ("config_file", "version", "help")
        ]
        sections: list[tuple[str, Sequence[click.Parameter]]] = [*build_options(), ("This program", own)]
        for title, options in sections:
            records = [record for option in options if (record := option.get_help_record(ctx))]
            with formatter.section(title):
                formatter.write_dl(records)


def build_command() -> click.Command:
    """Build the command of the program, with all its options."""
    directory = click.Path(path_type=Path)
    file_help = "Configuration file of an earlier call (logs/calls/<run id>/config.json); options override it."
    params = [
        click.Argument(["bids_dir"], type=directory),
        click.Argument(["out_dir"], type=directory),
        click.Argument(["level"], type=click.Choice(["participant", "group"]), metavar="{participant|group}"),
        *(option for _, options in build_options() for option in options),
        click.Option(["--config-file"], type=directory, metavar="FILE", help=file_help),
    ]
    command = _Command(
        "bids_semantoks",
        params=params,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
        help="Compute Brain-Semantoks embeddings from fMRIPrep derivatives. The participant level processes each run "
        "in BIDS_DIR; the group level analyses all participants in OUT_DIR.",
        epilog="Options with several values take them after one flag: --participant-label 01 02 03.",
    )
    add_version = click.version_option(
        __version__, prog_name="bids_semantoks", message="%(prog)s %(version)s", help="Print the version and exit."
    )
    return add_version(command)


def parse(arguments: Sequence[str]) -> AppConfig:
    """Build the configuration of a command line, without the program's name. Raises ConfigurationError for an invalid
    value or file, what click raises for others, and click.exceptions.Exit once help or version are printed."""
    command = build_command()
    with command.make_context("bids_semantoks", _expand_lists(arguments, command.params)) as context:
        return _build_config(context)


def find_stages() -> Iterator[tuple[str, type[Any]]]:
    """Yield the field name and dataclass of each stage of `AppConfig` that holds options."""
    hints = typing.get_type_hints(AppConfig)
    for field in dataclasses.fields(AppConfig):
        if dataclasses.is_dataclass(hints[field.name]):
            yield field.name, hints[field.name]


def build_options() -> list[tuple[str, list[click.Option]]]:
    """Build the click options of every stage, as (title, options); the
    title is the docstring of the stage's dataclass."""
    sections = []
    for _, stage in find_stages():
        hints = typing.get_type_hints(stage)
        options = []
        for field in filter(lambda one: one.metadata, dataclasses.fields(stage)):
            options += _build_field_options(field, hints[field.name])
        sections.append(((stage.__doc__ or "").strip().rstrip("."), options))
    return sections


@functools.cache
def read_help() -> dict[str, str]:
    """Read what --help says of each option, by field."""
    texts: dict[str, str] = read_json(Path(__file__).parent.parent / "data" / "options.json")
    return texts


class _LastOption(click.Option):
    """List option whose last occurrence counts, as for single-value options, so that scripts can be overridden."""


def _build_field_options(field: dataclasses.Field[Any], kind: Any) -> list[click.Option]:
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kind = next(one for one in typing.get_args(kind) if one is not type(None))
    inner = typing.get_args(kind)
    metadata = field.metadata
    flag = spell_flag(field.name)
    names = [field.name, flag, *metadata["aliases"]]
    settings: dict[str, Any] = {"help": read_help()[field.name], "metavar": metadata["metavar"]}
    if kind is bool:
        settings["is_flag"] = True
    elif field.name == "verbose":
        settings["count"] = True
    else:
        choices = click.Choice(metadata["choices"]) if metadata["choices"] else None
        settings["type"] = choices or (click.Path(path_type=Path) if kind is Path else inner[0] if inner else kind)
        if metadata["rest"] or inner[-1:] == (Ellipsis,):
            # A tuple of open length takes several values after one flag.
            settings["multiple"] = True
        elif inner:
            settings["nargs"] = len(inner)
    default = field.default
    if default not in (None, (), False) and kind is not bool and field.name != "verbose":
        values = default if isinstance(default, tuple) else (str(default),)
        shown = " ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)
        settings["help"] += f"  [default: {shown}]"
    options = [(_LastOption if metadata["rest"] else click.Option)(names, **settings)]
    if metadata["off"]:
        options.append(click.Option([_off_name(field), metadata["off"]], is_flag=True, help=f"Disable {flag}."))
    return options


def _off_name(field: dataclasses.Field[Any]) -> str:
    return str(field.metadata["off"]).lstrip("-").replace("-", "_")


def _expand_lists(arguments: Sequence[str], params: Sequence[click.Parameter]) -> list[str]:
    """Repeat the flag of a list option before each value, as click needs it: ``--x_y a b`` becomes ``--x-y a --x-y b``.
    Flags may be spelt with underscores, as in other BIDS Apps. Raises click.UsageError if a list option has no value,
    since click would take the next flag as its value."""
    flags = {name for param in params if param.multiple for name in param.opts}
    replacing = {name for param in params if isinstance(param, _LastOption) for name in param.opts}
    expanded: list[str] = []
    current, has_value = "", False
    for argument in map(_spell_with_hyphens, arguments):
        if argument.startswith("-") and argument != "-":
            _check_has_value(current, has_value=has_value)
            current, has_value = (argument, False) if argument in flags else ("", False)
            if (flag := argument.partition("=")[0]) in replacing:
                expanded = _drop_option(expanded, flag)
            if not current:
                expanded.append(argument)
        elif current:
            expanded += [current, argument]
            has_value = True
        else:
            expanded.append(argument)
    _check_has_value(current, has_value=has_value)
    return expanded


def _drop_option(arguments: Sequence[str], flag: str) -> list[str]:
    """Drop a flag and its values, one after each flag or behind ``=``."""
    return [
        one
        for before, one in zip(("", *arguments), arguments, strict=False)
        if flag not in (before, one) and not one.startswith(f"{flag}=")
    ]


def _spell_with_hyphens(argument: str) -> str:
    flag, equals, value = argument.partition("=")
    return f"{flag.replace('_', '-')}{equals}{value}" if flag.startswith("--") else argument


def _check_has_value(flag: str, *, has_value: bool) -> None:
    if flag and not has_value:
        raise click.UsageError(f"Option {flag!r} needs at least one value.")


def _build_config(context: click.Context) -> AppConfig:
    """Build the configuration from defaults, then the configuration file, then the command line."""
    given = {name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    params = context.params
    values = _read_config_file(params["config_file"]) if params["config_file"] else {}
    if values.pop("level", params["level"]) != params["level"] and params["task_blocks"] is None:
        # What -d names is another thing at the other level.
        values["selection"].pop("derivatives")
    for name in ("bids_dir", "out_dir", "level"):
        values[name] = str(params[name])
    for stage_name, stage in find_stages():
        section = dict(values.get(stage_name, {}))
        for field in filter(lambda one: one.metadata, dataclasses.fields(stage)):
            if field.metadata["off"] and _off_name(field) in given:
                if field.name in given:
                    raise ConfigurationError(
                        f"{spell_flag(field.name)} and {field.metadata['off']} are mutually exclusive.",
                        hint="Use one of them.",
                    )
                section[field.name] = None
            elif field.name in given:
                section[field.name] = json.loads(json.dumps(params[field.name], default=str))
                if rest := field.metadata["rest"]:
                    section[field.name], *section[rest] = section[field.name]
        values[stage_name] = section
    if values["probing"].get("protocol") == "brainmarks":
        values["probing"].setdefault("n_repeats", BENCHMARK_REPEATS)
    return from_json(AppConfig, {**values, "given": sorted(given)})


def _read_config_file(path: Path) -> dict[str, Any]:
    """Read and check a configuration written by an earlier call."""
    try:
        values = read_json(path)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"Cannot read the configuration file {path}: {error}.",
            hint="Use a config.json from OUT_DIR/logs/calls/<run id>/.",
        ) from error
    if not isinstance(values, dict):
        raise ConfigurationError(f"The configuration file {path} must contain a JSON object, found {values!r:.60}.")
    # Directories and level come from the command line, whatever the earlier call was about.
    stages = {name for name, _ in find_stages()}
    unknown = sorted(set(values) - stages - {"bids_dir", "out_dir", "level"})
    if unknown:
        raise ConfigurationError(
            f"The configuration file {path} has unknown keys: {', '.join(unknown)}.",
            hint=f"Known keys: {', '.join(sorted(stages))}.",
        )
    checked = {name: from_json(stage, values.get(name, {}), where=f"{path}: {name}") for name, stage in find_stages()}
    level = {"level": values["level"]} if "level" in values else {}
    return {name: to_json(config) for name, config in checked.items()} | level
