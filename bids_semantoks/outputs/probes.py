"""Tables of probe results: scores, predictions for each participant, and the splits behind them."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from bids_semantoks.errors import InputError
from bids_semantoks.files import write_json, write_records
from bids_semantoks.outputs.row_tables import write_rows

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
