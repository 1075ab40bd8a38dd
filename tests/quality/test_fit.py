"""Whether a run fits the encoder: a light with words."""

import numpy as np
import pytest

from bids_semantoks.quality.fit import describe_cleaning, find_worst, judge_fit

P = 13


SIGNALS = {
    "VolumesKept": 200,
    "RepetitionTime": 2.0,
    "Settings": {"denoising": {"name": "simple"}, "band_pass": [0.01, 0.1]},
    "Pipeline": "fMRIPrep 24.1.1",
    "Denoising": {"Preset": "simple", "Regressors": ["trans_x", "rot_z_power2", "csf", "white_matter"]},
    "VolumesDropped": {"Dummy": {"Count": 0}, "Scrubbed": {"Count": 0, "FramewiseDisplacementAboveMillimetres": None}},
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
        ({"VolumesKept": 49}, {}, 0.97, "length", "red", "100 s"),
        ({"VolumesKept": 75}, {}, 0.97, "length", "amber", "shorter than the 200 s"),
        ({"Settings": {"denoising": {}, "band_pass": None}}, {}, 0.97, "band", "amber", "filtered elsewhere"),
        ({"Settings": UNFILTERED}, {}, 0.97, "band", "amber", "differs from"),
        ({"Settings": UNFILTERED}, {"Model": {"Limits": NO_BAND}}, 0.97, "band", "green", "the same as this encoder"),
        ({}, {"Model": {"Limits": NO_BAND}}, 0.97, "band", "amber", "trained on: no filter"),
        ({}, {}, 0.85, "coverage", "amber", "0.90"),
        ({}, {"Model": {"Limits": OWN}}, 0.94, "coverage", "amber", "0.95"),
        ({}, {}, 0.79, "coverage", "red", "0.8"),
        ({}, {}, float("nan"), "coverage", "amber", "coverage table"),
        ({}, {"MaskedNetworks": ["Limbic"]}, 0.97, "networks", "red", "no signal"),
    ],
)
def test_input_fit_is_a_light_with_words(signals, embedding, coverage, name, level, words):
    items = judge_fit({**SIGNALS, **signals}, {**EMBEDDING, **embedding}, np.full(P, coverage))
    (item,) = [item for item in items if item.name == name]
    assert (item.level, words in item.words) == (level, True), item
    others = [one for one in items if one.name not in CLEANING]
    assert find_worst(others) == level


CLEANING = ("regressors", "global signal", "scrubbing")


def scrub(count, limit=None):
    scrubbed = {"Count": count, "FramewiseDisplacementAboveMillimetres": limit}
    return {"VolumesDropped": {"Dummy": {"Count": 3}, "Scrubbed": scrubbed}, "VolumesKept": 200 - count}


def regress(*names, **more):
    return {"Denoising": {"Preset": "x", "Regressors": list(names), **more}}


UKB = {"Pipeline": "UK Biobank", **regress(DenoisedBy="UK Biobank")}
XCPD = {"Pipeline": "xcp_d 0.14.1", **regress(DenoisedBy="xcp_d 0.14.1")}
SERIES = {"Pipeline": "xcp_d 0.14.1", "Settings": {"denoising": None}, "Denoising": {"Preset": "none: as found"}}
TRAINED = {
    **OWN,
    "noise_removed": ["CompCor", "motion, white matter and CSF"],
    "global_signal": ["regressed out"],
    "scrubbing": ["framewise displacement above 0.3 mm"],
    "largest_share_of_scrubbed_volumes": 0.25,
}


@pytest.mark.parametrize(
    ("signals", "limits", "name", "level", "words"),
    [
        ({}, None, "regressors", "amber", "the published encoder's training data: ICA-FIX"),
        (UKB, None, "regressors", "green", "the same as the published"),
        (UKB, None, "global signal", "green", "the same as the published"),
        ({}, None, "global signal", "green", "the same as the published"),
        (regress("trans_x", "global_signal_power2"), None, "global signal", "amber", "training data: kept"),
        (XCPD, None, "regressors", "amber", "unknown"),
        (SERIES, None, "global signal", "amber", "unknown"),
        (UKB, None, "scrubbing", "green", "the same as"),
        (scrub(20, 0.5), None, "scrubbing", "green", "few volumes"),
        (scrub(21, 0.5), None, "scrubbing", "amber", "at most 0% of a run"),
        ({**SERIES, **scrub(7)}, None, "scrubbing", "green", "few volumes"),
        ({**SERIES, **scrub(90)}, None, "scrubbing", "amber", "at most 0% of a run"),
        ({}, TRAINED, "regressors", "green", "the same as this encoder's"),
        (regress("a_comp_cor_00", "cosine00"), TRAINED, "regressors", "green", "the same as"),
        (regress("trans_x"), TRAINED, "regressors", "amber", "CompCor or motion, white matter and CSF"),
        (regress(), TRAINED, "regressors", "amber", "CompCor or motion"),
        (regress("aroma_orth_motion_01", "mine"), TRAINED, "regressors", "amber", "CompCor or motion"),
        ({}, TRAINED, "global signal", "amber", "training data: regressed out"),
        ({}, TRAINED, "scrubbing", "amber", "training data: framewise displacement above 0.3 mm"),
        (scrub(60, 0.3), TRAINED, "scrubbing", "green", "the same as this encoder's"),
        (scrub(80, 0.3), TRAINED, "scrubbing", "amber", "at most 25% of a run"),
        ({}, OWN, "regressors", "amber", "this encoder's training data is unknown"),
        ({}, OWN, "scrubbing", "amber", "is unknown"),
        ({}, {**OWN, **describe_cleaning([])}, "global signal", "amber", "is unknown"),
    ],
)
def test_cleaning_is_compared_with_that_of_the_training_data(signals, limits, name, level, words):
    items = judge_fit({**SIGNALS, **signals}, {**EMBEDDING, "Model": {"Limits": limits}}, np.full(P, 0.97))
    (item,) = [item for item in items if item.name == name]
    assert (item.level, words in item.words) == (level, True), item


def test_an_encoder_knows_how_its_own_training_data_were_cleaned():
    runs = [SIGNALS, {**SIGNALS, **scrub(50, 0.4)}, {**SIGNALS, **XCPD}]
    limits = {**OWN, **describe_cleaning(runs)}
    assert limits["noise_removed"] == ["motion, white matter and CSF", "not known"]
    assert limits["global_signal"] == ["kept", "not known"]
    assert limits["scrubbing"] == ["framewise displacement above 0.4 mm", "none", "not known"]
    assert limits["largest_share_of_scrubbed_volumes"] == 0.25
    for run in runs[:2]:
        items = judge_fit(run, {**EMBEDDING, "Model": {"Limits": limits}}, np.full(P, 0.97))
        assert {item.name: item.level for item in items if item.name in CLEANING} == dict.fromkeys(CLEANING, "green")
