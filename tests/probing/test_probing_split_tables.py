"""Tables of splits survive the way out and back, and bad ones are refused."""

import numpy as np
import pytest

from bids_semantoks.errors import InputError
from bids_semantoks.statistics.splits import (
    SplitRow,
    build_published_splits,
    build_split_table,
    build_splits,
    compute_strata,
    read_split_table,
)

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
        ([(0, 0, "p99", "test")], "Participant p99 in repetition 0, fold 0 .* not among the 47"),
        ([(0, 0, "p01", "tset")], "Role 'tset'"),
        ([(0, 0, "p01", "test"), (0, 0, "p01", "train")], "p01 is both test and train"),
        ([(2, 0, "p01", "test"), (2, 1, "p01", "test")], "p01 is tested twice in repetition 2"),
        ([(0, 1, "p01", "train")], "Nobody is left in test of repetition 0, fold 1"),
        ([], "no rows"),
    ],
)
def test_bad_tables_are_refused(rows, message):
    with pytest.raises(InputError, match=message):
        read_split_table([SplitRow(*row) for row in rows], NAMES)


def test_a_table_that_splits_a_family_is_refused():
    table = [SplitRow(0, 0, "p00", "test"), SplitRow(0, 0, "p01", "train")]
    with pytest.raises(InputError, match="Group 0 is in both train and test"):
        read_split_table(table, NAMES, groups=np.arange(N) // 2)


def test_a_family_does_not_validate_what_it_is_tested_on():
    table = [SplitRow(0, 0, "p00", "test"), SplitRow(0, 0, "p01", "validation"), SplitRow(0, 0, "p05", "train")]
    with pytest.raises(InputError, match="Group 0 is in both validation and test of repetition 0, fold 0"):
        read_split_table(table, NAMES, groups=np.arange(N) // 2)
