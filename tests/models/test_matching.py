"""Matching of atlas and encoder, rule by rule."""

import numpy as np
import pytest

from bids_semantoks.errors import ModelError
from bids_semantoks.models.parcels import NetworkLayout, default_layout, match_parcels

LAYOUT = NetworkLayout(
    network_names=("Vis", "Limbic"),
    networks=(0, 1, 0, 1, 0),
    parcels=("7Networks_LH_Vis_1", "LH_Limbic_1", "LH_Vis_2", "LH_Limbic_2", "RH_Vis_1"),
)
NAMES = ["LH_Vis_1", "LH_Limbic_1", "LH_Vis_2", "7Networks_LH_Limbic_2", "RH_Vis_1"]
LABELS = ["Vis", "Limbic", "Vis", "Limbic", "Vis"]


def test_same_names_in_any_order_are_reordered_by_name():
    shuffled = [3, 0, 4, 1, 2]
    match = match_parcels([NAMES[i] for i in shuffled], [LABELS[i] for i in shuffled], LAYOUT)
    assert [shuffled[i] for i in match.order] == [0, 1, 2, 3, 4]
    assert match.warnings == ()


def test_no_name_in_common_keeps_the_order_of_the_table_and_warns():
    match = match_parcels(["a", "b", "c", "d", "e"], ["Limbic", "Vis", "Limbic", "Vis", "Vis"], LAYOUT)
    assert match.order.tolist() == [1, 0, 3, 2, 4]
    assert len(match.warnings) == 1
    assert "share no parcel name" in match.warnings[0]


def test_the_warning_names_networks_when_only_some_have_foreign_names():
    names = [*NAMES]
    names[1], names[3] = "x", "y"
    match = match_parcels(names, LABELS, LAYOUT)
    assert match.order.tolist() == [0, 1, 2, 3, 4]
    assert "parcels of Limbic are taken" in match.warnings[0]


def test_an_encoder_without_names_takes_the_order_of_the_table():
    nameless = NetworkLayout(network_names=LAYOUT.network_names, networks=LAYOUT.networks)
    match = match_parcels(NAMES, LABELS, nameless)
    assert match.order.tolist() == [0, 1, 2, 3, 4]
    assert "share no parcel name" in match.warnings[0]


def test_part_in_common_is_an_error_that_names_some():
    names = [*NAMES]
    names[2] = "LH_Vis_7"
    with pytest.raises(ModelError, match="network Vis agree only in part: the atlas lacks LH_Vis_2 and has LH_Vis_7"):
        match_parcels(names, LABELS, LAYOUT)


def test_an_absent_network_is_masked_and_said():
    match = match_parcels(NAMES[::2], LABELS[::2], LAYOUT)
    assert match.order.tolist() == [0, -1, 1, -1, 2]
    assert match.warnings == ("The atlas has no parcels of Limbic: the encoder sees them as masked.",)


def test_parcels_without_a_network_are_not_encoded():
    match = match_parcels(["Brainstem", *NAMES], ["", *LABELS], LAYOUT)
    assert match.order.tolist() == [1, 2, 3, 4, 5]
    assert match.n_atlas_parcels == 6


def test_other_counts_are_an_error_with_both_numbers():
    with pytest.raises(ModelError, match="Vis has 2 parcels instead of 3"):
        match_parcels(NAMES[:4], LABELS[:4], LAYOUT)


def test_unknown_networks_name_both_sides():
    with pytest.raises(ModelError, match="does not know: Brainstem; the encoder knows Vis, Limbic"):
        match_parcels([*NAMES, "Pons"], [*LABELS, "Brainstem"], LAYOUT)


def test_an_atlas_without_networks_is_refused():
    with pytest.raises(ModelError, match="none of the atlas' parcels has a network; the encoder expects Vis, Limbic"):
        match_parcels(NAMES, [""] * 5, LAYOUT)


def test_names_of_the_17_network_order_are_refused():
    with pytest.raises(ModelError, match="17-network order: 17Networks_LH_VisCent_ExStr_1"):
        match_parcels(["17Networks_LH_VisCent_ExStr_1", *NAMES[1:]], LABELS, LAYOUT)


def test_names_that_differ_only_in_the_prefix_are_refused():
    with pytest.raises(ModelError, match=r"same name .*: LH_Vis_1"):
        match_parcels(["LH_Vis_1", "a", "7Networks_LH_Vis_1", "b", "c"], LABELS, LAYOUT)


def test_the_order_of_tian_before_schaefer_finds_every_parcel():
    layout = default_layout()
    assert layout.parcels is not None
    source = np.r_[400:450, 0:400, 450:457]
    match = match_parcels(
        [layout.parcels[i].removeprefix("7Networks_") for i in source],
        [layout.network_names[layout.networks[i]] for i in source],
        layout,
    )
    assert source[match.order].tolist() == list(range(457))
