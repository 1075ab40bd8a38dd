"""Phenotypes as targets, and the check that every training part holds all their classes."""

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
    """Convert a phenotype to a target, missing where `is_out` (n,); InputError where the rest cannot be predicted."""
    if phenotype.kind == "classification":
        labels = [None if gone else label for label, gone in zip(phenotype.labels, is_out, strict=True)]
        n_classes = len(set(labels) - {None})
        if n_classes < 2:
            raise InputError(
                f"Column {phenotype.name} has {n_classes} classes among those with all covariates.",
                hint="Leave a covariate away.",
            )
        small = {label: count for label, count in Counter(labels).items() if label is not None and count < MIN_CLASS}
        if small:
            raise InputError(
                f"Column {phenotype.name} has classes with fewer than {MIN_CLASS} members among those with all "
                f"covariates: {', '.join(f'{label!r} ({count})' for label, count in sorted(small.items()))}.",
                hint="Leave a covariate away, or write n/a for these classes.",
            )
        return build_class_target(phenotype.name, labels)
    values = np.where(is_out, np.nan, phenotype.numbers)
    if len(np.unique(values[~np.isnan(values)])) < 2:
        raise InputError(f"Column {phenotype.name} does not vary among those with all covariates.")
    return Target(name=phenotype.name, values=values, n_bins=n_bins)


def check_classes_left(target: Target, splits: Sequence[Split], places: NDArray[Any], name: str) -> None:
    """Refuse to predict a class that a training part has never seen: InputError."""
    for split in splits if target.classes else ():
        if missing := _find_classes_lacking(target, split):
            raise InputError(
                f"Without {name} {places[split.test[0]]} nobody of {target.name} {', '.join(missing)} is left to train "
                "on.",
                hint=f"Leave out those of {name} {places[split.test[0]]}, or choose another column for --leave-out.",
            )


def check_classes(target: Target, splits: Sequence[Split]) -> None:
    """Refuse splits with a training part that lacks a class, or bins that no value falls into: InputError."""
    for split in splits if target.n_bins else ():
        if np.bincount(target.compute_labels(split.train)[split.train].astype(int), minlength=target.n_bins).min() == 0:
            values, counts = np.unique(target.values[split.train], return_counts=True)
            raise InputError(
                f"{target.name} cannot be cut into {target.n_bins} bins of equal size: {counts.max()} of "
                f"{counts.sum()} participants to train on share the value {values[counts.argmax()]:g}.",
                hint="Use fewer --n-bins, or none.",
            )
    for split in splits if target.classes else ():
        if missing := _find_classes_lacking(target, split):
            raise InputError(
                f"Nobody of {target.name} {', '.join(missing)} is left to train on in repetition {split.repetition}, "
                f"fold {split.fold}.",
                hint="Members of a class must be in several groups, and in the training part of given splits.",
            )


def _find_classes_lacking(target: Target, split: Split) -> list[str]:
    """Find the names of classes that a training part lacks."""
    known = set(target.values[split.train].astype(int).tolist())
    return [name for k, name in enumerate(target.classes) if k not in known]
