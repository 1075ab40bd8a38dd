"""Covariates as numbers, to be removed from features or to predict on their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray


def build_covariates(columns: Mapping[str, Sequence[float] | Sequence[str]]) -> NDArray[np.float64]:
    """Convert columns of length n to numbers (n, c), text to one indicator per level; ValueError at a missing value.
    All levels keep their indicator, since a training part may lack any of them."""
    table = []
    for name, column in columns.items():
        values = np.asarray(column)
        if values.dtype.kind in "OUS":
            missing = [index for index, value in enumerate(column) if value in (None, "", "n/a")]
            table += [(values == level).astype(np.float64) for level in sorted(set(map(str, column)))]
        else:
            missing = list(np.flatnonzero(~np.isfinite(values.astype(np.float64))))
            table.append(values.astype(np.float64))
        if missing:
            raise ValueError(f"covariate {name} is missing in row {missing[0]}")
    return np.stack(table, axis=1)
