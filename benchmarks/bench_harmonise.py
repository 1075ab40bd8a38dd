"""Does harmonisation within folds remove sites and keep effects, are its p values right, and what does it do to real
data?

Three parts, each printed as a table:

effect: simulated studies whose sites differ in mean and scale. AUROC of a classifier of sites after harmonisation, and
    of a true effect against that in the same study without any difference between sites. Expected: at most 0.55, and a
    difference of at most 0.02.
null: phenotypes without any effect whose frequency differs between sites. How often is p below 0.05, with labels
    exchanged within sites, as --leave-out does, and among all? Expected within sites: 2 to 9 %.
real: diagnosis in the scans of an `abide_cc200_dev.npz`, each site left out once, with and without harmonisation.

Run: OMP_NUM_THREADS=1 python benchmarks/bench_harmonise.py {effect,null,real} [--studies N] [--data FILE.npz]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bids_semantoks.statistics.baselines import build_connectivity_features, compute_moments
from bids_semantoks.statistics.harmonise import METHODS, HarmonisedFeatures
from bids_semantoks.statistics.linear import cross_validate
from bids_semantoks.statistics.metrics import compute_fold_scores
from bids_semantoks.statistics.predictions import Target, build_class_target
from bids_semantoks.statistics.significance import compare_models, compute_permutation_test
from bids_semantoks.statistics.spans import Features, TableFeatures
from bids_semantoks.statistics.splits import build_left_out_splits, build_splits

N, D, SITES = 240, 40, np.repeat(["a", "b", "c", "d"], 60)


@dataclass(frozen=True, kw_only=True)
class Study:
    """Simulated features with and without differences between sites, and a phenotype."""

    alike: np.ndarray[Any, Any]  # (N, D)
    values: np.ndarray[Any, Any]  # (N, D)
    labels: np.ndarray[Any, Any]  # (N,)


def simulate(seed: int, *, effect: float, spread: float) -> Study:
    """Simulate correlated features, a class that shifts some of them, and sites that differ in mean and scale; the
    frequency of the class runs from 0.5 - `spread` to 0.5 + `spread` over sites."""
    rng = np.random.default_rng(seed)
    which = np.unique(SITES, return_inverse=True)[1]
    share = 0.5 + spread * np.linspace(-1, 1, 4)[which]
    labels = (rng.random(N) < share).astype(float)
    mixed = rng.standard_normal((N, D)) + rng.standard_normal((N, 5)) @ rng.standard_normal((5, D)) * 0.5
    alike = mixed + effect * labels[:, None] * rng.standard_normal(D)
    scale, shift = np.exp(0.25 * rng.standard_normal((4, D))), 0.8 * rng.standard_normal((4, D))
    return Study(alike=alike, values=alike * scale[which] + shift[which], labels=labels)


def harmonise(features: Any, sites: np.ndarray[Any, Any], method: str, kept: Any = None) -> Features:
    """Harmonise features as --harmonize does."""
    return HarmonisedFeatures(name=features.name, features=features, sites=sites, kept=kept, method=method)


def score(features: Features, target: Target) -> float:
    """Compute the AUROC of one repetition of nested cross-validation."""
    predictions = cross_validate(features, target, build_splits(target.compute_strata(), n_repeats=1))
    return float(np.nanmean(compute_fold_scores(predictions, "auroc")))


def measure_effect(n_studies: int) -> Iterator[str]:
    """Measure the AUROC of sites and of a true effect, before and after."""
    for spread in (0.0, 0.2):
        found: dict[str, list[tuple[float, float]]] = {}
        for seed in range(n_studies):
            study = simulate(seed, effect=0.35, spread=spread)
            target, sites = (
                Target(name="class", values=study.labels, classes=("x", "y")),
                build_class_target("s", SITES),
            )
            table = TableFeatures(name="values", values=study.values)
            models: dict[str, Any] = {"without sites": TableFeatures(name="alike", values=study.alike), "as is": table}
            models |= {method: harmonise(table, SITES, method) for method in METHODS}
            for name, one in models.items():
                found.setdefault(name, []).append((score(one, target), score(one, sites)))
        base = np.array(found["without sites"])[:, 0]
        for name, scores in found.items():
            own = np.array(scores)
            lost, error = (own[:, 0] - base).mean(), (own[:, 0] - base).std(ddof=1) / np.sqrt(n_studies)
            yield (
                f"spread {spread:.1f}  {name:14s} effect {own[:, 0].mean():.3f} ({lost:+.3f}, standard error "
                f"{error:.3f})  site {own[:, 1].mean():.3f}, largest {own[:, 1].max():.3f}"
            )


def measure_null(n_studies: int) -> Iterator[str]:
    """Measure how often p is below 0.05 for phenotypes without effect that are confounded with site."""
    counts: dict[str, int] = {}
    for seed in range(n_studies):
        study = simulate(seed, effect=0.0, spread=0.3)
        target = Target(name="class", values=study.labels, classes=("x", "y"))
        table = TableFeatures(name="values", values=study.values)
        for name, one in {"as is": table, **{m: harmonise(table, SITES, m) for m in METHODS}}.items():
            for how, blocks in (("within sites", SITES), ("among all", None)):
                test = compute_permutation_test(one, target, blocks=blocks, n_permutations=200, seed=seed)
                counts[f"{name}, {how}"] = counts.get(f"{name}, {how}", 0) + (test.p_value < 0.05)
    for name, count in counts.items():
        yield f"{name:26s} p < 0.05 in {count} of {n_studies} ({count / n_studies:.1%})"


def measure_real(path: Path) -> Iterator[str]:
    """Compare leave-site-out scores of diagnosis with and without harmonisation."""
    data = np.load(path)
    signals = [
        [values[:length].astype(np.float64)] for values, length in zip(data["values"], data["lengths"], strict=True)
    ]
    sites, target = data["phenotype_site"], build_class_target("dx", data["phenotype_dx"].tolist())
    kept = np.column_stack([data["phenotype_age"], data["phenotype_sex"] == "M"]).astype(np.float64)
    (connectivity,) = build_connectivity_features(signals, ("pearson",), keeps_tables=True)
    moments = TableFeatures(name="parcel_moments", values=np.stack([compute_moments(runs) for runs in signals]))
    splits = build_left_out_splits(target.compute_strata(), sites)
    names, counts = np.unique(sites, return_counts=True)
    yield f"{len(sites)} scans of {len(names)} sites of {counts.min()} to {counts.max()}"
    as_site = build_class_target("site", sites.tolist())
    folds = build_splits(as_site.compute_strata(), n_repeats=1)
    for features in (connectivity, moments):
        plain = cross_validate(features, target, splits, groups=sites)
        before = np.nanmean(compute_fold_scores(cross_validate(features, as_site, folds), "balanced_accuracy"))
        auroc = np.nanmean(compute_fold_scores(plain, "auroc"))
        yield f"{features.name:15s} {'as is':16s} {auroc:.3f}  site {before:.3f}"
        for name, method, columns in (("combat", "combat", None), ("combat, age, sex", "combat", kept),
                                      ("mean_scale", "mean_scale", None)):  # fmt: skip
            own = harmonise(features, sites, method, columns)
            found = cross_validate(own, target, splits, groups=sites)
            after = np.nanmean(compute_fold_scores(cross_validate(own, as_site, folds), "balanced_accuracy"))
            test = compare_models(found, plain, "auroc")
            yield (
                f"{features.name:15s} {name:16s} {np.nanmean(compute_fold_scores(found, 'auroc')):.3f}  difference "
                f"{test.difference:+.3f} [{test.ci_low:+.3f}, {test.ci_high:+.3f}], p = {test.p_value:.3f}"
                f"  site {after:.3f} (balanced accuracy, chance {1 / len(as_site.classes):.3f})"
            )


def main() -> int:
    """Run one part and print its lines as they come."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("effect", "null", "real"))
    parser.add_argument("--studies", type=int, default=40)
    parser.add_argument("--data", type=Path, default=Path("abide_cc200_dev.npz"))
    asked, started = parser.parse_args(), time.monotonic()
    parts = {"effect": measure_effect, "null": measure_null}
    lines = measure_real(asked.data) if asked.part == "real" else parts[asked.part](asked.studies)
    for line in lines:
        print(line, flush=True)
    print(f"{time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
