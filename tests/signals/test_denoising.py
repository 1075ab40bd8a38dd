"""Denoising presets and files: what is refused, and why."""

import json

import pytest

from bids_semantoks.errors import ConfigurationError
from bids_semantoks.signals.denoising import PRESETS, load_denoising


def test_presets_have_their_names_and_a_description():
    for preset in PRESETS:
        denoising = load_denoising(preset)
        assert denoising.name == preset
        assert denoising.description.endswith(".")
        assert denoising.is_none == (preset == "none")


@pytest.mark.parametrize("preset", ["simple", "36p", "compcor"])
def test_cosines_go_where_the_filter_removes_the_same_drifts(preset):
    """Twice high-passed, the ends of a run keep less; CompCor's components were computed without these drifts."""
    for band, has_cosines in (
        ((0.01, 0.1), preset == "compcor"),
        ((0.005, 0.1), True),
        ((0.0, 0.1), True),
        (None, True),
    ):
        assert ("high_pass" in load_denoising(preset, band).strategy) == has_cosines


def test_a_file_keeps_the_cosines_that_it_names(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('{"strategy": ["motion", "high_pass"]}')
    assert "high_pass" in load_denoising(str(path), (0.01, 0.1)).strategy


def test_options_are_complete_and_never_nilearns_aroma_default():
    assert dict(load_denoising("ica_aroma").options) == {"wm_csf": "basic", "ica_aroma": "orthogonal"}
    assert dict(load_denoising("compcor").options) == {"motion": "full", "compcor": "anat_combined", "n_compcor": "all"}


def test_unknown_preset_lists_all_and_names_the_nearest():
    with pytest.raises(ConfigurationError, match=r"'36P\+';.*36p"):
        load_denoising("36P+")


def test_missing_file_is_named():
    with pytest.raises(ConfigurationError, match=r"nowhere/mine\.json"):
        load_denoising("nowhere/mine.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"strategy": ["motion"], "motoin": "full"}, "unknown keys: motoin"),
        ({"strategy": ["motion"], "columns": ["csf"]}, "either strategy or columns"),
        ({"description": "nothing"}, "either strategy or columns"),
        ({"strategy": ["motion"], "motion": "entire"}, "motion in .* is 'entire', expected basic, derivatives"),
        ({"strategy": ["motion"], "wm_csf": "basic"}, "sets wm_csf, but its strategy has no wm_csf"),
        ({"strategy": ["motion", "scrub"]}, "'scrub'.*--fd-threshold"),
        ({"strategy": ["compcor"]}, "compcor without high_pass"),
        ({"strategy": ["compcor", "high_pass"], "n_compcor": 0}, "n_compcor in .* is 0"),
        ({"strategy": ["ica_aroma"], "ica_aroma": "full"}, "ica_aroma in .* is 'full'"),
        ({"strategy": "motion"}, "list of names, found 'motion'"),
        ({"columns": ["csf", "csf"]}, "'csf', 'csf'"),
        (["motion"], "a JSON object, found list"),
    ],
)
def test_bad_denoising_files_are_refused(tmp_path, content, message):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigurationError, match=message):
        load_denoising(str(path))


def test_denoising_file_that_is_no_json(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text("{strategy")
    with pytest.raises(ConfigurationError, match=r"mine\.json is not a readable JSON"):
        load_denoising(str(path))
