"""Phenotypes as targets, and the check that every training part has all their classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.errors import InputError
from bids_semantoks.inputs.phenotypes import MIN_CLASS, Phenotype
from bids_semantoks.statistics.splits import Split
from bids_semantoks.statistics.targets import Target, build_class_target


def build_target(phenotype: Phenotype, is_out: NDArray[np.bool_], *, n_bins: int) -> Target:
    """Convert a phenotype to a target, missing where `is_out` (n,); InputError if the rest cannot be predicted."""
    if phenotype.kind == "classification":
        labels = [None if gone else label for label, gone in zip(phenotype.labels, is_out, strict=True)]
        n_classes = len(set(labels) - {None})
        if n_classes < 2:
            raise InputError(
                f"Column {phenotype.name} has {n_classes} classes among participants with all  covariates.",
                hint="Remove a covariate.",
            )
        small = {label: count for label, count in Counter(labels).items() if label is not None and count < MIN_CLASS}
        if small:
            raise InputError(
                f"Column {phenotype.name} has classes with fewer than {MIN_CLASS} members among participants with all  "
                f"covariates: {', '.join(f'{label!r} ({count})' for label, count in sorted(small.items()))}.",
                hint="Remove a covariate, or write n/a for these classes.",
            )
        return build_class_target(phenotype.name, labels)
    values = np.where(is_out, np.nan, phenotype.numbers)
    if len(np.unique(values[~np.isnan(values)])) < 2:
        raise InputError(f"Column {phenotype.name} does not vary among participants with all  covariates.")
    return Target(name=phenotype.name, values=values, n_bins=n_bins)


def check_classes_left(target: Target, splits: Sequence[Split], places: NDArray[Any], name: str) -> None:
    """Raise InputError if a training part lacks a class."""
    for split in splits if target.classes else ():
        if missing := _find_classes_lacking(target, split):
            raise InputError(
                f"Without {name} {places[split.test[0]]} there are no training participants with {target.name} = "
                f"{', '.join(missing)}.",
                hint=f"Exclude {name} {places[split.test[0]]}, or choose another column for --leave-out.",
            )


def check_classes(target: Target, splits: Sequence[Split]) -> None:
    """Refuse splits with a training part that lacks a class, or bins that no value falls into: InputError."""
    for split in splits if target.n_bins else ():
        if np.bincount(target.compute_labels(split.train)[split.train].astype(int), minlength=target.n_bins).min() == 0:
            values, counts = np.unique(target.values[split.train], return_counts=True)
            raise InputError(
                f"{target.name} cannot be divided into {target.n_bins} bins of equal size: {counts.max()} of "
                f"{counts.sum()} training participants have the value {values[counts.argmax()]:g}.",
                hint="Reduce or remove --n-bins.",
            )
    for split in splits if target.classes else ():
        if missing := _find_classes_lacking(target, split):
            raise InputError(
                f"Repetition {split.repetition}, fold {split.fold} has no training participants with {target.name} = "
                f"{', '.join(missing)}.",
                hint="Each class must be in several groups, and in the training part of given splits.",
            )


def _find_classes_lacking(target: Target, split: Split) -> list[str]:
    """Find the names of classes that a training part lacks."""
    known = set(target.values[split.train].astype(int).tolist())
    return [name for k, name in enumerate(target.classes) if k not in known]
