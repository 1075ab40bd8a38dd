"""Solvers against scikit-learn, and the whole nested protocol on planted effects and on noise."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss

from bids_semantoks.statistics import linear
from bids_semantoks.statistics.linear import (
    PENALTIES,
    choose_loo_penalties,
    compute_fold_errors,
    compute_mean_eigenvalue,
    cross_validate,
    fit_logistic,
    fit_ridge,
)
from bids_semantoks.statistics.metrics import compute_scores
from bids_semantoks.statistics.predictions import Target, build_class_target
from bids_semantoks.statistics.significance import compute_permutation_test
from bids_semantoks.statistics.spans import KernelFeatures, TableFeatures, compute_gram
from bids_semantoks.statistics.splits import build_inner_folds, build_splits

N, D = 61, 23


TRAIN, TEST = np.arange(0, 44), np.arange(44, N)


def make_data(d=D, n=N, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((n, d)) * np.linspace(0.5, 3, d)
    hidden = 5 * values[:, 0] - 3 * values[:, 1] + rng.standard_normal(n)
    return values, hidden


def standardise(values):
    return (values - values[TRAIN].mean(axis=0)) / values[TRAIN].std(axis=0)


def test_penalties_are_in_units_of_the_variance_of_the_features():
    values, _ = make_data(D)
    span = TableFeatures(name="x", values=values).compute_span(TRAIN, TEST)
    # Every column has variance 1, so that the squares of all add up to D a row.
    assert compute_mean_eigenvalue(span) == pytest.approx(D)
    empty = TableFeatures(name="none", values=values[:, :0]).compute_span(TRAIN, TEST)
    assert compute_mean_eigenvalue(empty) == 1


@pytest.mark.parametrize("d", [D, 97])
def test_fits_in_the_span_predict_as_scikit_learn_does_on_all_features(d):
    values, hidden = make_data(d)
    span = TableFeatures(name="x", values=values).compute_span(TRAIN, TEST)
    assert span.train.shape[1] == min(d, len(TRAIN) - 1)
    scaled, labels = standardise(values), (hidden > 0).astype(float)
    penalties = np.array([1e-3, 0.1, 10.0])
    ridge = fit_ridge(span, np.tile(hidden[TRAIN, None], 3), penalties).predict(span.test)
    logistic = fit_logistic(span, np.tile(labels[TRAIN, None], 3), penalties, tolerance=1e-9).predict(span.test)
    for column, penalty in enumerate(penalties * compute_mean_eigenvalue(span)):
        expected = Ridge(alpha=penalty).fit(scaled[TRAIN], hidden[TRAIN]).predict(scaled[TEST])
        np.testing.assert_allclose(ridge[:, column], expected, atol=1e-8)
        model = LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=10000).fit(scaled[TRAIN], labels[TRAIN])
        np.testing.assert_allclose(logistic[:, column], model.decision_function(scaled[TEST]), rtol=1e-4, atol=1e-4)


def test_logistic_weights_leave_rows_out():
    values, hidden = make_data()
    labels = (hidden > 0).astype(float)[TRAIN, None]
    span = TableFeatures(name="x", values=values).compute_span(TRAIN, TEST)
    weights = (np.arange(len(TRAIN)) % 4 > 0).astype(float)[:, None]
    found = fit_logistic(span, labels, np.array([0.1]), weights=weights, tolerance=1e-9).predict(span.test)[:, 0]
    kept = weights[:, 0] > 0
    model = LogisticRegression(C=1 / (0.1 * compute_mean_eigenvalue(span)), tol=1e-10, max_iter=10000)
    expected = model.fit(span.train[kept], labels[kept, 0]).decision_function(span.test)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_separable_classes_do_not_run_away():
    values = np.concatenate([np.full(30, -1.0), np.full(31, 1.0)])[:, None]
    span = TableFeatures(name="x", values=values).compute_span(np.arange(N), np.arange(N))
    fit = fit_logistic(span, (values > 0).astype(float), PENALTIES[:1])
    assert np.isfinite(fit.coefficients).all()
    assert ((fit.predict(span.test) > 0) == (values > 0)).all()


@pytest.mark.parametrize("n_columns", [3, None], ids=["fewer columns than rows in a fold", "more"])
def test_errors_of_left_out_folds_in_closed_form_are_those_of_refitting(n_columns):
    values, hidden = make_data()
    span = TableFeatures(name="x", values=values[:, :n_columns]).compute_span(TRAIN, TEST)
    fold_of, y = np.arange(len(TRAIN)) % 5, hidden[TRAIN]
    found = compute_fold_errors(span, y, fold_of)
    for index in (0, 5, 12):
        errors = np.zeros(len(y))
        for fold in range(5):
            kept = fold_of != fold
            model = Ridge(alpha=PENALTIES[index] * compute_mean_eigenvalue(span)).fit(span.train[kept], y[kept])
            errors[~kept] = y[~kept] - model.predict(span.train[~kept])
        np.testing.assert_allclose(found[index], (errors**2).mean(), rtol=1e-6)
    alone = compute_fold_errors(span, y, np.arange(len(y)))
    chosen = choose_loo_penalties(span, np.stack([y, y], axis=1))
    np.testing.assert_array_equal(chosen, PENALTIES[alone.argmin()])


def test_kernel_and_table_agree_where_nothing_is_scaled():
    values, hidden = make_data(d=97)
    values = values / values.std(axis=0)
    target = Target(name="y", values=hidden)
    splits = build_splits(target.compute_strata(), n_repeats=1)
    span = KernelFeatures(name="k", kernel=compute_gram(values, block=10)).compute_span(TRAIN, TEST)
    centred = values - values[TRAIN].mean(axis=0)
    np.testing.assert_allclose(span.test @ span.train.T, centred[TEST] @ centred[TRAIN].T, atol=1e-7)
    kernel = cross_validate(KernelFeatures(name="k", kernel=compute_gram(values)), target, splits)
    assert np.isfinite(kernel.scores).all()


def score(predictions, metric):
    return next(s for s in compute_scores(predictions, n_bootstrap=200) if s.metric == metric)


@pytest.mark.parametrize(("n_classes", "metric"), [(0, "r"), (2, "auroc"), (3, "auroc"), (3, "balanced_accuracy")])
def test_planted_effects_are_found_and_noise_is_not(n_classes, metric):
    values, hidden = make_data(n=103)
    noise = np.random.default_rng(9).standard_normal(values.shape)
    labels = hidden
    if n_classes:
        labels = np.searchsorted(np.quantile(hidden, np.arange(1, n_classes) / n_classes), hidden).astype(float)
    target = Target(name="y", values=labels, classes=("a", "b", "c")[:n_classes])
    splits = build_splits(target.compute_strata(), n_repeats=2)
    found = score(cross_validate(TableFeatures(name="x", values=values), target, splits), metric)
    assert found.ci_low > found.chance
    nothing = score(cross_validate(TableFeatures(name="noise", values=noise), target, splits), metric)
    assert nothing.ci_low <= nothing.chance <= nothing.ci_high


def test_chance_is_chance():
    target = build_class_target("sex", ["F", "M", "M", None] * 20)
    predictions = cross_validate(
        TableFeatures(name="chance", values=np.zeros((80, 0))),
        target,
        build_splits(target.compute_strata(), n_repeats=2),
    )
    assert score(predictions, "balanced_accuracy").value == pytest.approx(0.5)
    assert score(predictions, "auroc").value == pytest.approx(0.5)
    assert score(predictions, "auroc").n_rows == 60
    truth, scores, n_tests = predictions.average()
    np.testing.assert_allclose(scores[~np.isnan(truth)].mean(axis=0), [1 / 3, 2 / 3], atol=0.01)
    assert (n_tests == np.tile([2, 2, 2, 0], 20)).all()


def test_rare_classes_are_decided_for_as_balanced_accuracy_asks():
    rng = np.random.default_rng(1)
    labels = (np.arange(200) < 20).astype(float)
    target = Target(name="dx", values=labels, classes=("control", "case"))
    features = TableFeatures(name="x", values=(labels * 2 + rng.standard_normal(200))[:, None])
    predictions = cross_validate(features, target, build_splits(target.compute_strata(), n_repeats=2))
    assert score(predictions, "balanced_accuracy").value > 0.75
    # Probabilities keep the mixture of classes all the same.
    assert np.nanmean(predictions.scores[:, :, 1]) == pytest.approx(0.1, abs=0.02)


def test_the_penalty_of_classes_is_that_of_the_least_log_loss_in_inner_folds():
    values, hidden = make_data(37)
    labels = (hidden + 4 * np.random.default_rng(7).standard_normal(N) > 0).astype(float)
    features, target = TableFeatures(name="x", values=values), Target(name="y", values=labels, classes=("a", "b"))
    splits = build_splits(target.compute_strata(), n_repeats=1)[:2]
    found = cross_validate(features, target, splits, seed=3).penalty[0]
    for split, penalty in zip(splits, found, strict=True):
        train, y = values[split.train], labels[split.train].astype(int)
        scaled = (train - train.mean(axis=0)) / train.std(axis=0)
        fold_of = build_inner_folds(np.arange(len(y)), strata=y, groups=None, n_folds=5, seed=3)
        unit = compute_mean_eigenvalue(features.compute_span(split.train, split.test))
        odds = np.zeros((len(PENALTIES), len(y)))
        for number, value in enumerate(PENALTIES):
            for fold in range(5):
                inside = fold_of != fold
                model = LogisticRegression(C=1 / (value * unit), max_iter=3000).fit(scaled[inside], y[inside])
                odds[number, ~inside] = model.predict_proba(scaled[~inside])[:, 1]
        assert penalty == PENALTIES[np.argmin([log_loss(y, one) for one in odds])]
        assert PENALTIES[0] < penalty < PENALTIES[-1]


def test_a_penalty_at_the_edge_is_said():
    values, hidden = make_data()
    noise = TableFeatures(name="noise", values=np.random.default_rng(3).standard_normal((N, 5)))
    target = Target(name="y", values=hidden)
    splits = build_splits(target.compute_strata(), n_repeats=2)
    assert "the largest penalty was chosen" in cross_validate(noise, target, splits).warnings[0]
    exact = TableFeatures(name="exact", values=np.stack([hidden, values[:, 3]], axis=1))
    assert "the smallest penalty was chosen in 100%" in cross_validate(exact, target, splits).warnings[0]


@pytest.mark.parametrize("is_class", [False, True])
def test_families_stay_together_where_the_penalty_is_chosen(is_class):
    rng = np.random.default_rng(8)
    families = np.repeat(np.arange(30), 2)
    values = rng.standard_normal((30, 150))[families] + 0.05 * rng.standard_normal((60, 150))
    labels = rng.permutation(np.repeat([0.0, 1.0], 15))[families] if is_class else rng.standard_normal(30)[families]
    target = Target(name="y", values=labels, classes=("a", "b") if is_class else ())
    splits = build_splits(target.compute_strata(), groups=families, n_repeats=2)
    features = TableFeatures(name="x", values=values)
    # Noise that twins share looks like knowledge where one twin helps to predict the other.
    split, kept = (compute_permutation_test(features, target, n_permutations=1, groups=g) for g in (None, families))
    assert split.value > kept.value + 0.3
    apart, together = (cross_validate(features, target, splits, groups=groups).penalty for groups in (None, families))
    assert np.median(np.log10(together)) > np.median(np.log10(apart)) + 1


def test_penalties_of_classes_are_the_same_where_folds_are_fitted_one_by_one(monkeypatch):
    values, hidden = make_data()
    target = build_class_target("y", np.array(["a", "b", "c"])[np.digitize(hidden, [-2, 2])].tolist())
    splits = build_splits(target.compute_strata(), n_repeats=1)
    together = cross_validate(TableFeatures(name="x", values=values), target, splits)
    monkeypatch.setattr(linear, "_MOST_CELLS", 1)
    alone = cross_validate(TableFeatures(name="x", values=values), target, splits)
    np.testing.assert_array_equal(alone.penalty, together.penalty)
    np.testing.assert_allclose(alone.scores, together.scores)


def test_features_that_do_not_vary_in_the_training_rows_predict_the_mean():
    constant = TableFeatures(name="c", values=np.tile([0.3, 0.0], (N, 1)))
    target = Target(name="y", values=make_data()[1])
    splits = build_splits(target.compute_strata(), n_repeats=1)
    assert compute_fold_errors(constant.compute_span(TRAIN, TEST), target.values[TRAIN], TRAIN % 5).shape == (13,)
    predictions = cross_validate(constant, target, splits)
    np.testing.assert_allclose(predictions.scores[0, :, 0], predictions.reference[0])
