"""Write the parts of pages that the code knows: options, columns of tables, fields of records, reasons and remedies.

A page asks for a part by a fence, ```` ```{generated} KIND ARGUMENTS ````, which becomes Markdown before Sphinx reads
it.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any

import click

from bids_semantoks.config import command
from bids_semantoks.errors import RunFailed
from bids_semantoks.outputs.sidecars import read_column_descriptions
from bids_semantoks.quality.run_qc import REMEDIES

_FENCE = re.compile(r"^```\{generated\} (?P<call>.+)\n(?P<body>(?:(?!```).*\n)*)```$", re.MULTILINE)

#: What is code in a plain text: flags, names with an underscore, names of files, patterns.
_CODE = re.compile(
    r"`[^`]+`|(?<![\w`/*-])(?:--?[a-z][\w-]*|[\w./*-]*\w[_*][\w./*-]*\w|[A-Z]{2,}(?:_[A-Z]+)+|[\w/*-]+\.(?:tsv|json|html|npy|h5))"
    r"(?![\w`])"
)


def setup(app: Any) -> dict[str, bool]:
    """Fill in the generated parts of each page as Sphinx reads it."""
    app.connect("source-read", _fill)
    return {"parallel_read_safe": True}


def _fill(_app: Any, _name: str, source: list[str]) -> None:
    source[0] = expand(source[0])


def expand(text: str) -> str:
    """Replace the fences of a page by what they ask for."""
    return _FENCE.sub(_write_part, text)


def _write_part(found: re.Match[str]) -> str:
    kind, *arguments = found["call"].split()
    return _PARTS[kind](*arguments, **({"body": found["body"]} if found["body"] else {}))


def mark_code(text: str) -> str:
    """Turn a plain text into Markdown: what is code is set as code, all else means itself."""
    parts, end = [], 0
    for found in _CODE.finditer(text):
        parts += [_escape(text[end : found.start()]), f"`{found[0].strip('`')}`"]
        end = found.end()
    return "".join([*parts, _escape(text[end:])])


def _escape(text: str) -> str:
    return re.sub(r"([\\`*_<>\[\]{}$|])", r"\\\1", text)


def _write_table(header: tuple[str, ...], widths: tuple[int, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = ["```{list-table}", ":header-rows: 1", f":widths: {' '.join(map(str, widths))}", ":class: reference", ""]
    for row in (header, *rows):
        for number, cell in enumerate(row):
            first, *rest = cell.split("\n")
            lines += [f"{'  ' if number else '* '}- {first}", *(f"    {line}" if line else "" for line in rest)]
    return "\n".join([*lines, "```"])


def write_columns(table: str) -> str:
    """Describe the columns of a table in ``data/columns``."""
    return describe_columns(read_column_descriptions(table))


def describe_columns(columns: Mapping[str, Any]) -> str:
    """Describe columns as a sidecar does: name, unit, meaning and levels."""
    rows = []
    for name, column in columns.items():
        levels = [f"- `{level}`: {mark_code(text)}" for level, text in column.get("Levels", {}).items()]
        meaning = "\n".join([mark_code(column["Description"]), *(["", *levels] if levels else [])])
        rows.append((f"`{name}`", mark_code(column.get("Units", "")), meaning))
    return _write_table(("Column", "Unit", "Meaning"), (25, 10, 65), rows)


def write_options(stage: str) -> str:
    """Describe the options of a stage of the configuration, or those of the program itself."""
    stages = [name for name, _ in command.find_stages()]
    if stage in stages:
        return _describe_click(command.build_options()[stages.index(stage)][1])
    own = {name for _, options in command.build_options() for option in options if (name := option.name)}
    options = [one for one in command.build_command().params if isinstance(one, click.Option) and one.name not in own]
    return _describe_click(options)


def _describe_click(options: Iterable[click.Option]) -> str:
    context = click.Context(click.Command("bids_semantoks"))
    parts = []
    for option in options:
        names, text = option.get_help_record(context) or ("", "")
        # Spellings with underscores are the same flags.
        hyphened = [name for name in option.opts if "_" not in name]
        metavar = names.rpartition(option.opts[-1])[2] if not option.is_flag and not option.count else ""
        parts.append(_write_option(hyphened, metavar.strip(), text))
    return "\n\n".join(parts)


def write_parser(module: str, builder: str) -> str:
    """Describe the options and arguments of a program that argparse reads."""
    parser: argparse.ArgumentParser = getattr(importlib.import_module(module), builder)()
    parts = []
    for action in parser._actions:
        choices = f"[{'|'.join(map(str, action.choices))}]" if action.choices else action.dest.upper()
        metavar = action.metavar or (choices if action.nargs != 0 else "")
        text = action.help or ""
        several = "..." if action.nargs == "+" else ""
        if action.option_strings:
            parts.append(_write_option(action.option_strings, f"{metavar}{several}", text))
        else:
            parts.append(f"`{metavar}`\n: {mark_code(text)}")
    return "\n\n".join(parts)


def _write_option(names: Iterable[str], metavar: str, text: str) -> str:
    words, default = re.fullmatch(r"(.*?)\s*(?:\[(?:default: )?([^]]*)\])?", text, re.DOTALL).groups()
    shown = f"\n\nDefault: {mark_code(default)}" if default else ""
    heads = ", ".join(f"{name} {metavar}".strip() for name in names)
    words = words.strip()
    words = words[:1].upper() + words[1:] + ("" if words.endswith(".") else ".")
    return f"```{{option}} {heads}\n{mark_code(words)}{shown}\n```"


def write_fields(path: str) -> str:
    """Describe the fields of a dataclass by the comments beside or above them."""
    module, _, name = path.rpartition(".")
    record = getattr(importlib.import_module(module), name)
    fields = {field.name: field for field in dataclasses.fields(record)}
    rows, above = [], ""
    for line in inspect.getsource(record).splitlines():
        found = re.match(r"    (?P<name>\w+): (?P<kind>[^=#]*?)(?: = (?P<value>.*?))?(?:  # (?P<words>.*))?$", line)
        if comment := re.match(r"    # (.*)", line):
            above = f"{above} {comment[1]}".strip()
        elif found and found["name"] in fields:
            words = found["words"] or above
            default = f"`{found['value']}`".replace('"', "") if found["value"] else ""
            rows.append((f"`{found['name']}`", default, mark_code(words)))
            above = ""
    if len(rows) != len(fields) or not all(row[2] for row in rows):
        raise ValueError(f"{path} has fields without a comment.")
    if any(default for _, default, _ in rows):
        return _write_table(("Name", "Default", "Meaning"), (25, 20, 55), rows)
    return _write_table(("Name", "Meaning"), (25, 75), ((name, words) for name, _, words in rows))


def write_reasons(*, body: str = "") -> str:
    """Describe why runs are not used: what each code means, as the page says, and the remedy, as reports say."""
    meanings = dict(line.split(": ", 1) for line in body.splitlines() if line)
    if meanings.keys() != REMEDIES.keys():
        raise ValueError(f"Meanings and remedies differ in {sorted(meanings.keys() ^ REMEDIES.keys())}.")
    rows = []
    for reason, meaning in meanings.items():
        status = "failed" if reason in RunFailed.reasons else "skipped"
        status = "no_derivatives" if reason == "no_derivatives" else status
        rows.append((f"`{reason}`", f"`{status}`", meaning, mark_code(REMEDIES[reason])))
    return _write_table(("Reason", "Status", "Meaning", "What to do"), (17, 13, 30, 40), rows)


_PARTS = {
    "columns": write_columns,
    "fields": write_fields,
    "options": write_options,
    "parser": write_parser,
    "reasons": write_reasons,
}
