"""The permutation test on planted effects and on noise, and what may change places in it."""

import numpy as np
import pytest
from scipy.stats import binomtest

from bids_semantoks.statistics import significance
from bids_semantoks.statistics.linear import cross_validate
from bids_semantoks.statistics.metrics import Score, build_scorer, select_repetitions
from bids_semantoks.statistics.predictions import Target, build_class_target
from bids_semantoks.statistics.significance import (
    compute_permutation_test,
    judge,
    permute_scored_ridges,
    permute_target,
    permute_values,
)
from bids_semantoks.statistics.spans import TableFeatures
from bids_semantoks.statistics.splits import build_left_out_splits, build_splits

N, D = 61, 23


def make_data(d=D, n=N, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((n, d)) * np.linspace(0.5, 3, d)
    hidden = 5 * values[:, 0] - 3 * values[:, 1] + rng.standard_normal(n)
    return values, hidden


def test_values_move_within_blocks_and_with_their_unit():
    values = np.arange(12.0)
    blocks = np.repeat(["A", "B", "C"], 4)
    moved = permute_values(values, n_permutations=31, blocks=blocks)
    np.testing.assert_array_equal(moved[:, 0], values)
    for block in "ABC":
        inside = blocks == block
        assert (np.sort(moved[inside], axis=0) == values[inside][:, None]).all()
    assert (moved[:, 1:] != values[:, None]).any()
    units = np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 4, 5])
    constant = permute_values(units.astype(float), n_permutations=31, units=units)
    for unit in range(6):
        assert (constant[units == unit] == constant[units == unit][0]).all()
    assert len(np.unique(constant[0])) == 6
    varying = permute_values(values, n_permutations=31, units=units)
    pairs = {tuple(column[:2]) for column in varying.T}
    assert pairs == {(0.0, 1.0), (2.0, 3.0), (4.0, 5.0), (6.0, 7.0)}  # the units of two rows trade places, whole
    assert (np.sort(varying, axis=0) == values[:, None]).all()


@pytest.mark.parametrize("n_classes", [0, 2, 3])
def test_the_permutation_test_finds_effects(n_classes):
    values, hidden = make_data(n=83)
    labels = hidden
    if n_classes:
        labels = np.searchsorted(np.quantile(hidden, np.arange(1, n_classes) / n_classes), hidden).astype(float)
    target = Target(name="y", values=labels, classes=("a", "b", "c")[:n_classes])
    test = compute_permutation_test(TableFeatures(name="x", values=values), target, n_permutations=99)
    assert test.p_value == 0.01
    assert len(test.null) == 99
    assert test.statistic == ("auroc" if n_classes else "r")


def test_the_permutation_test_is_calibrated_on_noise():
    p_values = []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        features = TableFeatures(name="noise", values=rng.standard_normal((41, 11)))
        target = Target(name="y", values=rng.integers(0, 2, 41).astype(float), classes=("a", "b"))
        p_values.append(compute_permutation_test(features, target, n_permutations=39, seed=seed).p_value)
    assert binomtest(int((np.array(p_values) <= 0.1).sum()), 150, 0.1).pvalue > 0.001
    assert np.mean(p_values) == pytest.approx(0.5, abs=0.09)


def test_a_site_effect_is_no_effect_when_labels_move_within_sites():
    rng = np.random.default_rng(2)
    site = np.repeat([0, 1], 50)
    features = TableFeatures(name="x", values=rng.standard_normal((100, 7)) + 3 * site[:, None])
    target = Target(name="age", values=5.0 * site + rng.standard_normal(100))
    assert compute_permutation_test(features, target, n_permutations=99).p_value == 0.01
    assert compute_permutation_test(features, target, n_permutations=99, blocks=site).p_value > 0.05


def test_values_move_within_sites_that_cannot_be_exchanged():
    rng = np.random.default_rng(11)
    sites = np.repeat(np.arange(5), [9, 11, 13, 17, 18])
    values = rng.standard_normal(len(sites))
    columns = permute_values(values, n_permutations=7, units=sites)
    assert not any((column == values).all() for column in columns.T[1:])
    for site in range(5):
        for column in columns.T:
            np.testing.assert_array_equal(np.sort(column[sites == site]), np.sort(values[sites == site]))
    # Blocks still hold: within a site, only rows of the same block exchange.
    blocks = np.arange(len(sites)) % 2
    columns = permute_values(values, n_permutations=7, units=sites, blocks=blocks)
    for site in range(5):
        own = (sites == site) & (blocks == 1)
        np.testing.assert_array_equal(np.sort(columns[own, 3]), np.sort(values[own]))


@pytest.mark.parametrize("n_classes", [0, 2, 3])
def test_the_real_labels_are_judged_as_permuted_ones_are(monkeypatch, n_classes):
    values, hidden = make_data()
    groups = np.arange(N) // 2
    target = Target(name="y", values=hidden)
    if n_classes:
        labels = np.searchsorted(np.quantile(hidden, np.arange(1, n_classes) / n_classes), hidden)
        target = build_class_target("y", [f"k{label}" for label in labels])
    features = TableFeatures(name="x", values=values)
    settings = {"n_permutations": 3, "groups": groups, "covariates": values[:, 5:6]}
    real = compute_permutation_test(features, target, **settings)
    # Permutations that move nothing: all columns hold the real labels.
    monkeypatch.setattr(significance, "permute_values", lambda labels, **_: np.repeat(labels[:, None], 4, axis=1))
    still = compute_permutation_test(features, target, **settings)
    np.testing.assert_allclose(still.null, real.value, rtol=1e-9)
    assert still.p_value == 1
    assert real.value > 0.5


@pytest.mark.parametrize("is_grouped", [False, True])
def test_the_scored_ridge_is_what_is_permuted(is_grouped):
    values, hidden = make_data()
    hidden[7] = np.nan
    groups = np.arange(N) // 2 if is_grouped else None
    target, features = Target(name="y", values=hidden), TableFeatures(name="x", values=values)
    covariates = values[:, 5:6]
    splits = build_splits(target.compute_strata(), groups=groups, n_repeats=3, seed=4)
    columns = permute_target(target, n_permutations=39, seed=4, units=groups)
    test = permute_scored_ridges(features, [columns], splits, covariates=covariates, groups=groups, seed=4)[0]
    scored = cross_validate(features, target, splits, covariates=covariates, groups=groups, seed=4)
    first = build_scorer(select_repetitions(scored, slice(0, 1)), "r")(np.ones((1, N)))
    assert test.value == pytest.approx(first[0], abs=1e-12)
    assert (test.name, test.p_value, test.smallest) == ("ridge_r_first_repetition", 1 / 40, 1 / 40)
    # Permuted values are predicted as well as if they were the real ones.
    one = Target(name="y", values=columns[:, 3])
    again = build_scorer(cross_validate(features, one, [s for s in splits if not s.repetition], covariates=covariates,
                                        groups=groups, seed=4), "r")(np.ones((1, N)))  # fmt: skip
    assert test.null[2] == pytest.approx(again[0], abs=1e-12)


def test_the_scored_ridge_is_permuted_within_places_that_are_left_out():
    rng = np.random.default_rng(2)
    site = np.repeat([0, 1, 2], 30)
    features = TableFeatures(name="x", values=rng.standard_normal((90, 7)) + 3 * site[:, None])
    target = Target(name="age", values=5.0 * site + rng.standard_normal(90))
    splits = build_left_out_splits(target.compute_strata(), site)
    columns = permute_target(target, n_permutations=99, seed=0, blocks=site)
    assert permute_scored_ridges(features, [columns], splits, groups=site)[0].p_value > 0.05


def test_the_test_of_the_scored_ridge_is_calibrated_on_noise():
    p_values = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        features = TableFeatures(name="noise", values=rng.standard_normal((41, 11)))
        target = Target(name="y", values=rng.standard_normal(41))
        columns = permute_target(target, n_permutations=39, seed=seed)
        splits = build_splits(target.compute_strata(), n_repeats=1, seed=seed)
        p_values.append(permute_scored_ridges(features, [columns], splits, seed=seed)[0].p_value)
    assert binomtest(int((np.array(p_values) <= 0.1).sum()), 100, 0.1).pvalue > 0.001
    assert np.mean(p_values) == pytest.approx(0.5, abs=0.11)


def test_features_without_columns_have_no_statistic():
    hidden = make_data()[1]
    target = Target(name="y", values=hidden)
    columns = permute_target(target, n_permutations=5, seed=0)
    constant = TableFeatures(name="constant", values=np.ones((N, 2)))
    test = permute_scored_ridges(constant, [columns], build_splits(target.compute_strata(), n_repeats=1))[0]
    assert (test.value, test.p_value) == (0, 1)


@pytest.mark.parametrize(
    ("bound", "p_value", "verdict"),
    [
        (0.51, 0.049, "above chance"),
        (0.51, 0.05, "inconclusive"),
        (0.49, 0.001, "inconclusive"),
        (0.5, 0.2, "not detected"),
        (0.51, np.nan, "inconclusive"),
        (0.49, np.nan, "not detected"),
        (np.nan, 0.01, ""),
    ],
)
def test_a_verdict_needs_both(bound, p_value, verdict):
    known = {"model": "x", "target": "y", "metric": "auroc", "n_rows": 30}
    score = Score(value=0.7, ci_low=0.45, ci_high=0.9, bound=bound, chance=0.5, **known)
    assert judge(score, p_value) == verdict
