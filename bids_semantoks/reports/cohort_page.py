"""The quality table of all runs, and its page."""

from __future__ import annotations

import logging
import os
import urllib.parse
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Final

import numpy as np
from markupsafe import Markup

from bids_semantoks.config import AppConfig
from bids_semantoks.disk import is_full
from bids_semantoks.errors import name_count
from bids_semantoks.inputs.datasets import Dataset
from bids_semantoks.outputs.sidecars import read_column_descriptions
from bids_semantoks.quality.cohort import CallFacts, Row, build_rows, describe_others, describe_versions, write_rows
from bids_semantoks.quality.run_qc import LIMITS, REMEDIES
from bids_semantoks.reports.pages import fill_template, write_page
from bids_semantoks.version import __version__

LOGGER = logging.getLogger("bids_semantoks")
_LISTED: Final = 40  # maximum number of runs listed per reason; the table has all
_TEXT: Final = {"name": "run", "verdict": "verdict", "why": "why"}  # columns that hold text, before the measures


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A column of the page's table; measures among them also have a strip."""

    key: str  # as in group_qc.tsv
    name: str
    style: str = ""  # format of its values; empty for text
    worse: str = "high"  # whether high or low values are worse
    has_strip: bool = True
    is_log: bool = False


_COLUMNS: Final = (
    Column(key="mean_fd", name="mean FD (mm)", style=".3f", is_log=True),
    Column(key="max_fd", name="maximum FD (mm)", style=".1f", is_log=True, has_strip=False),
    Column(key="mean_fd_filtered", name="mean filtered FD (mm)", style=".3f", is_log=True),
    Column(key="kept_seconds", name="kept (s)", style=".0f", worse="low"),
    Column(key="scrubbed_share", name="share scrubbed", style=".2f"),
    Column(key="coverage", name="coverage", style=".3f", worse="low"),
    Column(key="tsnr", name="temporal SNR", style=".1f", worse="low"),
    Column(key="n_absent_parcels", name="absent parcels", style="d"),
    Column(key="n_masked_networks", name="masked networks", style="d", has_strip=False),
    Column(key="repetition_time", name="TR (s)", style=".4g", has_strip=False),
    Column(key="num_volumes", name="volumes", style="d", worse="low", has_strip=False),
    Column(key="input_fit", name="input fit", has_strip=False),
    Column(key="window_similarity", name="window similarity", style=".2f", worse="low"),
    Column(key="cohort_distance", name="distance from cohort", style=".2f"),
    Column(key="n_warnings", name="warnings", style="d", has_strip=False),
)
_UNITS: Final = {"mean_fd": " mm", "kept_seconds": " s"}
#: Measures judged under another column than that of the page.
_JUDGED_AS: Final = {"n_masked_networks": "masked_networks"}
_NAMES: Final = {_JUDGED_AS.get(one.key, one.key): one.name.partition(" (")[0] for one in _COLUMNS}
_LEVELS: Final = {"use": "", "look": " class=a", "leave out": " class=r"}  # marks of the cell of a verdict


def report_all(config: AppConfig, dataset: Dataset, model: str | None, versions: Iterable[str]) -> None:
    """Report on the cohort at the end of a participant call, unless participants were selected: other calls may then be
    processing the others. `model` is the encoder's label, None for signals only; `versions` made the runs that this
    call kept."""
    if config.selection.participant_label or config.selection.exclude_participant_label:
        if others := describe_others(versions):
            LOGGER.warning("%s", others)
        return
    roots = () if dataset.kind == "layout" else (dataset.root, dataset.raw_root)
    report_cohort(config.out_dir, CallFacts(model=model, roots=roots))


def report_cohort(out_dir: Path, facts: CallFacts) -> list[Row]:
    """Write ``group_qc.tsv`` and ``group_qc.html`` about all runs in the output directory, and return the rows; nothing
    without rows. Raises OSError on a full disk, since a missing table would otherwise go unnoticed."""
    rows, has_probes = build_rows(out_dir, facts), (out_dir / "group.html").is_file()
    try:
        path = write_rows(out_dir, rows) if rows else None
        if path and write_page(path.with_suffix(".html"), lambda: render_page(rows, has_probes=has_probes)):
            LOGGER.info("Wrote the quality of %s to %s", name_count(len(rows), "run"), path)
    except OSError as error:
        if is_full(error):
            raise
        # The runs themselves are already on disk.
        LOGGER.warning("Could not write the quality table: %s.", error)
    if others := describe_versions(rows):
        LOGGER.warning("%s", others)
    return rows


def render_page(rows: Sequence[Row], *, has_probes: bool = False) -> str:
    """Render the page of all runs, at least one, as self-contained HTML."""
    runs = sorted((row for row in rows if row["status"] != "no_derivatives"), key=_rank)
    suffix = find_suffix([row["name"] for row in runs])
    columns = [one for one in _COLUMNS if len({row[one.key] for row in runs if row.get(one.key) is not None}) > 1]
    described = read_column_descriptions("group_qc")
    shown = [Column(key=key, name=name) for key, name in _TEXT.items()] + columns
    help_texts = {**{key: one["Description"] for key, one in described.items()}, "why": "Measures beyond a limit."}
    page = {
        "n_runs": len(runs),
        "n_participants": len({row["participant_id"] for row in rows}),
        "suffix": suffix,
        "has_probes": has_probes,
        "counts": _count(rows),
        "verdicts": Counter(row["verdict"] for row in runs if row["status"] == "ok"),
        "exclusions": Counter(row["excluded_by"].partition(" (")[0] for row in runs if row.get("excluded_by")).items(),
        "versions": describe_versions(rows),
        "constant": _describe_constant(runs, columns),
        "measures": _summarise([one for one in columns if one.has_strip], runs),
        "reasons": _group_reasons(rows, suffix),
        "columns": shown,
        "help": help_texts,
        "rows": Markup(_build_lines(runs, columns, suffix)),
    }
    return fill_template("cohort", page=page, version=__version__)


def find_suffix(names: Sequence[str]) -> str:
    """Find the common suffix of all names from ``_space-`` or ``_atlas-`` on, which the page shows once."""
    ends = set()
    for name in names:
        places = [name.find(key) for key in ("_space-", "_atlas-") if key in name]
        ends.add(name[min(places) :] if places else "")
    return ends.pop() if len(ends) == 1 else ""


def _rank(row: Row) -> tuple[Any, ...]:
    """Sort the worst runs first: those that are not usable, then by the limits that they exceed, then by motion."""
    n_bad = (len(row["red"]), len(row["amber"]), len(row["outliers"]))
    kind = {"skipped": 1, "ok": 2}.get(row["status"], 0)
    return kind, *(-n for n in n_bad), -(row.get("mean_fd") or 0.0), row["name"]


def _count(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Count runs by status, each with the level of its badge."""
    counts = Counter("excluded" if row["status"] == "ok" and not row["usable"] else row["status"] for row in rows)
    n_absent = counts["no_derivatives"]
    shown = [
        ("green", sum(row["usable"] for row in rows), "usable"),
        ("amber", counts["excluded"], "excluded"),
        ("amber", counts["skipped"], "skipped"),
        ("red", counts["failed"], "failed"),
        ("amber", n_absent, f"participant{'s' if n_absent > 1 else ''} without derivatives"),
    ]
    return [(level, f"{n} {text}") for level, n, text in shown if n or text in ("usable", "failed")]


def _describe_constant(runs: Sequence[Row], columns: Sequence[Column]) -> list[tuple[str, str]]:
    """List values that all runs share and that need no column."""
    further = (Column(key="encoder", name="encoder"), Column(key="version", name="bids_semantoks version"))
    found = []
    for one in (*(one for one in _COLUMNS if one not in columns), *further):
        values = {row[one.key] for row in runs if row.get(one.key) is not None}
        if len(values) == 1:
            found.append((one.name, _format(values.pop(), one.style)))
    return found


def _format(value: Any, style: str) -> str:
    if value is None:
        return ""
    if not style:
        return str(value)
    text = format(value, style)
    return text.rstrip("0").rstrip(".") if "." in text else text


def _summarise(columns: Sequence[Column], runs: Sequence[Row]) -> list[dict[str, Any]]:
    """Summarise each measure over all runs that have it."""
    counts = {level: Counter(key for row in runs for key in row[level]) for level in ("amber", "red", "outliers")}
    found = []
    for one in columns:
        values = np.array([row[one.key] for row in runs if row.get(one.key) is not None], dtype=np.float64)
        key, style = _JUDGED_AS.get(one.key, one.key), one.style.replace("d", "g")
        text, limit = "", LIMITS.get(key)
        if limit:
            side = "above" if limit.is_upper else "below"
            text = f"amber {side} {limit.amber:g}, red {side} {limit.red:g}{_UNITS.get(one.key, '')}"
        found.append(
            {
                "key": one.key,
                "name": one.name,
                "is_log": one.is_log,
                "limits": text,
                "amber": limit.amber if limit else None,
                "red": limit.red if limit else None,
                "n": values.size,
                "median": _format(float(np.median(values)), style),
                "low": _format(float(values.min()), style),
                "high": _format(float(values.max()), style),
                **{f"n_{level}": count[key] for level, count in counts.items()},
            }
        )
    return found


def _link(row: Row) -> str:
    return urllib.parse.quote(os.fsencode(f"{row['participant_id']}.html"))


def _group_reasons(rows: Sequence[Row], suffix: str) -> list[dict[str, Any]]:
    """Group unusable runs by reason, most frequent first, each with its remedy."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if not row["usable"]:
            groups.setdefault("excluded" if row["status"] == "ok" else row["reason"] or row["status"], []).append(row)
    found = []
    for code, own in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])):
        is_absent = own[0]["status"] == "no_derivatives"
        links = [
            (row["name"].removesuffix(suffix), "" if is_absent else f"{_link(row)}#{urllib.parse.quote(row['name'])}")
            for row in own[:_LISTED]
        ]
        found.append(
            {
                "code": code.replace("_", " "),
                "level": "red" if own[0]["status"] == "failed" else "amber",
                "n": len(own),
                "what": "participant" if is_absent else "run",
                "remedy": REMEDIES.get(code, "See the message."),
                "example": own[0].get("message") or own[0].get("excluded_by") or "",
                "links": links,
            }
        )
    return found


def _build_lines(runs: Sequence[Row], columns: Sequence[Column], suffix: str) -> str:
    """Build the lines of the table, as short as HTML allows: thousands of them should stay below a megabyte."""
    lines = []
    for row in runs:
        marks = dict.fromkeys(row["outliers"], "o")
        for level, keys in (("a", row["amber"]), ("r", row["red"])):
            marks |= {key: f'"{level} o"' if key in row["outliers"] else level for key in keys}
        name = escape(row["name"].removesuffix(suffix))
        why = escape(_explain(row)) if marks or not row["usable"] else ""
        # URL-quoted links need no HTML quotes.
        line = f"<tr><td><a href={_link(row)}>{name}</a><td{_LEVELS[row['verdict']]}>{row['verdict']}<td>{why}"
        for one in columns:
            mark, text = marks.get(_JUDGED_AS.get(one.key, one.key)), _format(row.get(one.key), one.style)
            line += f"<td{f' class={mark}' if mark else ''}>{text if one.style else escape(text)}"
        lines.append(line)
    return "\n".join(lines)


def _explain(row: Row) -> str:
    """Name the limits that a run exceeds in a few words."""
    if row["status"] != "ok":
        return f"{row['status']}: {str(row['reason']).replace('_', ' ')}"
    beyond, unlike = (
        ", ".join(_NAMES.get(key, key) for key in keys) for keys in ((*row["red"], *row["amber"]), row["outliers"])
    )
    excluded = f"excluded: {row['excluded_by']}" if row.get("excluded_by") else ""
    return "; ".join(filter(None, (excluded, beyond, f"outlier: {unlike}" if unlike else "")))
