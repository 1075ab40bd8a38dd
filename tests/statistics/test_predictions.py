"""Predictions are entered fold by fold, averaged over repetitions, and stacked over encoders."""

import dataclasses

import numpy as np
import pytest

from bids_semantoks.statistics.predictions import PredictionTable, stack_seeds
from bids_semantoks.statistics.targets import Target

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
    with pytest.raises(ValueError, match="encoders beside m were not tested on the same folds of y"):
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
