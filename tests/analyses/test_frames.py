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
