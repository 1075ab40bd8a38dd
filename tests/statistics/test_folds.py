"""Folds worked on together, and spans that are computed once for all who ask."""

import threading
import time

import numpy as np
import pytest

from bids_semantoks.statistics import linear, significance
from bids_semantoks.statistics.folds import SharedSpans, run_folds, use_threads
from bids_semantoks.statistics.linear import cross_validate, cross_validate_all
from bids_semantoks.statistics.predictions import Target
from bids_semantoks.statistics.significance import compute_permutation_test, permute_scored_ridges, permute_target
from bids_semantoks.statistics.spans import KernelFeatures, TableFeatures, compute_gram
from bids_semantoks.statistics.splits import build_splits

N = 61


class Counted:
    """Features that count how often their spans are computed."""

    def __init__(self, features):
        self.features, self.name, self.n = features, features.name, 0

    def compute_span(self, train, test, covariates=None):
        self.n += 1
        return self.features.compute_span(train, test, covariates)


@pytest.fixture
def values():
    return np.random.default_rng(3).standard_normal((N, 83))


def make_targets(values):
    noise = np.random.default_rng(4).standard_normal((2, N))
    age = Target(name="age", values=values[:, 0] + noise[0])
    sex = Target(name="sex", values=(values[:, 1] + noise[1] > 0).astype(float), classes=("F", "M"))
    return age, sex


def test_threads_change_nothing_but_the_time(values):
    features = KernelFeatures(name="k", kernel=compute_gram(values))
    found = []
    for n_threads in (1, 3):
        with use_threads(n_threads):
            for target in make_targets(values):
                splits = build_splits(target.compute_strata(), n_repeats=2)
                one = cross_validate(features, target, splits)
                test = compute_permutation_test(features, target, n_permutations=5)
                found.append((one.scores.tobytes(), one.penalty.tobytes(), test.null.tobytes()))
    assert found[:2] == found[2:]


def test_folds_run_at_the_same_time_and_results_keep_their_order():
    barrier, counted = threading.Barrier(3, timeout=20), []

    def work(fold):
        barrier.wait()  # passes only where three folds are at work together
        time.sleep(0.01 * (3 - fold % 3))
        return fold * 10

    with use_threads(3):
        assert run_folds(work, range(6), each=lambda folds: (counted.append(f) or f for f in folds)) == [
            *range(0, 60, 10)
        ]
    assert counted == [*range(6)]
    assert run_folds(lambda fold: fold + threading.active_count(), [1]) == [1 + threading.active_count()]


def test_a_failing_fold_ends_the_others():
    def work(fold):
        if fold == 0:
            raise ValueError("fold 0")
        time.sleep(0.01)
        return done.append(fold)

    done = []
    with use_threads(2), pytest.raises(ValueError, match="fold 0"):
        run_folds(work, range(500))
    assert len(done) < 500


def test_targets_with_the_same_splits_share_the_spans_and_are_predicted_as_each_alone(values):
    age, sex = make_targets(values)
    fluency = Target(name="fluency", values=values[:, 2] - values[:, 0] ** 2)
    splits = build_splits(sex.compute_strata(), n_repeats=2)
    features = Counted(KernelFeatures(name="k", kernel=compute_gram(values)))
    together = cross_validate_all(features, [age, sex, fluency], splits)
    assert features.n == 10
    for target, found in zip((age, sex, fluency), together, strict=True):
        alone = cross_validate(features, target, splits)
        assert (found.target, found.scores.tobytes()) == (target.name, alone.scores.tobytes())


@pytest.mark.parametrize("most_cells", [10**6, 200])
def test_values_with_the_same_splits_are_permuted_as_each_alone(values, most_cells, monkeypatch):
    # Within the cells that may be solved at once, or in parts.
    monkeypatch.setattr(significance, "_MOST_CELLS", most_cells)
    monkeypatch.setattr(linear, "_MOST_CELLS", most_cells)
    age, _ = make_targets(values)
    targets = [age, Target(name="fluency", values=values[:, 2] - age.values)]
    splits = build_splits(np.zeros(N, dtype=np.int64))
    for features in (
        KernelFeatures(name="k", kernel=compute_gram(values)),
        TableFeatures(name="x", values=values[:, :5]),
    ):
        tables = [permute_target(target, n_permutations=7, seed=1) for target in targets]
        together = permute_scored_ridges(features, iter(tables), splits)
        for table, found in zip(tables, together, strict=True):
            (alone,) = permute_scored_ridges(features, [table], splits)
            np.testing.assert_allclose([found.value, *found.null], [alone.value, *alone.null], rtol=1e-9)
            assert found.p_value == alone.p_value


def test_the_most_recent_spans_are_kept_within_the_memory_they_may_take(values):
    counted = Counted(TableFeatures(name="x", values=values[:, :7]))
    rows = np.arange(N)
    size = sum(
        getattr(counted.compute_span(rows[:40], rows[40:]), name).nbytes for name in ("train", "test", "eigenvalues")
    )
    counted.n, covariates = 0, values[:, 8:9]
    spans = SharedSpans(counted, most_bytes=2 * size + 1)
    asked = [(rows[:40], rows[40:]), (rows[20:], rows[:20]), (rows[:40], rows[40:]), (rows[:40], rows[40:], covariates)]
    found = [spans.compute_span(*one) for one in asked]
    assert counted.n == 3
    assert found[0] is found[2]
    np.testing.assert_array_equal(found[3].train, counted.features.compute_span(*asked[3]).train)
    assert spans.compute_span(*asked[0]) is found[0]
    assert spans.compute_span(*asked[1]) is not found[1]
