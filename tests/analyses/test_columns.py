"""Columns beside a phenotype are numbers or categories, and say which."""

from __future__ import annotations

import numpy as np

from bids_semantoks.analyses.columns import convert_covariates, describe_kinds
from bids_semantoks.inputs.phenotypes import Phenotype


def test_sites_by_number_are_no_quantity() -> None:
    cells = {"where": ("1", "2", "10", "2"), "age": ("20", "31", "42", None)}
    table = convert_covariates(cells, np.array([True, True, True, False]), {"where"})
    np.testing.assert_array_equal(table[:3], [[1, 0, 0, 20], [0, 0, 1, 31], [0, 1, 0, 42]])


def test_kinds_count_the_levels_of_usable_rows() -> None:
    labels = ("a", "b", "c", None)
    own = Phenotype(name="group", table="x.tsv", kind="classification", labels=labels, numbers=np.full(4, np.nan))
    cells = {"age": ("20", "31", "42", None), "family": ("1", None, "1", "2"), "group": labels}
    kinds = describe_kinds(own, cells, np.array([True, True, False, False]), {"family", "group"}, n_bins=3)
    assert kinds == {"group": "category, 2 levels", "age": "number", "family": "category, 1 level"}
