"""Test-retest reliability: identification of participants by a second scan, and intraclass correlation of features.
Shape letters: n participants, d features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bids_semantoks.records import Floats, Reals
from bids_semantoks.statistics.metrics import bound_equal

_BLOCK = 4096  # features at a time: two tables of connectivity are large enough as they are

#: Participants at a time that are compared with all others: the table of all pairs would grow with n squared.
_ROWS = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class RetestScore:
    """Test-retest reliability of one kind of features."""

    features: str  # their name
    identification: float  # share of scans most similar to the same participant's scan in the other run, both ways
    ci_low: float  # 95 %, resampling participants with the others held fixed; Clopper and Pearson's for all or none
    ci_high: float
    chance: float  # one over the number of participants
    icc_median: float  # over features; icc_low and icc_high are the quartiles
    icc_low: float
    icc_high: float
    n_participants: int


def compute_retest(name: str, first: Reals, second: Reals, *, n_bootstrap: int = 2000, seed: int = 0) -> RetestScore:
    """Compare features (n, d) of two runs of the same participants in the same order. Raises ValueError for fewer than
    two participants or tables of different shapes."""
    if first.shape != second.shape or len(first) < 2:
        raise ValueError(
            f"{name}: expected two tables of at least two participants, found {first.shape} and {second.shape}"
        )
    hits = compute_hits(first, second)
    rng = np.random.default_rng(seed)
    sample = hits[rng.integers(0, len(hits), size=(n_bootstrap, len(hits)))].mean(axis=1)
    low, high = np.quantile(sample, (0.025, 0.975))
    if low == high and low in (0.0, 1.0):
        # If all or none are recognised, bootstrap samples cannot differ: use the exact interval of such a share.
        low, high = bound_equal(low, (0.0, 1.0), len(hits))
    icc = compute_icc(first, second)
    quartiles = np.nanquantile(icc, (0.25, 0.5, 0.75)) if not np.isnan(icc).all() else np.full(3, np.nan)
    return RetestScore(
        features=name,
        identification=float(hits.mean()),
        ci_low=float(low),
        ci_high=float(high),
        chance=1 / len(hits),
        icc_median=float(quartiles[1]),
        icc_low=float(quartiles[0]),
        icc_high=float(quartiles[2]),
        n_participants=len(hits),
    )


def compute_hits(first: Reals, second: Reals) -> Floats:
    """Identify each participant among all by the correlation of features (n, d) (Finn et al., Nat Neurosci 18, 2015).
    Features are centred over participants in each run first. Returns (n,) of 0, 0.5 or 1: mean of both directions."""
    n = len(first)
    means = [np.asarray(np.mean(table, axis=0, dtype=np.float64)) for table in (first, second)]
    own, best = np.full(n, np.nan), np.full((2, n), -np.inf)
    for start in range(0, n, _ROWS):
        similarity = _correlate(first[start : start + _ROWS], second, means)  # (rows, n)
        rows = np.arange(len(similarity))
        own[start + rows] = similarity[rows, start + rows]
        similarity[rows, start + rows] = -np.inf
        best[0, start + rows] = similarity.max(axis=1)
        best[1] = np.maximum(best[1], similarity.max(axis=0))
    return np.asarray((own > best).sum(axis=0) / 2)


def _correlate(first: Reals, second: Reals, means: Sequence[Floats]) -> Floats:
    """Correlate rows (a, d) with rows (n, d) after subtracting the means (d,) of each table: (a, n)."""
    width = second.shape[1]
    products = np.zeros((len(first), len(second)))
    sums, squares = ([np.zeros(len(table)) for table in (first, second)] for _ in range(2))
    for start in range(0, width, _BLOCK):
        some = slice(start, start + _BLOCK)
        part = [np.asarray(t[:, some], dtype=np.float64) - m[some] for t, m in zip((first, second), means, strict=True)]
        products += part[0] @ part[1].T
        for side, values in enumerate(part):
            sums[side] += values.sum(axis=1)
            squares[side] += (values**2).sum(axis=1)
    lengths = [np.sqrt(np.maximum(s - t**2 / width, 0)) for s, t in zip(squares, sums, strict=True)]
    lengths = [np.where(length > 0, length, 1) for length in lengths]
    return np.asarray((products - np.outer(*sums) / width) / np.outer(*lengths))


def compute_icc(first: Reals, second: Reals) -> Floats:
    """Compute ICC(2,1), absolute agreement, of each feature (n, d): (d,); NaN where constant. Shrout and
    Fleiss, Psychological Bulletin 86, 1979."""
    blocks = range(0, first.shape[1], _BLOCK)
    return np.concatenate([_compute_icc(*(table[:, i : i + _BLOCK] for table in (first, second))) for i in blocks])


def _compute_icc(first: Reals, second: Reals) -> Floats:
    n = len(first)
    values = np.stack([first, second]).astype(np.float64)  # (2, n, d)
    persons, runs, grand = values.mean(axis=0), values.mean(axis=1), values.mean(axis=(0, 1))
    between = 2 * ((persons - grand) ** 2).sum(axis=0) / (n - 1)
    sessions = n * ((runs - grand) ** 2).sum(axis=0)
    error = ((values - persons - runs[:, None] + grand) ** 2).sum(axis=(0, 1)) / (n - 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((between - error) / (between + error + 2 * (sessions - error) / n))
