"""The partial confounder test: predictions that ride on a confounder, and those that do not."""

import numpy as np
import pytest

from bids_semantoks.statistics.confounding import compute_confounder_test

N = 120


@pytest.mark.parametrize("is_class", [True, False])
@pytest.mark.parametrize("is_category", [True, False])
def test_only_predictions_that_ride_on_the_confounder_are_found(is_class, is_category):
    p_values = {"rides": [], "does not": []}
    for seed in range(12):
        rng = np.random.default_rng(seed)
        truth = rng.normal(size=N)
        truth = (truth > 0).astype(float) if is_class else truth
        hidden = truth + rng.normal(size=N)
        # The confounder is related to what is predicted, and so to good predictions.
        confounder = np.digitize(hidden, [-0.5, 0.8]).astype(float) if is_category else hidden
        for name, weight in (("rides", 1.0), ("does not", 0.0)):
            scores = (truth + rng.normal(size=N) + weight * confounder)[:, None]
            test = compute_confounder_test(
                *(scores, truth, confounder),
                truth_is_class=is_class, is_category=is_category, n_permutations=99, seed=seed,
            )  # fmt: skip
            assert 0 <= test.value <= 1
            p_values[name].append(test.p_value)
    assert max(p_values["rides"]) <= 0.05
    assert np.mean(np.array(p_values["does not"]) <= 0.05) <= 0.25
    assert np.mean(p_values["does not"]) == pytest.approx(0.5, abs=0.25)


def test_shares_are_those_of_least_squares():
    rng = np.random.default_rng(1)
    truth, scores = rng.normal(size=N), rng.normal(size=(N, 1))
    number, level = rng.normal(size=N), rng.integers(0, 3, N).astype(float)
    shared = {"truth_is_class": False, "n_permutations": 9}
    found = compute_confounder_test(scores, truth, number, is_category=False, **shared)
    assert found.value == pytest.approx(np.corrcoef(scores[:, 0], number)[0, 1] ** 2)
    found = compute_confounder_test(scores, truth, level, is_category=True, **shared)
    means = np.array([scores[level == k].mean() for k in range(3)])[level.astype(int)]
    assert found.value == pytest.approx(means.var() / scores.var())
