"""Blocks of tasks: which volumes they have, and the windows that hold them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from bids_semantoks.signals.windows import build_block_windows, compute_response, find_block_times, find_block_volumes

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
