"""Where age and sex are to be found in the synthetic study: ``python benchmarks/demo_effects.py``.

Ridge, with the penalty chosen inside each of 5 training folds by leave-one-out, from three views of the parcellated
series: connectivity of parcels (upper triangle, Fisher z); correlations between the means of networks alone; and the
logarithm of the power spectrum within each network, averaged over its parcels, which knows nothing of other networks.
Prints Pearson's r of predicted and true age, and the area under the ROC curve for sex.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import welch
from sklearn.linear_model import RidgeCV
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import KFold, StratifiedKFold

from bids_semantoks.demo.atlas import build_table
from bids_semantoks.demo.people import Participant, draw_participant, plan_runs
from bids_semantoks.demo.study import simulate_series

#: Largest eigenvalue that features are scaled to, so that penalties mean the same for all.
_LARGEST = 1e5
PENALTIES = np.logspace(-1, 6, 22)


def main() -> None:
    """Print a line for each seed and view."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--participants", type=int, default=400)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    print(
        f"{options.participants} participants: wanted are r 0.5-0.7 for age and AUROC 0.75-0.85 for sex (connectivity)"
    )
    for seed in options.seeds:
        people = [draw_participant(number, seed) for number in range(1, options.participants + 1)]
        for name, features in compute_views(people).items():
            r, area = measure(features, people)
            print(f"seed {seed}, {name}: age r {r:.3f}, sex AUROC {area:.3f}", flush=True)


def compute_views(people: Sequence[Participant]) -> dict[str, NDArray[np.float64]]:
    """Compute features, reduced to as many columns as there are people.

    Parameters
    ----------
    people : sequence of Participant
        Who is simulated.

    Returns
    -------
    dict of str to NDArray, float64, shape (n, <= n)
        Features by view.
    """
    parcels, networks = build_table()
    names = list(dict.fromkeys(networks))
    member = np.array([[network == name for network in networks] for name in names], np.float64)
    member /= member.sum(axis=1, keepdims=True)
    upper, few = np.triu_indices(len(parcels), 1), np.triu_indices(len(names), 1)
    edges = np.empty((len(people), len(upper[0])), np.float32)
    between, within = [], []
    for row, person in zip(edges, people, strict=True):
        plan = plan_runs(person)[0]
        series = simulate_series(person, plan).astype(np.float64)
        row[:] = np.arctanh(np.corrcoef(series.T)[upper])
        between.append(np.arctanh(np.corrcoef(member @ series.T)[few]))
        standard = (series - series.mean(axis=0)) / series.std(axis=0)
        frequencies, power = welch(standard.T, fs=1 / plan.repetition_time, nperseg=int(100 / plan.repetition_time))
        band = (frequencies > 0.005) & (frequencies < 0.2)
        within.append(np.log(member @ power[:, band]).ravel())
    return {
        "connectivity of parcels": reduce_columns(edges),
        "between networks": reduce_columns(np.stack(between)),
        "within networks": reduce_columns(np.stack(within)),
    }


def reduce_columns(features: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Turn features into as many columns as there are people, which is all that ridge sees of them."""
    centred = features - features.mean(axis=0)
    centred /= centred.std()
    power, vectors = np.linalg.eigh((centred @ centred.T).astype(np.float64))
    kept = power > 1e-6 * power.max()
    scores = vectors[:, kept] * np.sqrt(power[kept])
    return np.asarray(scores * np.sqrt(_LARGEST / power.max()))


def measure(features: NDArray[np.float64], people: Sequence[Participant]) -> tuple[float, float]:
    """Predict age and sex out of fold.

    Parameters
    ----------
    features : NDArray, float64, shape (n, columns)
        One row a participant.
    people : sequence of Participant
        Their age and sex.

    Returns
    -------
    r, area : float
        Pearson's r for age and area under the ROC curve for sex.
    """
    age = np.array([float(person.age) for person in people])
    sex = np.array([person.sex == "M" for person in people])
    by_age = KFold(5, shuffle=True, random_state=0).split(features)
    by_sex = StratifiedKFold(5, shuffle=True, random_state=0).split(features, sex)
    r = np.corrcoef(_predict(features, age, list(by_age)), age)[0, 1]
    return float(r), float(roc_auc_score(sex, _predict(features, 2.0 * sex - 1, list(by_sex))))


def _predict(
    scores: NDArray[np.float64], target: NDArray[np.float64], folds: list[tuple[NDArray[np.int64], NDArray[np.int64]]]
) -> NDArray[np.float64]:
    predicted = np.empty(len(target))
    for train, test in folds:
        predicted[test] = RidgeCV(PENALTIES).fit(scores[train], target[train]).predict(scores[test])
    return predicted


if __name__ == "__main__":
    main()
