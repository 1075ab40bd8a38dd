"""How well connectivity with ridge finds age and sex in the synthetic study: ``python benchmarks/demo_effects.py``.

Pearson connectivity of the parcellated series (upper triangle, Fisher z), ridge with the penalty chosen inside each of
5 training folds by leave-one-out. Prints Pearson's r of predicted and true age, and the area under the ROC curve for
sex.
"""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import KFold, StratifiedKFold

from bids_semantoks.demo.parcellated import simulate_series
from bids_semantoks.demo.participants import draw_participant, plan_runs

PENALTIES = np.logspace(1, 6, 16)


def main() -> None:
    """Print one line a seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--participants", type=int, default=400)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    print(f"{options.participants} participants: wanted are r 0.5-0.7 for age and AUROC 0.75-0.85 for sex")
    for seed in options.seeds:
        r, area = measure(options.participants, seed)
        print(f"seed {seed}: age r {r:.3f}, sex AUROC {area:.3f}", flush=True)


def measure(n_participants: int, seed: int) -> tuple[float, float]:
    """Predict age and sex out of fold.

    Parameters
    ----------
    n_participants : int
        Participants.
    seed : int
        Seed of the study.

    Returns
    -------
    r, area : float
        Pearson's r for age and area under the ROC curve for sex.
    """
    people = [draw_participant(number, seed) for number in range(1, n_participants + 1)]
    upper = np.triu_indices(457, 1)
    edges = np.empty((n_participants, len(upper[0])), np.float32)
    for row, person in zip(edges, people, strict=True):
        series = simulate_series(person, plan_runs(person)[0]).astype(np.float32)
        row[:] = np.arctanh(np.corrcoef(series.T)[upper])
    edges -= edges.mean(axis=0)
    # Ridge sees the data only through inner products: n columns hold all that 104,196 edges do.
    power, vectors = np.linalg.eigh((edges @ edges.T).astype(np.float64))
    kept = power > 1e-6 * power.max()
    scores = vectors[:, kept] * np.sqrt(power[kept])
    age = np.array([float(person.age) for person in people])
    sex = np.array([person.sex == "M" for person in people])
    by_age = KFold(5, shuffle=True, random_state=0).split(scores)
    by_sex = StratifiedKFold(5, shuffle=True, random_state=0).split(scores, sex)
    r = np.corrcoef(_predict(scores, age, list(by_age)), age)[0, 1]
    return float(r), float(roc_auc_score(sex, _predict(scores, 2.0 * sex - 1, list(by_sex))))


def _predict(
    scores: NDArray[np.float64],
    target: NDArray[np.float64],
    folds: list[tuple[NDArray[np.int64], NDArray[np.int64]]],
) -> NDArray[np.float64]:
    predicted = np.empty(len(target))
    for train, test in folds:
        predicted[test] = RidgeCV(PENALTIES).fit(scores[train], target[train]).predict(scores[test])
    return predicted


if __name__ == "__main__":
    main()
