"""Tables of the group: how they are written, and how they are read back."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pandas as pd

from bids_semantoks.errors import InputError
from bids_semantoks.files import (
    find_delimiter,
    format_cell,
    format_row,
    open_atomic,
    parse_table,
    read_json,
    read_rows,
    read_text,
    write_json,
    write_records,
)
from bids_semantoks.outputs.sidecars import read_column_descriptions
from bids_semantoks.statistics.metrics import name_main_metric

#: Described columns that hold text; the others hold numbers.
_TEXT: Final = frozenset(
    [
        *("phenotype", "kind", "protocol", "model", "metric", "role", "covariates", "harmonized", "compared_with"),
        *("p_statistic", "verdict", "used", "reason"),
        *("participant_id", "session_id", "truth", "predicted", "class"),
        *("by", "level", "between", "features", "column", "design", "position", "folds", "source", "encoder"),
        "question",
    ]
)

#: Columns, by table, that those of earlier versions lack.
_LATER: Final = {"group_probe": ("harmonized",), "group_strata": ("expected", "p_value")}
_REPETITION: Final = re.compile(r"repetition_?(\d+)")  # columns of a table of splits whose rows are participants
_BLOCK: Final = 10_000  # lines of a table that are held in memory at once

#: Columns that a map of the embedding may have besides those described, to colour its points by.
_ADDED: Final = {"Description": "As in the tables of the dataset, or its sidecars."}

#: Names of the roles in splits made elsewhere, in lower case.
_ROLE_NAMES: Final = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}

#: Roles of the models that are compared with each other.
COMPARED: Final = ("encoder", "ensemble", "readout", "finetuned", "baseline", "preparation")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ProbeTables:
    """Tables of a call that probed; their columns are described in ``data/columns``."""

    facts: dict[str, Any]  # of group_probe.json
    scores: pd.DataFrame
    predictions: pd.DataFrame  # those of the encoder
    strata: pd.DataFrame
    retest: pd.DataFrame
    points: pd.DataFrame
    shares: Sequence[float]  # of the variance, per axis of `points`

    @property
    def model(self) -> str:
        """Encoder label."""
        return str(self.facts["Encoder"]["Name"])

    @property
    def phenotypes(self) -> tuple[str, ...]:
        """Probed phenotypes, in the order requested."""
        return tuple(self.facts["Phenotypes"])

    def find_scores(self, phenotype: str, *roles: str) -> list[Any]:
        """Return the row with the main score of each model with one of these roles, in the order of the table."""
        own = self.scores[(self.scores["phenotype"] == phenotype) & self.scores["role"].isin(roles)]
        main = own["kind"].map(lambda kind: name_main_metric(is_class=kind == "classification"))
        return list(own[own["metric"] == main].itertuples())


def build_group_table(name: str, rows: Iterable[Mapping[str, object]]) -> pd.DataFrame:
    """Build a table from values by column, as if read back from its file: 9 digits, no line breaks, empty text for
    none. Columns that a row lacks are empty; those that ``data/columns/<name>.json`` does not describe hold text."""
    empty = dict.fromkeys(read_column_descriptions(name), "")
    return _parse(name, [empty | {column: format_cell(value) for column, value in row.items()} for row in rows])


def _parse(name: str, rows: Sequence[Mapping[str, str]]) -> pd.DataFrame:
    described = read_column_descriptions(name)
    columns = [*described, *(column for column in (rows[0] if rows else ()) if column not in described)]
    numbers = described.keys() - _TEXT
    rows = [dict.fromkeys(_LATER.get(name, ()), "") | dict(row) for row in rows]
    cells = [[_convert(column, row[column], is_text=column not in numbers) for column in columns] for row in rows]
    table = pd.DataFrame(cells, columns=columns)
    return table.astype({"n_pretrained": "Int64"}) if "n_pretrained" in described else table


def _convert(column: str, cell: str, *, is_text: bool) -> str | int | float | None:
    cell = "" if cell == "n/a" else cell
    if is_text:
        return cell
    if column == "n_pretrained" and not cell:
        return None
    if column == "seed" or column.startswith("n_"):
        return int(cell)
    return float(cell) if cell else math.nan


def write_group_table(out_dir: Path, name: str, table: pd.DataFrame, facts: Mapping[str, object] | None = None) -> Path:
    """Write a table and its sidecar and return its path; without rows, remove both so that nothing stale is left."""
    path = out_dir / f"{name}.tsv"
    if table.empty:
        for old in (path, path.with_suffix(".json")):
            old.unlink(missing_ok=True)
        return path
    cells = table.astype(object).where(table.notna(), None)
    write_records(path, list(table.columns), cells.to_numpy().tolist())
    described = read_column_descriptions(name)
    sidecar = {column: described.get(column, _ADDED) for column in table.columns}
    more = {} if facts is None else {"Facts": dict(facts)}
    write_json(path.with_suffix(".json"), {**sidecar, **more}, only_if_changed=True)
    return path


def read_group_table(path: Path, *, model: str = "") -> pd.DataFrame:
    """Read a table of the group, or only the rows of a `model`, without rows if it is absent; InputError if a column is
    missing or invalid."""
    try:
        found = (_read_model(path, model) if model else read_rows(path)) if path.is_file() else []
        return _parse(path.stem, found)
    except (KeyError, ValueError) as error:
        raise InputError(
            f"{path} does not have the format of this version: {error}.", hint="Rerun with --probe COLUMN."
        ) from error


def _read_model(path: Path, model: str) -> list[dict[str, str]]:
    """Read the rows of a model; those of all models may be too many to be held."""
    with path.open(encoding="utf-8", newline="\n") as file:
        header = next(file, "")
        column = parse_table(header)[0].index("model")
        lines = [line for line in file if line.split("\t", column + 1)[column : column + 1] == [model]]
    names, rows, _ = parse_table("".join([header, *lines]))
    return [dict(zip(names, row, strict=True)) for row in rows]


def write_probes(
    out_dir: Path,
    tables: ProbeTables,
    *,
    predictions: Iterable[Sequence[object]],
    splits: Iterable[Sequence[object]],
    people: Iterable[Sequence[object]] = (),
    described: Sequence[str] = (),
    n_repetitions: int = 0,
) -> Path:
    """Write all tables of probes and return the path of ``group_probe.tsv``; `predictions` are those of all models,
    `described` the last columns of `people`, which ``data/columns`` does not describe. With `n_repetitions` the rows of
    `splits` are participants, with a cell for each repetition; without, they list who had which role where."""
    path = write_group_table(out_dir, "group_probe", tables.scores, tables.facts)
    for name, rows in (("group_predictions", predictions), ("group_splits", splits), ("group_participants", people)):
        columns = read_column_descriptions(name)
        columns |= dict.fromkeys(described if name == "group_participants" else (), _ADDED)
        if name == "group_splits" and n_repetitions:
            columns = {key: columns[key] for key in ("phenotype", "participant_id")}
            text = (
                "Fold (from 0) in which the participant was tested in repetition {} (trained in the others); train or "
                "validation if never tested, n/a if not used."
            )
            columns |= {f"repetition{i}": {"Description": text.format(i)} for i in range(n_repetitions)}
        # As `write_records` does, a block of lines at a time: millions of rows are never held.
        lines = itertools.chain(["\t".join(map(format_cell, columns))], map(format_row, rows))
        with open_atomic(out_dir / f"{name}.tsv") as file:
            while block := list(itertools.islice(lines, _BLOCK)):
                file.write(("\n".join(block) + "\n").encode())
        write_json(out_dir / f"{name}.json", columns, only_if_changed=True)
    write_group_table(out_dir, "group_strata", tables.strata)
    write_group_table(out_dir, "group_retest", tables.retest)
    write_group_table(out_dir, "group_map", tables.points, {"VarianceShares": list(tables.shares)})
    return path


def read_probes(out_dir: Path) -> ProbeTables:
    """Read the results of the last call that probed; InputError if there are none or another version wrote them."""
    path = out_dir / "group_probe.json"
    if not path.is_file():
        raise InputError(f"No probes in {out_dir}: no group_probe.json.", hint="Run with --probe COLUMN first.")
    facts = read_json(path).get("Facts", {})
    missing = [name for name in ("Encoder", "Overview", "Phenotypes", "Pretraining", "Warnings") if name not in facts]
    # Curves, confusion matrices and who is in and out, for the page.
    for name, found in facts.get("Phenotypes", {}).items():
        needed = ("People", "Confusion", "Calibration") if found["Classes"] else ("People",)
        missing += [f"{one} of {name}" for one in needed if one not in found]
    if missing:
        raise InputError(f"{path} lacks {', '.join(missing)}.", hint="Rerun with --probe COLUMN.")
    points = read_group_table(out_dir / "group_map.tsv")
    return ProbeTables(
        facts=facts,
        scores=read_group_table(out_dir / "group_probe.tsv"),
        predictions=read_group_table(out_dir / "group_predictions.tsv", model=facts["Encoder"]["Name"]),
        strata=read_group_table(out_dir / "group_strata.tsv"),
        retest=read_group_table(out_dir / "group_retest.tsv"),
        points=points,
        shares=() if points.empty else read_json(out_dir / "group_map.json")["Facts"]["VarianceShares"],
    )


def keep_earlier_tables(out_dir: Path, facts: Mapping[str, Any]) -> Path | None:
    """Copy the tables of a call with other settings before they are replaced.

    Returns the folder of the copies below ``OUT_DIR/logs/probes``; None if there is nothing to keep.
    """
    path = out_dir / "group_probe.json"
    try:
        former = read_json(path)["Facts"]
    except (OSError, ValueError, KeyError):
        return None
    if all(former.get(name) == facts[name] for name in ("Encoder", "Settings", "RandomSeed")):
        return None
    written = datetime.fromtimestamp(path.stat().st_mtime, tz=UTC)
    folder = out_dir / "logs" / "probes" / f"{written:%Y%m%dT%H%M%S.%f}Z"
    folder.mkdir(parents=True, exist_ok=True)
    tables = ("probe", "predictions", "splits", "strata", "retest", "map", "participants")
    for name in (*(f"group_{name}.tsv" for name in tables), "group_probe.json", "group.html"):
        if (out_dir / name).is_file():
            shutil.copy2(out_dir / name, folder)
    return folder


def read_split_lines(path: Path, participants: Collection[str] = ()) -> list[tuple[str, int, int, str, str]]:
    """Read splits as (phenotype or empty, repetition, fold, participant label without ``sub-``, role). The table (TSV
    or CSV), from here or elsewhere, needs repetition, fold, participant_id and role, and phenotype if splits differ
    between phenotypes. A label that differs from one of `participants` only in leading zeros is replaced by it. Raises
    InputError if it cannot be read or a column is missing or invalid."""
    try:
        text = read_text(path)
        names, cells, numbers = parse_table(text, delimiter=find_delimiter(text), is_padded=True)
    except (ValueError, OSError) as error:
        problem = f"cannot be read: {error}" if isinstance(error, OSError) else error
        raise InputError(f"The splits table {path} {problem}.", hint="Expected a group_splits.tsv.") from error
    rows = [dict(zip(map(str.lower, names), row, strict=True)) for row in cells]
    columns = tuple(read_column_descriptions("group_splits"))
    is_wide = bool(rows) and "role" not in rows[0] and any(_REPETITION.fullmatch(name) for name in rows[0])
    needed = ("participant_id",) if is_wide else columns[1:]
    missing = [name for name in needed if rows and name not in rows[0]]
    if missing or not rows:
        found = f"no column {', '.join(missing)}" if rows else "no rows"
        raise InputError(f"The splits table {path} has {found}.", hint=f"Expected {', '.join(columns)}.")
    lines = []
    counts = Counter(label.lstrip("0") for label in participants)
    without_zeros = {bare: label for label in participants if counts[bare := label.lstrip("0")] == 1}
    listed = zip(numbers, rows, strict=True)
    for number, row in _list_roles(list(listed)) if is_wide else listed:
        repetition, fold = _parse_whole(row["repetition"]), _parse_whole(row["fold"])
        if repetition is None or fold is None:
            raise InputError(
                f"Line {number} of the splits table {path} has repetition {row['repetition']!r} and fold "
                f"{row['fold']!r}; expected integers."
            )
        label, role = row["participant_id"].strip().removeprefix("sub-"), row["role"].strip().lower()
        label = label if label in participants else without_zeros.get(label.lstrip("0"), label)
        lines.append((row.get("phenotype", ""), repetition, fold, label, _ROLE_NAMES.get(role, row["role"])))
    return lines


def _list_roles(rows: Sequence[tuple[int, dict[str, str]]]) -> Iterator[tuple[int, dict[str, str]]]:
    """List the role of each participant in each fold of a table of participant x repetition, with the line's number."""
    phenotypes = dict.fromkeys(row.get("phenotype", "") for _, row in rows)
    for phenotype, column in itertools.product(phenotypes, rows[0][1]):
        if not (found := _REPETITION.fullmatch(column)):
            continue
        own = [(number, row, row[column].strip()) for number, row in rows if row.get("phenotype", "") == phenotype]
        own = [one for one in own if one[2].lower() not in ("", "n/a")]
        folds = sorted({fold for *_, cell in own if (fold := _parse_whole(cell)) is not None})
        for fold, (number, row, cell) in itertools.product(folds, own):
            tested = _parse_whole(cell)
            role = cell if tested is None else "test" if tested == fold else "train"
            yield number, {**row, "repetition": found[1], "fold": str(fold), "role": role}


def _parse_whole(text: str) -> int | None:
    """Parse an integer, also in floating-point form (2.0); None for anything else."""
    whole, _, decimals = text.strip().partition(".")
    return int(whole) if whole.isdecimal() and not decimals.strip("0") else None
