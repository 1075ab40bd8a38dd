"""Tables made from results."""

from __future__ import annotations

import numpy as np
import pytest

from bids_semantoks.analyses.frames import compute_axes


def test_axes_are_those_of_the_largest_variance() -> None:
    rng = np.random.default_rng(0)
    hidden = rng.standard_normal(23)
    values = np.concatenate([hidden[:, None] + 0.01 * rng.standard_normal((23, 5)), np.ones((23, 1))], axis=1)
    points, shares = compute_axes(values)
    assert abs(np.corrcoef(points[:, 0], hidden)[0, 1]) > 0.999
    assert shares[0] > 0.99
    assert points[:, 0].std() == pytest.approx(1)


@pytest.mark.parametrize("shape", [(23, 7), (7, 23)], ids=["tall", "wide"])
def test_axes_are_principal_components_whichever_side_is_smaller(shape) -> None:
    values = np.random.default_rng(1).standard_normal(shape)
    points, shares = compute_axes(values)
    scaled = (values - values.mean(axis=0)) / values.std(axis=0)
    left, lengths, _ = np.linalg.svd(scaled, full_matrices=False)
    expected = left[:, :2] * lengths[:2]
    expected /= expected[:, 0].std()
    np.testing.assert_allclose(np.abs(points), np.abs(expected), atol=1e-9)
    np.testing.assert_allclose(shares, (lengths**2 / (lengths**2).sum())[:2], rtol=1e-9)
