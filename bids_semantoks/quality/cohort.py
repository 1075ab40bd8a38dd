"""The quality of all runs of a study, by fixed limits and beside the other runs, and the runs that a call excludes."""

from __future__ import annotations

import contextlib
import difflib
import logging
import operator
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.bids_names import DERIVED_ENTITIES, TABLE_ENTITIES, natural_key, parse_entities
from bids_semantoks.config import SelectionConfig
from bids_semantoks.config.options import Rule, parse_rule
from bids_semantoks.errors import InputError, name_count, name_some
from bids_semantoks.files import format_cell, read_rows, read_text, write_json, write_records
from bids_semantoks.inputs.runs import find_absent
from bids_semantoks.inputs.selection import normalise_value
from bids_semantoks.outputs.sidecars import read_column_descriptions, read_status
from bids_semantoks.outputs.store import OutputPaths, find_signals, find_statuses
from bids_semantoks.quality.fit import AMBER, RED
from bids_semantoks.quality.run_qc import MEAN_EMBEDDING, decode_vector, judge_measures, read_run_qc
from bids_semantoks.version import __version__

#: Reason of runs excluded by --exclude-by or --exclude-runs.
EXCLUDED: Final = "excluded"
#: A row of group_qc.tsv by column, None where a value is unknown.
Row = dict[str, Any]
#: Entities that have a column, by key, and the columns that have a longer name.
_ENTITIES: Final = ("task", "acq", "dir", "run", "echo", "space", "atlas")
_LONG_NAMES: Final = {"acq": "acquisition", "dir": "direction"}
#: Robust standard deviations from the median beyond which a run is an outlier, and the minimum number of runs.
_N_DEVIATIONS, _SMALLEST = 3.5, 20
#: Measures in which a run can be an outlier, and those from the embedding, which depend on the encoder.
_COMPARED: Final = ("mean_fd", "kept_seconds", "scrubbed_share", "coverage", "tsnr", "n_absent_parcels")
_OF_ENCODER: Final = ("window_similarity", "cohort_distance")
_WORDS: Final = {
    "too_short": "too short",
    "too_few_kept": "with too little data after scrubbing",
    "no_content": "not fetched",
    "low_coverage": "with low coverage",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class CallFacts:
    """What a call knows about the runs in addition to their files."""

    model: str | None = None  # encoder whose statuses count; None for the newest of each run
    roots: Sequence[Path | None] = ()  # datasets that may list participants without derivatives
    used: Collection[str] = ()  # stems of runs in the features
    left_out: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # reason and message by stem


def build_rows(out_dir: Path, facts: CallFacts) -> list[Row]:
    """Build the rows of all runs that any call found, and of participants without derivatives, sorted by name."""
    ending = "_stat-mean_timeseries.json"
    there = [path for path in find_signals(out_dir) if path.name.startswith("sub-")]
    folders = {path.name.removesuffix(ending): path.parent for path in there}
    records: dict[str, dict[str, Path]] = {stem: {} for stem in folders}
    for name, path in find_statuses(out_dir).items():
        stem, _, model = name.partition("_desc-")
        records.setdefault(stem, {})[model] = path
    rows = []
    for stem, found in records.items():
        model = _choose_model(found, facts.model)
        directory = folders.get(stem)
        status = _find_status(stem, found.get(model), facts, is_stored=directory is not None)
        paths = OutputPaths(out_dir=out_dir, directory=directory or out_dir, stem=stem, model=model)
        rows.append(_build_row(stem, model, status, read_run_qc(paths) if directory else {}))
    _add_distances(rows)
    known = {row["participant_id"].removeprefix("sub-") for row in rows}
    rows += [_build_absent(label, root) for label, root in find_absent(facts.roots, known).items()]
    _judge(rows)
    return sorted(rows, key=lambda row: natural_key(row["name"]))


def _choose_model(records: Mapping[str, Path], asked: str | None) -> str:
    """Choose the encoder whose status represents the run: that of the call, else the one written last."""
    if asked in records or not records:
        return asked or ""
    return max(records, key=lambda model: records[model].stat().st_mtime_ns if len(records) > 1 else 0)


def _find_status(stem: str, path: Path | None, facts: CallFacts, *, is_stored: bool) -> dict[str, Any]:
    """Find the status of a run for this call, from its status when it was processed."""
    # Without a record, the files were not written by a call here.
    status = read_status(path) if path else {"status": "ok"}
    if status["status"] == "ok" and not is_stored:
        message = "Recorded as ok, but its signals are missing."
        return {**status, "status": "failed", "reason": "internal", "message": message}
    if stem in facts.left_out:
        reason, message = facts.left_out[stem]
        if reason == EXCLUDED:
            return {**status, "excluded_by": message}
        return {**status, "status": "skipped", "reason": reason, "message": message}
    if stem in facts.used and status.get("reason") == "too_few_kept":
        return {**status, "status": "ok", "reason": "", "message": ""}
    return status


def _build_row(stem: str, model: str, status: Mapping[str, Any], measures: Mapping[str, Any]) -> Row:
    entities = parse_entities(stem)
    warnings, masked = measures.get("warnings"), measures.get("masked_networks")
    excluded = status.get("excluded_by")
    seconds = measures.get("seconds")
    if seconds is None and status["status"] == "ok" and isinstance(status.get("seconds"), int | float):
        seconds = status["seconds"]
    return {
        "name": stem,
        "participant_id": f"sub-{entities['sub']}",
        "session_id": f"ses-{entities['ses']}" if "ses" in entities else None,
        **{_LONG_NAMES.get(key, key): entities.get(key) for key in _ENTITIES},
        "encoder": model or None,
        **{key: status.get(key) for key in ("status", "reason", "message")},
        "excluded_by": excluded,
        "usable": status["status"] == "ok" and not excluded,
        **measures,
        "n_masked_networks": None if masked is None else len(masked),
        "n_warnings": None if warnings is None else len(warnings),
        "seconds": seconds,
    }


def _build_absent(label: str, root: Path) -> Row:
    why = {"status": "no_derivatives", "reason": "no_derivatives", "usable": False}
    message = f"Listed in {root}, but no run with derivatives was found."
    return {"name": f"sub-{label}", "participant_id": f"sub-{label}", **why, "message": message}


def _add_distances(rows: Sequence[Row]) -> None:
    """Add how far the mean embedding of each run is from the median over the runs of its encoder, as a multiple of the
    median distance, so that 1 is usual; nothing for fewer than three runs."""
    for own in _group(rows, ("space", "atlas", "encoder")):
        vectors: dict[int, NDArray[np.float64]] = {}
        for i, row in enumerate(own):
            with contextlib.suppress(ValueError, TypeError):
                vectors[i] = decode_vector(row.pop(MEAN_EMBEDDING, ""))
        sizes = Counter(len(vector) for vector in vectors.values() if len(vector))
        if not sizes or max(sizes.values()) < 3:
            continue
        size = sizes.most_common(1)[0][0]
        chosen = [i for i, vector in vectors.items() if len(vector) == size]
        values = np.stack([vectors[i] for i in chosen])
        distances = np.linalg.norm(values - np.median(values, axis=0), axis=1)
        usual = float(np.median(distances))
        for i, distance in zip(chosen, distances.tolist(), strict=True):
            own[i]["cohort_distance"] = round(distance / usual, 4) if usual > 0 else None


def _group(rows: Iterable[Row], keys: Sequence[str]) -> list[list[Row]]:
    """Divide the rows of runs that are ok by the values of some columns."""
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        if row["status"] == "ok":
            groups.setdefault(tuple(row.get(key) for key in keys), []).append(row)
    return list(groups.values())


def _judge(rows: Sequence[Row]) -> None:
    """Judge each run by fixed limits and by the other runs, and say what to do with it."""
    outliers: dict[str, list[str]] = {}
    for column in (*_COMPARED, *_OF_ENCODER):
        for own in _group(rows, ("space", "atlas", "encoder") if column in _OF_ENCODER else ("space", "atlas")):
            values = np.array([np.nan if row.get(column) is None else row[column] for row in own], dtype=np.float64)
            if column == "mean_fd":
                with np.errstate(divide="ignore", invalid="ignore"):
                    values = np.log(values)
            for i in np.flatnonzero(find_outliers(values)):
                outliers.setdefault(own[i]["name"], []).append(column)
    for row in rows:
        levels = judge_measures(row)
        row["red"] = [column for column, level in levels.items() if level == RED]
        row["amber"] = [column for column, level in levels.items() if level == AMBER]
        row["outliers"] = outliers.get(row["name"], [])
        needs_look = row["amber"] or row["outliers"]
        row["verdict"] = "leave out" if row["status"] != "ok" or row["red"] else "look" if needs_look else "use"


def find_outliers(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Find the values (n,), NaN where unknown, that lie more than 3.5 robust standard deviations (1.4826 times the
    median absolute deviation) from the median; none where fewer than 20 are known or the deviation is 0."""
    known = values[~np.isnan(values)]
    if known.size < _SMALLEST:
        return np.zeros(values.shape, dtype=np.bool_)
    # An FD of 0 has the logarithm -inf, which lies outside unless half the runs have it.
    with np.errstate(invalid="ignore"):
        centre = np.median(known)
        spread = 1.4826 * np.median(np.abs(known - centre))
        found: NDArray[np.bool_] = np.abs(values - centre) > _N_DEVIATIONS * spread
    return found if spread > 0 else np.zeros(values.shape, dtype=np.bool_)


def write_rows(out_dir: Path, rows: Sequence[Row]) -> Path:
    """Write ``group_qc.tsv`` with its dictionary, and return its path."""
    columns = read_column_descriptions("group_qc")
    path = out_dir / "group_qc.tsv"
    write_records(path, tuple(columns), [[format_value(row.get(name)) for name in columns] for row in rows])
    write_json(path.with_suffix(".json"), columns, only_if_changed=True)
    return path


def read_excluded(out_dir: Path) -> dict[str, tuple[str, str]]:
    """Read from the table of the last call which runs it excluded, for `CallFacts.left_out`; none without a table."""
    try:
        rows = read_rows(out_dir / "group_qc.tsv")
    except (OSError, ValueError):
        return {}
    found = {row.get("name", ""): row.get("excluded_by", "n/a") for row in rows}
    return {name: (EXCLUDED, why) for name, why in found.items() if why not in ("", "n/a")}


def format_value(value: object) -> object:
    """Format a value as a table cell: lists are joined, booleans are lower case."""
    if isinstance(value, list):
        return "; ".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else value


def describe_rows(rows: Sequence[Row]) -> str:
    """Count a cohort in words, such as ``5 usable, 4 failed, 1 too short``."""
    counts = {
        "usable": sum(row["usable"] for row in rows),
        "excluded": sum(bool(row.get("excluded_by")) and row["status"] == "ok" for row in rows),
        "failed": sum(row["status"] == "failed" for row in rows),
    }
    skipped = Counter(row["reason"] or "skipped" for row in rows if row["status"] == "skipped")
    counts |= {_WORDS.get(reason, reason.replace("_", " ")): count for reason, count in sorted(skipped.items())}
    counts["without derivatives"] = sum(row["status"] == "no_derivatives" for row in rows)
    return ", ".join(f"{count} {words}" for words, count in counts.items() if count or words in ("usable", "failed"))


def describe_versions(rows: Iterable[Row]) -> str:
    """Count the runs processed by other versions; empty if there are none."""
    return describe_others(row["version"] for row in rows if row["status"] == "ok" and row.get("version"))


def describe_others(versions: Iterable[str]) -> str:
    """Count outputs of other versions, with the option to recompute them; empty if there are none."""
    counts = Counter(version for version in versions if version != __version__)
    if not counts:
        return ""
    listed = ", ".join(f"{count} by {version}" for version, count in sorted(counts.items()))
    runs, are = name_count(counts.total(), "run was", "runs were"), "is" if counts.total() == 1 else "are"
    return (
        f"{runs} processed by other versions of bids_semantoks ({listed}; this is "
        f"{__version__}) and {are} kept; use --redo-older-than {__version__} to recompute those of older versions."
    )


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
            f"--exclude-runs lists {name_count(len(unknown), 'run')} not in {out_dir}: {name_some(unknown)}.",
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
