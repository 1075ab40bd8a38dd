"""Targets, covariates and splits of a phenotype that do not fit together are refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from bids_semantoks.analyses.probe_targets import build_target, check_classes
from bids_semantoks.errors import InputError
from bids_semantoks.inputs.phenotypes import Phenotype
from bids_semantoks.statistics.splits import build_splits
from bids_semantoks.statistics.targets import Target


def test_a_class_that_a_covariate_makes_too_small_is_named() -> None:
    labels = ("a",) * 6 + ("b",) * 9
    own = Phenotype(name="group", table="x.tsv", kind="classification", labels=labels, numbers=np.full(15, np.nan))
    assert build_target(own, np.arange(15) == 0, n_bins=0).classes == ("a", "b")
    with pytest.raises(InputError, match=r"group has classes with fewer than 5 members .*: 'a' \(4\)"):
        build_target(own, np.arange(15) < 2, n_bins=0)


def test_bins_that_nobody_falls_into_are_refused() -> None:
    target = Target(name="score", values=np.array([0.0] * 30 + list(range(1, 12))), n_bins=4)
    splits = build_splits(target.compute_strata(), n_repeats=1)
    with pytest.raises(InputError, match=r"score .* 4 bins .* the value 0"):
        check_classes(target, splits)
    check_classes(dataclasses.replace(target, n_bins=0), splits)
