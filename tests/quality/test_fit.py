"""Whether a run fits the encoder: a light with words."""

import numpy as np
import pytest

from bids_semantoks.quality.fit import find_worst, judge_fit

P = 13


SIGNALS = {
    "VolumesKept": 200,
    "RepetitionTime": 2.0,
    "Settings": {"denoising": {"name": "simple"}, "band_pass": [0.01, 0.1]},
}


NO_BAND = {"band": "no filter"}


UNFILTERED = {"denoising": {"name": "x"}, "band_pass": None}


EMBEDDING = {"Model": {"Limits": None}, "MaskedNetworks": []}


OWN = {
    "repetition_time_of_the_sources_in_s": [0.8, 1.2],
    "length_of_the_runs_in_s": [300.0, 500.0],
    "band": [0.01, 0.1],
    "smallest_share_of_parcels_with_signal": 0.95,
}


@pytest.mark.parametrize(
    ("signals", "embedding", "coverage", "name", "level", "words"),
    [
        ({}, {}, 0.97, "repetition time", "green", "0.735 to 3 s of the published"),
        ({"RepetitionTime": 3.5}, {}, 0.97, "repetition time", "amber", "outside"),
        ({}, {"Model": {"Limits": OWN}}, 0.97, "repetition time", "amber", "0.8 to 1.2 s this encoder was trained on"),
        ({"VolumesKept": 49}, {}, 0.97, "length", "red", "under 100 s"),
        ({"VolumesKept": 75}, {}, 0.97, "length", "amber", "shorter than the 200 s"),
        ({"Settings": {"denoising": {}, "band_pass": None}}, {}, 0.97, "band", "amber", "not known here"),
        ({"Settings": UNFILTERED}, {}, 0.97, "band", "amber", "differs from"),
        ({"Settings": UNFILTERED}, {"Model": {"Limits": NO_BAND}}, 0.97, "band", "green", "the same as this encoder"),
        ({}, {"Model": {"Limits": NO_BAND}}, 0.97, "band", "amber", "trained on: no filter"),
        ({}, {}, 0.85, "coverage", "amber", "under 0.90"),
        ({}, {"Model": {"Limits": OWN}}, 0.94, "coverage", "amber", "under 0.95"),
        ({}, {}, 0.79, "coverage", "red", "under 0.8"),
        ({}, {}, float("nan"), "coverage", "amber", "without a coverage table"),
        ({}, {"MaskedNetworks": ["Limbic"]}, 0.97, "networks", "red", "guess"),
    ],
)
def test_input_fit_is_a_light_with_words(signals, embedding, coverage, name, level, words):
    items = judge_fit({**SIGNALS, **signals}, {**EMBEDDING, **embedding}, np.full(P, coverage))
    (item,) = [item for item in items if item.name == name]
    assert (item.level, words in item.words) == (level, True), item
    assert find_worst(items) == level
