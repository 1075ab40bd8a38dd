"""The permutation test on planted effects and on noise, and what may change places in it."""

import numpy as np
import pytest
from scipy.stats import binomtest

from bids_semantoks.statistics import significance
from bids_semantoks.statistics.significance import compute_permutation_test, permute_values
from bids_semantoks.statistics.spans import TableFeatures
from bids_semantoks.statistics.targets import Target, build_class_target

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
