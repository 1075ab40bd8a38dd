"""Does harmonisation within folds remove sites and keep effects, are its p values right, and what does it do to real
data?

Four parts, each printed as a table:

effect: simulated studies whose sites differ in mean and scale. AUROC of a true effect against that in the same study
    without any difference between sites, among all and within sites, and of a classifier of sites: in test rows as a
    model gets them, and between halves that are harmonised apart. Expected: an effect within 0.02, sites at most 0.55.
null: phenotypes without any effect whose frequency differs between sites. How often is p below 0.05, with labels
    exchanged within sites, as --leave-out does, and among all? Expected within sites: 2 to 9 %.
real: diagnosis in the scans of an `abide_cc200_dev.npz`, each site left out once, with and without harmonisation.
confounder: p values of the partial confounder test and of mlconfound, which needs an old numpy and so a Python of its
    own (pip install mlconfound "numpy<1.24" "scipy<1.11" "pandas<2.1").

Run: OMP_NUM_THREADS=1 python benchmarks/bench_harmonise.py {effect,null,real,confounder} [--studies N]
    [--data FILE.npz] [--peer PYTHON]
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from bids_semantoks.statistics.baselines import build_connectivity_features, compute_moments
from bids_semantoks.statistics.confounding import compute_confounder_test
from bids_semantoks.statistics.harmonise import METHODS, HarmonisedFeatures
from bids_semantoks.statistics.linear import cross_validate
from bids_semantoks.statistics.metrics import compute_fold_scores
from bids_semantoks.statistics.predictions import Predictions, Target, build_class_target
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
    age: np.ndarray[Any, Any]  # (N, 1)


def simulate(seed: int, *, effect: float, spread: float, by_age: bool = False) -> Study:
    """Simulate correlated features, a class that shifts some of them, and sites that differ in mean and scale; the
    frequency of the class runs from 0.5 - `spread` to 0.5 + `spread` over sites. `by_age` the class and the features
    depend on an age whose mean differs between sites by as much, and not on each other."""
    rng = np.random.default_rng(seed)
    which = np.unique(SITES, return_inverse=True)[1]
    place = np.linspace(-1, 1, 4)[which]
    age = rng.standard_normal(N) + 3 * spread * place if by_age else np.zeros(N)
    labels = (age + rng.normal(0, 0.5, N) > 0 if by_age else rng.random(N) < 0.5 + spread * place).astype(float)
    mixed = rng.standard_normal((N, D)) + rng.standard_normal((N, 5)) @ rng.standard_normal((5, D)) * 0.5
    alike = mixed + effect * (age if by_age else labels)[:, None] * rng.standard_normal(D)
    scale, shift = np.exp(0.25 * rng.standard_normal((4, D))), 0.8 * rng.standard_normal((4, D))
    return Study(alike=alike, values=alike * scale[which] + shift[which], labels=labels, age=age[:, None])


def harmonise(features: Any, sites: np.ndarray[Any, Any], method: str, kept: Any = None, **how: bool) -> Features:
    """Harmonise features as --harmonize does."""
    return HarmonisedFeatures(name=features.name, features=features, sites=sites, kept=kept, method=method, **how)


def predict(features: Features, target: Target, n_folds: int = 5) -> Predictions:
    """Predict by one repetition of nested cross-validation."""
    return cross_validate(features, target, build_splits(target.compute_strata(), n_repeats=1, n_folds=n_folds))


def score(predictions: Predictions, metric: str = "auroc") -> float:
    """Compute the mean score of folds."""
    return float(np.nanmean(compute_fold_scores(predictions, metric)))


def score_within(predictions: Predictions) -> float:
    """Compute the mean AUROC of sites."""
    pairs = np.stack([predictions.truth[0], predictions.scores[0, :, 1]])
    return float(np.mean([roc_auc_score(*pairs[:, site == SITES]) for site in np.unique(SITES)]))


def measure_effect(n_studies: int) -> Iterator[str]:
    """Measure the AUROC of sites and of a true effect, before and after."""
    sites = build_class_target("s", SITES.tolist())
    for spread, by_age in ((0.0, False), (0.2, False), (0.2, True)):
        found: dict[str, list[tuple[float, ...]]] = {}
        for seed in range(n_studies):
            study = simulate(seed, effect=0.35, spread=spread, by_age=by_age)
            target = Target(name="class", values=study.labels, classes=("x", "y"))
            table, alike = (TableFeatures(name="values", values=values) for values in (study.values, study.alike))
            kept = {"combat, keeping age": (SITES, "combat", study.age)} if by_age else {}
            asked = {method: (SITES, method) for method in METHODS} | kept
            models: dict[str, Any] = {"without sites": (alike, alike), "as is": (table, table)}
            models |= {
                name: (harmonise(table, *how), harmonise(table, *how, apart=True)) for name, how in asked.items()
            }
            for name, (one, halved) in models.items():
                own, of_sites = predict(one, target), (predict(one, sites), predict(halved, sites, n_folds=2))
                found.setdefault(name, []).append((score(own), score_within(own), *map(score, of_sites)))
        for name, scores in found.items():
            own_scores = np.array(scores)
            lost = (own_scores - found["without sites"])[:, :2]
            error = lost.std(axis=0, ddof=1) / np.sqrt(n_studies)
            mean = own_scores.mean(axis=0)
            yield (
                f"spread {spread:.1f}{' by age' if by_age else ''}  {name:19s} among all {mean[0]:.3f} "
                f"({lost[:, 0].mean():+.3f}, standard error {error[0]:.3f})  within sites {mean[1]:.3f} "
                f"({lost[:, 1].mean():+.3f}, {error[1]:.3f})  sites in test rows {mean[2]:.3f}, largest "
                f"{own_scores[:, 2].max():.3f}, between halves {mean[3]:.3f}"
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
    series = zip(data["values"], data["lengths"], strict=True)  # (P, T) each, 0 after its length
    signals = [[values[:, :length].T.astype(np.float64)] for values, length in series]
    sites, target = data["phenotype_site"], build_class_target("dx", data["phenotype_dx"].tolist())
    kept = np.column_stack([data["phenotype_age"], data["phenotype_sex"] == "M"]).astype(np.float64)
    (connectivity,) = build_connectivity_features(signals, ("pearson",), keeps_tables=True)
    moments = TableFeatures(name="parcel_moments", values=np.stack([compute_moments(runs) for runs in signals]))
    splits = build_left_out_splits(target.compute_strata(), sites)
    names, counts = np.unique(sites, return_counts=True)
    yield f"{len(sites)} scans of {len(names)} sites of {counts.min()} to {counts.max()}"
    as_site = build_class_target("site", sites.tolist())
    for features in (connectivity, moments):
        plain = cross_validate(features, target, splits, groups=sites)
        before = score(predict(features, as_site, n_folds=2), "balanced_accuracy")
        yield f"{features.name:15s} {'as is':16s} {score(plain):.3f}  site {before:.3f}"
        for name, method, columns in (("combat", "combat", None), ("combat, age, sex", "combat", kept),
                                      ("mean_scale", "mean_scale", None)):  # fmt: skip
            own = harmonise(features, sites, method, columns)
            found = cross_validate(own, target, splits, groups=sites)
            halved = harmonise(features, sites, method, columns, apart=True)
            after = score(predict(halved, as_site, n_folds=2), "balanced_accuracy")
            test = compare_models(found, plain, "auroc")
            yield (
                f"{features.name:15s} {name:16s} {score(found):.3f}  difference "
                f"{test.difference:+.3f} [{test.ci_low:+.3f}, {test.ci_high:+.3f}], p = {test.p_value:.3f}"
                f"  site {after:.3f} (balanced accuracy, chance {1 / len(as_site.classes):.3f})"
            )


#: What the Python of mlconfound runs: cases to p values.
_PEER = """
import json, sys, numpy, mlconfound.stats
for case in json.load(sys.stdin):
    case |= {name: numpy.array(value) for name, value in case.items() if isinstance(value, list)}
    how = dict(cat_y=case["truth_is_class"], cat_c=case["is_category"], num_perms=case["n_permutations"])
    how.update(random_state=case["seed"], progress=False, n_jobs=1)
    print(mlconfound.stats.partial_confound_test(case["truth"], case["scores"], case["confounder"], **how).p)
"""


def simulate_cases(n_studies: int) -> list[dict[str, Any]]:
    """Simulate predictions that ride on a confounder, of any kind as the phenotype, by several strengths."""
    cases = []
    strengths = (0.0, 0.1, 0.2, 0.4)
    for is_class, is_category, weight in itertools.product((True, False), (True, False), strengths):
        for seed in range(n_studies):
            rng = np.random.default_rng(seed)
            values = rng.standard_normal(N)
            truth = (values > 0).astype(float) if is_class else values
            hidden = truth + rng.standard_normal(N)
            confounder = np.digitize(hidden, [-0.5, 0.8]).astype(float) if is_category else hidden
            scores = truth + rng.standard_normal(N) + weight * confounder
            kind = {"truth_is_class": is_class, "is_category": is_category, "n_permutations": 400, "seed": seed}
            cases.append({"scores": scores, "truth": truth, "confounder": confounder, "weight": weight} | kind)
    return cases


def measure_confounder(n_studies: int, peer: Path | None) -> Iterator[str]:
    """Compare p values of the partial confounder test with those of mlconfound, if there is one."""
    cases = simulate_cases(n_studies)
    weights, found = np.array([case["weight"] for case in cases]), {}
    for case in cases:
        how = {name: value for name, value in case.items() if name not in ("weight", "scores")}
        found.setdefault("here", []).append(compute_confounder_test(case["scores"][:, None], **how).p_value)
    if peer is not None:
        given = json.dumps(cases, default=np.ndarray.tolist)
        done = subprocess.run([peer, "-c", _PEER], input=given, check=True, stdout=subprocess.PIPE, text=True)
        found["mlconfound"] = [float(line) for line in done.stdout.split()]
        values, same = found.values(), np.equal(*(np.array(own) < 0.05 for own in found.values()))
        alike = spearmanr(*values).statistic
        yield f"{len(cases)} cases: Spearman correlation {alike:.3f}, same decision at 0.05 in {same.mean():.1%}"
    for weight in np.unique(weights):
        shares = (f"{name} {(np.array(own)[weights == weight] < 0.05).mean():.1%}" for name, own in found.items())
        yield f"weight {weight:.1f}  p < 0.05: {', '.join(shares)}"


def main() -> int:
    """Run one part and print its lines as they come."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", default="effect", choices=("effect", "null", "real", "confounder"))
    parser.add_argument("--studies", type=int, default=40)
    parser.add_argument("--data", type=Path, default=Path("abide_cc200_dev.npz"))
    parser.add_argument("--peer", type=Path, help="Python that has mlconfound")
    asked, started = parser.parse_args(), time.monotonic()
    parts = {
        "effect": lambda: measure_effect(asked.studies),
        "null": lambda: measure_null(asked.studies),
        "real": lambda: measure_real(asked.data),
        "confounder": lambda: measure_confounder(asked.studies, asked.peer),
    }
    for line in parts[asked.part]():
        print(line, flush=True)
    print(f"{time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
