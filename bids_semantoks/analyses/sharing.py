"""Phenotypes with the same participants and splits are computed together, as they share decompositions of the training
rows, the most expensive step for wide features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from bids_semantoks.analyses.design import Design
from bids_semantoks.statistics.folds import SharedSpans
from bids_semantoks.statistics.predictions import Predictions
from bids_semantoks.statistics.significance import PermutationTest
from bids_semantoks.statistics.spans import Features
from bids_semantoks.statistics.splits import ROLES

_Result = TypeVar("_Result")
_Compute = Callable[[Features, Sequence[Design]], list[_Result]]


class SharedFolds:
    """Results of the nested protocol that wait until their phenotype is requested, and spans of the latest features.
    `designs` are still to be probed; `stays` tells of features whether they live as long as this."""

    def __init__(
        self, designs: Sequence[Design], predict: _Compute[Predictions], *, stays: Callable[[Features], bool]
    ) -> None:
        self.designs, self._predict, self._stays = designs, predict, stays
        self._predictions: dict[tuple[int, int], Predictions] = {}
        self._tests: dict[tuple[int, int], PermutationTest | None] = {}
        self._spans: SharedSpans | None = None

    def predict(self, features: Features, design: Design) -> Predictions:
        """Predict a phenotype, and with it those that share its folds."""
        return self._compute(self._predictions, features, design, self._predict)

    def test(
        self, features: Features, design: Design, test: _Compute[PermutationTest | None]
    ) -> PermutationTest | None:
        """Test a phenotype by `test`, and with it those that share its folds."""
        return self._compute(self._tests, features, design, test)

    def _compute(
        self, waiting: dict[tuple[int, int], _Result], features: Features, design: Design, compute: _Compute[_Result]
    ) -> _Result:
        if not self._stays(features):
            return compute(features, [design])[0]
        if self._spans is None or self._spans.features is not features:
            self._spans = SharedSpans(features)
        if not any(design is one for one in self.designs):
            return compute(self._spans, [design])[0]
        # Both live as long as this: no other object has their identity.
        key = id(features), id(design)
        if key not in waiting:
            designs = find_sharing(design, self.designs)
            found = compute(self._spans, designs)
            waiting |= {(id(features), id(one)): result for one, result in zip(designs, found, strict=True)}
        return waiting.pop(key)


def find_sharing(design: Design, others: Sequence[Design], *, whatever_splits: bool = False) -> list[Design]:
    """Find the designs with the same rows, splits, groups and covariates as one of them, which comes first; with
    `whatever_splits` those that could have the same splits, as a value of the same rows is known."""
    return [design, *(one for one in others if one is not design and _is_shared(one, design, whatever_splits))]


def _is_shared(first: Design, second: Design, whatever_splits: bool) -> bool:
    if first.rows.keys != second.rows.keys:
        return False
    same = [(first.covariates, second.covariates), (first.groups, second.groups)]
    if whatever_splits:
        same.append((np.isnan(first.target.values), np.isnan(second.target.values)))
    elif len(first.splits) != len(second.splits):
        return False
    for one, other in () if whatever_splits else zip(first.splits, second.splits, strict=True):
        if (one.repetition, one.fold) != (other.repetition, other.fold):
            return False
        same += [(getattr(one, role), getattr(other, role)) for role in ROLES]
    return all(a is b or (a is not None and b is not None and np.array_equal(a, b)) for a, b in same)
