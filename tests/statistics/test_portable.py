"""A predictor that leaves its study predicts what the probe predicted of the same people; intervals hold what they
promise to exchangeable people, and shifts are found."""

from __future__ import annotations

import dataclasses
import math
from itertools import permutations

import numpy as np
import pytest

from bids_semantoks.errors import InputError
from bids_semantoks.statistics import portable
from bids_semantoks.statistics.baselines import build_connectivity_features, compute_connectivity_rows, compute_moments
from bids_semantoks.statistics.linear import cross_validate
from bids_semantoks.statistics.portable import fit_predictor, predict_at_home
from bids_semantoks.statistics.predictions import Target
from bids_semantoks.statistics.spans import TableFeatures
from bids_semantoks.statistics.splits import build_splits


def draw_study(n, d, n_classes):
    rng = np.random.default_rng(n + d)
    values = rng.standard_normal((n, d)) * rng.uniform(0.1, 3.0, d) + rng.normal(size=d)
    values[:, 3] = 2.0
    covariates = np.column_stack([rng.normal(size=n), np.ones(n)])
    truth = values[:, :2].sum(axis=1) + covariates[:, 0] + rng.normal(size=n)
    if n_classes:
        truth = np.searchsorted(np.quantile(truth, np.arange(1, n_classes) / n_classes), truth).astype(float)
    truth[5] = np.nan
    classes = tuple("abc"[:n_classes])
    return TableFeatures(name="x", values=values), Target(name="y", values=truth, classes=classes), covariates


@pytest.mark.parametrize("n_classes", [0, 2, 3])
@pytest.mark.parametrize("d", [12, 90])
def test_a_fit_to_the_training_rows_of_a_fold_predicts_as_the_probe(d, n_classes):
    features, target, covariates = draw_study(61, d, n_classes)
    groups = np.arange(61) // 2
    splits = build_splits(target.compute_strata(), groups=groups, n_repeats=2, seed=3)
    asked = {"covariates": covariates, "groups": groups, "seed": 3}
    expected = cross_validate(features, target, splits, **asked)
    rows, scores, positions = predict_at_home(features, target, splits, **asked)
    assert sorted(rows) == sorted(set(range(61)) - {5})
    np.testing.assert_allclose(scores, expected.scores[0, rows], rtol=0, atol=1e-12)
    later = [dataclasses.replace(one, repetition=one.repetition + 1) for one in splits]  # as given ones may be
    again = predict_at_home(features, target, later, **asked | {"seed": 2})
    np.testing.assert_array_equal(again[1], scores)
    assert positions.shape == (60, (n_classes if n_classes > 2 else 1) + 2)
    first = splits[0]
    model = fit_predictor(features, target, np.sort(first.train), **asked)
    if n_classes:
        scores, _ = model.predict(features.values[first.test], covariates[first.test])
        np.testing.assert_array_equal(model.decide(scores), expected.decisions[0, first.test])


@pytest.mark.parametrize("n_classes", [0, 2, 3])
@pytest.mark.parametrize("kind", ["pearson", "ledoit_wolf", "tangent", "parcel_moments"])
def test_a_fit_of_a_baseline_to_the_training_rows_of_a_fold_predicts_as_the_probe(kind, n_classes):
    features, target, covariates = draw_study(61, 12, n_classes)
    rng, weights = np.random.default_rng(4), [np.array([0.25, 0.75])] * 61
    mix = np.eye(23) + 0.3 * rng.standard_normal((23, 23))
    common = [rng.standard_normal((2, 50, 1)) * x / 60 for x in range(61)]
    people = [[rng.standard_normal((50, 23)) @ mix + one for one in own] for own in common]
    for runs in people:
        runs[1][:7], runs[0][:, 4] = np.nan, np.nan
    if kind == "parcel_moments":
        values = np.stack([compute_moments(runs, own) for runs, own in zip(people, weights, strict=True)])
        features = TableFeatures(name=kind, values=values)
    else:
        (features,) = build_connectivity_features(people, [kind], n_components=100, weights=weights)
        values = compute_connectivity_rows(people, kind, weights)
    splits = build_splits(target.compute_strata(), n_repeats=1, seed=0)
    expected = cross_validate(features, target, splits, covariates=covariates, seed=0)
    carried = portable.build_features(kind, values)
    rows, scores, _ = predict_at_home(carried, target, splits, covariates=covariates, seed=0)
    np.testing.assert_allclose(scores, expected.scores[0, rows], rtol=0, atol=1e-12)
    model = fit_predictor(carried, target, np.arange(61)[~np.isnan(target.values)], covariates=covariates)
    np.testing.assert_allclose(model.axes.T @ model.axes, np.eye(10), atol=1e-9)
    again = model.predict(values[:9], covariates[:9])[1]
    np.testing.assert_allclose(again[[2, 5]], model.predict(values[[2, 5]], covariates[[2, 5]])[1], atol=1e-10)


def test_distances_are_one_on_average_at_home_and_grow_away_from_it():
    features, target, _ = draw_study(200, 30, 0)
    train = np.flatnonzero(~np.isnan(target.values))
    model = fit_predictor(features, target, train)
    at_home, away = (model.predict(features.values[train] + shift)[1] for shift in (0.0, 20.0))
    np.testing.assert_allclose((at_home[:, 1] ** 2).mean(), 1.0, rtol=1e-9)
    assert away[:, 1].min() > at_home[:, 1].max()
    assert away[:, 2].min() > at_home[:, 2].max()


def test_nothing_is_beside_the_axes_of_few_features_whatever_the_rounding():
    rng = np.random.default_rng(3)
    site = rng.integers(0, 3, 90)
    values = np.column_stack([site[:, None] == np.arange(3), rng.normal(size=90)]).astype(float)
    features, target = TableFeatures(name="x", values=values), Target(name="y", values=rng.normal(size=90))
    model = fit_predictor(features, target, np.arange(60))
    assert (model.predict(values)[1][:, -1] == 0).all()
    assert model.compare_means(values[60:], None, 60)["mean of the features besides their main axes"] == 1.0


def test_bins_and_features_that_do_not_vary_are_refused():
    features = TableFeatures(name="x", values=np.ones((20, 3)))
    with pytest.raises(InputError, match="no feature varies"):
        fit_predictor(features, Target(name="y", values=np.arange(20.0)), np.arange(20))
    with pytest.raises(ValueError, match="bins"):
        fit_predictor(features, Target(name="y", values=np.arange(20.0), n_bins=2), np.arange(20))


def test_the_quantile_is_that_of_one_more_person():
    scores = np.arange(1.0, 20.0)[::-1]  # 19: the 18th of ceil(20 * 0.9)
    assert portable.find_quantile(scores) == 18.0
    assert portable.find_quantile(scores, 0.95) == 19.0
    assert portable.find_quantile(scores[:8]) == math.inf
    assert portable.find_quantile(np.arange(1.0, 10.0)) == 9.0


def test_sets_hold_the_true_class_as_often_as_asked():
    rng = np.random.default_rng(0)
    odds = rng.dirichlet([0.5, 0.5, 0.5], size=6000)
    truth = np.array([rng.choice(3, p=own) for own in odds])
    sets = portable.choose_sets(odds[1000:], odds[:1000], truth[:1000])
    assert 0.88 < sets[np.arange(5000), truth[1000:]].mean() < 0.92
    assert sets.any(axis=1).all()
    assert 1 < sets.sum(axis=1).mean() < 3


def test_the_chance_of_people_outside_is_exact():
    n, n_home = 3, 3
    orders = list(permutations(range(n + n_home)))
    for k in range(n + 1):
        outside = [sum(rank > max(order[n:]) for rank in order[:n]) >= k for order in orders]
        assert portable.compute_excess(k, n, n_home) == pytest.approx(np.mean(outside))


def test_a_shift_is_found_where_it_is():
    rng = np.random.default_rng(1)
    home, away = rng.normal(size=(100, 3)), rng.normal(size=(100, 3))
    assert portable.find_shifts(portable.compare_positions(home, away)) == []
    away[:, 2] += 1
    found = portable.find_shifts(portable.compare_positions(home, away))
    assert found == ["distance from the main axes of the features"]


@pytest.mark.parametrize("n_classes", [0, 2, 3])
@pytest.mark.parametrize("effect", [0.0, 1.0])
def test_people_who_do_not_differ_are_rarely_called_different(n_classes, effect):
    """The models of folds at home have other intercepts and penalties than the one that is carried."""
    n, n_away, alarms, names = 90, 70, [], ("a", "b", "c")[:n_classes]
    for seed in range(40):
        rng = np.random.default_rng(seed)
        values, noise = rng.normal(size=(n + n_away, 12)), rng.normal(size=n)
        truth = effect * values[:n, 0] + noise
        if n_classes:
            truth = np.digitize(truth, np.quantile(truth, np.arange(1, n_classes) / n_classes)).astype(float)
        target = Target(name="x", values=truth, classes=names)
        home = TableFeatures(name="x", values=values[:n])
        splits = build_splits(target.compute_strata(), n_repeats=1)
        model = fit_predictor(home, target, np.arange(n))
        p_values = portable.compare_positions(predict_at_home(home, target, splits)[2], model.predict(values[n:])[1])
        p_values |= model.compare_means(values[n:], None, n, names)
        alarms.append(bool(portable.find_shifts(p_values)))
        moved = values[n:] + 1.2 * model.weights[:, 0] / np.linalg.norm(model.weights[:, 0]) if effect else values[n:]
        if effect:
            found = portable.find_shifts(model.compare_means(moved, None, n, names))
            assert any(name.startswith("level of predictions") for name in found)
    assert sum(alarms) <= 4


@pytest.mark.parametrize("is_class", [False, True])
def test_recalibration_finds_intercept_and_slope_and_leaves_good_scores_alone(is_class):
    rng = np.random.default_rng(2)
    level = rng.normal(size=600)
    right = 2 * level
    truth = (rng.random(600) < 1 / (1 + np.exp(-right))).astype(float) if is_class else right + rng.normal(size=600)
    (intercept, slope), nested = portable.recalibrate(truth, (right - 3) / 4, is_class=is_class)
    assert intercept == pytest.approx(3, abs=0.6)
    assert slope == pytest.approx(4, abs=0.8)
    before, after = (portable.compute_loss(truth, one, is_class=is_class) for one in ((right - 3) / 4, nested))
    assert after < before


def test_means_are_compared_as_often_wrong_as_said_and_found_where_many_features_move_a_little():
    rng = np.random.default_rng(3)
    scale = np.linspace(0.2, 1.5, 150)

    def draw(shift):
        home, away = (rng.normal(size=(n, 150)) * scale for n in (60, 80))
        return portable.compare_means(away + shift - home.mean(axis=0), 60)

    assert 0.02 < np.mean([draw(0.0) < 0.05 for _ in range(400)]) < 0.09
    assert np.mean([draw(0.15) < 0.001 for _ in range(40)]) > 0.9
