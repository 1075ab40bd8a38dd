"""Codes that often mean missing are found, and ordinary values are not."""

from __future__ import annotations

import pytest

from bids_semantoks.inputs.missing_codes import find_suspects, read_levels


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([*map(str, range(80, 130)), "-9999", "-9999"], {"-9999": 2}),
        ([*map(str, range(80, 130)), "-999", "-9", "999"], {"-999": 1, "-9": 1, "999": 1}),
        (["1", "2"] * 9 + ["-9999.0"] * 6, {"-9999.0": 6}),
        (["1", "2", "3", "4", "9"], {"9": 1}),
        (["0", "1", "99"], {"99": 1}),
        (["F", "M", "-9"], {"-9": 1}),
        (["F", "M", "unknown", "Unknown"], {"unknown": 1, "Unknown": 1}),
        (["1", "2", "3", "-1", "-3"], {"-1": 1, "-3": 1}),
        # Ordinary values.
        (list(map(str, range(18, 100))), {}),
        (["1", "-1"], {}),
        (["-5", "0.3", "-9", "4"], {}),
        (["8", "9", "10", "11"], {}),
        (["0.2", "1.7", "2.5", "-1"], {}),
        (["7", "8", "9"], {}),
        ([*map(str, range(900, 1100))], {}),
        (["none", "none"], {}),
        (["a", "b"], {}),
    ],
)
def test_suspects(labels: list[str], expected: dict[str, int]) -> None:
    assert find_suspects(labels, set()) == expected


def test_levels_of_the_sidecar_are_values() -> None:
    levels, missing = read_levels({"Levels": {"1": "left", "9": "other", "-9": "Missing / unknown", "none": "no drug"}})
    assert levels == {"1.0", "9.0", "none"}
    assert missing == {"-9.0"}
    assert find_suspects(["1", "2", "9", "none"], levels) == {}


@pytest.mark.parametrize("entry", [None, "text", {"Levels": ["a", "b"]}, {"Levels": 3, "MissingValues": None}])
def test_sidecars_of_another_form(entry: object) -> None:
    assert read_levels(entry)[1] == frozenset()
