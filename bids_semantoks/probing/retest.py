"""Are two scans of a person more alike than scans of two persons, and how much of a feature is the person's.

References
----------
.. [1] E. S. Finn et al., Functional connectome fingerprinting, Nature Neuroscience 18 (2015).
.. [2] P. E. Shrout and J. L. Fleiss, Intraclass correlations, Psychological Bulletin 86 (1979).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
#: Features at a time: two tables of connectivity are large enough as they are.
_BLOCK = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class RetestScore:
    """Test-retest reliability of one kind of features.

    Parameters
    ----------
    name : str
        Which features.
    identification : float
        Share of scans whose most similar scan of the other run is the same participant's, both ways.
    ci_low, ci_high : float
        95 % interval, participants drawn with replacement, the others held fixed; where all or none are recognised,
        that of Clopper and Pearson.
    chance : float
        One over the number of participants.
    icc_median, icc_low, icc_high : float
        Median and quartiles over features of the intraclass correlation.
    n_participants : int
        With two runs.
    """

    name: str
    identification: float
    ci_low: float
    ci_high: float
    chance: float
    icc_median: float
    icc_low: float
    icc_high: float
    n_participants: int


def compute_retest(
    name: str,
    first: NDArray[np.floating[Any]],
    second: NDArray[np.floating[Any]],
    *,
    n_bootstrap: int = 2000,
    seed: int = 0,
) -> RetestScore:
    """Compare two runs of the same participants.

    Parameters
    ----------
    name : str
        What a report calls the features.
    first, second : NDArray, float, shape (n, d)
        Features of both runs, participants in the same order.
    n_bootstrap : int
        Samples for the interval.
    seed : int
        Of the drawing.

    Returns
    -------
    RetestScore
        Identification and intraclass correlation.

    Raises
    ------
    ValueError
        When there are fewer than two participants or the tables differ in shape.
    """
    if first.shape != second.shape or len(first) < 2:
        raise ValueError(
            f"{name}: two tables of two or more participants are needed, found {first.shape} and {second.shape}"
        )
    hits = compute_hits(first, second)
    rng = np.random.default_rng(seed)
    sample = hits[rng.integers(0, len(hits), size=(n_bootstrap, len(hits)))].mean(axis=1)
    low, high = np.quantile(sample, (0.025, 0.975))
    if low == high and low in (0.0, 1.0):
        # No sample of people who all are, or are not, recognised can differ: the exact interval of such a share.
        reach = 0.025 ** (1 / len(hits))
        low, high = (reach, 1.0) if low else (0.0, 1 - reach)
    icc = compute_icc(first, second)
    quartiles = np.nanquantile(icc, (0.25, 0.5, 0.75)) if not np.isnan(icc).all() else np.full(3, np.nan)
    return RetestScore(
        name=name,
        identification=float(hits.mean()),
        ci_low=float(low),
        ci_high=float(high),
        chance=1 / len(hits),
        icc_median=float(quartiles[1]),
        icc_low=float(quartiles[0]),
        icc_high=float(quartiles[2]),
        n_participants=len(hits),
    )


def compute_hits(first: NDArray[np.floating[Any]], second: NDArray[np.floating[Any]]) -> Floats:
    """Tell who is recognised among all by the correlation of features [1]_.

    Features are first centred over the participants of each run: what all share tells nobody apart.

    Parameters
    ----------
    first, second : NDArray, float, shape (n, d)
        Features of both runs.

    Returns
    -------
    NDArray, float64, shape (n,)
        0, 0.5 or 1: mean of both directions.
    """
    n, width = first.shape
    products, sums, squares = np.zeros((n, n)), np.zeros((2, n)), np.zeros((2, n))
    for start in range(0, width, _BLOCK):
        part = [np.asarray(table[:, start : start + _BLOCK], dtype=np.float64) for table in (first, second)]
        part = [values - values.mean(axis=0) for values in part]
        products += part[0] @ part[1].T
        sums += [values.sum(axis=1) for values in part]
        squares += [(values**2).sum(axis=1) for values in part]
    lengths = np.sqrt(np.maximum(squares - sums**2 / width, 0))
    lengths = np.where(lengths > 0, lengths, 1)
    similarity = (products - np.outer(sums[0], sums[1]) / width) / np.outer(lengths[0], lengths[1])
    own = np.diag(similarity)
    others = similarity + np.diag(np.full(len(own), -np.inf))
    return np.asarray(((own > others.max(axis=1)).astype(float) + (own > others.max(axis=0))) / 2)


def compute_icc(first: NDArray[np.floating[Any]], second: NDArray[np.floating[Any]]) -> Floats:
    """Compute the intraclass correlation of each feature: two-way, single measure, absolute agreement, ICC(2,1) [2]_.

    Parameters
    ----------
    first, second : NDArray, float, shape (n, d)
        Features of both runs.

    Returns
    -------
    NDArray, float64, shape (d,)
        NaN where a feature does not vary.
    """
    blocks = range(0, first.shape[1], _BLOCK)
    return np.concatenate([_compute_icc(*(table[:, i : i + _BLOCK] for table in (first, second))) for i in blocks])


def _compute_icc(first: NDArray[np.floating[Any]], second: NDArray[np.floating[Any]]) -> Floats:
    n = len(first)
    values = np.stack([first, second]).astype(np.float64)  # (2, n, d)
    persons, runs, grand = values.mean(axis=0), values.mean(axis=1), values.mean(axis=(0, 1))
    between = 2 * ((persons - grand) ** 2).sum(axis=0) / (n - 1)
    sessions = n * ((runs - grand) ** 2).sum(axis=0)
    error = ((values - persons - runs[:, None] + grand) ** 2).sum(axis=(0, 1)) / (n - 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((between - error) / (between + error + 2 * (sessions - error) / n))
