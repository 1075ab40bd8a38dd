"""Participants are scored alone, and their scores averaged."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from bids_semantoks.statistics.metrics import average_participants, score_participants
from bids_semantoks.statistics.predictions import PredictionTable
from bids_semantoks.statistics.targets import Target


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
