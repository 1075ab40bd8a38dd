"""Cleaning against nilearn, and the time that must be left."""

import warnings

import numpy as np
import pytest
from nilearn.signal import clean

from bids_semantoks.errors import RunFailed, RunSkipped
from bids_semantoks.signals.cleaning import check_duration, clean_signals, estimate_freedom, pass_band

T, P, C = 141, 13, 7
REFLECTED = {"butterworth__padtype": "even"}


def drop(n_volumes: int, *dropped: int) -> np.ndarray:
    kept = np.ones(n_volumes, dtype=bool)
    kept[list(dropped)] = False
    return kept


@pytest.fixture
def signals() -> np.ndarray:
    rng = np.random.default_rng(5)
    return 1000 + 40 * rng.standard_normal((T, P)).cumsum(axis=0) / 5 + rng.standard_normal((T, P))


@pytest.fixture
def regressors() -> np.ndarray:
    return np.random.default_rng(6).standard_normal((T, C)) * np.logspace(-3, 3, C)


# --- clean_signals ---


def test_cleaning_is_nilearns_when_all_is_kept(signals, regressors):
    cleaned = clean_signals(signals, regressors, np.ones(T, dtype=bool), repetition_time=2.0, band_pass=(0.01, 0.1))
    oracle = clean(signals, confounds=regressors, standardize=None, low_pass=0.1, high_pass=0.01, t_r=2.0, **REFLECTED)
    np.testing.assert_allclose(cleaned, oracle, atol=1e-9)
    assert cleaned.dtype == np.float64


@pytest.mark.parametrize("band_pass", [(0.01, 0.1), (0.008, 0.0), (0.0, 0.1), None])
@pytest.mark.parametrize("repetition_time", [0.72, 2.0, 3.0])
@pytest.mark.parametrize("n_regressors", [0, 1, 40])
def test_nilearn_is_the_oracle_for_every_band(band_pass, repetition_time, n_regressors):
    """With a step among the regressors, and values of very different size."""
    rng = np.random.default_rng(n_regressors)
    values = 1e4 + rng.standard_normal((219, P)).cumsum(axis=0) * np.logspace(-2, 2, P)
    regressors = rng.standard_normal((219, n_regressors)) * np.logspace(-6, 6, n_regressors)
    regressors[:, 30:31] = np.arange(219)[:, None] > 100
    low, high = pass_band(band_pass, repetition_time=repetition_time)
    cleaned = clean_signals(
        values, regressors, np.ones(219, dtype=bool), repetition_time=repetition_time, band_pass=band_pass
    )
    options = {"butterworth__padtype": "even", "butterworth__padlen": 33 if low and high else 18}
    oracle = clean(
        values,
        confounds=regressors if n_regressors else None,
        standardize=None,
        filter="butterworth" if low or high else False,
        low_pass=high,
        high_pass=low,
        t_r=repetition_time,
        **(options if low or high else {}),
    )
    np.testing.assert_allclose(cleaned, oracle, atol=1e-10 * np.ptp(values))


@pytest.mark.parametrize("band_pass", [(0.01, 0.1), None])
def test_copies_and_sums_of_regressors_remove_nothing_more(signals, regressors, band_pass):
    """Where filtering leaves rounding noise of a copy, nilearn removes the noise as if it were one more regressor."""
    options = {"repetition_time": 2.0, "band_pass": band_pass}
    every = np.ones(T, dtype=bool)
    expected = clean_signals(signals, regressors, every, **options)
    more = np.column_stack([regressors, 5 * regressors[:, 2], regressors[:, 0] / 3 - regressors[:, 1], np.arange(T)])
    np.testing.assert_allclose(clean_signals(signals, more, every, **options), expected, atol=1e-8)


def test_reflection_halves_the_error_at_the_ends():
    """A stretch of long noise against the same stretch of the noise filtered as a whole."""
    noise = np.random.default_rng(3).standard_normal((600, 40)).cumsum(axis=0) / 9
    noise += np.random.default_rng(4).standard_normal((600, 40))
    arguments = {"repetition_time": 2.0, "band_pass": (0.01, 0.1)}
    whole = clean_signals(noise, np.zeros((600, 0)), np.ones(600, bool), **arguments)[240:360]
    part = clean_signals(noise[240:360], np.zeros((120, 0)), np.ones(120, bool), **arguments)
    default = clean(noise[240:360], standardize=None, low_pass=0.1, high_pass=0.01, t_r=2.0)
    ends = np.r_[0:10, 110:120]
    assert ((part - whole)[ends] ** 2).mean() < 0.5 * ((default - whole)[ends] ** 2).mean()


def test_spikes_in_mirrored_scrubbed_volumes_change_nothing(signals, regressors):
    dropped = [5, T - 1 - 5, 40, T - 1 - 40, 70, 71]
    kept = drop(T, *dropped)
    arguments = {"repetition_time": 2.0, "band_pass": (0.01, 0.1)}
    quiet = clean_signals(signals, regressors, kept, **arguments)
    signals[dropped] += 1e6
    regressors[dropped] = np.nan
    loud = clean_signals(signals, regressors, kept, **arguments)
    np.testing.assert_array_equal(quiet, loud)
    assert np.isnan(loud[~kept]).all()
    assert np.isfinite(loud[kept]).all()


def test_cleaning_agrees_with_nilearns_sample_mask_where_that_works(signals, regressors):
    """Its bug needs scrubbed volumes t and T-1-t; its regression leaves out dropped volumes, ours interpolates them."""
    kept = drop(T, 20, 33, 34, 90)
    ours, theirs = {"repetition_time": 2.0, "band_pass": (0.01, 0.1)}, {"low_pass": 0.1, "high_pass": 0.01, "t_r": 2.0}
    theirs |= REFLECTED
    filtered = clean_signals(signals, regressors[:, :0], kept, **ours)[kept]
    oracle = clean(signals.copy(), sample_mask=kept.copy(), standardize=None, **theirs)
    np.testing.assert_allclose(filtered, oracle, atol=1e-9)
    cleaned = clean_signals(signals, regressors, kept, **ours)[kept]
    oracle = clean(signals.copy(), confounds=regressors.copy(), sample_mask=kept.copy(), standardize=None, **theirs)
    for parcel in range(P):
        assert np.corrcoef(cleaned[:, parcel], oracle[:, parcel])[0, 1] > 0.98


def test_regressors_are_gone_and_a_planted_signal_stays():
    time = np.arange(240) * 2.0
    planted = np.sin(2 * np.pi * 0.04 * time)[:, None] * np.linspace(1, 3, 5)
    rng = np.random.default_rng(8)
    nuisance = rng.standard_normal((240, 6)).cumsum(axis=0)
    mixed = 500 + planted + nuisance @ rng.standard_normal((6, 5)) + 0.05 * time[:, None]
    cleaned = clean_signals(mixed, nuisance, np.ones(240, bool), repetition_time=2.0, band_pass=(0.01, 0.1))
    for parcel in range(5):
        assert np.corrcoef(mixed[:, parcel], planted[:, parcel])[0, 1] < 0.7
        assert np.corrcoef(cleaned[:, parcel], planted[:, parcel])[0, 1] > 0.95


@pytest.mark.parametrize(
    ("band_pass", "passed"),
    [
        ((0.01, 0.1), (False, True, False)),
        ((0.0, 0.1), (True, True, False)),
        ((0.01, 0.0), (False, True, True)),
        (None, (True, True, True)),
        ((0.01, 0.9), (False, True, True)),  # above the Nyquist frequency of 0.25 Hz there is nothing to remove
    ],
)
def test_open_sides_of_the_pass_band(band_pass, passed):
    time = np.arange(600) * 2.0
    waves = np.sin(2 * np.pi * np.outer(time, [0.005, 0.05, 0.2]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cleaned = clean_signals(waves, np.zeros((600, 0)), np.ones(600, bool), repetition_time=2.0, band_pass=band_pass)
    power = cleaned[100:-100].std(axis=0) / waves[100:-100].std(axis=0)
    for share, stays in zip(power, passed, strict=True):
        assert (share > 0.95) if stays else (share < 0.1)


def test_a_band_above_nyquist_is_refused():
    assert pass_band((0.01, 0.1), repetition_time=2.0) == (0.01, 0.1)
    assert pass_band((0.0, 0.1), repetition_time=5.0) == (None, None)
    with pytest.raises(RunFailed, match=r"2000 s.*0\.00025 Hz,.*--band-pass.*0\.01 Hz"):
        pass_band((0.01, 0.1), repetition_time=2000.0)


def test_absent_parcels_stay_absent_and_change_no_other(signals, regressors):
    kept = drop(T, 30)
    whole = clean_signals(signals, regressors, kept, repetition_time=0.8, band_pass=(0.01, 0.1))
    signals[:, [2, 9]] = np.nan
    part = clean_signals(signals, regressors, kept, repetition_time=0.8, band_pass=(0.01, 0.1))
    present = np.delete(np.arange(P), [2, 9])
    assert np.isnan(part[:, [2, 9]]).all()
    np.testing.assert_allclose(part[:, present], whole[:, present], atol=1e-9)
    signals[:] = np.nan
    assert np.isnan(clean_signals(signals, regressors, kept, repetition_time=2.0, band_pass=None)).all()


def test_constant_parcels_and_regressors_do_no_harm(signals, regressors):
    signals[:, 3] = 15000.3
    kept = drop(T, 0, 77)
    regressors = np.column_stack([regressors, np.full(T, 0.1), ~kept * 1.0])
    cleaned = clean_signals(signals, regressors, kept, repetition_time=2.0, band_pass=(0.01, 0.1))
    expected = clean_signals(signals, regressors[:, :C], kept, repetition_time=2.0, band_pass=(0.01, 0.1))
    np.testing.assert_array_equal(cleaned, expected)
    assert (cleaned[kept, 3] == 0).all()


def test_inputs_are_not_changed(signals, regressors):
    before = signals.copy(), regressors.copy()
    clean_signals(signals, regressors, drop(T, 8), repetition_time=2.0, band_pass=(0.01, 0.1))
    np.testing.assert_array_equal(signals, before[0])
    np.testing.assert_array_equal(regressors, before[1])


def test_more_regressors_than_volumes_can_bear(signals):
    many = np.random.default_rng(1).standard_normal((T, 100))
    arguments = {"repetition_time": 2.0, "band_pass": None}
    scrubbed = np.arange(T) < 106
    with pytest.raises(RunSkipped, match=r"106 of 141 volumes.*100 regressors.*least 107") as skipped:
        clean_signals(signals, many, scrubbed, **arguments)
    assert skipped.value.reason == "too_few_kept"
    with pytest.raises(RunFailed, match=r"41 of 41 volumes.*100 regressors") as failed:
        clean_signals(signals[:41], many[:41], np.ones(41, bool), **arguments)
    assert failed.value.reason == "bad_confounds"


def test_too_few_volumes_are_no_fault_of_regressors(signals):
    arguments = {"repetition_time": 2.0, "band_pass": None}
    for n_volumes, n_kept, reason in ((6, 6, "too_short"), (T, 6, "too_few_kept")):
        with pytest.raises(RunSkipped, match=f"6 of {n_volumes}.*least 7") as skipped:
            clean_signals(signals[:n_volumes], np.zeros((n_volumes, 0)), np.arange(n_volumes) < n_kept, **arguments)
        assert skipped.value.reason == reason


def test_a_run_shorter_than_the_filters_padding_is_cleaned():
    short = np.random.default_rng(1).standard_normal((17, 3))
    cleaned = clean_signals(short, np.zeros((17, 0)), np.ones(17, bool), repetition_time=2.0, band_pass=(0.01, 0.1))
    assert np.isfinite(cleaned).all()


@pytest.mark.parametrize(
    ("n_volumes", "repetition_time", "n_regressors"), [(240, 2.0, 40), (600, 0.735, 40), (120, 3.0, 30)]
)
def test_the_freedom_that_regressors_leave_is_estimated(n_volumes, repetition_time, n_regressors):
    rng = np.random.default_rng(2)
    noise = rng.standard_normal((n_volumes, 60))
    nuisance = rng.standard_normal((n_volumes, n_regressors)).cumsum(axis=0)
    kept = np.ones(n_volumes, bool)
    arguments = {"repetition_time": repetition_time, "band_pass": (0.01, 0.1)}
    left = clean_signals(noise, nuisance, kept, **arguments).var()
    filtered = clean_signals(noise, nuisance[:, :0], kept, **arguments).var()
    assert estimate_freedom(kept, n_regressors, **arguments) == pytest.approx(left / filtered, abs=0.08)
    assert estimate_freedom(kept[:50], 200, **arguments) == 0.0
    assert estimate_freedom(kept, 24, repetition_time=2.0, band_pass=None) == pytest.approx(1 - 24 / n_volumes)


# --- check_duration ---


def test_duration_of_run_and_of_kept_volumes():
    check_duration(np.ones(50, bool), repetition_time=2.0, min_time=100.0)
    check_duration(np.ones(125, bool), repetition_time=0.8, min_time=100.0)
    check_duration(drop(41, 3), repetition_time=2.0, min_time=0.0)
    with pytest.raises(RunSkipped, match=r"lasts 98 s \(49 volumes of 2 s\), shorter than --min-time 100 s") as short:
        check_duration(np.ones(49, bool), repetition_time=2.0, min_time=100.0)
    assert short.value.reason == "too_short"
    with pytest.raises(RunSkipped, match=r"49 of 51 volumes are kept \(98 of 102 s\)") as few:
        check_duration(drop(51, 0, 9), repetition_time=2.0, min_time=100.0)
    assert few.value.reason == "too_few_kept"
    with pytest.raises(RunSkipped, match=r"0 of 41 volumes are kept\.$"):
        check_duration(np.zeros(41, bool), repetition_time=2.0, min_time=0.0)
