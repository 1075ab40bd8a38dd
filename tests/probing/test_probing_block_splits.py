"""Blocks of a participant are split by run, or by time where there is one run."""

from __future__ import annotations

import numpy as np

from bids_semantoks.statistics.splits import build_within_splits


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
