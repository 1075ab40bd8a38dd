"""Blocks of a participant are split by run, or by time where there is one run."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from bids_semantoks.errors import InputError
from bids_semantoks.statistics.splits import (
    SplitRow,
    build_inner_folds,
    build_left_out_splits,
    build_published_splits,
    build_split_table,
    build_splits,
    build_within_splits,
    check_groups,
    compute_strata,
    read_split_table,
    run_folds,
    tabulate_splits,
    use_threads,
)


def test_runs_are_left_out_one_by_one_and_a_single_run_by_time():
    labels = np.array([0, 1] * 12)
    people = np.array(["a"] * 12 + ["b"] * 8 + ["c"] * 4)
    runs = np.array([f"run{i // 4}" for i in range(12)] + ["only"] * 8 + ["one"] * 4)
    onsets = np.tile(np.arange(12.0), 2)[::-1].copy()
    splits, kinds = build_within_splits(labels, people, runs, onsets)
    assert kinds == {"a": "runs", "b": "time"}  # c: a training part would have one block of a type
    assert [split.fold for split in splits] == list(range(len(splits)))
    for split in splits:
        assert len(set(people[[*split.train, *split.test]])) == 1
        if people[split.test[0]] == "a":
            assert not set(runs[split.train]) & set(runs[split.test])
        else:
            tested = onsets[split.test]
            between = (onsets[split.train] > tested.min()) & (onsets[split.train] < tested.max())
            assert not between.any()
        assert np.bincount(labels[split.train]).min() >= 2
    tested = np.concatenate([split.test for split in splits])
    assert sorted(tested) == list(range(20))


def test_who_lacks_a_type_takes_no_part():
    labels = np.array([0, 1, 0, 1, 0, 1, 0, 0, 0, 0])
    people = np.array(["a"] * 6 + ["b"] * 4)
    _, kinds = build_within_splits(labels, people, people, np.arange(10.0))
    assert kinds == {"a": "time"}


N = 47


NAMES = [f"p{number:02d}" for number in range(N)]


def make_strata():
    values = np.arange(N) % 3.0
    values[5] = np.nan
    return compute_strata(values, is_class=True)


@pytest.mark.parametrize("build", [build_splits, build_published_splits])
def test_the_table_gives_the_same_splits_back(build):
    strata = make_strata()
    splits = build(strata)
    again = read_split_table(build_split_table(splits, NAMES), NAMES, strata=strata)
    assert len(again) == len(splits)
    for one, two in zip(splits, again, strict=True):
        assert (one.repetition, one.fold) == (two.repetition, two.fold)
        for role in ("train", "validation", "test"):
            np.testing.assert_array_equal(getattr(one, role), getattr(two, role))


def test_participants_by_repetitions_say_the_same_in_fewer_cells():
    names = [*NAMES[:-1], NAMES[0]]  # the first has two rows
    strata = make_strata()
    strata[-1] = strata[0]
    groups = np.unique(names, return_inverse=True)[1]
    table = tabulate_splits(build_splits(strata, groups=groups, n_repeats=3), names)
    listed = build_split_table(build_splits(strata, groups=groups, n_repeats=3), names)
    tested = {(row.participant, row.repetition): str(row.fold) for row in listed if row.role == "test"}
    assert table == [(name, *(tested[name, r] for r in range(3))) for name in NAMES[:-1] if name != "p05"]
    cells = {name: found for name, *found in tabulate_splits(build_published_splits(strata, n_repeats=2), NAMES)}
    for split in build_published_splits(strata, n_repeats=2):
        for role, cell in (("train", "train"), ("validation", "validation"), ("test", "0")):
            assert {cells[NAMES[row]][split.repetition] for row in getattr(split, role)} == {cell}


@pytest.mark.parametrize(
    "roles",
    [
        [
            *[(0, "a", "test"), (0, "b", "train"), (0, "c", "validation")],
            *[(1, "a", "train"), (1, "b", "test"), (1, "c", "train")],
        ],
        [(0, "a", "test"), (0, "b", "train"), (0, "c", "train"), (1, "a", "train"), (1, "b", "test")],
        [(0, "a", "test"), (0, "b", "train"), (1, "b", "test"), (1, "c", "train")],
    ],
)  # fmt: skip
def test_roles_that_differ_between_folds_need_a_list(roles):
    table = [SplitRow(0, fold, name, role) for fold, name, role in roles]
    assert tabulate_splits(read_split_table(table, ["a", "b", "c"]), ["a", "b", "c"]) is None


def test_a_table_of_test_rows_lets_all_others_train():
    table = [SplitRow(0, fold, name, "test") for fold in range(2) for name in NAMES[fold::2]]
    splits = read_split_table(table, NAMES)
    np.testing.assert_array_equal(splits[0].train, splits[1].test)


def test_repetitions_and_folds_may_be_numbered_from_anywhere():
    strata = make_strata()
    table = build_split_table(build_splits(strata, n_repeats=2), NAMES)
    later = [row._replace(repetition=3 * row.repetition + 1, fold=row.fold + 1) for row in table]
    again = read_split_table(later, NAMES, strata=strata)
    assert {(split.repetition, split.fold) for split in again} == {(r, fold) for r in range(2) for fold in range(5)}
    assert build_split_table(again, NAMES) == table


def test_sessions_of_a_participant_share_the_role():
    rows = ["a", "b", "a", "c", "b"]
    splits = read_split_table([SplitRow(0, 0, "a", "test"), SplitRow(0, 0, "b", "train")], rows)
    np.testing.assert_array_equal(splits[0].test, [0, 2])
    np.testing.assert_array_equal(splits[0].train, [1, 4])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(0, 0, "p99", "test")], "none of the 47 participants: .* 1, such as p99; .* p00"),
        ([(0, 0, "p99", "test"), (0, 0, "p01", "train")], "Repetition 0, fold 0 .* test set"),
        ([(0, 0, "p01", "tset")], "'tset'"),
        ([(0, 0, "p01", "test"), (0, 0, "p01", "train")], "p01 is both test and train"),
        ([(2, 0, "p01", "test"), (2, 1, "p01", "test")], "p01 is tested twice in repetition 2"),
        ([(0, 1, "p01", "train")], "Repetition 0, fold 1 .* test set"),
        ([], "no rows"),
    ],
)
def test_bad_tables_are_refused(rows, message):
    with pytest.raises(InputError, match=message):
        read_split_table([SplitRow(*row) for row in rows], NAMES)


def test_people_who_are_not_here_are_passed_over():
    here = [SplitRow(0, 0, "p01", "test"), SplitRow(0, 0, "p02", "train")]
    absent = [SplitRow(0, 0, "p98", "train"), SplitRow(0, 0, "p99", "test")]
    (split,) = read_split_table([*absent, *here], NAMES)
    assert (split.test.tolist(), split.train.tolist()) == ([1], [2])
    # Those who train are named, if not here, so the others do not.
    with pytest.raises(InputError, match="empty train set"):
        read_split_table([here[0], absent[0]], NAMES)


def test_a_table_that_splits_a_family_is_refused():
    table = [SplitRow(0, 0, "p00", "test"), SplitRow(0, 0, "p01", "train")]
    with pytest.raises(InputError, match="Group 0 is in both train and test"):
        read_split_table(table, NAMES, groups=np.arange(N) // 2)


def test_a_family_does_not_validate_what_it_is_tested_on():
    table = [SplitRow(0, 0, "p00", "test"), SplitRow(0, 0, "p01", "validation"), SplitRow(0, 0, "p05", "train")]
    with pytest.raises(InputError, match="Group 0 is in both validation and test of repetition 0, fold 0"):
        read_split_table(table, NAMES, groups=np.arange(N) // 2)


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
    with pytest.raises(InputError, match=r"4 members,.*5 parts"):
        build_splits(strata)
    with pytest.raises(InputError, match="3 groups cannot be divided into 5 folds"):
        build_splits(make_strata(), groups=np.arange(N) % 3)


def test_groups_that_leave_a_fold_empty_are_refused():
    sizes = ((5, 3), (6, 0), (0, 4), (9, 8), (0, 4))
    strata = np.concatenate([np.repeat([0, 1], pair) for pair in sizes])
    groups = np.repeat(np.arange(5), [sum(pair) for pair in sizes])
    with pytest.raises(InputError, match="for 5 folds"):
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


def test_folds_run_at_the_same_time_and_results_keep_their_order():
    barrier, counted = threading.Barrier(3, timeout=20), []

    def work(fold):
        barrier.wait()  # passes only where three folds are at work together
        time.sleep(0.01 * (3 - fold % 3))
        return fold * 10

    with use_threads(3):
        assert run_folds(work, range(6), each=lambda folds: (counted.append(f) or f for f in folds)) == [
            *range(0, 60, 10)
        ]
    assert counted == [*range(6)]
    assert run_folds(lambda fold: fold + threading.active_count(), [1]) == [1 + threading.active_count()]


def test_a_failing_fold_ends_the_others():
    def work(fold):
        if fold == 0:
            raise ValueError("fold 0")
        time.sleep(0.01)
        return done.append(fold)

    done = []
    with use_threads(2), pytest.raises(ValueError, match="fold 0"):
        run_folds(work, range(500))
    assert len(done) < 500
