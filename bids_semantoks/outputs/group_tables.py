"""Smaller group tables: scores by site, the embedding in two dimensions, and test-retest reliability."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import shutil
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.errors import InputError
from bids_semantoks.files import write_json, write_records
from bids_semantoks.outputs.store import OutputPaths, read_embedding, read_statuses
from bids_semantoks.statistics.metrics import name_main_metric


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StratumRow:
    """One line of ``group_strata.tsv``: the encoder's score in a subgroup; the columns are explained in `STRATA`."""

    phenotype: str
    model: str
    metric: str
    by: str  # column that divides participants, or repetition_time
    level: str
    value: float  # mean over repetitions; NaN if it cannot be computed
    ci_low: float
    ci_high: float
    n_participants: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RetestRow:
    """One line of ``group_retest.tsv``: how well features identify participants at a second scan; columns as in
    `RETEST`."""

    between: str  # sessions or runs
    features: str  # encoder name or baseline
    identification: float
    ci_low: float
    ci_high: float
    chance: float
    icc_median: float  # over features; NaN if nothing varies
    icc_low: float
    icc_high: float
    n_participants: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PointTable:
    """The embedding in two dimensions, with columns to colour its points by."""

    # (n,) participant and session label; the session is empty if points are participants
    keys: tuple[tuple[str, str], ...]
    points: NDArray[np.float64]  # (n, 2)
    shares: tuple[float, float]  # of the variance, per axis
    columns: dict[str, tuple[str | None, ...]]  # (n,) text by column; None if missing


STRATA: Final[dict[str, Any]] = {
    "phenotype": {"Description": "What was predicted."},
    "model": {"Description": "What predicted it."},
    "metric": {"Description": "How it is scored, as in group_probe.tsv, among the participants of this line only."},
    "by": {"Description": "What participants are divided by: a column, or the repetition time of their runs."},
    "level": {"Description": "Value of that column."},
    "value": {"Description": "Mean over repetitions; n/a where there are too few to be scored."},
    "ci_low": {"Description": "Lower end of the 95 % interval: bootstrap over the participants of the line, widened."},
    "ci_high": {"Description": "Upper end of the 95 % interval."},
    "n_participants": {"Description": "Participants of this line who were tested."},
}


RETEST: Final[dict[str, Any]] = {
    "between": {
        "Description": "What is compared.",
        "Levels": {
            "sessions": "the first two sessions of a participant, runs averaged",
            "runs": "the first two runs of a session",
        },
    },
    "features": {"Description": "The encoder's name, or a baseline."},
    "identification": {
        "Description": "Share of scans whose most similar scan of the other time is the same participant's; features "
        "are centred over participants, similarity is correlation, both directions are averaged."
    },
    "ci_low": {"Description": "Lower end of the 95 % interval (bootstrap over participants)."},
    "ci_high": {"Description": "Upper end of the 95 % interval."},
    "chance": {"Description": "One over the number of participants."},
    "icc_median": {"Description": "Median over features of the intraclass correlation ICC(2,1)."},
    "icc_low": {"Description": "Lower quartile over features."},
    "icc_high": {"Description": "Upper quartile over features."},
    "n_participants": {"Description": "Participants with two scans."},
}


_MAP: Final[dict[str, Any]] = {
    "participant_id": {"Description": "Participant label, with sub-."},
    "session_id": {"Description": "Session label, with ses-, where a point is a session."},
    "axis1": {"Description": "First principal axis of the mean embeddings, each dimension scaled."},
    "axis2": {"Description": "Second principal axis, in units of the first's deviation."},
}


def write_described(path: Path, dictionary: Mapping[str, Any], lines: Sequence[Sequence[object]]) -> None:
    """Write a table and its data dictionary; without lines, remove both so that nothing stale is left."""
    if not lines:
        for old in (path, path.with_suffix(".json")):
            old.unlink(missing_ok=True)
        return
    columns = [name for name in dictionary if name != "Facts"]
    write_records(path, columns, lines)
    write_json(path.with_suffix(".json"), dict(dictionary), only_if_changed=True)


def write_strata(out_dir: Path, rows: Sequence[StratumRow]) -> None:
    """Write ``group_strata.tsv``, or remove it if there are no rows."""
    write_described(out_dir / "group_strata.tsv", STRATA, [dataclasses.astuple(row) for row in rows])


def write_retest(out_dir: Path, rows: Sequence[RetestRow]) -> None:
    """Write ``group_retest.tsv``, or remove it if there are no rows."""
    write_described(out_dir / "group_retest.tsv", RETEST, [dataclasses.astuple(row) for row in rows])


def write_points(out_dir: Path, table: PointTable) -> None:
    """Write ``group_map.tsv``."""
    columns = {name: {"Description": "As in the tables of the dataset, or its sidecars."} for name in table.columns}
    shares = {"VarianceShares": list(table.shares)}
    lines = [
        (f"sub-{subject}", f"ses-{session}" if session else "", *point, *(cells[i] for cells in table.columns.values()))
        for i, ((subject, session), point) in enumerate(zip(table.keys, table.points.tolist(), strict=True))
    ]
    write_described(out_dir / "group_map.tsv", {**_MAP, **columns, "Facts": shares}, lines)


SPLIT_COLUMNS: Final = ("phenotype", "repetition", "fold", "participant_id", "role")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ScoreRow:
    """One line of ``group_probe.tsv``: one metric of one model for one phenotype; the columns are explained in
    `_SCORES`."""

    phenotype: str
    kind: str
    protocol: str
    model: str
    metric: str
    value: float  # mean over repetitions; NaN if it cannot be computed
    ci_low: float
    ci_high: float
    p_value: float  # permutation test, the same for all metrics of a model; NaN if not done
    chance: float  # score of a model without features
    n_participants: int
    n_rows: int  # sessions if the phenotype has one value per session, else participants
    role: str  # encoder, finetuned, baseline, importance or leakage
    covariates: str
    n_repeats: int
    n_folds: int
    # encoder less this model on the same folds; NaN except for compared models and the main metric
    difference: float = math.nan
    difference_low: float = math.nan
    difference_high: float = math.nan
    difference_p: float = math.nan
    difference_p_holm: float = math.nan
    n_pretrained: int | None = None  # tested participants that the encoder was pretrained on; None if unknown
    n_seeds: int = 1
    seed_sd: float = math.nan  # over seeds; NaN for one


_SCORES: Final[dict[str, Any]] = {
    "phenotype": {"Description": "What was predicted; mean_fd and site are there to show leakage."},
    "kind": {"Description": "Classes or values.", "Levels": {"classification": "classes", "regression": "values"}},
    "protocol": {
        "Description": "How it was predicted.",
        "Levels": {
            "nested": "ridge or logistic regression, penalty chosen inside the training folds",
            "paper": "BatchNorm and a linear layer, learning rate chosen by validation windows",
            "finetune": "BatchNorm and a linear layer trained together with the encoder's weights, epoch chosen by "
            "validation participants: those of the split, else a fifth of the training part",
        },
    },
    "model": {"Description": "The encoder's name, or a baseline on the same participants and splits."},
    "metric": {
        "Description": "How predictions are scored, out of fold.",
        "Levels": {
            "balanced_accuracy": "mean over classes of the share that was recognised",
            "auroc": "area under the ROC curve within test folds, mean over classes where there are more than two",
            "calibration_error": "mean gap between confidence and hits over ten bins of equal size",
            "r": "Pearson correlation within test folds",
            "r2": "1 - squared error over that of the training folds' mean",
            "mae": "mean absolute error, in units of the phenotype",
            "r_pooled": "Pearson correlation over all test folds together",
            "calibration_slope": "slope of truth over prediction; 1 is calibrated",
        },
    },
    "value": {"Description": "Mean over repetitions."},
    "ci_low": {"Description": "Lower end of the 95 % interval: bootstrap over participants, widened for overlap."},
    "ci_high": {"Description": "Upper end of the 95 % interval."},
    "p_value": {
        "Description": "Permutation test of this model and phenotype, the same in all their lines: one 5-fold split, "
        "ridge regression, AUROC or r; (1 + as good) / (1 + permutations)."
    },
    "chance": {"Description": "Score of a model without features on the same folds."},
    "n_participants": {"Description": "Participants tested."},
    "n_rows": {"Description": "Rows tested: sessions where the phenotype has one value a session, else participants."},
    "role": {
        "Description": "Why the line is there.",
        "Levels": {
            "encoder": "the embeddings",
            "finetuned": "the encoder with its weights trained further on each training part",
            "baseline": "what embeddings have to beat",
            "importance": "the encoder with networks masked: all but the one named, or the one named alone",
            "leakage": "how well embeddings know motion and site",
        },
    },
    "covariates": {"Description": "Columns removed from the features by regression fitted to training folds."},
    "n_repeats": {"Description": "Repetitions of the cross-validation."},
    "n_folds": {"Description": "Folds of a repetition."},
    "difference": {"Description": "The encoder's score less that of this line, mean over folds."},
    "difference_low": {"Description": "Lower end of its 95 % interval (corrected resampled t test)."},
    "difference_high": {"Description": "Upper end of its 95 % interval."},
    "difference_p": {"Description": "Two-sided p value of the difference."},
    "difference_p_holm": {
        "Description": "The same, adjusted by Holm's method over phenotypes, and over networks where some are masked."
    },
    "n_pretrained": {"Description": "Participants tested whom the encoder was pretrained on, by label."},
    "n_seeds": {"Description": "Encoders of other seeds (or draws of random weights) averaged within each split."},
    "seed_sd": {"Description": "Standard deviation of the score over them; n/a for one."},
}


_PREDICTIONS: Final[dict[str, Any]] = {
    "phenotype": {"Description": "What was predicted."},
    "model": {"Description": "What predicted it."},
    "participant_id": {"Description": "Participant label, with sub-."},
    "session_id": {"Description": "Session label, with ses-, where a row is a session."},
    "truth": {"Description": "True class or value; of bins, the most frequent over folds."},
    "predicted": {"Description": "Class with the highest mean probability, or mean value, out of fold."},
    "class": {"Description": "Class whose probability stands in score."},
    "score": {"Description": "Mean over repetitions of the probability of the class, or of the value."},
    "n_tests": {"Description": "Repetitions in which the row was tested."},
}


_SPLITS: Final[dict[str, Any]] = {
    "phenotype": {"Description": "Phenotype that the splits were made for, with its missing values."},
    "repetition": {"Description": "Counted from 0."},
    "fold": {"Description": "Counted from 0; with --leave-out in the order of what is left out."},
    "participant_id": {"Description": "Participant label, with sub-; all its sessions have the same role."},
    "role": {
        "Description": "What the participant served for.",
        "Levels": {"train": "training", "validation": "choice of the learning rate", "test": "test"},
    },
}


def write_probe_tables(
    out_dir: Path,
    *,
    scores: Sequence[ScoreRow],
    predictions: Iterable[Sequence[object]],
    splits: Iterable[Sequence[object]],
    facts: Mapping[str, Any],
) -> None:
    """Write ``group_probe``, ``group_predictions`` and ``group_splits`` with their data dictionaries.

    Lines of `predictions` and `splits` have the columns of the dictionaries here; `facts` (plain JSON values) go into
    group_probe.json.
    """
    write_rows(out_dir / "group_probe.tsv", ScoreRow, scores, meanings=_SCORES, facts=facts)
    for name, dictionary, table in (
        ("group_predictions", _PREDICTIONS, predictions),
        ("group_splits", _SPLITS, splits),
    ):
        write_records(out_dir / f"{name}.tsv", tuple(dictionary), list(table))
        write_json(out_dir / f"{name}.json", dictionary, only_if_changed=True)


def keep_earlier_tables(out_dir: Path, facts: Mapping[str, Any]) -> Path | None:
    """Copy the tables of a call with other settings before they are replaced.

    Returns the folder of the copies below ``OUT_DIR/logs/probes``; None if there is nothing to keep.
    """
    path = out_dir / "group_probe.json"
    try:
        former = json.loads(path.read_text(encoding="utf-8"))["Facts"]
    except (OSError, ValueError, KeyError):
        return None
    if all(former.get(name) == facts[name] for name in ("Encoder", "Settings", "RandomSeed")):
        return None
    written = datetime.fromtimestamp(path.stat().st_mtime, tz=UTC)
    folder = out_dir / "logs" / "probes" / f"{written:%Y%m%dT%H%M%S.%f}Z"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("probe.tsv", "probe.json", "predictions.tsv", "splits.tsv", "strata.tsv", "retest.tsv", "map.tsv"):
        if (out_dir / f"group_{name}").is_file():
            shutil.copy2(out_dir / f"group_{name}", folder)
    if (out_dir / "group.html").is_file():
        shutil.copy2(out_dir / "group.html", folder)
    return folder


def read_split_lines(path: Path) -> list[tuple[str, int, int, str, str]]:
    """Read splits as (phenotype or empty, repetition, fold, participant label without ``sub-``, role).

    The TSV, from here or elsewhere, needs repetition, fold, participant_id and role, and phenotype if splits differ
    between
    phenotypes. Raises InputError if it cannot be read or a column is missing or invalid.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"The splits {path} cannot be read: {error}.", hint="Expected a group_splits.tsv.") from error
    missing = [name for name in SPLIT_COLUMNS[1:] if rows and name not in rows[0]]
    if missing or not rows:
        found = f"no column {', '.join(missing)}" if rows else "no rows"
        raise InputError(f"The splits {path} have {found}.", hint=f"Expected {', '.join(SPLIT_COLUMNS)}.")
    lines = []
    for number, row in enumerate(rows, start=2):
        repetition, fold = row["repetition"] or "", row["fold"] or ""
        if not (repetition.isdecimal() and fold.isdecimal()):
            raise InputError(
                f"Line {number} of the splits {path} has repetition {repetition!r} and fold {fold!r}, "
                "expected whole numbers."
            )
        label = (row["participant_id"] or "").removeprefix("sub-")
        lines.append((row.get("phenotype") or "", int(repetition), int(fold), label, row["role"] or ""))
    return lines


RowT = TypeVar("RowT", ScoreRow, StratumRow, RetestRow)


#: Roles of the models that are compared with each other.
COMPARED = ("encoder", "finetuned", "baseline")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StoredProbes:
    """Tables of the last call that probed."""

    scores: tuple[ScoreRow, ...]  # group_probe.tsv
    predictions: tuple[dict[str, str], ...]  # lines of group_predictions.tsv
    strata: tuple[StratumRow, ...]
    retest: tuple[RetestRow, ...]
    points: PointTable | None
    facts: dict[str, Any]  # from group_probe.json

    @property
    def model(self) -> str:
        """Encoder label."""
        return str(self.facts["Encoder"]["Name"])

    @property
    def phenotypes(self) -> tuple[str, ...]:
        """Probed phenotypes, in the order requested."""
        return tuple(self.facts["Phenotypes"])

    def find_scores(self, phenotype: str, *roles: str) -> list[ScoreRow]:
        """Return the main score of each model with one of these roles, in the order of the table."""
        return [
            row
            for row in self.scores
            if row.phenotype == phenotype and row.role in roles and row.metric == name_main_metric(row.kind)
        ]


def read_records(path: Path) -> list[dict[str, str]]:
    """Read a TSV as text by column, ``n/a`` as empty text; no lines if the file is absent."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [{key: "" if cell == "n/a" else cell or "" for key, cell in row.items()} for row in rows]


def read_rows(path: Path, kind: type[RowT]) -> tuple[RowT, ...]:
    """Read a TSV as records of `kind`; empty if the file is absent. Raises InputError if a column is missing or
    invalid."""
    hints = typing.get_type_hints(kind)
    try:
        return tuple(
            kind(**{name: _convert(hint, row[name]) for name, hint in hints.items()}) for row in read_records(path)
        )
    except (KeyError, ValueError) as error:
        raise InputError(
            f"{path} is not as this version writes it: {error}.", hint="Probe again with --probe COLUMN."
        ) from error


def _convert(hint: Any, cell: str) -> Any:
    if hint is float:
        return float(cell) if cell else math.nan
    if hint is int:
        return int(cell)
    if hint is str:
        return cell
    return int(cell) if cell else None


def read_probes(out_dir: Path) -> StoredProbes:
    """Read the results of the last call that probed. Raises InputError if there are none or another version wrote
    them."""
    path = out_dir / "group_probe.json"
    if not path.is_file():
        raise InputError(f"No probes in {out_dir}: no group_probe.json.", hint="Probe first with --probe COLUMN.")
    facts = json.loads(path.read_bytes()).get("Facts", {})
    missing = [name for name in ("Encoder", "Overview", "Phenotypes", "Pretraining", "Warnings") if name not in facts]
    # What the page draws of classes.
    missing += [
        f"who of {name} was taken for whom"
        for name, found in facts.get("Phenotypes", {}).items()
        if found["Classes"] and "Confusion" not in found
    ]
    if missing:
        raise InputError(f"{path} does not say {', '.join(missing)}.", hint="Probe again with --probe COLUMN.")
    return StoredProbes(
        scores=read_rows(out_dir / "group_probe.tsv", ScoreRow),
        predictions=tuple(read_records(out_dir / "group_predictions.tsv")),
        strata=read_rows(out_dir / "group_strata.tsv", StratumRow),
        retest=read_rows(out_dir / "group_retest.tsv", RetestRow),
        points=_read_points(out_dir / "group_map.tsv"),
        facts=facts,
    )


def _read_points(path: Path) -> PointTable | None:
    rows = read_records(path)
    if not rows:
        return None
    shares = json.loads(path.with_suffix(".json").read_bytes())["Facts"]["VarianceShares"]
    names = [name for name in rows[0] if name not in ("participant_id", "session_id", "axis1", "axis2")]
    pick: Callable[[str], Sequence[str]] = lambda name: [row[name] for row in rows]  # noqa: E731 - used four times
    keys = zip(pick("participant_id"), pick("session_id"), strict=True)
    return PointTable(
        keys=tuple((subject.removeprefix("sub-"), session.removeprefix("ses-")) for subject, session in keys),
        points=np.array([list(map(float, pick("axis1"))), list(map(float, pick("axis2")))]).T,
        shares=(float(shares[0]), float(shares[1])),
        columns={name: tuple(cell or None for cell in pick(name)) for name in names},
    )


BLOCKS_NAME: Final = "group_task_blocks"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BlockRow:
    """One model in one design; the columns are explained in `MEANINGS`."""

    column: str  # of events.tsv
    design: str  # across or within participants
    model: str
    position: str  # of the block in the encoder's window: first, last or empty
    metric: str
    value: float
    ci_low: float
    ci_high: float
    p_value: float
    chance: float
    difference: float  # encoder (block first) less this model, paired by participant; NaN for the encoder itself
    difference_low: float
    difference_high: float
    difference_p: float
    n_participants: int
    n_blocks: int
    n_classes: int
    folds: str


BLOCK_MEANINGS: Final[dict[str, Any]] = {
    "column": {"Description": "Column of events.tsv whose values were told apart."},
    "design": {
        "Description": "Whom a model was trained on.",
        "Levels": {"across": "other participants", "within": "other blocks of the same participant"},
    },
    "model": {"Description": "The encoder, or a baseline on the same blocks and folds."},
    "position": {
        "Description": "Patch of the window that holds the block, all others being masked.",
        "Levels": {"first": "the first", "last": "the last"},
    },
    "metric": {"Description": "How predictions are scored, out of fold."},
    "value": {"Description": "Mean over participants of their balanced accuracy."},
    "ci_low": {
        "Description": "Lower end of its 95 % interval (Student's t over participants; across participants widened "
        "because folds share their training rows; exact where all blocks of all are right, or wrong)."
    },
    "ci_high": {"Description": "Upper end of the 95 % interval."},
    "p_value": {
        "Description": "Two-sided test of the mean against chance, as the interval; a sign test where all score alike."
    },
    "chance": {"Description": "One over the number of classes."},
    "difference": {"Description": "The encoder, block first, less this model, mean over participants."},
    "difference_low": {"Description": "Lower end of its 95 % interval."},
    "difference_high": {"Description": "Upper end of its 95 % interval."},
    "difference_p": {"Description": "Two-sided p value of the difference, paired by participant."},
    "n_participants": {"Description": "Participants tested."},
    "n_blocks": {"Description": "Blocks tested."},
    "n_classes": {"Description": "Types of blocks."},
    "folds": {"Description": "What a fold leaves out."},
}


SCALING_NAME: Final = "group_scaling"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ScalingRow:
    """One encoder on one phenotype by one metric; the columns are explained in `MEANINGS`."""

    phenotype: str
    metric: str
    source: str
    share: float  # of the participants of `source`
    n_pretraining: int
    seed: int
    value: float
    value_random: float
    gain: float
    gain_low: float
    gain_high: float
    n_tested: int
    # tested participants the encoder was pretrained on; None if labels of two studies cannot be compared
    n_pretrained: int | None
    encoder: str  # folder below encoders


SCALING_MEANINGS: Final[dict[str, Any]] = {
    "phenotype": {"Description": "What was predicted."},
    "metric": {"Description": "How predictions are scored, out of fold, as in group_probe.tsv."},
    "source": {"Description": "Whose signals the encoder was pretrained on; own: those of this dataset."},
    "share": {"Description": "Share of the participants there."},
    "n_pretraining": {"Description": "Participants that the encoder was pretrained on."},
    "seed": {"Description": "Seed of the first weights, of the training, and of who belongs to the share."},
    "value": {"Description": "Score of the encoder, nested protocol, on the splits of group_probe.tsv."},
    "value_random": {
        "Description": "Score of the random weights of the same seed, from which the training of this encoder started."
    },
    "gain": {"Description": "value - value_random."},
    "gain_low": {
        "Description": "Lower end of its 95 % interval: bootstrap over participants, drawn alike for both encoders, "
        "widened because folds share their training rows."
    },
    "gain_high": {"Description": "Upper end of the 95 % interval."},
    "n_tested": {"Description": "Participants tested."},
    "n_pretrained": {
        "Description": "Participants tested who were among those that the encoder was pretrained on; n/a where the "
        "signals are another study's, whose labels mean other people."
    },
    "encoder": {"Description": "Folder of the encoder below encoders."},
}


def write_rows(
    path: Path, kind: type, rows: Sequence[Any], *, meanings: Mapping[str, Any], facts: Mapping[str, Any]
) -> Path:
    """Write records of dataclass `kind` as a TSV and return its path; the JSON beside it holds `meanings` of columns
    and
    `facts`."""
    columns = [field.name for field in dataclasses.fields(kind)]
    write_records(path, columns, [[getattr(row, column) for column in columns] for row in rows])
    write_json(path.with_suffix(".json"), {**meanings, "Facts": dict(facts)}, only_if_changed=True)
    return path


def read_text_rows(path: Path) -> list[dict[str, str]]:
    """Read a table as text by column, empty for ``n/a``; no lines if the file is absent."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return [{key: "" if value == "n/a" else value for key, value in row.items()} for row in rows]


def build_mean_reader() -> Callable[[OutputPaths], tuple[int, NDArray[np.float64]]]:
    """Build a function that reads the number of windows and the mean embedding (dims,) of a run; worker processes
    import
    it
    by name."""

    def read(paths: OutputPaths) -> tuple[int, NDArray[np.float64]]:
        """Read the number of windows and the mean embedding."""
        vectors = read_embedding(paths)
        return len(vectors), vectors.mean(axis=0, dtype=np.float64)

    return read


def write_features(
    out_dir: Path,
    *,
    atlas: str,
    model: str,
    description: str,
    rows: Sequence[tuple[str, int, int, np.ndarray[Any, Any]]],
) -> Path:
    """Write mean embeddings as ``OUT_DIR/phenotype/<atlas><model>.tsv`` and return its path.

    `rows` are (participant label, n_runs, n_windows, mean (dims,)).
    """
    path = out_dir / "phenotype" / f"{atlas}{model}.tsv"
    n_dims = len(rows[0][3]) if rows else 0
    names = [f"dim{d:04d}" for d in range(1, n_dims + 1)]
    table = [(f"sub-{label}", n_runs, n_windows, *mean.tolist()) for label, n_runs, n_windows, mean in rows]
    write_records(path, ("participant_id", "n_runs", "n_windows", *names), table)
    columns: dict[str, Any] = {
        "Description": f"Mean embedding of each participant. {description}",
        "participant_id": {"Description": "Participant label, with sub-."},
        "MeasurementToolMetadata": {"Description": f"Mean embedding of each participant. {description}"},
        "n_runs": {"Description": "Runs averaged; each counts the same."},
        "n_windows": {"Description": "Windows of these runs."},
    }
    columns.update({name: {"Description": f"Dimension {name[3:].lstrip('0')} of the embedding."} for name in names})
    write_json(path.with_suffix(".json"), columns, only_if_changed=True)
    return path


_STATUS_COLUMNS: dict[str, Any] = {
    "run": {"Description": "Name of the run's outputs: its entities, space, atlas and encoder (desc)."},
    "status": {
        "Description": "What became of the run.",
        "Levels": {"ok": "written", "skipped": "left out for a stated reason", "failed": "could not be processed"},
    },
    "reason": {"Description": "Code of why a run was skipped or failed; already_done where it was complete before."},
    "seconds": {"Description": "Time that the run took.", "Units": "s"},
    "peak_rss_mb": {"Description": "Largest memory of the process so far, in mebibytes."},
    "device": {"Description": "Where the encoder ran."},
    "message": {"Description": "The reason in words."},
}


def write_group_status(out_dir: Path) -> None:
    """Write ``group_status.tsv``: the status of every run that any call found."""
    columns = ("status", "reason", "seconds", "peak_rss_mb", "device", "message")
    rows = [(stem, *(status.get(column) for column in columns)) for stem, status in read_statuses(out_dir)]
    path = out_dir / "group_status.tsv"
    write_records(path, ("run", *columns), rows)
    write_json(path.with_suffix(".json"), _STATUS_COLUMNS, only_if_changed=True)
