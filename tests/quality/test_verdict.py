"""The verdict on a run: use, look, or leave out."""

import numpy as np
import pytest

from bids_semantoks.quality.fit import FitItem
from bids_semantoks.quality.verdict import judge, judge_run, measure_run

SIGNALS = {
    "VolumesTotal": 210,
    "VolumesKept": 200,
    "VolumesDropped": {"Dummy": {"Count": 4}, "Scrubbed": {"Count": 6}},
    "RepetitionTime": 2.0,
    "MeanFramewiseDisplacement": 0.1,
}


@pytest.mark.parametrize(
    ("changes", "coverage", "level", "action", "words"),
    [
        ({}, 0.97, "green", "Use", "within their limits"),
        ({"MeanFramewiseDisplacement": 0.3}, 0.97, "amber", "Look", "Mean FD 0.30 mm"),
        ({"MeanFramewiseDisplacement": 0.6}, 0.97, "red", "Leave out", "leave out above 0.50 mm"),
        ({"MeanFramewiseDisplacement": None}, 0.97, "green", "Use", "All measures"),
        ({"VolumesKept": 149}, 0.97, "amber", "Look", "Kept data 298 s"),
        ({"VolumesKept": 49}, 0.97, "red", "Leave out", "Kept data 98 s"),
        ({"VolumesDropped": {"Dummy": {"Count": 0}, "Scrubbed": {"Count": 84}}}, 0.97, "amber", "Look", "volumes 40%"),
        ({}, 0.85, "amber", "Look", "Coverage 0.85"),
        ({}, float("nan"), "green", "Use", "All measures"),
        ({"RepetitionTime": 3.5}, 0.97, "amber", "Look", "Repetition time 3.5 s"),
        # The strongest reason comes first.
        ({"VolumesKept": 140, "MeanFramewiseDisplacement": 0.6}, 0.7, "red", "Leave out", "Mean FD 0.60 mm"),
    ],
)
def test_a_verdict_has_a_level_and_its_reason(changes, coverage, level, action, words):
    items = judge_run(measure_run({**SIGNALS, **changes}, np.full(7, coverage)))
    verdict = judge(items)
    assert (verdict.level, verdict.action) == (level, action)
    assert words in verdict.reason
    assert all(item.source for item in items)


def test_a_network_without_signal_is_a_reason():
    masked = FitItem(name="networks", value="absent: Vis", level="red", words="guess", source="ours")
    verdict = judge([*judge_run(measure_run(SIGNALS, np.ones(7))), masked, masked])
    assert verdict.action == "Leave out"
    assert verdict.reason == "Networks absent: Vis (guess)."


def test_a_run_that_failed_is_left_out_for_its_reason():
    verdict = judge([], "Torn.")
    assert (verdict.level, verdict.reason) == ("red", "Torn.")
