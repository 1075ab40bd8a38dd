"""Resampling, z-scores and windows; the volumes of task blocks, and the windows that hold these."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.interpolate import CubicSpline

from bids_semantoks.errors import RunSkipped
from bids_semantoks.signals.filters import fill_gaps
from bids_semantoks.signals.windows import (
    build_block_windows,
    build_windows,
    compute_response,
    find_block_times,
    find_block_volumes,
    resample,
    window_starts,
    zscore,
)

T, P = 60, 7


N_VOLUMES, N_PARCELS = 141, 13


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


def drop(n_volumes: int, *dropped: int) -> np.ndarray:
    kept = np.ones(n_volumes, dtype=bool)
    kept[list(dropped)] = False
    return kept


@pytest.fixture
def signals() -> np.ndarray:
    rng = np.random.default_rng(5)
    return (
        1000
        + 40 * rng.standard_normal((N_VOLUMES, N_PARCELS)).cumsum(axis=0) / 5
        + rng.standard_normal((N_VOLUMES, N_PARCELS))
    )


# --- resample ---


@pytest.mark.parametrize(
    ("n_volumes", "source", "n_samples"),
    [(100, 0.8, 40), (99, 0.8, 39), (300, 0.735, 110), (120, 3.0, 180), (125, 0.8, 50), (1, 3.0, 1), (2, 0.7, 0)],
)
def test_length(n_volumes, source, n_samples):
    assert resample(np.ones((n_volumes, 3)), source, 2.0).shape == (n_samples, 3)


def test_equal_repetition_times_return_the_same_values(signals):
    for source in (2.0, 2.0000001, 1.9999999):
        resampled = resample(signals, source, 2.0)
        assert resampled.tobytes() == signals.tobytes()
        assert resampled is not signals


@pytest.mark.parametrize("source", [0.735, 0.8, 1.5, 3.0])
@pytest.mark.parametrize("frequency", [0.02, 0.05])
def test_slow_waves_are_kept_within_one_percent(source, frequency):
    n_volumes = int(480 / source)
    phases = np.array([0.0, 1.0, 2.5])
    wave = np.sin(2 * np.pi * frequency * source * np.arange(n_volumes)[:, None] + phases)
    resampled = resample(wave, source, 2.0)
    expected = np.sin(2 * np.pi * frequency * 2.0 * np.arange(len(resampled))[:, None] + phases)
    inside = slice(15, -15)
    assert np.abs(resampled - expected)[inside].max() < 0.01
    assert np.abs(resampled - expected).std() < 0.05


@pytest.mark.parametrize("source", [0.735, 0.8])
@pytest.mark.parametrize(("frequency", "left"), [(0.26, 0.02), (0.3, 0.002), (0.45, 0.001), (0.55, 0.001)])
def test_waves_above_the_new_nyquist_frequency_are_suppressed(source, frequency, left):
    wave = np.sin(2 * np.pi * frequency * source * np.arange(int(480 / source)))[:, None]
    resampled = resample(wave, source, 2.0)
    assert np.abs(resampled[20:-20]).max() < left
    naive = CubicSpline(np.arange(len(wave)) * source, wave)(np.arange(len(resampled)) * 2.0)
    assert np.abs(naive[20:-20]).max() > 0.5


def test_going_up_holds_the_last_volume(signals):
    resampled = resample(signals[:120], 3.0, 2.0)  # the last sample, at 358 s, lies past the last volume at 357 s
    np.testing.assert_allclose(resampled[-1], signals[119], rtol=1e-12)
    np.testing.assert_allclose(resampled[::3], signals[:120:2], rtol=1e-12)


def test_resampling_is_linear_and_keeps_constants_and_gaps(signals):
    for source in (0.735, 3.0):
        both = resample(signals[:, :6] * 2.0 - signals[:, 6:12], source, 2.0)
        apart = resample(signals[:, :6], source, 2.0) * 2.0 - resample(signals[:, 6:12], source, 2.0)
        np.testing.assert_allclose(both, apart, atol=1e-8)
        np.testing.assert_allclose(resample(np.full((N_VOLUMES, 2), 7.5), source, 2.0), 7.5, atol=1e-10)
    signals[:, 5] = np.nan
    assert np.flatnonzero(np.isnan(resample(signals, 0.8, 2.0)).all(axis=0)).tolist() == [5]


# --- zscore and windows ---


def test_zscore_uses_ddof_0_and_the_small_number(signals):
    expected = (signals - signals.mean(0)) / (np.sqrt(((signals - signals.mean(0)) ** 2).mean(0)) + 1e-8)
    np.testing.assert_allclose(zscore(signals), expected, rtol=1e-12)
    tiny = np.array([[1.0], [-1.0], [1.0], [-1.0]]) * 1e-8
    np.testing.assert_allclose(zscore(tiny)[:, 0], [0.5, -0.5, 0.5, -0.5])


def test_zscore_of_a_constant_is_zero_even_after_resampling():
    constant = np.full((N_VOLUMES, 3), [0.0, 123456.7, -1e-3])
    assert (zscore(constant) == 0).all()
    assert (zscore(resample(constant, 0.735, 2.0)) == 0).all()
    assert (zscore(resample(constant, 3.0, 2.0)) == 0).all()


@pytest.mark.parametrize(
    ("n_volumes", "n_windows", "starts"),
    [(200, 8, [0, 14, 28, 42, 57, 71, 85, 100]), (103, 8, [0, 1, 2, 3]), (100, 8, [0]), (60, 8, [0]), (200, 1, [0])],
)
def test_window_starts(n_volumes, n_windows, starts):
    found = window_starts(n_volumes, 100, n_windows)
    assert found.tolist() == starts
    assert found.dtype == np.int64


def cut(table: np.ndarray, **changed: object):
    arguments: dict = {
        "repetition_time": 2.0,
        "n_dummy": 0,
        "target_repetition_time": 2.0,
        "window": 40,
        "n_windows": 5,
    }
    return build_windows(table, **(arguments | changed))


def test_windows_at_the_target_time_are_z_scored_slices(signals):
    windows = cut(signals)
    starts = [0, 25, 50, 75, 101]
    expected = zscore(signals)
    assert windows.values.shape == (5, 40, N_PARCELS)
    assert windows.values.dtype == np.float32
    for window, start in zip(windows.values, starts, strict=True):
        np.testing.assert_array_equal(window, expected[start : start + 40].astype(np.float32))
    np.testing.assert_array_equal(windows.onset, np.array(starts) * 2.0)
    assert windows.duration == 80.0
    assert windows.n_real.tolist() == [40] * 5
    assert windows.kept.tolist() == [1.0] * 5
    assert windows.present.all()


def test_dropped_rows_are_interpolated_and_absent_columns_zero(signals):
    kept = drop(N_VOLUMES, 0, 1, 2, 60, 61, 100)
    table = signals.copy()
    table[~kept] = np.nan
    table[:, [0, 7]] = np.nan
    windows = cut(table, n_dummy=2)
    assert np.flatnonzero(~windows.present).tolist() == [0, 7]
    assert (windows.values[:, :, [0, 7]] == 0).all()
    assert np.isfinite(windows.values).all()
    present = np.delete(np.arange(N_PARCELS), [0, 7])
    complete = fill_gaps(signals[2:, present], kept[2:])
    expected = zscore(complete).astype(np.float32)
    starts = [0, 24, 49, 74, 99]
    np.testing.assert_array_equal(windows.onset, 4.0 + np.array(starts) * 2.0)
    for window, start in zip(windows.values, starts, strict=True):
        np.testing.assert_array_equal(window[:, present], expected[start : start + 40])
    shares = [kept[2 + start : 2 + start + 40].mean() for start in starts]
    np.testing.assert_allclose(windows.kept, shares)
    assert min(shares) < 1


def test_a_short_run_is_padded_after_the_z_score(signals):
    windows = cut(signals, window=200)
    assert windows.values.shape == (1, 200, N_PARCELS)
    assert windows.n_real.tolist() == [N_VOLUMES]
    np.testing.assert_array_equal(windows.values[0, :N_VOLUMES], zscore(signals).astype(np.float32))
    assert (windows.values[0, N_VOLUMES:] == 0).all()
    np.testing.assert_allclose(windows.kept, N_VOLUMES / 200)


def test_the_kept_share_counts_time_across_repetition_times(signals):
    kept = drop(N_VOLUMES, 3, 10, 11, 12)
    table = np.where(kept[:, None], signals, np.nan)
    windows = cut(table, repetition_time=0.8, window=7, n_windows=3, n_dummy=1)
    # 140 volumes of 0.8 s give 56 samples; starts 0, 24, 49; windows of 14 s.
    assert windows.onset.tolist() == [0.8, 48.8, 98.8]
    fine = np.repeat(kept[1:], 8)  # tenths of a second
    for share, start in zip(windows.kept, (0, 24, 49), strict=True):
        assert share == pytest.approx(fine[start * 20 : start * 20 + 140].mean(), abs=1e-9)
    assert windows.kept[0] == pytest.approx(1 - 3.2 / 14)


def test_windows_agree_with_their_steps(signals):
    for source in (0.735, 3.0):
        windows = cut(signals, repetition_time=source, window=20, n_windows=3)
        expected = zscore(resample(signals, source, 2.0)).astype(np.float32)
        starts = window_starts(len(expected), 20, 3)
        for window, start in zip(windows.values, starts, strict=True):
            np.testing.assert_array_equal(window, expected[start : start + 20])


def test_a_written_table_gives_the_same_bytes(signals):
    table = signals.astype(np.float32)
    table[[0, 66]] = np.nan
    table[:, 5] = np.nan
    text = "\n".join("\t".join("nan" if np.isnan(x) else f"{x:.9g}" for x in row) for row in table)
    again = np.array([[float(x) for x in line.split("\t")] for line in text.split("\n")])
    here, there = (cut(t, repetition_time=0.8, n_dummy=1, window=20) for t in (table, again.astype(np.float32)))
    assert here.values.tobytes() == there.values.tobytes()
    assert here.kept.tobytes() == there.kept.tobytes()


def test_a_table_shorter_than_one_sample_is_skipped():
    with pytest.raises(RunSkipped, match=r"2 volumes of 0\.7 s.*2 s"):
        cut(np.eye(2), repetition_time=0.7)


def test_a_table_without_signals_is_skipped():
    with pytest.raises(RunSkipped, match="41 volumes") as caught:
        cut(np.full((41, N_PARCELS), np.nan))
    assert caught.value.reason == "too_few_kept"
