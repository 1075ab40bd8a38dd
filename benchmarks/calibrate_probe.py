"""Is the probing machinery calibrated: on pure noise, how often is p below 0.05, and a score called above chance?

Simulates studies of participants whose features and phenotype have nothing to do with each other, probes each with the
default protocol (ten repetitions of five folds), the permutation test and the verdict that ``group_probe.tsv`` gives,
for two classes and for a continuous phenotype. Expected over both: p < 0.05 in 2 to 9 % of the phenotypes and "above
chance" in 1 to 9 %, since its bound is widened for overlapping folds; intervals of balanced accuracy, AUROC and r that
hold chance in 90 to 99 %. The share that
intervals would hold without being widened is printed beside.

Run: OMP_NUM_THREADS=1 python benchmarks/calibrate_probe.py [--studies N] [--participants N] [--features N]
(two phenotypes a study)
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
from bids_semantoks.statistics.predictions import Target
from bids_semantoks.statistics.significance import (
    compute_permutation_test,
    judge,
    permute_scored_ridges,
    permute_target,
)
from bids_semantoks.statistics.spans import TableFeatures
from bids_semantoks.statistics.splits import build_splits

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
        if target.is_class:
            test = compute_permutation_test(features, target, n_permutations=200, seed=seed)
        else:
            columns = permute_target(target, n_permutations=200, seed=seed)
            (test,) = permute_scored_ridges(features, [columns], splits)
        main = next(score for score in scores if score.metric == test.statistic)
        found[f"p of {test.statistic}"] = (test.p_value, test.value, 0.05)
        found[f"verdict of {test.statistic}"] = (judge(main, test.p_value) == "above chance", 0.0, 0.0)
    return found


def find_rate(name: str, values: np.ndarray) -> float:
    """Find the share of studies with p below 0.05, or called above chance."""
    return float((values[:, 0] < values[:, 2] if name.startswith("p of") else values[:, 0]).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=250)
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
        if name.startswith(("p of", "verdict of")):
            print(
                f"{name:35s} {'< 0.05' if name.startswith('p') else 'above chance'} in {find_rate(name, values):6.1%}"
            )
            continue
        share = ((values[:, 0] <= values[:, 2]) & (values[:, 2] <= values[:, 1])).mean()
        print(f"{name:35s} holds chance in {share:6.1%}  (expected 90% to 99%)")
        is_good &= 0.9 <= share <= 0.99 or name.endswith("not widened")
    for kind, what, least in (("p of", "p < 0.05", 0.02), ("verdict of", "above chance", 0.01)):
        rates = [find_rate(name, np.array([study[name] for study in studies])) for name in studies[0] if kind in name]
        print(f"{2 * len(studies)} phenotypes: {what} in {np.mean(rates):6.1%}  (expected {least:.0%} to 9%)")
        is_good &= least <= float(np.mean(rates)) <= 0.09
    sys.exit(not is_good)


if __name__ == "__main__":
    main()
