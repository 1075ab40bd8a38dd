"""Phenotypes with the same participants and splits are computed together, as they share decompositions of the training
rows, the most expensive step for wide features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from bids_semantoks.analyses.design import Design
from bids_semantoks.analyses.rows import EmbeddingFeatures
from bids_semantoks.statistics.folds import SharedSpans
from bids_semantoks.statistics.predictions import Predictions
from bids_semantoks.statistics.significance import PermutationTest
from bids_semantoks.statistics.spans import Features, KernelFeatures, TangentFeatures
from bids_semantoks.statistics.splits import ROLES

_Result = TypeVar("_Result")
_Test = Callable[[Features, Design], PermutationTest | None]

#: Features that stay for all phenotypes, and whose decomposition is worth sharing.
_WIDE = (KernelFeatures, TangentFeatures, EmbeddingFeatures)


class SharedFolds:
    """Results of the nested protocol that wait until their phenotype is asked for, and spans of the latest features."""

    def __init__(
        self, designs: Sequence[Design], predict: Callable[[Features, Sequence[Design]], list[Predictions]]
    ) -> None:
        self.designs, self._predict = designs, predict  # those that are still to be probed
        self._predictions: dict[tuple[int, int], Predictions] = {}
        self._tests: dict[tuple[int, int], PermutationTest | None] = {}
        self._spans: SharedSpans | None = None

    def predict(self, features: Features, design: Design) -> Predictions:
        """Predict a phenotype, and with it those that share its folds."""
        return self._compute(self._predictions, features, design, self._predict)

    def test(self, features: Features, design: Design, test: _Test) -> PermutationTest | None:
        """Test a phenotype by `test`, and with it those that share its folds."""
        return self._compute(self._tests, features, design, lambda spans, all_: [test(spans, one) for one in all_])

    def _compute(
        self,
        waiting: dict[tuple[int, int], _Result],
        features: Features,
        design: Design,
        compute: Callable[[Features, Sequence[Design]], list[_Result]],
    ) -> _Result:
        if not isinstance(features, _WIDE) or not any(design is one for one in self.designs):
            return compute(features, [design])[0]
        # Both live as long as this: no other object has their identity.
        key = id(features), id(design)
        if key not in waiting:
            if self._spans is None or self._spans.features is not features:
                self._spans = SharedSpans(features)
            designs = find_sharing(design, self.designs)
            found = compute(self._spans, designs)
            waiting |= {(id(features), id(one)): result for one, result in zip(designs, found, strict=True)}
        return waiting.pop(key)


def find_sharing(design: Design, others: Sequence[Design]) -> list[Design]:
    """Find the designs with the same rows, splits, groups and covariates as one of them, which comes first."""
    return [design, *(one for one in others if one is not design and _is_shared(one, design))]


def _is_shared(first: Design, second: Design) -> bool:
    if first.rows.keys != second.rows.keys or len(first.splits) != len(second.splits):
        return False
    same = [(first.covariates, second.covariates), (first.groups, second.groups)]
    for one, other in zip(first.splits, second.splits, strict=True):
        if (one.repetition, one.fold) != (other.repetition, other.fold):
            return False
        same += [(getattr(one, role), getattr(other, role)) for role in ROLES]
    return all(a is b or (a is not None and b is not None and np.array_equal(a, b)) for a, b in same)
