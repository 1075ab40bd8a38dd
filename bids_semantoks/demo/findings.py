"""What the probes of the synthetic study found, as a table for the console."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from bids_semantoks.demo.neural import SITE_PATIENTS
from bids_semantoks.outputs.group_tables import COMPARED, ProbeTables, read_probes
from bids_semantoks.outputs.group_words import METRIC_NAMES, MODEL_NAMES, format_difference, format_number, format_score

#: Phenotypes with effects on the signals, and the one that depends on the site alone.
PLANTED: Final = ("sex", "age")
CONFOUNDED: Final = "group"


def describe_findings(out_dir: Path) -> list[str]:
    """Describe the results of the last call that probed, in lines. Raises InputError if there are none."""
    tables = read_probes(out_dir)
    lines = ["The data are synthetic; effects of sex and age on the signals were planted."]
    planted = [name for name in PLANTED if name in tables.phenotypes]
    if planted:
        lines += ["", *_align(_list_models(tables, planted)), *_compare_with_random(tables, planted)]
    if CONFOUNDED in tables.phenotypes:
        lines += ["", *_expose(tables)]
    return lines


def _list_models(tables: ProbeTables, phenotypes: Sequence[str]) -> list[Sequence[str]]:
    """List the score of each model for each phenotype, chance, and the verdicts."""
    rows: dict[str, dict[str, Any]] = {}
    for name in phenotypes:
        for row in tables.find_scores(name, *COMPARED):
            rows.setdefault(row.model, {})[name] = row
    first = next(iter(rows.values()))
    chance = rows.pop("chance", {})
    header = [f"{name}, {METRIC_NAMES[first[name].metric]} [95 % CI]" for name in phenotypes]
    table: list[Sequence[str]] = [("model", *header, "verdict")]
    for model, found in rows.items():
        scores = [format_score(found[name]) if name in found else "n/a" for name in phenotypes]
        verdicts = {str(row.verdict): None for row in found.values()}
        if len(verdicts) > 1:
            verdicts = {f"{name} {row.verdict}": None for name, row in found.items()}
        table.append((_name(model, tables), *scores, ", ".join(verdicts)))
    at_chance = [format_number(chance.get(name, first[name]).chance) for name in phenotypes]
    return [*table, ("chance", *at_chance, "")]


def _name(model: str, tables: ProbeTables) -> str:
    return f"{model} (pretrained)" if model == tables.model else MODEL_NAMES.get(model, model)


def _compare_with_random(tables: ProbeTables, phenotypes: Sequence[str]) -> list[str]:
    """Say by how much pretraining beats random weights on the same splits."""
    found = {name: row for name in phenotypes for row in tables.find_scores(name, "baseline") if row.model == "random"}
    told = [f"{name} {text}" for name, row in found.items() if (text := format_difference(row))]
    return [f"Pretrained minus random weights, same splits: {', '.join(told)}."] if told else []


def _expose(tables: ProbeTables) -> list[str]:
    """Show that the site alone predicts the confounded phenotype, and nothing does within a site."""
    scores = {row.model: row for row in tables.find_scores(CONFOUNDED, *COMPARED)}
    encoder = scores[tables.model]
    table: list[Sequence[str]] = [
        (f"{CONFOUNDED} by", f"{METRIC_NAMES[encoder.metric]} [95 % CI]", "verdict"),
        (_name(tables.model, tables), format_score(encoder), encoder.verdict),
    ]
    if "site" in scores:
        table.append((MODEL_NAMES["site"], format_score(scores["site"]), scores["site"].verdict))
    own = tables.strata[(tables.strata["phenotype"] == CONFOUNDED) & (tables.strata["by"] == "site")]
    inside: list[Any] = list(own.itertuples())
    for row in inside:
        why = f"only {row.n_least} in one class" if math.isnan(row.value) else ""
        table.append((f"{_name(tables.model, tables)}, within site {row.level}", format_score(row), why))
    shares = ", ".join(f"{share:.0%} at {site}" for site, share in SITE_PATIENTS.items())
    lines = [
        f"A confound: {CONFOUNDED} (patient, control) has no effect on the signals, but more patients were scanned at "
        "some sites",
        f"({shares}), and the scanners differ.",
        *_align(table),
    ]
    site = next(iter(tables.find_scores("site", "leakage")), None)
    if site is not None:
        lines.append(f"The embeddings also predict the site itself: {METRIC_NAMES[site.metric]} {format_score(site)}.")
    return lines


def _align(table: Sequence[Sequence[str]]) -> list[str]:
    """Align the columns of a table under a ruled header."""
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]
