"""Scores against scikit-learn and against their definitions, and comparisons of models."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from scipy import stats
from scipy.stats import binomtest
from scipy.stats import t as student
from sklearn.metrics import average_precision_score, balanced_accuracy_score, f1_score, roc_auc_score

from bids_semantoks.statistics import metrics
from bids_semantoks.statistics.class_metrics import compute_calibration
from bids_semantoks.statistics.metrics import (
    average_participants,
    build_scorer,
    compute_fold_scores,
    compute_roc,
    compute_scores,
    count_decisions,
    draw_weights,
    score_participants,
    select_repetitions,
)
from bids_semantoks.statistics.predictions import PredictionTable, Target
from bids_semantoks.statistics.significance import adjust_holm, compare_models
from bids_semantoks.statistics.splits import build_splits

N = 53


def make_predictions(n_classes, seed=0, n_repeats=2, noise=1.0):
    rng = np.random.default_rng(seed)
    hidden = np.random.default_rng(99).standard_normal(N)
    labels = hidden
    if n_classes:
        labels = np.searchsorted(np.quantile(hidden, np.arange(1, n_classes) / n_classes), hidden).astype(float)
    target = Target(name="y", values=labels, classes=("a", "b", "c")[:n_classes])
    splits = build_splits(target.compute_strata(), n_repeats=n_repeats)
    table = PredictionTable(target, (n_repeats, 5))
    for split in splits:
        guess = hidden[split.test] + noise * rng.standard_normal(len(split.test))
        scores = guess[:, None]
        if n_classes:
            scores = np.exp(-((guess[:, None] - np.linspace(-1, 1, n_classes)) ** 2))
            scores = scores / scores.sum(axis=1, keepdims=True)
        table.add((split.repetition, split.fold), (split.train, split.test), scores, 1.0)
    return table.build(f"model{seed}")


def average_over_folds(predictions, function, size):
    """Mean over repetitions of the mean over folds, weighted by what the fold holds."""
    values = []
    for fold, truth, scores, decisions in zip(
        predictions.fold, predictions.truth, predictions.scores, predictions.decisions, strict=True
    ):
        parts = [(truth[fold == f], scores[fold == f], decisions[fold == f]) for f in range(5)]
        weights = [size(truth) for truth, _, _ in parts]
        values.append(np.average([function(*part) for part in parts], weights=weights))
    return np.mean(values)


def find(predictions, metric, **settings):
    return next(s for s in compute_scores(predictions, n_bootstrap=300, **settings) if s.metric == metric)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_class_scores_are_those_of_scikit_learn(n_classes):
    predictions = make_predictions(n_classes)
    expected = np.mean(
        [balanced_accuracy_score(t, d) for t, d in zip(predictions.truth, predictions.decisions, strict=True)]
    )
    assert find(predictions, "balanced_accuracy").value == pytest.approx(expected)
    aurocs = [
        average_over_folds(
            predictions,
            lambda truth, scores, _, k=k: roc_auc_score(truth == k, scores[:, k]),
            lambda truth, k=k: (truth == k).sum() * (truth != k).sum(),
        )
        for k in ([1] if n_classes == 2 else range(3))
    ]
    assert find(predictions, "auroc").value == pytest.approx(np.mean(aurocs), abs=0.002)


def test_auroc_of_drawn_participants_counts_every_pair_as_often_as_it_was_drawn():
    predictions = make_predictions(3)
    predictions = dataclasses.replace(predictions, scores=np.round(predictions.scores, 1))
    weights = np.random.default_rng(8).integers(0, 4, (5, N)).astype(float)
    values = []
    for k in range(3):
        right, every = np.zeros(5), np.zeros(5)
        for fold, truth, scores in zip(predictions.fold, predictions.truth, predictions.scores, strict=True):
            for i, j in itertools.product(range(N), repeat=2):
                if fold[i] == fold[j] >= 0 and truth[i] == k != truth[j]:
                    pair = weights[:, i] * weights[:, j]
                    right += pair * ((scores[i, k] > scores[j, k]) + 0.5 * (scores[i, k] == scores[j, k]))
                    every += pair
        values.append(right / every)
    np.testing.assert_allclose(build_scorer(predictions, "auroc")(weights), np.mean(values, axis=0), rtol=1e-12)


def test_pictures_of_classes_show_what_the_scores_count():
    # Scores of a fold are shifted, as those of a fold are whose training part holds fewer of a class.
    predictions = make_predictions(2)
    shifted = np.round(predictions.scores + 0.7 * predictions.fold[:, :, None], 1)
    predictions = dataclasses.replace(predictions, scores=shifted)
    false, hit = compute_roc(predictions)
    assert (false[0], false[-1], hit[-1]) == (0, 1, 1)
    assert np.all(np.diff(hit) >= 0)
    area = float((np.diff(false) * hit[:-1]).sum())
    assert area == pytest.approx(find(predictions, "auroc").value)
    pooled = roc_auc_score(predictions.truth.ravel(), predictions.scores[:, :, 1].ravel())
    assert abs(area - pooled) > 0.05
    counts = count_decisions(predictions)
    assert counts.sum() == pytest.approx(N)
    recalls = np.diag(counts) / counts.sum(axis=1)
    assert recalls.mean() == pytest.approx(find(predictions, "balanced_accuracy").value)


def test_a_curve_without_two_classes_in_a_fold_is_empty():
    predictions = make_predictions(2)
    alone = np.where(predictions.truth == 1, 0, 1)
    false, hit = compute_roc(dataclasses.replace(predictions, fold=alone))
    assert (false.tolist(), hit.tolist()) == ([0.0], [0.0])


def test_value_scores_follow_their_definitions():
    predictions = make_predictions(0)
    r, r2, pooled = [], [], []
    for fold, y, p, mean in zip(
        predictions.fold, predictions.truth, predictions.decisions, predictions.reference, strict=True
    ):
        y0, p0 = (x - np.array([x[fold == f].mean() for f in fold]) for x in (y, p))
        r.append(np.corrcoef(y0, p0)[0, 1])
        pooled.append(np.corrcoef(y, p)[0, 1])
        r2.append(1 - ((y - p) ** 2).sum() / ((y - mean) ** 2).sum())
    assert find(predictions, "r").value == pytest.approx(np.mean(r))
    assert find(predictions, "r_pooled").value == pytest.approx(np.mean(pooled))
    assert find(predictions, "r2").value == pytest.approx(np.mean(r2))
    assert find(predictions, "mae").value == pytest.approx(np.abs(predictions.truth - predictions.decisions).mean())
    assert find(predictions, "mae").chance == pytest.approx(np.abs(predictions.truth - predictions.reference).mean())
    slope = find(dataclasses.replace(predictions, decisions=2 * predictions.truth), "calibration_slope")
    assert slope.value == pytest.approx(0.5)


@pytest.mark.parametrize("metric", ["balanced_accuracy", "auroc", "calibration_error", "r", "r2", "mae"])
def test_weights_are_copies_of_rows(metric):
    n_classes = 0 if metric in ("r", "r2", "mae") else 2
    predictions = make_predictions(n_classes)
    weights = draw_weights(predictions.tested, None, n_bootstrap=3, seed=1)
    assert (weights.sum(axis=1) == N).all()
    found = build_scorer(predictions, metric)(weights)
    if metric == "calibration_error":  # its bins are cut once, so copies would cut others
        return
    for value, row in zip(found, weights, strict=True):
        index = np.repeat(np.arange(N), row.astype(int))
        fields = ("fold", "truth", "scores", "decisions", "reference")
        copied = dataclasses.replace(predictions, **{name: getattr(predictions, name)[:, index] for name in fields})
        assert build_scorer(copied, metric)(np.ones((1, len(index))))[0] == pytest.approx(value)


def test_participants_are_drawn_whole():
    participants = np.arange(N) // 3
    weights = draw_weights(np.ones(N, dtype=bool), participants, n_bootstrap=5, seed=0)
    for participant in np.unique(participants):
        assert (np.ptp(weights[:, participants == participant], axis=1) == 0).all()
    assert np.ptp(weights) > 0


def test_perfect_predictions_are_calibrated_and_constant_ones_say_nothing():
    predictions = make_predictions(2)
    sure = np.stack([predictions.truth == 0, predictions.truth == 1], axis=2).astype(float)
    perfect = dataclasses.replace(predictions, scores=sure, decisions=predictions.truth)
    assert find(perfect, "calibration_error").value == 0
    assert find(perfect, "auroc").value == 1
    wrong = dataclasses.replace(predictions, scores=sure[:, :, ::-1])
    assert find(wrong, "calibration_error").value == 1
    values = make_predictions(0)
    constant = dataclasses.replace(values, decisions=values.reference)
    assert find(constant, "r").value == 0
    assert find(constant, "r2").value == 0
    assert np.isnan(find(constant, "calibration_slope").value)
    nearly = dataclasses.replace(values, decisions=values.reference + 1e-3 * values.decisions)
    assert np.isnan(find(nearly, "calibration_slope").value)


def test_a_line_through_two_people_is_not_certain():
    target = Target(name="y", values=np.arange(43.0))
    table = PredictionTable(target, (1, 1))
    table.add((0, 0), (np.arange(2, 43), np.arange(2)), np.array([[3.0], [4.0]]), 1.0)
    score = find(table.build("m"), "r")
    assert score.value == pytest.approx(1)
    assert score.ci_low < 0
    assert score.ci_high == 1
    many = PredictionTable(target, (1, 1))
    many.add((0, 0), (np.arange(8, 43), np.arange(8)), -np.arange(8.0)[:, None], 1.0)
    assert find(many.build("m"), "r").ci_high < 0


def test_intervals_hold_the_value():
    # Each group of people gets the share that is true of it: any sample of them looks worse calibrated than all do.
    predictions = make_predictions(2, n_repeats=1)
    truth = predictions.truth[0]
    groups = np.arange(N) % 6
    share = np.array([truth[groups == group].mean() for group in groups])[None]
    honest = dataclasses.replace(predictions, scores=np.stack([1 - share, share], axis=2))
    for score in compute_scores(honest, n_bootstrap=300):
        assert score.ci_low <= score.value <= score.ci_high, score.metric


def test_a_perfect_score_of_a_few_people_is_not_certain():
    predictions = make_predictions(2)
    sure = np.stack([predictions.truth == 0, predictions.truth == 1], axis=2).astype(float)
    perfect = dataclasses.replace(predictions, scores=sure, decisions=predictions.truth)
    n_least = min((predictions.truth[0] == k).sum() for k in (0, 1))
    exact = binomtest(int(n_least), int(n_least)).proportion_ci(0.95, method="exact").low
    widening = np.sqrt(1 + N / predictions.n_train.mean())
    for metric in ("auroc", "balanced_accuracy"):
        score = find(perfect, metric)
        assert (score.value, score.ci_high) == (1, 1)
        assert score.ci_low == pytest.approx(1 - widening * (1 - exact))
    assert find(perfect, "auroc", participants=np.arange(N) // 9).ci_low < find(perfect, "auroc").ci_low
    reversed_ = find(dataclasses.replace(perfect, scores=sure[:, :, ::-1]), "auroc")
    assert (reversed_.ci_low, reversed_.ci_high) == (0, pytest.approx(widening * (1 - exact)))


def test_fold_scores_score_each_fold_alone():
    predictions = make_predictions(2)
    found = compute_fold_scores(predictions, "auroc")
    inside = predictions.fold[1] == 3
    expected = roc_auc_score(predictions.truth[1, inside], predictions.scores[1, inside, 1])
    assert found[1, 3] == pytest.approx(expected)
    assert select_repetitions(predictions, slice(1, 2)).fold.shape == (1, N)


def test_the_paired_test_is_that_of_nadeau_and_bengio():
    first, second = make_predictions(0, seed=1, noise=0.3), make_predictions(0, seed=2, noise=3)
    found = compare_models(first, second, "r")
    d = (compute_fold_scores(first, "r") - compute_fold_scores(second, "r")).ravel()
    ratio = np.mean([(first.fold[r] == f).sum() / first.n_train[r, f] for r in range(2) for f in range(5)])
    t = d.mean() / np.sqrt((1 / 10 + ratio) * d.var(ddof=1))
    assert found.difference == pytest.approx(d.mean())
    assert found.p_value == pytest.approx(2 * student.sf(abs(t), 9))
    assert found.ci_low < found.difference < found.ci_high
    assert compare_models(first, first, "r").p_value == 1
    with pytest.raises(ValueError, match="model1 and model2 were not tested on the same folds of y"):
        compare_models(first, dataclasses.replace(second, fold=second.fold[:, ::-1]), "r")


def test_holm_adjusts_in_order_and_skips_what_was_not_tested():
    found = adjust_holm([0.01, np.nan, 0.04, 0.03, 0.005])
    np.testing.assert_allclose(found, [0.03, np.nan, 0.06, 0.06, 0.02])
    assert adjust_holm([0.9, 0.8]).max() == 1


def test_participants_are_scored_alone_and_averaged():
    target = Target(name="type", values=np.array([0, 1, 0, 1, 0, 1, 0.0]), classes=("x", "y"))
    table = PredictionTable(target, (1, 1))
    guessed = np.array([0, 1, 0, 0, 1, 0])
    scores = np.eye(2)[guessed] * 0.8 + 0.1
    table.add((0, 0), (np.array([6]), np.arange(6)), scores, 1.0, weighs_classes_alike=False)
    people = np.array(["a", "a", "b", "b", "c", "c", "d"])
    found = score_participants(table.build("m"), people, "balanced_accuracy")
    np.testing.assert_allclose(found, [1.0, 0.5, 0.0])
    mean = average_participants(np.array([0.9, 0.6, np.nan, 0.8]), reference=0.5)
    wanted = stats.ttest_1samp([0.9, 0.6, 0.8], 0.5)
    assert mean.p_value == pytest.approx(wanted.pvalue)
    assert (mean.ci_low, mean.ci_high) == pytest.approx(tuple(wanted.confidence_interval()))
    wide = average_participants(np.array([0.9, 0.6, 0.8]), reference=0.5, widening=1.5)
    assert wide.ci_high - wide.value == pytest.approx(1.5 * (mean.ci_high - mean.value))
    assert np.isnan(average_participants(np.array([0.7]), reference=0.5).p_value)


def test_seven_perfect_scores_are_not_certain():
    perfect = average_participants(np.ones(7), reference=0.5, widening=1.2, limits=(0.0, 1.0))
    assert perfect.ci_low == pytest.approx(stats.binomtest(7, 7).proportion_ci(method="exact").low)
    assert perfect.ci_high == 1
    assert perfect.p_value == pytest.approx(stats.binomtest(7, 7).pvalue)
    none = average_participants(np.zeros(7), reference=0.5, limits=(0.0, 1.0))
    assert (none.ci_low, none.ci_high) == pytest.approx((0, 1 - perfect.ci_low))
    same = average_participants(np.zeros(7), reference=0.0)
    assert (same.p_value, same.ci_low, same.ci_high) == (1, 0, 0)
    near = average_participants(np.array([1.0, 1.0, 0.9]), reference=0.5, limits=(0.0, 1.0))
    assert near.ci_high == 1


@pytest.mark.parametrize("n_classes", [2, 3])
def test_more_class_scores_are_those_of_scikit_learn(n_classes):
    predictions = make_predictions(n_classes)
    shown = range(n_classes) if n_classes > 2 else (1,)
    weights = np.random.default_rng(3).integers(0, 3, N)
    for sample in (np.ones(N), weights):
        expected = {"average_precision": [], "brier_score": [], "macro_f1": []}
        for truth, scores, decisions in zip(
            predictions.truth, predictions.scores.round(1), predictions.decisions, strict=True
        ):
            expected["average_precision"].append(
                np.mean([average_precision_score(truth == k, scores[:, k], sample_weight=sample) for k in shown])
            )
            error = (scores - (truth[:, None] == np.arange(n_classes))) ** 2
            expected["brier_score"].append(np.average(error.sum(axis=1) / (2 if n_classes == 2 else 1), weights=sample))
            expected["macro_f1"].append(f1_score(truth, decisions, average="macro", sample_weight=sample))
        # Rounded, many scores are tied.
        tied = dataclasses.replace(predictions, scores=predictions.scores.round(1))
        for metric, values in expected.items():
            found = build_scorer(tied, metric)(np.stack([sample, np.ones(N)]))
            assert found[0] == pytest.approx(np.mean(values)), metric
    scores = {score.metric: score for score in compute_scores(predictions, n_bootstrap=50)}
    for metric in expected:
        assert scores[metric].ci_low <= scores[metric].bound <= scores[metric].value <= scores[metric].ci_high
    share = (predictions.truth[0] == 1).mean()
    if n_classes == 2:
        assert scores["average_precision"].chance == pytest.approx(share)
        assert scores["brier_score"].chance == pytest.approx(share * (1 - share))
        blind = dataclasses.replace(
            predictions, scores=np.stack([np.full((2, N), 1 - share), np.full((2, N), share)], 2)
        )
        for metric in ("average_precision", "brier_score"):
            assert build_scorer(blind, metric)(np.ones((1, N)))[0] == pytest.approx(scores[metric].chance)


def test_calibration_is_counted_in_bins_of_equal_size():
    predictions = make_predictions(2)
    predicted, observed, counts = compute_calibration(predictions)
    assert counts.sum() == predictions.truth.size
    assert counts.max() - counts.min() <= 3
    assert (np.diff(predicted) > 0).all()
    assert (observed * counts).sum() == pytest.approx((predictions.truth == 1).sum())
    assert (predicted * counts).sum() == pytest.approx(predictions.scores[:, :, 1].sum())
    assert len(compute_calibration(make_predictions(3))[0]) == 10


def test_scores_are_the_same_where_memory_has_room_for_few_samples_at_a_time(monkeypatch):
    participants = np.arange(N) // 3
    for n_classes in (0, 3):
        predictions = make_predictions(n_classes)
        metric = "auroc" if n_classes else "r"
        whole = compute_scores(predictions, n_bootstrap=40), score_participants(predictions, participants, metric)
        with monkeypatch.context() as patch:
            patch.setattr(metrics, "_MOST_WEIGHTS", 7 * N)
            parts = compute_scores(predictions, n_bootstrap=40), score_participants(predictions, participants, metric)
        for one, other in zip(whole[0], parts[0], strict=True):
            assert dataclasses.astuple(one)[3:] == pytest.approx(
                dataclasses.astuple(other)[3:], rel=1e-12, nan_ok=True
            ), one.metric
        np.testing.assert_allclose(whole[1], parts[1], rtol=1e-12)
