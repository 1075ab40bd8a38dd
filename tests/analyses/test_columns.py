"""Columns beside a phenotype are numbers or categories, and say which."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from bids_semantoks.analyses.columns import (
    build_target,
    check_classes,
    check_harmonised,
    convert_covariates,
    describe_kinds,
)
from bids_semantoks.config import ProbingConfig
from bids_semantoks.errors import InputError
from bids_semantoks.inputs.phenotypes import Phenotype
from bids_semantoks.statistics.predictions import Target
from bids_semantoks.statistics.splits import build_splits


def test_sites_by_number_are_no_quantity() -> None:
    cells = {"where": ("1", "2", "10", "2"), "age": ("20", "31", "42", None)}
    table = convert_covariates(cells, np.array([True, True, True, False]), {"where"})
    np.testing.assert_array_equal(table[:3], [[1, 0, 0, 20], [0, 0, 1, 31], [0, 1, 0, 42]])


def test_covariates_become_tables() -> None:
    everybody = np.ones(3, dtype=bool)
    table = convert_covariates({"age": ("30", "40.5", "50"), "site": ("A", "B", "A")}, everybody)
    np.testing.assert_array_equal(table, [[30, 1, 0], [40.5, 0, 1], [50, 1, 0]])


def test_kinds_count_the_levels_of_usable_rows() -> None:
    labels = ("a", "b", "c", None)
    own = Phenotype(name="group", table="x.tsv", kind="classification", labels=labels, numbers=np.full(4, np.nan))
    cells = {"age": ("20", "31", "42", None), "family": ("1", None, "1", "2"), "group": labels}
    kinds = describe_kinds(own, cells, np.array([True, True, False, False]), {"family", "group"}, n_bins=3)
    assert kinds == {"group": "category, 2 levels", "age": "number", "family": "category, 1 level"}


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


def test_one_site_alone_cannot_be_harmonised():
    target = Target(name="age", values=np.arange(40.0))
    phenotype = SimpleNamespace(name="age", labels=[str(i) for i in range(40)])
    asked = ProbingConfig(probe=("age",), harmonize="site")
    splits = build_splits(target.compute_strata(), n_repeats=1)
    with pytest.raises(InputError, match="--harmonize site needs two sites or more; all rows of age are from A"):
        check_harmonised(asked, phenotype, {"site": ["A"] * 40}, splits)
    assert check_harmonised(asked, phenotype, {"site": ["A", "B"] * 20}, splits)
