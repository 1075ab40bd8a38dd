"""Intervals hold what they promise to exchangeable people, and shifts are found."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest

from bids_semantoks.statistics import conformal


def test_the_quantile_is_that_of_one_more_person():
    scores = np.arange(1.0, 20.0)[::-1]  # 19: the 18th of ceil(20 * 0.9)
    assert conformal.find_quantile(scores) == 18.0
    assert conformal.find_quantile(scores, 0.95) == 19.0
    assert conformal.find_quantile(scores[:8]) == math.inf
    assert conformal.find_quantile(np.arange(1.0, 10.0)) == 9.0


def test_sets_hold_the_true_class_as_often_as_asked():
    rng = np.random.default_rng(0)
    odds = rng.dirichlet([0.5, 0.5, 0.5], size=6000)
    truth = np.array([rng.choice(3, p=own) for own in odds])
    sets = conformal.choose_sets(odds[1000:], odds[:1000], truth[:1000])
    assert 0.88 < sets[np.arange(5000), truth[1000:]].mean() < 0.92
    assert sets.any(axis=1).all()
    assert 1 < sets.sum(axis=1).mean() < 3


def test_the_chance_of_people_outside_is_exact():
    n, n_home = 3, 3
    orders = list(permutations(range(n + n_home)))
    for k in range(n + 1):
        outside = [sum(rank > max(order[n:]) for rank in order[:n]) >= k for order in orders]
        assert conformal.compute_excess(k, n, n_home) == pytest.approx(np.mean(outside))


def test_a_shift_is_found_where_it_is():
    rng = np.random.default_rng(1)
    home, away = rng.normal(size=(100, 3)), rng.normal(size=(100, 3))
    assert conformal.find_shifts(conformal.compare_positions(home, away, 1)) == []
    away[:, 0] *= 3
    away[:, 2] += 1
    found = conformal.find_shifts(conformal.compare_positions(home, away, 1))
    assert found == ["spread of predictions", "distance from the main axes of the embedding"]


@pytest.mark.parametrize("is_class", [False, True])
def test_recalibration_finds_intercept_and_slope_and_leaves_good_scores_alone(is_class):
    rng = np.random.default_rng(2)
    level = rng.normal(size=600)
    right = 2 * level
    truth = (rng.random(600) < 1 / (1 + np.exp(-right))).astype(float) if is_class else right + rng.normal(size=600)
    (intercept, slope), nested = conformal.recalibrate(truth, (right - 3) / 4, is_class=is_class)
    assert intercept == pytest.approx(3, abs=0.6)
    assert slope == pytest.approx(4, abs=0.8)
    before, after = (conformal.compute_loss(truth, one, is_class=is_class) for one in ((right - 3) / 4, nested))
    assert after < before


def test_means_are_compared_as_often_wrong_as_said_and_found_where_many_features_move_a_little():
    rng = np.random.default_rng(3)
    scale = np.linspace(0.2, 1.5, 150)

    def draw(shift):
        home, away = (rng.normal(size=(n, 150)) * scale for n in (60, 80))
        return conformal.compare_means(away + shift - home.mean(axis=0), 60)

    assert 0.02 < np.mean([draw(0.0) < 0.05 for _ in range(400)]) < 0.09
    assert np.mean([draw(0.15) < 0.001 for _ in range(40)]) > 0.9
