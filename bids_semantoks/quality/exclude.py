"""Exclude runs by quality (--exclude-by) or by name (--exclude-runs)."""

from __future__ import annotations

import difflib
import logging
import operator
from collections.abc import Iterable, Sequence
from pathlib import Path

from bids_semantoks.bids_names import DERIVED_ENTITIES, TABLE_ENTITIES, parse_entities
from bids_semantoks.config import SelectionConfig
from bids_semantoks.config.options import Rule, parse_rule
from bids_semantoks.errors import InputError, name_count, name_some
from bids_semantoks.files import format_cell, read_text
from bids_semantoks.inputs.selection import normalise_value
from bids_semantoks.outputs.sidecars import read_column_descriptions
from bids_semantoks.quality.cohort import EXCLUDED, CallFacts, Row, build_rows, format_value

LOGGER = logging.getLogger("bids_semantoks")
_HEADERS = ("name", "run", "filename")  # first cells of tables of runs


def find_excluded(
    out_dir: Path, selection: SelectionConfig, stems: Iterable[str] | None = None
) -> dict[str, tuple[str, str]]:
    """Find the runs that a call excludes: the reason `EXCLUDED` and the rule or list that names the run, by stem. Of
    the complete runs in `out_dir`, only `stems` count, all by default. Raises InputError for an unknown column, and for
    a name in a list that no run of `out_dir` has."""
    if not (selection.exclude_by or selection.exclude_runs):
        return {}
    rows = build_rows(out_dir, CallFacts())
    found = _find_listed(selection.exclude_runs, rows, out_dir)
    wanted = {row["name"] for row in rows if row["status"] == "ok"} if stems is None else set(stems)
    for text in selection.exclude_by:
        found = _apply(parse_rule(text), [row for row in rows if row["name"] in wanted]) | found
    chosen = {stem: (EXCLUDED, why) for stem, why in found.items() if stem in wanted}
    if chosen:
        first, (_, why) = next(iter(chosen.items()))
        LOGGER.warning("Excluding %s, the first is %s: %s.", name_count(len(chosen), "run"), first, why)
    else:
        LOGGER.warning("--exclude-by and --exclude-runs match none of %s.", name_count(len(wanted), "run"))
    return chosen


def describe_exclusion(selection: SelectionConfig) -> str:
    """Describe in a sentence which runs a call excludes; empty without such an option."""
    rules = [parse_rule(text) for text in selection.exclude_by]
    parts = [f"{rule.column} {rule.operator} {rule.value}" for rule in rules]
    parts += ["a list of runs"] if selection.exclude_runs else []
    return f"Quality control excluded runs by {'; '.join(parts)}." if parts else ""


def _apply(rule: Rule, rows: Sequence[Row]) -> dict[str, str]:
    """Find the runs that meet a rule: its text and their value by stem. A run without a value meets none."""
    columns = read_column_descriptions("group_qc")
    if rule.column not in columns:
        near = difflib.get_close_matches(rule.column, columns, n=1, cutoff=0.5)
        raise InputError(
            f"--exclude-by {rule.text!r} uses column {rule.column!r}, which is not in group_qc.tsv.",
            hint=f"Did you mean {near[0]}?" if near else f"Columns: {', '.join(columns)}.",
        )
    values = {row["name"]: row.get(rule.column) for row in rows}
    unknown = [name for name, value in values.items() if value is None or value == ""]
    if unknown and rule.operator not in ("=", "!="):
        LOGGER.warning(
            "%s is unknown for %d of %d runs, which are kept by --exclude-by %r: %s",
            rule.column, len(unknown), len(values), rule.text, name_some(unknown),
        )  # fmt: skip
    met = {name: value for name, value in values.items() if name not in set(unknown) and _meets(value, rule)}
    return {name: f"{rule.text} ({format_cell(format_value(value))})" for name, value in met.items()}


def _meets(value: object, rule: Rule) -> bool:
    number = rule.number
    if isinstance(value, list):
        # One of several suffices, such as outliers=mean_fd.
        return (rule.value in map(str, value)) == (rule.operator == "=")
    if number is None or isinstance(value, bool) or not isinstance(value, int | float):
        if rule.operator not in ("=", "!="):
            raise InputError(
                f"--exclude-by {rule.text!r} compares column {rule.column}, which contains text ({value}).",
                hint="Use = or != for text.",
            )
        return (format_value(value) == rule.value) == (rule.operator == "=")
    compare = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le, "=": operator.eq}
    return value != number if rule.operator == "!=" else bool(compare[rule.operator](value, number))


def _find_listed(asked: Sequence[str], rows: Sequence[Row], out_dir: Path) -> dict[str, str]:
    """Find the runs that a list names, by stem. A name counts by its entities of the source, so names of source files,
    of outputs and of participants do."""
    found: dict[str, str] = {}
    sources = {row["name"]: _read_source(row["name"]) for row in rows}
    by_participant: dict[str, list[str]] = {}
    for stem, source in sources.items():
        by_participant.setdefault(dict(source).get("sub", ""), []).append(stem)
    unknown = []
    for name, where in _read_names(asked):
        own = _read_source(name)
        stems = [stem for stem in by_participant.get(dict(own).get("sub", ""), ()) if own <= sources[stem]]
        # A run without run- next to numbered ones: its name is a prefix of theirs.
        stems = [stem for stem in stems if sources[stem] == own] or stems
        if not stems:
            unknown.append(name)
        found |= dict.fromkeys(stems, where)
    if unknown:
        near = difflib.get_close_matches(unknown[0], sources, n=1, cutoff=0.3)
        raise InputError(
            f"--exclude-runs lists {len(unknown)} runs that are not in {out_dir}: {name_some(unknown)}.",
            hint=f"The closest match is {near[0]}." if near else "",
        )
    return found


def _read_names(asked: Sequence[str]) -> list[tuple[str, str]]:
    """List the names of --exclude-runs, each with what named it; those in ``@FILE`` stand in its first column."""
    names = []
    for item in asked:
        if not item.startswith("@"):
            names.append((item, "--exclude-runs"))
            continue
        path = Path(item[1:])
        try:
            lines = read_text(path).splitlines()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(
                f"The run list {path} cannot be read: {reason}.", hint="Expected one run per line."
            ) from error
        cells = [line.partition("#")[0].replace(",", "\t").partition("\t")[0].strip() for line in lines]
        names += [(cell, f"--exclude-runs @{path.name}") for cell in cells if cell and cell not in _HEADERS]
    return names


def _read_source(name: str) -> frozenset[tuple[str, str]]:
    """Read the entities that tell a run from others, from the name of any of its files."""
    entities = parse_entities(name.rsplit("/", 1)[-1]).items()
    ours = DERIVED_ENTITIES | TABLE_ENTITIES
    return frozenset([(key, normalise_value(key, value)) for key, value in entities if key not in ours])
