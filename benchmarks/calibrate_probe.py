"""Is the probing machinery calibrated: on pure noise, how often is p <= 0.05, and how often do intervals hold chance?

Simulates studies of participants whose features and phenotype have nothing to do with each other, probes each with the
default protocol (ten repetitions of five folds) and the permutation test, for two classes and for a continuous
phenotype. Expected: p <= 0.05 in 2 to 9 % of the studies, intervals of balanced accuracy, AUROC and r that hold chance
in 90 to 99 %. The share that intervals would hold without being widened is printed beside.

Run: OMP_NUM_THREADS=1 python benchmarks/calibrate_probe.py [--studies N] [--participants N] [--features N]
"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np

from bids_semantoks.statistics.linear import cross_validate
from bids_semantoks.statistics.metrics import compute_scores
from bids_semantoks.statistics.significance import compute_permutation_test
from bids_semantoks.statistics.spans import TableFeatures
from bids_semantoks.statistics.splits import build_splits
from bids_semantoks.statistics.targets import Target

METRICS = ("balanced_accuracy", "auroc", "r")


def simulate(seed: int, n_participants: int, n_features: int) -> dict[str, tuple[float, float, float]]:
    """Probe one study of noise: lower end, upper end and chance of each interval, and p values."""
    rng = np.random.default_rng(seed)
    features = TableFeatures(name="noise", values=rng.standard_normal((n_participants, n_features)))
    labels = rng.permutation(np.arange(n_participants) % 2).astype(np.float64)
    found = {}
    for target in (
        Target(name="class", values=labels, classes=("a", "b")),
        Target(name="value", values=rng.standard_normal(n_participants)),
    ):
        splits = build_splits(target.compute_strata(), seed=0)
        predictions = cross_validate(features, target, splits)
        scores = [s for s in compute_scores(predictions, n_bootstrap=1000, seed=seed) if s.metric in METRICS]
        widening = np.sqrt(1 + 1 / 0.8)
        for score in scores:
            found[score.metric] = (score.ci_low, score.ci_high, score.chance)
            low, high = (score.value + (end - score.value) / widening for end in (score.ci_low, score.ci_high))
            found[f"{score.metric}, not widened"] = (low, high, score.chance)
        test = compute_permutation_test(features, target, n_permutations=200, seed=seed)
        found[f"p of {test.statistic}"] = (test.p_value, test.value, 0.05)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--participants", type=int, default=60)
    parser.add_argument("--features", type=int, default=40)
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    started = time.perf_counter()
    work = partial(simulate, n_participants=args.participants, n_features=args.features)
    with ProcessPoolExecutor(args.processes) as pool:
        studies = list(pool.map(work, range(args.studies)))
    print(f"{args.studies} studies of {args.participants} x {args.features}: {time.perf_counter() - started:.0f} s")
    is_good = True
    for name in studies[0]:
        values = np.array([study[name] for study in studies])
        if name.startswith("p of"):
            share, low, high = (values[:, 0] <= values[:, 2]).mean(), 0.02, 0.09
            print(f"{name:35s} <= 0.05 in {share:6.1%}  (expected {low:.0%} to {high:.0%})")
        else:
            share, low, high = ((values[:, 0] <= values[:, 2]) & (values[:, 2] <= values[:, 1])).mean(), 0.9, 0.99
            print(f"{name:35s} holds chance in {share:6.1%}  (expected {low:.0%} to {high:.0%})")
        is_good &= low <= share <= high or name.endswith("not widened")
    sys.exit(not is_good)


if __name__ == "__main__":
    main()
