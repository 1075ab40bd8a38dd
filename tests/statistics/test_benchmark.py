"""The protocol of the Brainmarks benchmark: its own scores on the same rows."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from bids_semantoks.errors import InputError
from bids_semantoks.statistics.benchmark import build_benchmark_splits, cross_validate_benchmark
from bids_semantoks.statistics.metrics import compute_fold_scores
from bids_semantoks.statistics.predictions import Predictions, Target
from bids_semantoks.statistics.spans import TableFeatures
from bids_semantoks.statistics.splits import Split

METRICS = {"acc": "accuracy", "f1": "macro_f1", "bacc": "balanced_accuracy"}

#: Scores by brainmarks 0.1.1 (``python tests/statistics/test_benchmark.py`` makes them again where it is installed).
EXPECTED = Path(__file__).with_suffix(".json")


def make_study(n_classes: int) -> tuple[TableFeatures, Target]:
    rng = np.random.default_rng(n_classes)
    truth = rng.permutation(np.repeat(np.arange(n_classes), [40, 25, 20][:n_classes]))
    values = rng.normal(size=(len(truth), 7)) + 0.8 * truth[:, None] * np.linspace(-1, 1, 7)
    target = Target(name="y", values=truth.astype(float), classes=("a", "b", "c")[:n_classes])
    return TableFeatures(name="x", values=values), target


def predict(n_classes: int) -> tuple[Predictions, tuple[Split, ...]]:
    features, target = make_study(n_classes)
    splits = build_benchmark_splits(target.compute_strata(), n_repeats=3)
    return cross_validate_benchmark(features, target, splits), splits


def evaluate(n_classes: int) -> list[dict[str, float]]:
    """Score three random trials as the benchmark itself does, drawing them as its command does."""
    main_logistic = importlib.import_module("brainmarks.main_logistic")
    # Its intervals take minutes, and are not compared.
    main_logistic.bootstrap_ci = lambda args, *_: {name: {"std": 0.0} for name in args.metrics}
    features, target = make_study(n_classes)
    args = main_logistic.OmegaConf.load(main_logistic.DEFAULT_CONFIG)
    args.update({"num_workers": 1, "model": "x", "representation": "cls", "dataset": "y"})
    found = []
    for trial in (1, 2, 3):
        parts = train_test_split(
            features.values,
            target.values.astype(int),
            train_size=int(0.8 * len(target.values)),
            stratify=target.values,
            random_state=args.seed + trial,
        )
        table = main_logistic.evaluate(
            args,
            dict(zip(("train", "test"), parts[:2], strict=True)),
            dict(zip(("train", "test"), parts[2:], strict=True)),
            validation_size=0.25,
            trial_id=trial,
        )
        found.append({name: float(table.iloc[-1][name]) for name in (*METRICS, "C")})
    return found


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("source", ["stored", "installed"])
def test_scores_are_those_of_the_benchmark(n_classes: int, source: str) -> None:
    if source == "installed":
        pytest.importorskip("brainmarks")
        expected = evaluate(n_classes)
    else:
        expected = json.loads(EXPECTED.read_text())[str(n_classes)]
    found, _ = predict(n_classes)
    for name, metric in METRICS.items():
        wanted = [row[name] for row in expected]
        np.testing.assert_allclose(compute_fold_scores(found, metric)[:, 0], wanted, rtol=0, atol=1e-12)
    np.testing.assert_allclose(1 / found.penalty[:, 0], [row["C"] for row in expected])
    # Otherwise these scores would not tell one protocol from another.
    assert len({row["bacc"] for row in expected}) > 1


def test_given_splits_train_on_validation_rows_whose_share_divides_the_inner_splits() -> None:
    features, target = make_study(2)
    drawn, splits = predict(2)
    given = []
    for split in splits:
        cut = len(split.train) // 4
        parts = {"train": split.train[cut:], "validation": split.train[:cut], "test": split.test}
        given.append(Split(repetition=split.repetition, fold=0, **parts))
    found = cross_validate_benchmark(features, target, given)
    np.testing.assert_array_equal(found.scores, drawn.scores)
    np.testing.assert_array_equal(found.n_train, drawn.n_train)


def test_groups_stay_together_and_small_classes_are_refused() -> None:
    _, target = make_study(2)
    groups = np.arange(len(target.values)) // 2
    for split in build_benchmark_splits(target.compute_strata(), groups=groups, n_repeats=2):
        assert not set(groups[split.train]) & set(groups[split.test])
    with pytest.raises(InputError, match="has 4 members"):
        build_benchmark_splits(np.repeat([0, 1], [20, 4]))


if __name__ == "__main__":
    EXPECTED.write_text(json.dumps({str(number): evaluate(number) for number in (2, 3)}, indent=2) + "\n")
