"""Every row is tested once a repetition, and groups stay together."""

import numpy as np
import pytest

from bids_semantoks.errors import InputError
from bids_semantoks.statistics.splits import (
    build_inner_folds,
    build_left_out_splits,
    build_published_splits,
    build_splits,
    check_groups,
    compute_strata,
)

N = 47


def make_strata():
    values = np.arange(N) % 3.0
    values[5] = np.nan
    return compute_strata(values, is_class=True)


def test_folds_test_every_known_row_once_a_repetition_and_keep_classes_even():
    strata = make_strata()
    splits = build_splits(strata, n_repeats=3)
    assert len(splits) == 15
    for repetition in range(3):
        part = [split for split in splits if split.repetition == repetition]
        tested = np.sort(np.concatenate([split.test for split in part]))
        np.testing.assert_array_equal(tested, np.delete(np.arange(N), 5))
        for split in part:
            assert not np.intersect1d(split.train, split.test).size
            assert 5 not in split.train
            shares = np.bincount(strata[strata >= 0]) / 5
            assert (np.abs(np.bincount(strata[split.test]) - shares) < 1.5).all()
    assert not np.array_equal(splits[0].test, splits[5].test)


def test_continuous_strata_are_bins_of_equal_size():
    values = np.random.default_rng(0).standard_normal(N)
    values[3] = np.nan
    strata = compute_strata(values, is_class=False)
    assert strata[3] == -1
    assert np.ptp(np.bincount(strata[strata >= 0])) <= 1
    assert strata.max() == N // 10 - 1
    order = np.argsort(values[strata >= 0])
    assert (np.diff(strata[strata >= 0][order]) >= 0).all()


def test_groups_are_never_on_both_sides():
    groups = np.array([f"family{number // 3}" for number in range(N)])
    splits = build_splits(make_strata(), groups=groups, n_repeats=2)
    check_groups(splits, groups)
    with pytest.raises(InputError, match=r"Group family.* is in both train and test of repetition 0, fold 0"):
        check_groups(build_splits(make_strata(), n_repeats=1), groups)


def test_leaving_out_a_site_tests_it_alone():
    sites = np.array(["A", "B", "C", "D"])[np.arange(N) % 4]
    splits = build_left_out_splits(make_strata(), sites)
    assert [set(sites[split.test]) for split in splits] == [{"A"}, {"B"}, {"C"}, {"D"}]
    assert all(set(sites[s.test]).isdisjoint(sites[s.train]) for s in splits)
    with pytest.raises(InputError, match="found 1: A"):
        build_left_out_splits(make_strata(), np.full(N, "A"))


def test_published_splits_are_60_20_20_and_stratified():
    strata = make_strata()
    splits = build_published_splits(strata)
    assert [split.repetition for split in splits] == list(range(10))
    for split in splits:
        assert (len(split.train), len(split.validation), len(split.test)) == (27, 9, 10)
        assert (np.abs(np.bincount(strata[split.train]) - 0.6 * np.bincount(strata[strata >= 0])) < 1.5).all()
    families = np.arange(N) // 2
    grouped = build_published_splits(np.zeros(N, dtype=np.int64), groups=families)
    check_groups(grouped, families)


def test_too_small_classes_and_too_few_groups_are_refused():
    values = np.zeros(N)
    values[:4] = 1
    strata = compute_strata(values, is_class=True)
    with pytest.raises(InputError, match="smallest class or bin has 4 members, but 5 parts"):
        build_splits(strata)
    with pytest.raises(InputError, match="3 groups cannot be divided into 5 folds"):
        build_splits(make_strata(), groups=np.arange(N) % 3)


def test_groups_that_leave_a_fold_empty_are_refused():
    sizes = ((5, 3), (6, 0), (0, 4), (9, 8), (0, 4))
    strata = np.concatenate([np.repeat([0, 1], pair) for pair in sizes])
    groups = np.repeat(np.arange(5), [sum(pair) for pair in sizes])
    with pytest.raises(InputError, match="too unequal to be divided into 5 folds"):
        build_splits(strata, groups=groups, n_repeats=1)


def test_inner_folds_keep_groups_together():
    rows = np.arange(N)
    groups = np.arange(N) // 4
    fold_of = build_inner_folds(rows, strata=None, groups=groups, n_folds=5, seed=0)
    assert set(fold_of) == set(range(5))
    assert all(len(set(fold_of[groups == group])) == 1 for group in np.unique(groups))
    strata = np.arange(N) % 2
    even = build_inner_folds(rows, strata=strata, groups=None, n_folds=5, seed=0)
    assert all(abs((strata[even == fold] == 0).sum() - (strata[even == fold] == 1).sum()) <= 1 for fold in range(5))
