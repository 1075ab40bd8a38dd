"""A predictor that leaves its study predicts what the probe predicted of the same people."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

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


def test_distances_are_one_on_average_at_home_and_grow_away_from_it():
    features, target, _ = draw_study(200, 30, 0)
    train = np.flatnonzero(~np.isnan(target.values))
    model = fit_predictor(features, target, train)
    at_home, away = (model.predict(features.values[train] + shift)[1] for shift in (0.0, 20.0))
    np.testing.assert_allclose((at_home[:, 1] ** 2).mean(), 1.0, rtol=1e-9)
    assert away[:, 1].min() > at_home[:, 1].max()
    assert away[:, 2].min() > at_home[:, 2].max()


def test_bins_and_features_that_do_not_vary_are_refused():
    features = TableFeatures(name="x", values=np.ones((20, 3)))
    with pytest.raises(ValueError, match="no feature varies"):
        fit_predictor(features, Target(name="y", values=np.arange(20.0)), np.arange(20))
    with pytest.raises(ValueError, match="bins"):
        fit_predictor(features, Target(name="y", values=np.arange(20.0), n_bins=2), np.arange(20))
