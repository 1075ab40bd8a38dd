"""Phenotypes as numbers to predict. Shape letters: n rows, K classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.records import Floats, Indices
from bids_semantoks.statistics.splits import compute_strata


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Target:
    """A phenotype as numbers; ValueError if values, classes and bins do not fit together."""

    name: str
    values: Floats  # (n,) index into `classes`, or value; NaN where missing
    classes: tuple[str, ...] = ()  # two or more names; empty for a continuous phenotype
    # classes of equal size to cut a continuous phenotype into at quantiles of the training rows; 0 for none
    n_bins: int = 0

    def __post_init__(self) -> None:
        if self.values.ndim != 1 or np.isinf(self.values).any():
            raise ValueError(f"{self.name}: values must be a vector without infinities, found {self.values.shape}")
        if self.classes and self.n_bins:
            raise ValueError(f"{self.name}: classes cannot be cut into {self.n_bins} bins")
        if self.n_bins == 1 or self.n_bins < 0 or len(self.classes) == 1:
            raise ValueError(f"{self.name}: needs at least two bins or classes, found {self.n_bins or self.classes}")
        known = self.values[~np.isnan(self.values)]
        if self.classes and not np.isin(known, np.arange(len(self.classes))).all():
            raise ValueError(f"{self.name}: class indices must be between 0 and {len(self.classes) - 1}")

    @property
    def is_class(self) -> bool:
        """Whether classes are predicted, either given ones or bins."""
        return bool(self.classes) or self.n_bins > 0

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the K predicted classes; of bins, their numbers from low to high."""
        return self.classes or tuple(f"bin{number}" for number in range(1, self.n_bins + 1))

    def compute_strata(self, *, n_folds: int = 5) -> Indices:
        """Compute strata (n,) for `build_splits`: classes, the requested bins, or bins with at least two rows per
        fold."""
        known = ~np.isnan(self.values)
        if self.n_bins:
            return compute_strata(np.where(known, self.compute_labels(known), np.nan), is_class=True)
        return compute_strata(self.values, is_class=bool(self.classes), n_folds=n_folds)

    def compute_labels(self, train: NDArray[np.bool_] | Indices) -> Floats:
        """Compute the class index or value (n,) of all rows, bins cut at quantiles of the training rows."""
        if not self.n_bins:
            return self.values
        edges = np.quantile(self.values[train], np.arange(1, self.n_bins) / self.n_bins)
        labels = np.searchsorted(edges, self.values, side="right").astype(np.float64)
        return np.where(np.isnan(self.values), np.nan, labels)


def build_class_target(name: str, labels: Sequence[str | None]) -> Target:
    """Number classes in the order of their sorted names; None is missing."""
    classes = tuple(sorted({label for label in labels if label is not None}))
    values = np.array([np.nan if label is None else classes.index(label) for label in labels], dtype=np.float64)
    return Target(name=name, values=values, classes=classes)


def build_covariates(columns: Mapping[str, Sequence[float] | Sequence[str]]) -> NDArray[np.float64]:
    """Convert columns of length n to numbers (n, c), text to one indicator per level; ValueError at a missing value.
    All levels keep their indicator, since a training part may lack any of them."""
    table = []
    for name, column in columns.items():
        values = np.asarray(column)
        if values.dtype.kind in "OUS":
            missing = [index for index, value in enumerate(column) if value in (None, "", "n/a")]
            table += [(values == level).astype(np.float64) for level in sorted(set(map(str, column)))]
        else:
            missing = list(np.flatnonzero(~np.isfinite(values.astype(np.float64))))
            table.append(values.astype(np.float64))
        if missing:
            raise ValueError(f"covariate {name} is missing in row {missing[0]}")
    return np.stack(table, axis=1)
