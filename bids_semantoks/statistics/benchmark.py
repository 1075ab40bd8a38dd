"""The protocol of the Brainmarks benchmark: random stratified splits, scaling, and logistic regression whose penalty is
chosen by balanced accuracy on random inner splits (Lane et al., arXiv 2510.13768). Shape letters: n rows, d features.
Scores equal those of its ``main_logistic.evaluate`` on the same rows in the same order; its settings are constants."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegressionCV
from sklearn.model_selection import StratifiedShuffleSplit, train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from bids_semantoks.records import Floats, Indices, Labels, Reals
from bids_semantoks.statistics.predictions import Predictions, PredictionTable, Target, compute_probabilities
from bids_semantoks.statistics.spans import TableFeatures
from bids_semantoks.statistics.splits import Split, build_random_splits

SEED: Final = 4466  # its seed of splits; repetition r, from 0, is drawn with this + 1 + r
TRAIN_SHARE: Final = 0.8  # share of rows that train, a quarter of which chooses the penalty: 60, 20 and 20 %
_N_PENALTIES: Final = 10
_N_INNER: Final = 5
_MOST_STEPS: Final = 1000


def build_benchmark_splits(
    strata: Indices, *, groups: Labels | None = None, n_repeats: int = 100, seed: int = 0
) -> tuple[Split, ...]:
    """Divide the rows into train and test as the benchmark does, one fold a repetition; `seed` is added to its own.
    Groups stay together. Raises InputError for a stratum below 5 members."""

    def draw(strata: Indices, seed: int) -> list[Indices]:
        """Draw train and test."""
        rows = np.arange(len(strata))
        train, test = train_test_split(rows, train_size=TRAIN_SHARE, stratify=strata, random_state=seed)
        return [train, test]

    return build_random_splits(strata, draw, groups=groups, n_repeats=n_repeats, seed=SEED + 1 + seed)


def cross_validate_benchmark(
    features: TableFeatures,
    target: Target,
    splits: Sequence[Split],
    *,
    seed: int = 0,
    each: Callable[[Sequence[Split]], Iterable[Split]] = iter,
) -> Predictions:
    """Predict the classes of tested rows by the benchmark's pipeline; validation rows of given splits are also used for
    training, and their share is that of the inner splits.

    The inner splits depend on the order of the training rows. Where rows were drawn by `build_benchmark_splits`, they
    are put in the order of its draw, else in that of the table. Decisions are for the most probable class; `penalty`
    holds the inverse of the chosen C. `each` yields the splits again, and may count them.
    """
    shape = max(s.repetition for s in splits) + 1, max(s.fold for s in splits) + 1
    table = PredictionTable(target, shape, is_softmax=True)
    for split in each(splits):
        train = np.sort(np.concatenate([split.train, split.validation]))
        share = len(split.validation) / len(train) or 0.25
        labels = target.compute_labels(train)
        train = _order_rows(train, split.test, labels, seed=SEED + 1 + seed + split.repetition)
        model = fit_benchmark(
            features.values[train], labels[train].astype(np.int64), validation_share=share, seed=SEED + seed
        )
        logits = _compute_logits(model, features.values[train]), _compute_logits(model, features.values[split.test])
        scores = compute_probabilities(logits[1], is_softmax=True)
        where, penalty = (split.repetition, split.fold), 1 / float(np.ravel(model[-1].C_)[0])
        table.add(where, (train, split.test), scores, penalty, logits=logits, weighs_classes_alike=False)
    return table.build(features.name)


def fit_benchmark(values: Reals, labels: Indices, *, validation_share: float = 0.25, seed: int = SEED) -> Pipeline:
    """Fit scaler and logistic regression to features (n, d) and class indices (n,); five random inner splits, each with
    this share to validate, choose among ten penalties by balanced accuracy."""
    inner_seed = np.random.RandomState(seed).randint(1000, 10000)
    inner = StratifiedShuffleSplit(n_splits=_N_INNER, test_size=validation_share, random_state=inner_seed)
    regression = LogisticRegressionCV(Cs=_N_PENALTIES, cv=inner, scoring="balanced_accuracy", max_iter=_MOST_STEPS)
    with warnings.catch_warnings():
        # scikit-learn warns of changing defaults, and of non-convergence, which the benchmark accepts.
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", ConvergenceWarning)
        return make_pipeline(StandardScaler(), regression).fit(values, labels)


def _compute_logits(model: Pipeline, values: Reals) -> Floats:
    found = np.asarray(model.decision_function(values), dtype=np.float64)
    return found[:, None] if found.ndim == 1 else found


def _order_rows(train: Indices, test: Indices, labels: Floats, *, seed: int) -> Indices:
    """Put training rows (sorted) in the order in which the benchmark draws them, if it drew these."""
    rows = np.sort(np.concatenate([train, test]))
    try:
        drawn = train_test_split(rows, train_size=len(train), stratify=labels[rows], random_state=seed)[0]
    except ValueError:
        return train
    return np.asarray(drawn if np.array_equal(np.sort(drawn), train) else train)
