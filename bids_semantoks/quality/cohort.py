"""The quality of all runs of a study: one row per run, judged by fixed limits and relative to the other runs."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.bids_names import natural_key, parse_entities
from bids_semantoks.errors import name_count
from bids_semantoks.files import read_rows, write_json, write_records
from bids_semantoks.inputs.runs import find_absent
from bids_semantoks.outputs.sidecars import read_column_descriptions, read_status
from bids_semantoks.outputs.store import OutputPaths, find_signals, find_statuses
from bids_semantoks.quality.fit import AMBER, RED
from bids_semantoks.quality.limits import judge_measures
from bids_semantoks.quality.run_qc import MEAN_EMBEDDING, decode_vector, read_run_qc
from bids_semantoks.version import __version__

#: Reason of runs excluded by --exclude-by or --exclude-runs.
EXCLUDED: Final = "excluded"
#: A row of group_qc.tsv by column, None where a value is unknown.
Row = dict[str, Any]
#: Columns of entities, by key.
_ENTITIES: Final = {
    "task": "task",
    "acq": "acquisition",
    "dir": "direction",
    "run": "run",
    "echo": "echo",
    "space": "space",
    "atlas": "atlas",
}
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
        **{column: entities.get(key) for key, column in _ENTITIES.items()},
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
