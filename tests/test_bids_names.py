"""File names are parsed into entities, suffix and extension."""

from __future__ import annotations

import pytest

from bids_semantoks.bids_names import (
    ENTITY_ORDER,
    explain_name,
    format_label,
    name_schaefer,
    natural_key,
    parse_entities,
    parse_name,
    sort_entities,
    sorted_naturally,
)


def test_parts_of_a_name() -> None:
    parsed = parse_name("/data/sub-x_1/sub-01_task-rest_desc-confounds_timeseries.tsv")
    assert parsed is not None
    assert parsed.entities == (("sub", "01"), ("task", "rest"), ("desc", "confounds"))
    assert (parsed.suffix, parsed.extension) == ("timeseries", ".tsv")
    assert parsed.source == {("sub", "01"), ("task", "rest")}
    assert (parsed.entity("desc"), parsed.entity("ses")) == ("confounds", None)


def test_double_extensions_and_plus_signs() -> None:
    parsed = parse_name("sub-01_acq-a+b_bold.dtseries.nii")
    assert parsed is not None
    assert parsed.extension == ".dtseries.nii"
    assert ("acq", "a+b") in parsed.entities


@pytest.mark.parametrize(
    "name",
    [
        "taskrest_sub-01_bold.nii.gz",
        "sub-01_task-_bold.nii",
        "sub-01_task-rest_bold_desc-filtered_timeseries.dtseries.nii",
        "sub-01_task-rest_bold_space-MNI_preproc.nii.gz",
        "sub-01_task-rest.nii.gz",
        "sub-01__bold.nii",
        "sub-01_sub-02_bold.nii",
        "sub-01_task-rest_",
        "_bold.nii",
        ".x",
        "",
    ],
)
def test_names_that_are_no_bids_names(name: str) -> None:
    assert parse_name(name) is None
    assert explain_name(name)


@pytest.mark.parametrize(
    ("name", "entities"),
    [
        ("sub-NDAR-INV02_task-rest-eyesopen_bold.nii", [("sub", "NDAR-INV02"), ("task", "rest-eyesopen")]),
        ("sub-site1_03_task-eyes_open_bold.nii.gz", [("sub", "site1_03"), ("task", "eyes_open")]),
        ("sub-01_acq-2.5mm_bold.nii.gz", [("sub", "01"), ("acq", "2.5mm")]),
        ("sub-01_desc-preproc_part-mag_bold.nii", [("sub", "01"), ("part", "mag"), ("desc", "preproc")]),
        ("sub-01_space-MNIInfant+1_bold.nii", [("sub", "01"), ("space", "MNIInfant"), ("cohort", "1")]),
        ("sub-01_space-fsaverage5_hemi-L.func.gii", [("sub", "01"), ("hemi", "L"), ("space", "fsaverage5")]),
    ],
)
def test_labels_that_people_and_pipelines_chose(name: str, entities: list[tuple[str, str]]) -> None:
    parsed = parse_name(name)
    assert parsed is not None
    assert (list(parsed.entities), parsed.suffix) == (entities, "bold")
    assert parsed.extension == name[name.index(".", name.rindex("_")) :]
    # What is written under these labels is found again.
    stem = "_".join(f"{key}-{label}" for key, label in parsed.entities)
    assert list(parse_entities(f"{stem}_stat-mean_timeseries.json").items()) == [*entities, ("stat", "mean")]


def test_numbers_are_sorted_by_value_and_doubles_dropped() -> None:
    assert sorted_naturally(["10", "9", "a", "9", "009", "a10", "a2", ""]) == ("", "009", "9", "10", "a", "a2", "a10")
    assert natural_key("run-2") < natural_key("run-10")


def test_entities_are_sorted_and_unknown_ones_stay_behind_what_they_followed():
    parsed = parse_name("run-1_foo-x_desc-preproc_sub-01_bar-y_task-rest_bold.json")
    assert parsed is not None
    assert [key for key, _ in parsed.entities] == ["sub", "bar", "task", "run", "foo", "desc"]
    assert sort_entities((key, "1") for key in reversed(ENTITY_ORDER)) == tuple((key, "1") for key in ENTITY_ORDER)
    assert sort_entities([]) == ()


def test_a_name_of_a_suffix_alone_inherits_to_all():
    parsed = parse_name("/data/bold.json")
    assert parsed is not None
    assert (parsed.entities, parsed.suffix, parsed.extension) == ((), "bold", ".json")


@pytest.mark.parametrize("end", ["", "_timeseries.tsv", "_bold_junk_.x"])
def test_entities_are_read_back_in_the_order_of_the_name(end):
    found = parse_entities("sub-01_task-rest_space-S_chunk-1_atlas-A" + end)
    assert list(found.items()) == [("sub", "01"), ("task", "rest"), ("space", "S"), ("chunk", "1"), ("atlas", "A")]


def test_entities_of_names_that_people_chose_are_read_too():
    assert parse_entities("atlas-My-Own_desc-1,2_dseg.nii.gz") == {"atlas": "My-Own", "desc": "1,2"}


def test_labels_hold_letters_and_digits_only():
    assert format_label("Brain-Semantoks_2") == "BrainSemantoks2"
    with pytest.raises(ValueError, match="no letter or digit in '_-'"):
        format_label("_-")


def test_other_labels_of_schaefers_parcels_in_seven_networks():
    assert name_schaefer("Schaefer2018400Parcels7Networks") == "Schaefer400"
    assert name_schaefer("Schaefer20187Networks100Parcels") == "Schaefer100"
    for other in ("Schaefer2018400Parcels17Networks", "Schaefer400", "MIST", "xSchaefer2018400Parcels7Networks"):
        assert name_schaefer(other) == other
