"""Gains over the weights that a training started from: paired by seed, with intervals for people and for seeds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from bids_semantoks.statistics.linear import cross_validate
from bids_semantoks.statistics.metrics import compute_scores
from bids_semantoks.statistics.predictions import Target
from bids_semantoks.statistics.scaling_law import average_gains, choose_share, compute_gain, fit_log_line
from bids_semantoks.statistics.spans import TableFeatures
from bids_semantoks.statistics.splits import build_splits

SIZES = np.array([16, 50, 200, 16, 50, 200, 16, 50, 200])


SEEDS = np.repeat([4, 5, 6], 3)


def fit_by_design(sizes, gains, seeds):
    """Least squares on indicators of seeds and log10(participants), with the textbook's standard error."""
    design = np.column_stack([*(seeds == seed for seed in np.unique(seeds)), np.log10(sizes)]).astype(float)
    found, *_ = np.linalg.lstsq(design, gains, rcond=None)
    residual = gains - design @ found
    free = len(gains) - design.shape[1]
    error = np.sqrt(residual @ residual / free * np.linalg.inv(design.T @ design)[-1, -1])
    return found[-1], stats.t.ppf(0.975, free) * error


def test_line_has_a_level_for_each_seed():
    gains = np.array([0.01, 0.05, 0.11, 0.22, 0.24, 0.33, -0.10, -0.07, 0.01])
    fit = fit_log_line(SIZES, gains, SEEDS)
    slope, reach = fit_by_design(SIZES, gains, SEEDS)
    assert (fit.slope, fit.ci_high - fit.slope, fit.n_points) == pytest.approx((slope, reach, 9))
    assert fit.slope - fit.ci_low == pytest.approx(reach)
    assert fit.intercept + fit.slope * np.log10(SIZES).mean() == pytest.approx(gains.mean())
    # What all encoders of a seed have in common, such as their baseline, has no say.
    shifted = fit_log_line(SIZES, gains + np.repeat([0.3, -0.2, 0.7], 3), SEEDS)
    assert (shifted.slope, shifted.ci_low) == pytest.approx((fit.slope, fit.ci_low))
    plain = stats.linregress(np.log10(SIZES), gains)
    assert reach < stats.t.ppf(0.975, 7) * plain.stderr / 2


def test_missing_gains_leave_the_line_unbalanced():
    gains = np.array([0.01, 0.05, np.nan, 0.22, 0.24, 0.33, np.nan, np.nan, 0.01])
    fit = fit_log_line(SIZES, gains, SEEDS)
    known = ~np.isnan(gains)
    slope, reach = fit_by_design(SIZES[known], gains[known], SEEDS[known])
    assert (fit.slope, fit.ci_high - fit.slope, fit.n_points) == pytest.approx((slope, reach, 6))


def test_line_without_enough_points_says_so():
    assert np.isnan(fit_log_line(np.array([16, 16]), np.array([0.1, 0.2]), np.array([0, 1])).slope)
    # Each seed has one share: between seeds there is no slope.
    assert np.isnan(fit_log_line(np.array([16, 160]), np.array([0.1, 0.2]), np.array([0, 1])).slope)
    two = fit_log_line(np.array([16, 160]), np.array([0.1, 0.3]), np.array([0, 0]))
    assert (two.slope, np.isnan(two.ci_low)) == (pytest.approx(0.2), True)


def predict(noise, seed):
    """Two participants' rows a group; what the model sees is the truth and noise."""
    rng = np.random.default_rng(0)
    truth = rng.standard_normal(80)
    values = truth[:, None] + noise * np.random.default_rng(seed).standard_normal((80, 3))
    target = Target(name="age", values=truth)
    splits = build_splits(target.compute_strata(), n_repeats=1)
    return cross_validate(TableFeatures(name="m", values=values), target, splits)


def test_gain_is_paired_by_participant():
    strong, weak = predict(1.0, 1), predict(4.0, 2)
    found = compute_gain(strong, weak, "r", seed=3)
    first, second = (compute_scores(one, metrics=("r",), n_bootstrap=2, seed=3)[0].value for one in (strong, weak))
    assert (found.value, found.value_random) == (first, second)
    assert found.gain == first - second > 0
    low, high = found.interval
    assert 0 < low < found.gain < high
    # The same model twice: whoever is drawn, the difference is none, though the score itself varies.
    same = compute_gain(strong, strong, "r", seed=3)
    assert (same.gain, same.interval) == (0.0, (0.0, 0.0))
    # Rows of a participant are drawn together: fewer are independent, the interval is wider.
    doubled = compute_gain(strong, weak, "r", participants=np.arange(80) // 20, seed=3)
    assert np.ptp(doubled.interval) != np.ptp(found.interval)
    again = compute_gain(strong, weak, "r", participants=np.arange(80), seed=3)
    assert again.interval == found.interval


def test_gains_of_a_share_have_an_interval_for_people_and_one_for_seeds():
    gains = [compute_gain(predict(1.0, 1), predict(4.0, seed), "r", seed=3) for seed in (2, 5, 7)]
    mean = average_gains(gains)
    values = [one.gain for one in gains]
    assert (mean.gain, mean.n) == (pytest.approx(np.mean(values)), 3)
    assert mean.over_seeds == pytest.approx(tuple(stats.ttest_1samp(values, 0).confidence_interval()))
    sample = np.mean([one.sample for one in gains], axis=0)
    assert mean.over_participants == pytest.approx(tuple(np.quantile(sample, (0.025, 0.975))))
    alone = average_gains(gains[:1])
    assert np.isnan(alone.over_seeds).all()
    assert alone.over_participants == gains[0].interval


def test_smaller_shares_lie_in_larger_ones():
    people = [f"{i:02d}" for i in range(40)]
    small, large = (choose_share(people, n, seed=3) for n in (16, 30))
    assert (len(small), len(large)) == (16, 30)
    assert small < large
    assert choose_share(people[::-1], 16, seed=3) == small
    assert choose_share(people, 16, seed=4) != small
