"""Fill a table beside the published numbers of Brain-Semantoks and the connectome in the Brainmarks benchmark.

    python benchmarks/reproduce.py [--studies TABLE] [--model NAME_OR_PATH] [--repeats N]

TABLE names the studies at hand, with the columns study (ABIDE, ADHD, ADNI, PPMI, HCP-A age, HCP-A sex), folder (a BIDS
derivative of Schaefer series with participants.tsv), phenotype (its column) and n_bins (0, or the number of classes to
cut values into). Without a table, a synthetic study and random weights show only that everything runs.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

import bids_semantoks as bs
from bids_semantoks.config import EmbeddingConfig
from bids_semantoks.demo.__main__ import main as make_demo
from bids_semantoks.files import read_rows
from bids_semantoks.outputs.store import find_stored_kinds, find_stored_runs
from bids_semantoks.statistics.baselines import compute_covariance
from bids_semantoks.statistics.benchmark import cross_validate_benchmark
from bids_semantoks.statistics.metrics import compute_fold_scores
from bids_semantoks.statistics.predictions import build_class_target
from bids_semantoks.statistics.spans import TableFeatures
from bids_semantoks.statistics.splits import SplitRow, read_split_table

#: Published balanced accuracies (arXiv 2510.13768): Brain-Semantoks, connectome.
PUBLISHED = {
    "ABIDE": (0.568, 0.598),
    "ADHD": (0.553, 0.570),
    "ADNI": (0.596, 0.586),
    "PPMI": (0.554, 0.580),
    "HCP-A age": (0.464, 0.456),
    "HCP-A sex": (0.804, 0.819),
}


class Study(NamedTuple):
    """A phenotype of a study."""

    name: str
    folder: Path
    phenotype: str
    n_bins: int


def compute_connectomes(out_dir: Path) -> dict[str, np.ndarray]:
    """Compute the correlations above the diagonal (e,) of each participant, mean over runs."""
    ((atlas, _),) = find_stored_kinds(out_dir)
    found: dict[str, list[np.ndarray]] = {}
    for run in find_stored_runs(out_dir, atlas=atlas, model=""):
        matrix = compute_covariance([run.read_signals()], "pearson")
        found.setdefault(f"sub-{run.entities['sub']}", []).append(matrix[np.triu_indices(len(matrix), 1)])
    return {label: np.mean(rows, axis=0).astype(np.float32) for label, rows in found.items()}


def score_connectome(out_dir: Path, phenotype: str) -> float:
    """Score the connectome on the people, classes and splits of the call before: mean balanced accuracy."""
    rows = [row for row in read_rows(out_dir / "group_predictions.tsv") if row["phenotype"] == phenotype]
    truth = {row["participant_id"]: row["truth"] for row in rows}
    labels, features = sorted(truth), compute_connectomes(out_dir)
    target = build_class_target(phenotype, [truth[label] for label in labels])
    lines = [row for row in read_rows(out_dir / "group_splits.tsv") if row["phenotype"] == phenotype]
    table = [SplitRow(int(row["repetition"]), int(row["fold"]), row["participant_id"], row["role"]) for row in lines]
    values = TableFeatures(name="connectome", values=np.stack([features[label] for label in labels]))
    predicted = cross_validate_benchmark(values, target, read_split_table(table, labels))
    return float(compute_fold_scores(predicted, "balanced_accuracy").mean())


def measure(study: Study, out_dir: Path, model: str, options: list[str], n_repeats: int) -> tuple[float, float, int]:
    """Run both levels on a study; return balanced accuracies of encoder and connectome, and participants tested."""
    shared = [str(study.folder), str(out_dir)]
    asked = ["--probe", study.phenotype, "--protocol", "brainmarks", "--baselines", "none", "--n-permutations", "0"]
    asked += ["--n-repeats", str(n_repeats)]
    asked += ["--n-bins", str(study.n_bins)] if study.n_bins else ["--probe-kind", "classification"]
    for level, more in (("participant", []), ("group", asked)):
        code = bs.run([*shared, level, "--model", model, "-q", *options, *more])
        if code:
            sys.exit(code)
    row = next(
        row
        for row in read_rows(out_dir / "group_probe.tsv")
        if row["role"] == "encoder" and row["metric"] == "balanced_accuracy"
    )
    return float(row["value"]), score_connectome(out_dir, study.phenotype), int(row["n_participants"])


def read_studies(path: Path) -> list[Study]:
    """Read the table of studies; exits where one is not published."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    studies = [Study(row["study"], Path(row["folder"]), row["phenotype"], int(row["n_bins"] or 0)) for row in rows]
    if unknown := [one.name for one in studies if one.name not in PUBLISHED]:
        sys.exit(f"{path} names {', '.join(unknown)}; published are {', '.join(PUBLISHED)}.")
    return studies


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--studies", type=Path)
    parser.add_argument("--model", default="")
    parser.add_argument("--repeats", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place, options = Path(folder), []
        model, n_repeats = asked.model or EmbeddingConfig().model, asked.repeats or 100
        if asked.studies:
            studies = read_studies(asked.studies)
        else:
            make_demo([str(place / "demo"), "--parcellated", "--participants", "40"])
            studies = [Study("synthetic", place / "demo", "sex", 0)]
            model, n_repeats, options = asked.model or "random:tiny", asked.repeats or 5, ["--atlas", "Demo457"]
            print("No --studies: a synthetic study shows that everything runs; its numbers reproduce nothing.")
        if model.startswith("random:"):
            print(f"{model} has random weights, which were trained on nothing: published numbers are not expected.")
        line = "{:12} {:>5} {:>12} {:>10} {:>12} {:>10}"
        print(f"Balanced accuracy by {model}, {n_repeats} random splits as in Brainmarks:")
        print(line.format("study", "n", "encoder", "published", "connectome", "published"))
        for number, study in enumerate(studies):
            encoder, connectome, n_people = measure(study, place / f"out{number}", model, options, n_repeats)
            known = [f"{value:.3f}" for value in PUBLISHED.get(study.name, ())] or ["-", "-"]
            print(line.format(study.name, n_people, f"{encoder:.3f}", known[0], f"{connectome:.3f}", known[1]))


if __name__ == "__main__":
    main()
