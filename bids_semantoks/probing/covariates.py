"""Covariates as a table of numbers, ready to be removed or to predict on their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray


def build_covariates(columns: Mapping[str, Sequence[float] | Sequence[str]]) -> NDArray[np.float64]:
    """Turn columns into numbers: text becomes one indicator a level.

    Parameters
    ----------
    columns : mapping of str to sequence, length n
        By name; text (site, sex) or numbers (age), nothing missing.

    Returns
    -------
    NDArray, float64, shape (n, c)
        All levels keep their indicator, since a training part may lack any of them.

    Raises
    ------
    ValueError
        When a value is missing, which column and row.
    """
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
