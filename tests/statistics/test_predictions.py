"""Predictions are entered fold by fold, averaged over repetitions, and stacked over encoders."""

import dataclasses

import numpy as np
import pytest

from bids_semantoks.statistics.linear import cross_validate
from bids_semantoks.statistics.predictions import (
    PredictionTable,
    Target,
    average_models,
    compute_probabilities,
    stack_seeds,
)
from bids_semantoks.statistics.spans import TableFeatures
from bids_semantoks.statistics.splits import build_splits

CLASSES = ("a", "b", "c")


def make_values(model="m", shift=0.0):
    """Two repetitions over five rows, of which the last is never tested and the first not in the second."""
    target = Target(name="y", values=np.array([1.0, 2.0, 4.0, 8.0, 16.0]))
    table = PredictionTable(target, (2, 2))
    everyone = np.arange(5)
    for repetition, rows in ((0, ([0, 1], [2, 3])), (1, ([1], [2, 3]))):
        for number, tested in enumerate(rows):
            test = np.array(tested)
            train = np.setdiff1d(everyone, test)
            scores = (10.0 * (repetition + 1) + test + shift)[:, None]
            table.add((repetition, number), (train, test), scores, penalty=repetition + number / 10 + shift)
    return table.build(model, (f"mind {model}", "mind all"))


def test_each_fold_is_entered_where_its_rows_are():
    made = make_values()
    assert made.fold.tolist() == [[0, 0, 1, 1, -1], [-1, 0, 1, 1, -1]]
    np.testing.assert_array_equal(made.truth, [[1, 2, 4, 8, np.nan], [np.nan, 2, 4, 8, np.nan]])
    np.testing.assert_array_equal(made.decisions, [[10, 11, 12, 13, np.nan], [np.nan, 21, 22, 23, np.nan]])
    np.testing.assert_array_equal(made.scores[:, :, 0], made.decisions)
    # The mean of the training rows: of 4, 8, 16; of 1, 2, 16; and of 1, 4, 8, 16.
    np.testing.assert_allclose(made.reference[0, :4], [28 / 3, 28 / 3, 19 / 3, 19 / 3])
    assert made.reference[1, 1] == 7.25
    assert made.n_train.tolist() == [[3, 3], [4, 3]]
    assert made.penalty.tolist() == [[0, 0.1], [1, 1.1]]
    assert made.tested.tolist() == [True, True, True, True, False]
    assert (made.model, made.target, made.classes, made.n_repeats) == ("m", "y", (), 2)


def test_rows_are_averaged_over_the_repetitions_that_tested_them():
    truth, scores, n_tests = make_values().average()
    np.testing.assert_array_equal(truth, [1, 2, 4, 8, np.nan])
    np.testing.assert_array_equal(scores[:, 0], [10, 16, 17, 18, np.nan])
    assert n_tests.tolist() == [1, 2, 2, 2, 0]


@pytest.mark.parametrize(("weighs_classes_alike", "decided"), [(True, [1, 2]), (False, [0, 0])])
def test_classes_are_decided_for_by_how_much_they_exceed_their_share(weighs_classes_alike, decided):
    target = Target(name="y", values=np.array([0, 0, 0, 0, 1, 2, 1, 2.0]), classes=CLASSES)
    table = PredictionTable(target, (1, 1))
    # Shares in training are 4, 1 and 1 of 6.
    scores = np.array([[0.5, 0.3, 0.2], [0.6, 0.15, 0.25]])
    rows = np.arange(6), np.array([6, 7])
    table.add((0, 0), rows, scores, 1.0, weighs_classes_alike=weighs_classes_alike)
    made = table.build("m")
    assert made.decisions[0, 6:].tolist() == decided
    assert np.isnan(made.reference).all()
    assert made.classes == CLASSES
    assert made.average()[0][6:].tolist() == [1, 2]


def test_a_class_without_training_rows_is_never_decided_for():
    target = Target(name="y", values=np.array([0, 0, 1, 1, 2, 0.0]), classes=CLASSES)
    table = PredictionTable(target, (1, 1))
    table.add((0, 0), (np.arange(4), np.array([4, 5])), np.array([[0.1, 0.2, 0.7], [0.4, 0.3, 0.3]]), 1.0)
    assert table.build("m").decisions[0, 4:].tolist() == [1, 0]


def test_encoders_of_several_seeds_are_repetitions_of_one_model():
    first, second = make_values("m"), make_values("n", shift=4.0)
    assert stack_seeds([first]) is first
    both = stack_seeds([first, second])
    assert (both.model, both.n_seeds, both.n_repeats) == ("m", 2, 2)
    for name in ("fold", "truth", "scores", "decisions", "reference", "n_train", "penalty"):
        np.testing.assert_array_equal(getattr(both, name), np.vstack([getattr(one, name) for one in (first, second)]))
    assert both.warnings == ("mind m", "mind all", "mind n")
    np.testing.assert_array_equal(both.average()[1][:, 0], [12, 18, 19, 20, np.nan])
    assert both.average()[2].tolist() == [2, 4, 4, 4, 0]


def test_encoders_that_were_tested_on_other_splits_are_refused():
    first, second = make_values("m"), make_values("n")
    second.fold[1, 1] = 1
    with pytest.raises(ValueError, match="the same folds of y as m"):
        stack_seeds([first, second])


def test_rows_have_the_class_that_most_repetitions_decided_for():
    target = Target(name="y", values=np.array([0, 0, 0, 1, 1, 0.0]), classes=("a", "b"))
    table = PredictionTable(target, (3, 1))
    # Three of four to train on are a, so b is decided for from a probability of a quarter on.
    for repetition, chance in enumerate([(0.3, 0.2), (0.3, 0.4), (0.1, 0.1)]):
        scores = np.array([[1 - one, one] for one in chance])
        table.add((repetition, 0), (np.arange(4), np.array([4, 5])), scores, 1.0)
    made = table.build("m")
    assert made.decisions[:, 4:].tolist() == [[1, 0], [1, 1], [0, 0]]
    assert made.decide()[4:].tolist() == [1, 0]
    assert np.isnan(made.decide()[:4]).all()
    # One against one: the more probable of the two.
    tied = dataclasses.replace(
        made, **{name: getattr(made, name)[:2] for name in ("fold", "truth", "scores", "decisions")}
    )
    assert tied.decide()[5] == 0
    np.testing.assert_array_equal(make_values().decide(), make_values().average()[1][:, 0])


def test_values_of_several_models_are_averaged_as_they_are():
    first, second = make_values("m"), make_values("n", shift=4.0)
    both = average_models([first, second], "both")
    np.testing.assert_array_equal(both.scores, first.scores + 2)
    np.testing.assert_array_equal(both.decisions, both.scores[:, :, 0])
    assert (both.model, both.n_seeds, both.n_repeats, both.warnings) == ("both", 1, 2, ())
    np.testing.assert_array_equal(both.n_train, first.n_train)
    assert np.isnan(both.penalty).all()
    np.testing.assert_array_equal(average_models([first], "m").scores, first.scores)


def make_logits(levels, slopes, *, n_classes=2):
    """Two folds of six rows and a logit for each slope, all functions of the row's number."""
    target = Target(name="y", values=np.arange(12.0) % n_classes, classes=CLASSES[:n_classes])
    table = PredictionTable(target, (1, 2))
    for fold in (0, 1):
        test, train = np.arange(6) + 6 * fold, np.arange(6) + 6 * (1 - fold)
        logits = [(rows % 6)[:, None] * np.array(slopes) * (fold + 1) + np.array(levels) for rows in (train, test)]
        scores = compute_probabilities(logits[1])
        table.add((0, fold), (train, test), scores, 1.0, logits=(logits[0], logits[1]))
    return table.build("m")


def test_decision_values_count_in_units_of_their_spread_over_training_rows():
    # One model is a hundred times as sure of itself, in the opposite direction.
    timid, bold = make_logits([0.5], [0.01]), make_logits([-1.0], [-1.0])
    both = average_models([timid, bold], "both")
    # In units of their SD they cancel out, and only the mean level is left.
    level = np.mean([0.5 + 2.5 * 0.01, -1.0 - 2.5])
    level_second = np.mean([0.5 + 2.5 * 0.02, -1.0 - 2 * 2.5])
    wanted = np.repeat([level, level_second], 6)
    np.testing.assert_allclose(both.decision_values.values[0, :, 0], wanted, atol=1e-12)
    np.testing.assert_allclose(both.scores[0], compute_probabilities(wanted[:, None]))
    # A third vote decides, however small its own scale.
    three = average_models([timid, bold, timid], "three").scores[0, :6, 1]
    assert (np.diff(three) > 0).all()
    plain = np.mean([one.scores[0, :6, 1] for one in (timid, bold, timid)], axis=0)
    assert plain[0] > plain[-1]


@pytest.mark.parametrize(("levels", "slopes"), [([0.3], [0.5]), ([0.3, -0.2, 0.1], [0.5, -0.1, 0.2])])
def test_the_ensemble_of_a_model_with_itself_is_the_model(levels, slopes):
    one = make_logits(levels, slopes, n_classes=max(2, len(levels)))
    both = average_models([one, one], "m")
    np.testing.assert_allclose(both.scores, one.scores, rtol=1e-12)
    np.testing.assert_array_equal(both.decisions, one.decisions)


def test_a_constant_model_only_moves_the_level_of_an_ensemble():
    sure, constant = make_logits([0.0], [0.5]), make_logits([1.0], [0.0])
    both = average_models([sure, constant], "both")
    assert np.isfinite(both.scores).all()
    first = both.decision_values.values[0, :6, 0]
    np.testing.assert_array_equal(np.argsort(first), np.arange(6))
    assert first.mean() == pytest.approx((0.5 * 2.5 + 1.0) / 2)


def test_models_that_cannot_be_averaged_are_refused():
    first, second = make_values("m"), make_values("n")
    second.fold[1, 1] = 1
    with pytest.raises(ValueError, match="the same folds of y as m"):
        average_models([first, second], "both")
    whole = make_logits([0.0], [0.5])
    with pytest.raises(ValueError, match="1 of 2 models have no decision values"):
        average_models([whole, dataclasses.replace(whole, decision_values=None)], "both")


@pytest.mark.parametrize("n_classes", [2, 3])
def test_decision_values_of_the_linear_model_give_its_probabilities(n_classes):
    rng = np.random.default_rng(3)
    target = Target(name="y", values=np.arange(60.0) % n_classes, classes=CLASSES[:n_classes])
    table = rng.normal(size=(60, 5)) + target.values[:, None]
    splits = build_splits(target.compute_strata(), groups=None, n_repeats=2, seed=0)
    features = [TableFeatures(name=name, values=table[:, part]) for name, part in (("a", [0, 1]), ("b", [2, 3, 4]))]
    parts = [cross_validate(one, target, splits) for one in features]
    for one in parts:
        np.testing.assert_array_equal(compute_probabilities(one.decision_values.values), one.scores)
        assert (one.decision_values.deviation > 0).all()
    both = average_models(parts, "both")
    # Log odds over the training rows of each fold have the mean of the two SDs.
    np.testing.assert_allclose(
        both.decision_values.deviation, np.mean([one.decision_values.deviation for one in parts], axis=0)
    )
    np.testing.assert_allclose(both.scores.sum(axis=2), 1)
