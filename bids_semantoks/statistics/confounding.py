"""Do predictions depend on a confounder beyond what is predicted? The partial confounder test (Spisak, GigaScience 11,
2022) by conditional permutation (Berrett et al., J R Stat Soc B 82, 2020). Shape letters: n rows, m permutations, q
columns of predictions, s levels of a confounder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from bids_semantoks.records import Floats, Indices

#: Steps of a chain, each of which offers every row one exchange.
_N_STEPS: Final = 50

#: Powers of a continuous phenotype that explain the confounder.
_DEGREE: Final = 3

#: Log likelihood (m, h) of the confounder's value in some rows (m, h) if it were that of others (h,).
_Likelihood = Callable[[Indices, Indices], Floats]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ConfounderTest:
    """Whether predictions are independent of a confounder, given what they predict."""

    value: float  # share of the variance of the predictions that the confounder explains
    expected: float  # median of the same where they are independent
    p_value: float  # (1 + permutations with at least this share) / (1 + permutations)


def compute_confounder_test(
    scores: Floats,
    truth: Floats,
    confounder: Floats,
    *,
    truth_is_class: bool,
    is_category: bool,
    n_permutations: int = 200,
    seed: int = 0,
) -> ConfounderTest:
    """Permute a confounder (n,) while it keeps its relation to the truth (n,), and compare the share of the variance of
    predictions (n, q) that it explains.

    Its distribution given the truth is modelled: frequencies (categories) or mean and variance (numbers) of each class,
    or a cubic polynomial of continuous values, logistic for categories. Categories are numbers 0, 1, ...; no NaN.
    """
    rng = np.random.default_rng(seed)
    modelled = _fit_categories if is_category else _fit_numbers
    likelihood = modelled(truth, confounder, truth_is_class=truth_is_class)
    columns = confounder[_permute(likelihood, len(confounder), n_permutations, rng)]
    shares = _compute_shares(scores, np.vstack([confounder, columns]), is_category=is_category)
    value, null = float(shares[0]), shares[1:]
    p_value = (1 + int((null >= value - 1e-12).sum())) / (1 + n_permutations)
    return ConfounderTest(value=value, expected=float(np.median(null)), p_value=p_value)


def _permute(likelihood: _Likelihood, n_rows: int, n_permutations: int, rng: np.random.Generator) -> Indices:
    """Draw permutations (m, n): chains that start where one chain from the observed order ends. As that one takes the
    same exchanges in reverse order, the observed order is exchangeable with the ends of the others."""
    half = n_rows // 2
    pairs = [rng.permutation(n_rows)[: 2 * half].reshape(2, half) for _ in range(_N_STEPS)]
    order = np.arange(n_rows)[None]
    for first, second in reversed(pairs):
        _exchange(order, first, second, likelihood, rng)
    order = np.repeat(order, n_permutations, axis=0)
    for first, second in pairs:
        _exchange(order, first, second, likelihood, rng)
    return order


def _exchange(
    order: Indices, first: Indices, second: Indices, likelihood: _Likelihood, rng: np.random.Generator
) -> None:
    """Exchange values between pairs of rows (h,) of each chain (m, n), in place, as often as is likely."""
    here, there = order[:, first], order[:, second]
    gain = likelihood(there, first) + likelihood(here, second) - likelihood(here, first) - likelihood(there, second)
    swaps = rng.random(gain.shape) < 1 / (1 + np.exp(-np.clip(gain, -500, 500)))
    order[:, first], order[:, second] = np.where(swaps, there, here), np.where(swaps, here, there)


def _fit_numbers(truth: Floats, confounder: Floats, *, truth_is_class: bool) -> _Likelihood:
    """Model a number as normal about its mean given the truth, with the variance of each class."""
    design = truth[:, None] == np.unique(truth) if truth_is_class else _raise(truth)
    inverse = np.linalg.pinv(design.astype(np.float64))
    mean = design @ (inverse @ confounder)
    squares = (confounder - mean) ** 2
    variance = design @ (inverse @ squares) if truth_is_class else np.full(len(truth), squares.mean())
    variance = np.maximum(variance, 1e-12 * max(float(confounder.var()), 1e-300))

    def find(values: Indices, rows: Indices) -> Floats:
        # The variance of the row is that of its own distribution; its logarithm cancels between the exchanged.
        return np.asarray(-((confounder[values] - mean[rows]) ** 2) / (2 * variance[rows]))

    return find


def _fit_categories(truth: Floats, confounder: Floats, *, truth_is_class: bool) -> _Likelihood:
    """Model a category by its frequencies in each class, or by multinomial logistic regression on powers of values."""
    levels = confounder.astype(np.int64)
    if truth_is_class:
        _, which = np.unique(truth, return_inverse=True)
        # Half a person more in every cell, so that none is impossible.
        counts = np.full((which.max() + 1, levels.max() + 1), 0.5)
        np.add.at(counts, (which, levels), 1.0)
        table = np.log(counts / counts.sum(axis=1, keepdims=True))[which]
    else:
        found: Any = LogisticRegression(C=100.0, max_iter=1000).fit(_raise(truth)[:, 1:], levels)
        table = np.full((len(truth), levels.max() + 1), -30.0)
        table[:, found.classes_] = np.maximum(found.predict_log_proba(_raise(truth)[:, 1:]), -30.0)

    def find(values: Indices, rows: Indices) -> Floats:
        return np.asarray(table[rows, levels[values]])

    return find


def _raise(truth: Floats) -> Floats:
    """Raise standardised values (n,) to powers from 0: (n, 1 + degree)."""
    standard = (truth - truth.mean()) / (truth.std() or 1.0)
    return np.asarray(standard[:, None] ** np.arange(_DEGREE + 1))


def _compute_shares(scores: Floats, columns: Floats, *, is_category: bool) -> NDArray[np.float64]:
    """Compute the share of the variance of scores (n, q), not all constant, that each column (m, n) explains."""
    centred = scores - scores.mean(axis=0)
    total = float((centred**2).sum())
    if is_category:
        explained = np.zeros(len(columns))
        for level in np.unique(columns):
            inside = (columns == level).astype(np.float64)
            sums = inside @ centred
            explained += (sums**2).sum(axis=1) / np.maximum(inside.sum(axis=1), 1.0)
    else:
        own = columns - columns.mean(axis=1, keepdims=True)
        explained = ((own @ centred) ** 2).sum(axis=1) / np.maximum((own**2).sum(axis=1), 1e-300)
    return np.asarray(explained / max(total, 1e-300))
