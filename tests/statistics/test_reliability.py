"""Reliability against its definitions."""

import numpy as np
import pytest
from scipy.stats import binomtest

from bids_semantoks.statistics import reliability
from bids_semantoks.statistics.reliability import compute_hits, compute_icc, compute_retest


def test_retest_knows_persons():
    rng = np.random.default_rng(0)
    person = rng.standard_normal((31, 17))
    first, second = (person + 0.5 * rng.standard_normal(person.shape) for _ in range(2))
    score = compute_retest("embedding", first, second)
    assert score.identification > 0.8
    assert score.ci_low <= score.identification <= score.ci_high
    assert score.icc_median == pytest.approx(0.8, abs=0.1)
    noise = compute_retest("noise", rng.standard_normal((31, 17)), rng.standard_normal((31, 17)))
    assert noise.identification < 0.2
    assert abs(noise.icc_median) < 0.2
    assert noise.chance == 1 / 31
    np.testing.assert_array_equal(compute_hits(first, first), 1)
    sure = compute_retest("itself", first, first)
    assert (sure.ci_low, sure.ci_high) == pytest.approx((binomtest(31, 31).proportion_ci(method="exact").low, 1))
    with pytest.raises(ValueError, match=r"found \(31, 17\) and \(30, 17\)"):
        compute_retest("x", first, first[1:])


def test_icc_follows_shrout_and_fleiss():
    # The first two judges of the table in their paper, by their formulas written out.
    table = np.array([[9, 2], [6, 1], [8, 4], [7, 1], [10, 5], [6, 2]], dtype=float)
    n, k = table.shape
    rows = k * ((table.mean(axis=1) - table.mean()) ** 2).sum() / (n - 1)
    columns = n * ((table.mean(axis=0) - table.mean()) ** 2).sum() / (k - 1)
    rest = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0) + table.mean()
    error = (rest**2).sum() / ((n - 1) * (k - 1))
    expected = (rows - error) / (rows + (k - 1) * error + k * (columns - error) / n)
    np.testing.assert_allclose(compute_icc(table[:, :1], table[:, 1:]), [expected])


def test_identification_is_by_the_correlation_with_everybody(monkeypatch):
    rng = np.random.default_rng(1)
    person = rng.standard_normal((23, 9))
    first, second = (person + 1.5 * rng.standard_normal(person.shape) for _ in range(2))
    similarity = np.corrcoef(first - first.mean(axis=0), second - second.mean(axis=0))[:23, 23:]
    n = np.arange(23)
    expected = ((similarity.argmax(axis=1) == n) * 1.0 + (similarity.argmax(axis=0) == n)) / 2
    assert 0.1 < expected.mean() < 0.9
    monkeypatch.setattr(reliability, "_ROWS", 5)
    monkeypatch.setattr(reliability, "_BLOCK", 4)
    np.testing.assert_array_equal(compute_hits(first, second), expected)
