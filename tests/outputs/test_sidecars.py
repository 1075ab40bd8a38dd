"""A stored sidecar counts only in the form in which it is written."""

import math

import pytest

from bids_semantoks.files import read_json
from bids_semantoks.outputs.sidecars import is_sidecar


@pytest.mark.parametrize(
    "change",
    [
        {"Settings": 5},
        {"Atlas": {"SHA256": 5}},
        {"Atlas": []},
        {"VolumesKept": "9"},
        {"VolumesKept": math.inf},
        {"RepetitionTime": 0},
        {"RepetitionTime": None},
        {"VolumesDropped": {"Dummy": 5, "Scrubbed": {"Count": 0}}},
        {"VolumesDropped": {}},
        {"Files": {"x.tsv": None}},
        {"TableSHA256": 5},
    ],
)
def test_a_stored_sidecar_of_another_form_is_damaged(outputs, change):
    stored = read_json(next(outputs.glob("sub-001/**/*_stat-mean_timeseries.json")))
    assert is_sidecar(stored, of_signals=True)
    assert not is_sidecar({**stored, **change}, of_signals=True)
