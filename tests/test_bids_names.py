"""File names taken apart."""

from __future__ import annotations

import pytest

from bids_semantoks.bids_names import natural_key, parse_name, sorted_naturally


def test_parts_of_a_name() -> None:
    parsed = parse_name("/data/sub-x_1/sub-01_task-rest_desc-confounds_timeseries.tsv")
    assert parsed is not None
    assert parsed.entities == (("sub", "01"), ("task", "rest"), ("desc", "confounds"))
    assert (parsed.suffix, parsed.extension) == ("timeseries", ".tsv")
    assert parsed.source == {("sub", "01"), ("task", "rest")}


def test_double_extensions_and_plus_signs() -> None:
    parsed = parse_name("sub-01_acq-a+b_bold.dtseries.nii")
    assert parsed is not None
    assert parsed.extension == ".dtseries.nii"
    assert ("acq", "a+b") in parsed.entities


@pytest.mark.parametrize(
    "name", ["sub-01_taskrest_bold.nii.gz", "sub-01_task-a-b_bold.nii", "sub-01_sub-02_bold.nii", ".x"]
)
def test_names_that_are_no_bids_names(name: str) -> None:
    assert parse_name(name) is None


def test_numbers_are_sorted_by_value_and_doubles_dropped() -> None:
    assert sorted_naturally(["10", "9", "a", "9", "009", "a10", "a2", ""]) == ("", "009", "9", "10", "a", "a2", "a10")
    assert natural_key("run-2") < natural_key("run-10")
