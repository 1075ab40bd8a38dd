"""Tests that fail when a scaler, a covariate, a bin edge or a tangent reference sees a test fold."""

import dataclasses

import numpy as np
import pytest
from nilearn.connectome import ConnectivityMeasure
from sklearn.covariance import LedoitWolf

from bids_semantoks.statistics import linear, significance
from bids_semantoks.statistics.baselines import build_connectivity_features
from bids_semantoks.statistics.linear import cross_validate, cross_validate_all
from bids_semantoks.statistics.metrics import compute_scores
from bids_semantoks.statistics.predictions import Target
from bids_semantoks.statistics.significance import compute_permutation_test, permute_scored_ridges, permute_target
from bids_semantoks.statistics.spans import KernelFeatures, SharedSpans, TableFeatures, TangentFeatures, compute_gram
from bids_semantoks.statistics.splits import build_left_out_splits, build_splits, use_threads

N, D, P, T = 43, 17, 7, 29


TRAIN, TEST = np.arange(0, 30), np.arange(30, N)


def make_values(seed=0, d=D):
    return np.random.default_rng(seed).standard_normal((N, d)) * np.linspace(0.1, 9, d) + 4


def make_covariates():
    rng = np.random.default_rng(5)
    return np.column_stack([rng.standard_normal(N), rng.integers(0, 2, N)])


def make_table(values):
    return TableFeatures(name="table", values=values)


def make_kernel(values):
    return KernelFeatures(name="kernel", kernel=compute_gram(values))


def make_tangent(values):
    signals = [
        [
            np.random.default_rng(row).standard_normal((T, P))
            @ (np.eye(P) + np.outer(values[row, :P], values[row, -P:]) / 50)
        ]
        for row in range(N)
    ]
    return build_connectivity_features(signals, ("tangent",))[0]


@pytest.mark.parametrize("make", [make_table, make_kernel, make_tangent])
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("with_covariates", [False, True])
def test_nothing_that_is_fitted_depends_on_test_rows(make, wide, with_covariates):
    values = make_values(d=71 if wide else D)
    covariates = make_covariates() if with_covariates else None
    span = make(values).compute_span(TRAIN, TEST, covariates)
    values[TEST[1:]] = 1e3 + 7 * values[TEST[1:]]
    if covariates is not None:
        covariates[TEST[1:]] += 50
    again = make(values).compute_span(TRAIN, TEST, covariates)
    # Signs of axes are free, inner products are not.
    scale = span.eigenvalues.max()
    np.testing.assert_allclose(again.eigenvalues, span.eigenvalues, rtol=1e-7, atol=1e-8 * scale)
    np.testing.assert_allclose(again.train @ again.train.T, span.train @ span.train.T, atol=1e-8 * scale)
    # The one test row that stayed as it was is seen as before.
    np.testing.assert_allclose(again.test[0] @ again.train.T, span.test[0] @ span.train.T, atol=1e-7 * scale)
    assert not np.allclose(again.test[1] @ again.train.T, span.test[1] @ span.train.T)


@pytest.mark.parametrize("is_class", [False, True])
def test_predictions_of_a_row_do_not_depend_on_other_test_rows(is_class):
    rng = np.random.default_rng(1)
    values, labels = make_values(), rng.standard_normal(N)
    labels = (labels > 0).astype(float) if is_class else labels
    target = Target(name="y", values=labels, classes=("a", "b") if is_class else ())
    splits = build_left_out_splits(np.zeros(N, dtype=np.int64), (np.arange(N) >= 30).astype(int))
    covariates = make_covariates()
    first = cross_validate(make_table(values), target, splits, covariates=covariates)
    changed = values.copy()
    changed[31:] *= 100
    flipped = labels.copy()
    flipped[31:] = 1 - flipped[31:]
    other = dataclasses.replace(target, values=flipped)
    second = cross_validate(make_table(changed), other, splits, covariates=covariates)
    np.testing.assert_allclose(first.scores[0, 30], second.scores[0, 30], rtol=1e-6)


def test_a_scaler_of_training_rows_is_what_is_applied():
    values = make_values()
    span = make_table(values).compute_span(TRAIN, TEST)
    mean, deviation = values[TRAIN].mean(axis=0), values[TRAIN].std(axis=0)
    train, test = (values[TRAIN] - mean) / deviation, (values[TEST] - mean) / deviation
    np.testing.assert_allclose(span.train @ span.train.T, train @ train.T, atol=1e-9)
    np.testing.assert_allclose(span.test @ span.train.T, test @ train.T, atol=1e-9)


def test_covariates_are_removed_by_a_regression_of_training_rows():
    values, covariates = make_values(), make_covariates()
    design = np.column_stack([np.ones(N), covariates])
    fit = np.linalg.lstsq(design[TRAIN], values[TRAIN], rcond=None)[0]
    residual = values - design @ fit
    for make, scale in ((make_kernel, 1.0), (make_table, residual[TRAIN].std(axis=0))):
        span = make(values).compute_span(TRAIN, TEST, covariates)
        train, test = residual[TRAIN] / scale, residual[TEST] / scale
        np.testing.assert_allclose(span.test @ span.train.T, test @ train.T, atol=1e-7)
        np.testing.assert_allclose(span.train.T @ design[TRAIN], 0, atol=1e-8)


def test_bins_are_cut_at_quantiles_of_training_rows():
    values = np.random.default_rng(2).standard_normal(N)
    target = Target(name="age", values=values, n_bins=3)
    labels = target.compute_labels(TRAIN)
    edges = np.quantile(values[TRAIN], [1 / 3, 2 / 3])
    np.testing.assert_array_equal(labels, np.digitize(values, edges))
    changed = values.copy()
    changed[TEST] += 100
    again = dataclasses.replace(target, values=changed).compute_labels(TRAIN)
    np.testing.assert_array_equal(again[TRAIN], labels[TRAIN])
    assert (again[TEST] == 2).all()


def test_the_tangent_reference_is_that_of_nilearn_for_training_rows():
    rng = np.random.default_rng(3)
    mix = rng.standard_normal((P, P))
    signals = [rng.standard_normal((T, P)) @ (mix + 0.3 * rng.standard_normal((P, P))) for _ in range(N)]
    features = build_connectivity_features([[s] for s in signals], ("tangent",))[0]
    assert isinstance(features, TangentFeatures)
    measure = ConnectivityMeasure(cov_estimator=LedoitWolf(), kind="tangent", vectorize=True, standardize=False)
    scored = [(s - s.mean(axis=0)) / s.std(axis=0) for s in signals]
    train = measure.fit_transform(scored[:30])
    test = measure.transform(scored[30:])
    exact = dataclasses.replace(features, n_steps=10)
    # nilearn divides the diagonal by the root of two where we multiply the rest: half our inner products.
    first, second = exact.take(TRAIN, TEST)
    np.testing.assert_allclose(second @ first.T / 2, test @ train.T, atol=1e-5)
    first, second = features.take(TRAIN, TEST)
    assert np.abs(second @ first.T / 2 - test @ train.T).max() < 0.01 * np.abs(train @ train.T).max()


@pytest.mark.parametrize("is_class", [False, True])
def test_a_covariate_that_tells_all_is_worth_nothing_once_it_is_removed(is_class):
    rng = np.random.default_rng(4)
    n = 120
    site = rng.integers(0, 2, n).astype(float)
    values = rng.standard_normal((n, 30)) + 3 * site[:, None]
    age = site if is_class else 4 * site + 0.1 * rng.standard_normal(n)
    target = Target(name="y", values=age, classes=("a", "b") if is_class else ())
    splits = build_splits(target.compute_strata(), n_repeats=2)
    metric = "auroc" if is_class else "r"

    def score(covariates):
        predictions = cross_validate(make_table(values), target, splits, covariates=covariates)
        return next(s for s in compute_scores(predictions, n_bootstrap=50) if s.metric == metric)

    assert score(None).value > 0.95
    removed = score(site[:, None])
    assert abs(removed.value - removed.chance) < 0.2


def test_noise_with_a_batch_of_twins_is_found_only_when_twins_are_split():
    rng = np.random.default_rng(6)
    families = np.repeat(np.arange(40), 2)
    values = rng.standard_normal((40, 200))[families] + 0.1 * rng.standard_normal((80, 200))
    target = Target(name="iq", values=rng.standard_normal(40)[families])
    features = make_table(values)

    def score(groups):
        splits = build_splits(target.compute_strata(), groups=groups, n_repeats=3)
        predictions = cross_validate(features, target, splits, groups=groups)
        return next(s.value for s in compute_scores(predictions, n_bootstrap=50) if s.metric == "r")

    assert score(None) > 0.6
    assert abs(score(families)) < 0.35


N_ROWS = 61


class Counted:
    """Features that count how often their spans are computed."""

    def __init__(self, features):
        self.features, self.name, self.n = features, features.name, 0

    def compute_span(self, train, test, covariates=None):
        self.n += 1
        return self.features.compute_span(train, test, covariates)


@pytest.fixture
def values():
    return np.random.default_rng(3).standard_normal((N_ROWS, 83))


def make_targets(values):
    noise = np.random.default_rng(4).standard_normal((2, N_ROWS))
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
    splits = build_splits(np.zeros(N_ROWS, dtype=np.int64))
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
    rows = np.arange(N_ROWS)
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
