"""Permutation p values from one fixed split, all permutations solved at once, and comparisons of two models. Shape
letters: n rows, m columns (real labels first, then permutations)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from scipy.stats import rankdata
from scipy.stats import t as student
from sklearn.model_selection import GroupKFold, KFold

from bids_semantoks.records import Floats, Indices, Labels
from bids_semantoks.statistics.linear import choose_fold_penalties, choose_loo_penalties, fit_ridge
from bids_semantoks.statistics.metrics import Score, compute_fold_scores
from bids_semantoks.statistics.predictions import Predictions, Target
from bids_semantoks.statistics.spans import Features
from bids_semantoks.statistics.splits import Split, run_folds

_MIN_ORDERS: Final = 20
_MOST_CELLS: Final = 20_000_000  # cells of the columns that are solved at once: 160 MB
SIGNIFICANT: Final = 0.05  # below this p value, and with an interval that excludes chance, a score is above chance


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PermutationTest:
    """Result of a permutation test of ridge regression."""

    statistic: str  # ``auroc`` or ``r``, within folds
    split: str  # ``fixed`` (one 5-fold split drawn without the labels) or ``first`` (first repetition of the scored)
    value: float  # for the real labels
    null: Floats  # (n_permutations,)
    p_value: float  # (1 + number of permutations at least as good) / (1 + n_permutations)

    @property
    def name(self) -> str:
        """Name of the statistic in tables."""
        return f"ridge_{self.statistic}_{'fixed_split' if self.split == 'fixed' else 'first_repetition'}"

    @property
    def smallest(self) -> float:
        """Smallest p value that this many permutations can give."""
        return 1 / (1 + len(self.null))


def compute_permutation_test(
    features: Features,
    target: Target,
    *,
    n_permutations: int = 200,
    covariates: Floats | None = None,
    groups: Labels | None = None,
    blocks: Labels | None = None,
    seed: int = 0,
) -> PermutationTest:
    """Compare the score of the real labels with scores of permuted ones under the same, simpler procedure.

    One 5-fold split, drawn without the labels so that all their orders are alike; ridge on values or on +-1 for each
    class; the penalty chosen per training part and permutation by closed-form leave-one-out; scored within test folds.
    Bins are cut over all rows, since the test permutes them; rows without a value are dropped. Groups (n,) stay on one
    side and exchange labels as units, within a block (n,) only. Covariates (n, c) are removed as in `cross_validate`.
    """
    rows = np.flatnonzero(~np.isnan(target.values))
    columns = permute_target(target, n_permutations=n_permutations, seed=seed, blocks=blocks, units=groups)[rows]
    n_classes = len(target.class_names) if target.is_class else 0
    classes = [1] if n_classes == 2 else list(range(n_classes))
    codes = [np.where(columns == k, 1.0, -1.0) for k in classes] or [columns]
    stacked = np.concatenate(codes, axis=1)
    predicted, fold_of = np.zeros_like(stacked), np.zeros(len(rows), dtype=np.int64)

    def predict(part: tuple[int, tuple[Indices, Indices]]) -> None:
        """Predict all columns in one fold."""
        fold, (train, test) = part
        span = features.compute_span(rows[train], rows[test], covariates)
        fit = fit_ridge(span, stacked[train], choose_loo_penalties(span, stacked[train]))
        predicted[test], fold_of[test] = fit.predict(span.test), fold

    kind: Any = KFold if groups is None else GroupKFold
    splitter = kind(n_splits=5, shuffle=True, random_state=seed)
    run_folds(predict, list(enumerate(splitter.split(rows, None, None if groups is None else groups[rows]))))
    measure = _compute_aurocs if target.is_class else _compute_correlations
    scores = measure(predicted, stacked, fold_of).reshape(len(codes), -1).mean(axis=0)
    return _build_test("auroc" if target.is_class else "r", "fixed", scores)


def permute_scored_ridges(
    features: Features,
    tables: Iterable[Floats],
    splits: Sequence[Split],
    *,
    covariates: Floats | None = None,
    groups: Labels | None = None,
    seed: int = 0,
) -> list[PermutationTest]:
    """Test the ridge regression that `cross_validate` scores, on the first repetition of its own splits, penalty chosen
    as there: the statistic is the r of that repetition. Each table (n, m) holds the values of one target and their
    permutations (`permute_target`), NaN where there is none; the other arguments are those of `cross_validate`."""
    tests: list[PermutationTest] = []
    waiting: list[Floats] = []
    for columns in tables:
        if waiting and (len(waiting) + 1) * columns.size > _MOST_CELLS:
            tests += _permute_together(features, waiting, splits, covariates, groups, seed)
            waiting = []
        waiting.append(columns)
    return tests + (_permute_together(features, waiting, splits, covariates, groups, seed) if waiting else [])


def _permute_together(
    features: Features,
    tables: Sequence[Floats],
    splits: Sequence[Split],
    covariates: Floats | None,
    groups: Labels | None,
    seed: int,
) -> list[PermutationTest]:
    """Test tables whose columns are solved at once."""
    columns, first = np.hstack(tables), min(split.repetition for split in splits)
    predicted, fold_of = np.zeros_like(columns), np.full(len(columns), -1, dtype=np.int64)

    def predict(split: Split) -> None:
        """Predict all columns in one split."""
        train = np.sort(np.concatenate([split.train, split.validation]))
        span = features.compute_span(train, split.test, covariates)
        together = None if groups is None else groups[train]
        penalties = choose_fold_penalties(span, columns[train], together, seed=seed + first)
        fit = fit_ridge(span, columns[train], penalties)
        predicted[split.test], fold_of[split.test] = fit.predict(span.test), split.fold

    run_folds(predict, [split for split in splits if split.repetition == first])
    tested = fold_of >= 0
    scores = _compute_correlations(predicted[tested], columns[tested], fold_of[tested])
    ends = np.cumsum([table.shape[1] for table in tables])
    return [_build_test("r", "first", part) for part in np.split(scores, ends[:-1])]


def average_tests(tests: Sequence[PermutationTest]) -> PermutationTest:
    """Test the mean score of several encoders, given the same permutations, by averaging their null values."""
    scores = np.mean([[one.value, *one.null] for one in tests], axis=0)
    return _build_test(tests[0].statistic, tests[0].split, scores)


def _build_test(statistic: str, split: str, scores: Floats) -> PermutationTest:
    """Compare the score of the real labels, the first, with the others."""
    value, null = float(scores[0]), scores[1:]
    count = int((null >= value - 1e-12).sum())
    p_value = (1 + count) / (1 + len(null))
    return PermutationTest(statistic=statistic, split=split, value=value, null=null, p_value=p_value)


def judge(score: Score, p_value: float) -> str:
    """Judge a score by its interval and its permutation test together: ``above chance`` only by both, ``not detected``
    by neither, else ``inconclusive``. The test is one-sided, so chance must be below the one-sided 95 % bound, which is
    as strict as p < 0.05. Without a test (p NaN) a score can at most be inconclusive; empty for a score of NaN."""
    if math.isnan(score.value) or math.isnan(score.bound):
        return ""
    is_above, is_significant = score.bound > score.chance, p_value < SIGNIFICANT
    if is_above and is_significant:
        return "above chance"
    return "inconclusive" if is_above or is_significant else "not detected"


def permute_target(target: Target, *, n_permutations: int, seed: int, **units: Labels | None) -> Floats:
    """Permute the known values of a target as `permute_values` does: (n, 1 + n_permutations), NaN where missing."""
    rows = np.flatnonzero(~np.isnan(target.values))
    own = {name: None if labels is None else labels[rows] for name, labels in units.items()}
    columns = np.full((len(target.values), 1 + n_permutations), np.nan)
    columns[rows] = permute_values(target.compute_labels(rows)[rows], n_permutations=n_permutations, seed=seed, **own)
    return columns


def permute_values(
    values: Floats, *, n_permutations: int, blocks: Labels | None = None, units: Labels | None = None, seed: int = 0
) -> Floats:
    """Permute values (n,) where they can be exchanged: (n, 1 + n_permutations), the real values first.

    Values are exchanged within `blocks` (site) only. Rows of one of `units` (participant with sessions, family) keep
    their values together: units that hold one value each exchange it, others exchange all their values with units of
    the same number of rows in the same blocks. Where fewer than 20 orders are left (sites, each of another size), so
    that no p could fall below 0.05, values are exchanged within units.
    """
    rng = np.random.default_rng(seed)
    columns = np.repeat(values[:, None], 1 + n_permutations, axis=1)
    blocks = (
        np.zeros(len(values), dtype=np.int64) if blocks is None else np.unique(blocks, return_inverse=True)[1].ravel()
    )
    sets = _find_exchangeable(values, blocks, units)
    if units is not None and math.prod(math.factorial(min(len(rows), 20)) for rows in sets) < _MIN_ORDERS:
        both = np.stack([blocks, np.unique(units, return_inverse=True)[1].ravel()])
        within = np.unique(both, axis=1, return_inverse=True)
        sets = _find_exchangeable(values, within[1].ravel(), None)
    for rows in sets:
        # One draw for each permutation orders the units (u,); all rows of a unit move with it.
        order = rng.permuted(np.tile(np.arange(len(rows))[:, None], n_permutations), axis=0)
        for column in range(rows.shape[1]):
            columns[rows[:, column], 1:] = values[rows[:, column]][order]
    return columns


def _find_exchangeable(values: Floats, blocks: Indices, units: Labels | None) -> list[Indices]:
    """Find sets of units that can be exchanged, each a table of rows (units, rows of a unit)."""
    labels = np.arange(len(values)) if units is None else np.unique(units, return_inverse=True)[1].ravel()
    order = np.lexsort((blocks, labels))
    members = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    single = all((values[m] == values[m[0]]).all() and (blocks[m] == blocks[m[0]]).all() for m in members)
    sets: dict[tuple[int, ...], list[Indices]] = {}
    for rows in members:
        sets.setdefault(tuple(blocks[rows[:1]] if single else blocks[rows]), []).append(rows)
    # Units of one value are padded to the same number of rows by repeating their first row.
    widths = [max(map(len, found)) for found in sets.values()]
    return [
        np.stack([np.concatenate([rows, np.repeat(rows[:1], width - len(rows))]) for rows in found])
        for found, width in zip(sets.values(), widths, strict=True)
    ]


def _compute_aurocs(predicted: Floats, codes: Floats, fold_of: Indices) -> Floats:
    """Compute the share of same-fold pairs in the right order, for each column."""
    right, every = np.zeros(codes.shape[1]), np.zeros(codes.shape[1])
    for fold in np.unique(fold_of):
        ranks = rankdata(predicted[fold_of == fold], axis=0)
        member = codes[fold_of == fold] > 0
        n_members = member.sum(axis=0)
        right += (ranks * member).sum(axis=0) - n_members * (n_members + 1) / 2
        every += n_members * (len(member) - n_members)
    return np.asarray(np.where(every > 0, right / np.maximum(every, 1), 0.5))


def _compute_correlations(predicted: Floats, codes: Floats, fold_of: Indices) -> Floats:
    """Compute the correlation about the means of folds, for each column."""
    both, first, second = (np.zeros(codes.shape[1]) for _ in range(3))
    for fold in np.unique(fold_of):
        p = predicted[fold_of == fold] - predicted[fold_of == fold].mean(axis=0)
        t = codes[fold_of == fold] - codes[fold_of == fold].mean(axis=0)
        both, first, second = both + (p * t).sum(axis=0), first + (p**2).sum(axis=0), second + (t**2).sum(axis=0)
    size = np.sqrt(first * second)
    return np.asarray(np.where(first > 1e-12 * second, both / np.maximum(size, 1e-300), 0.0))


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Corrected resampled t test of two models on one phenotype."""

    target: str
    metric: str
    first: str
    second: str
    difference: float  # score of the first minus that of the second, mean over folds
    ci_low: float  # 95 % interval of the difference
    ci_high: float
    p_value: float  # two-sided, for one comparison
    n_folds: int  # folds in which both have a score


def compare_models(first: Predictions, second: Predictions, metric: str) -> Comparison:
    """Test whether two models score differently on the same folds (Nadeau and Bengio, Machine Learning 52, 2003). The
    variance of the mean over J folds is (1/J + n_test / n_train) times that of the differences, because training parts
    overlap. NaN with fewer than two scored folds; p = 1 where all differences are 0. ValueError for other folds."""
    folds = [one.fold[: one.n_repeats] for one in (first, second)]
    if first.target != second.target or not np.array_equal(folds[0], folds[1]):
        raise ValueError(f"{first.model} and {second.model} were not tested on the same folds of {first.target}")
    differences = compute_fold_scores(first, metric) - compute_fold_scores(second, metric)
    known = ~np.isnan(differences)
    values, n_folds = differences[known], int(known.sum())
    mean = float(values.mean()) if n_folds else np.nan
    if n_folds < 2:
        error, p_value, reach = np.nan, np.nan, np.nan
    else:
        n_test = np.stack([(first.fold == fold).sum(axis=1) for fold in range(first.n_train.shape[1])], axis=1)
        ratio = float(np.nanmean(n_test / first.n_train))
        error = float(np.sqrt((1 / n_folds + ratio) * values.var(ddof=1)))
        p_value = float(2 * student.sf(abs(mean) / error, n_folds - 1)) if error > 0 else float(mean == 0)
        reach = error * float(student.ppf(0.975, n_folds - 1))
    return Comparison(
        target=first.target,
        metric=metric,
        first=first.model,
        second=second.model,
        difference=mean,
        ci_low=mean - reach,
        ci_high=mean + reach,
        p_value=p_value,
        n_folds=n_folds,
    )


def adjust_holm(p_values: Sequence[float]) -> Floats:
    """Adjust p values for the number of tests (Holm, Scand J Stat 6, 1979); NaN is kept and not counted."""
    values = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(values.shape, np.nan)
    order = np.argsort(values)[: int((~np.isnan(values)).sum())]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * factors), 1.0)
    return adjusted
