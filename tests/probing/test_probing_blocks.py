"""Blocks of tasks: which volumes they have, how they are divided, and what participants' scores say together."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from bids_semantoks.errors import InputError
from bids_semantoks.inputs.events import find_event_roots, find_events, read_events
from bids_semantoks.probing.block_splits import build_within_splits
from bids_semantoks.probing.person_scores import average_participants, score_participants
from bids_semantoks.probing.predictions import PredictionTable
from bids_semantoks.probing.targets import Target
from bids_semantoks.signals.blocks import build_block_windows, compute_response, find_block_times, find_block_volumes

T, P = 60, 7


def convolve(duration, step=0.01):
    """The response by plain convolution of a boxcar with the difference of gamma densities."""
    times = np.arange(0, 80, step)
    kernel = (stats.gamma.pdf(times, 6) - stats.gamma.pdf(times, 16) / 6) / (1 - 1 / 6)
    return times, np.convolve(times < duration, kernel)[: len(times)] * step


@pytest.mark.parametrize("duration", [1.5, 20.0, 45.0])
def test_response_is_that_of_a_convolution(duration):
    times, wanted = convolve(duration)
    np.testing.assert_allclose(compute_response(times, duration), wanted, atol=0.01)
    first, last = find_block_times(duration)
    above = times[wanted > 0.1]
    assert (first, last) == pytest.approx((above[0], above[-1]), abs=0.11)


def test_brief_events_leave_no_block():
    assert find_block_times(0.3) is None
    found = find_block_volumes([10, 30], [0.3, 20], n_volumes=T, repetition_time=2.0, start=0, longest=20)
    assert found[0] is None
    assert found[1] is not None


def test_very_long_blocks_end_as_late_as_they_last():
    first, last = find_block_times(1e9)
    short = find_block_times(100.0)
    assert (first, last - 1e9) == pytest.approx((short[0], short[1] - 100.0), abs=1e-6)
    times, wanted = convolve(70.0)
    assert find_block_times(70.0)[1] == pytest.approx(times[wanted > 0.1][-1], abs=0.11)


@pytest.mark.parametrize(("repetition_time", "wanted"), [(0.8, (17, 20)), (2.0, (7, 12)), (3.0, (5, 8))])
def test_volumes_follow_the_repetition_time(repetition_time, wanted):
    times, response = convolve(20.0)
    above = times[response > 0.1] + 10.0
    grid = np.arange(T) * repetition_time
    inside = np.flatnonzero((grid >= above[0] - 0.02) & (grid <= above[-1] + 0.02))[:20]
    assert (inside[0], len(inside)) == wanted
    (found,) = find_block_volumes([10.0], [20.0], n_volumes=T, repetition_time=repetition_time, start=0, longest=20)
    assert found == wanted


def test_no_volume_belongs_to_two_blocks_or_lies_outside():
    onsets, durations = [-30, 4, 24, 50, 110, 200], [15, 20, 15, 60, 20, 20]
    found = find_block_volumes(onsets, durations, n_volumes=T, repetition_time=2.0, start=6.0, longest=20)
    assert found[0] is None
    assert found[-1] is None
    inside = [span for span in found if span]
    ends = [first + length for first, length in inside]
    assert all(end <= following for end, (following, _) in zip(ends, [*inside[1:], (T, 0)], strict=True))
    # 24 s - 6 s + 3.1 s lies between volumes 10 and 11; the block before it ends there.
    assert found[2][0] == 11
    assert sum(found[1]) == 11
    assert found[3] == (24, 20)
    assert found[4][0] + found[4][1] == T


def test_windows_hold_one_block_and_zeros():
    signals = np.arange(T * P, dtype=np.float32).reshape(T, P) + 1
    for last in (False, True):
        windows = build_block_windows(
            signals, np.ones(P, bool), [(5, 20), (30, 9)], window=100, patch=20, repetition_time=2.0, last=last
        )
        start = 80 if last else 0
        np.testing.assert_array_equal(windows.values[0, start : start + 20], signals[5:25])
        np.testing.assert_array_equal(windows.values[1, start : start + 9], signals[30:39])
        assert np.count_nonzero(windows.values) == 29 * P
        assert windows.n_real.tolist() == [start + 20, start + 9]


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


def test_participants_are_scored_alone_and_averaged():
    target = Target(name="type", values=np.array([0, 1, 0, 1, 0, 1, 0.0]), classes=("x", "y"))
    table = PredictionTable(target, (1, 1))
    guessed = np.array([0, 1, 0, 0, 1, 0])
    scores = np.eye(2)[guessed] * 0.8 + 0.1
    table.add((0, 0), (np.array([6]), np.arange(6)), scores, 1.0, weighs_classes_alike=False)
    people = np.array(["a", "a", "b", "b", "c", "c", "d"])
    found = score_participants(table.build("m"), people, "balanced_accuracy")
    np.testing.assert_allclose(found, [1.0, 0.5, 0.0])
    mean = average_participants(np.array([0.9, 0.6, np.nan, 0.8]), reference=0.5)
    wanted = stats.ttest_1samp([0.9, 0.6, 0.8], 0.5)
    assert mean.p_value == pytest.approx(wanted.pvalue)
    assert (mean.ci_low, mean.ci_high) == pytest.approx(tuple(wanted.confidence_interval()))
    wide = average_participants(np.array([0.9, 0.6, 0.8]), reference=0.5, widening=1.5)
    assert wide.ci_high - wide.value == pytest.approx(1.5 * (mean.ci_high - mean.value))
    assert np.isnan(average_participants(np.array([0.7]), reference=0.5).p_value)


def test_seven_perfect_scores_are_not_certain():
    perfect = average_participants(np.ones(7), reference=0.5, widening=1.2, limits=(0.0, 1.0))
    assert perfect.ci_low == pytest.approx(stats.binomtest(7, 7).proportion_ci(method="exact").low)
    assert perfect.ci_high == 1
    assert perfect.p_value == pytest.approx(stats.binomtest(7, 7).pvalue)
    none = average_participants(np.zeros(7), reference=0.5, limits=(0.0, 1.0))
    assert (none.ci_low, none.ci_high) == pytest.approx((0, 1 - perfect.ci_low))
    same = average_participants(np.zeros(7), reference=0.0)
    assert (same.p_value, same.ci_low, same.ci_high) == (1, 0, 0)
    near = average_participants(np.array([1.0, 1.0, 0.9]), reference=0.5, limits=(0.0, 1.0))
    assert near.ci_high == 1


def test_the_nearest_events_are_found_and_read(tmp_path):
    raw, derivative = tmp_path / "raw", tmp_path / "raw" / "derivatives" / "prep"
    for folder in (raw / "sub-01" / "ses-1" / "func", derivative):
        folder.mkdir(parents=True)
    roots = find_event_roots(derivative, ())
    assert roots == (derivative.resolve(), raw.resolve())
    entities = {"sub": "01", "ses": "1", "task": "nback", "run": "2", "space": "X", "atlas": "A"}
    assert find_events(entities, roots) is None
    common = raw / "task-nback_events.tsv"
    common.write_text("onset\tduration\ttrial_type\n1\t2\ta\n")
    (raw / "task-rest_events.tsv").write_text("x")
    assert find_events(entities, roots) == common.resolve()
    own = raw / "sub-01" / "ses-1" / "func" / "sub-01_ses-1_task-nback_run-2_events.tsv"
    own.write_text("onset\tduration\ttrial_type\n30\t5.5\tNA\n2.5\t20\tlook\nn/a\t1\tlook\n7\t1\tn/a\n")
    (own.parent / "sub-01_ses-1_task-nback_run-3_events.tsv").write_text("x")
    assert find_events(entities, roots) == own.resolve()
    events, n_timeless = read_events(own, "trial_type")
    assert n_timeless == 1
    assert [(one.onset, one.duration, one.label) for one in events] == [(2.5, 20.0, "look"), (30.0, 5.5, "NA")]
    own.write_text("duration\ttrial_type\n5\ta\n")
    with pytest.raises(InputError, match="no column onset: found duration, trial_type") as error:
        read_events(own, "trial_type")
    assert "BIDS wants onset and duration" in str(error.value.hint)
    own.write_text("onset\tduration\ttrial_type\n1\t5\ta\n")
    with pytest.raises(InputError, match="no column stim: found onset, duration, trial_type"):
        read_events(own, "stim")
    own.write_text("onset\tduration\ttrial_type\nsoon\t5\ta\n")
    with pytest.raises(InputError, match=r"Line 2 .* onset 'soon'"):
        read_events(own, "trial_type")
