"""Weights of windows and runs in means, by their amount of kept data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.records import Floats


def weigh_windows(kept: NDArray[np.floating[Any]], min_kept: float | None) -> Floats:
    """Weight windows (B,) by the share of their time that is kept; the weights sum to 1.

    Windows below `min_kept` get none, unless all are below. None for `min_kept` weights all equally, as in the
    published protocol.
    """
    weights = np.asarray(kept, dtype=np.float64)
    if min_kept is None or not weights.any():
        return np.full(weights.size, 1 / weights.size)
    if (weights >= min_kept).any():
        weights = np.where(weights >= min_kept, weights, 0.0)
    return np.asarray(weights / weights.sum())


def weigh_runs(seconds: Sequence[float], *, is_weighted: bool) -> Floats:
    """Weight runs (R,) by their seconds of kept data, or equally; the weights sum to 1."""
    weights = np.asarray(seconds if is_weighted else np.ones(len(seconds)), dtype=np.float64)
    return np.asarray(weights / weights.sum())
