"""Layouts: the published one, and those made for an atlas."""

from pathlib import Path

import numpy as np
import pytest

from bids_semantoks.config import EncoderConfig, to_json
from bids_semantoks.errors import ConfigurationError, ModelError
from bids_semantoks.models.parcels import (
    NetworkLayout,
    build_layout,
    choose_layout,
    default_layout,
    layout_from_json,
    match_parcels,
    token_rows,
)
from bids_semantoks.records import CANONICAL_NETWORKS

SHARED_ATLAS = Path(__file__).resolve().parents[3] / "shared" / "atlas"


# (network, first parcel, count), as the specification lists them.
SEGMENTS = [
    *[(0, 0, 31), (1, 31, 37), (2, 68, 23), (3, 91, 22), (4, 113, 13), (5, 126, 22), (6, 148, 52)],
    *[(0, 200, 30), (1, 230, 40), (2, 270, 23), (3, 293, 25), (4, 318, 13), (5, 331, 30), (6, 361, 39)],
    *[(7, 400, 50), (8, 450, 7)],
]


def test_default_layout_is_the_specified_table():
    layout = default_layout()
    expected = [network for network, _, count in SEGMENTS for _ in range(count)]
    assert list(layout.networks) == expected
    assert layout.network_names == CANONICAL_NETWORKS
    assert layout.counts == (61, 77, 46, 47, 26, 52, 91, 50, 7)
    assert [first for _, first, _ in SEGMENTS] == [sum(c for *_, c in SEGMENTS[:i]) for i in range(len(SEGMENTS))]


def test_default_names_agree_with_their_networks():
    layout = default_layout()
    assert layout.parcels is not None
    for name, network in zip(layout.parcels[:400], layout.networks[:400], strict=True):
        assert name.split("_")[2] == CANONICAL_NETWORKS[network]
    assert layout.parcels[0] == "7Networks_LH_Vis_1"
    assert layout.parcels[400] == "HIP-head-m-rh"
    assert layout.parcels[450:] == tuple(f"Cerebellum_{name}" for name in CANONICAL_NETWORKS[:7])


@pytest.mark.skipif(not SHARED_ATLAS.is_dir(), reason="needs the real atlas tables")
def test_default_names_are_those_of_the_atlas_files():
    rows = (SHARED_ATLAS / "Schaefer2018_400Parcels_7Networks_order.txt").read_text().splitlines()
    tian = (SHARED_ATLAS / "Tian_Subcortex_S3_3T_label.txt").read_text().split()
    parcels = default_layout().parcels
    assert parcels is not None
    assert list(parcels[:450]) == [row.split("\t")[1] for row in rows] + tian


def test_build_layout_puts_canonical_networks_first_and_leaves_out_the_rest():
    layout = build_layout(["a", "b", "c", "d", "e"], ["Zeta", "Default", "", "Alpha", "Vis"])
    assert layout.network_names == ("Vis", "Default", "Alpha", "Zeta")
    assert layout.parcels == ("a", "b", "d", "e")
    assert layout.networks == (3, 1, 2, 0)


def test_build_layout_needs_a_network():
    with pytest.raises(ModelError, match="2 parcels"):
        build_layout(["a", "b"], ["", ""])


def test_layout_survives_json(small_layout):
    assert layout_from_json(to_json(small_layout)) == small_layout


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"networks": [0, 0, 2]}, r"every number in 0\.\.2, found \[0, 2\]"),
        ({"networks": []}, r"every number in 0\.\.2, found \[\]"),
        ({"network_names": ["A", "A", "B"]}, "network names must be unique, found A, A, B"),
        ({"parcels": ["x", "y"]}, "2 parcel names but 3 networks"),
        ({"parcels": ["x", "y", "x"]}, "found twice: x"),
        ({"networks": [0, 1, "2"]}, "networks must be int, found '2'"),
        ({"networks": 3}, "networks must be a list, found 3"),
        ({"parcels": "xyz"}, "1 parcel names but 3 networks"),
    ],
)
def test_bad_layouts_are_refused(changes, message):
    good = {"network_names": ["A", "B", "C"], "networks": [0, 1, 2], "parcels": None}
    with pytest.raises((ValueError, ConfigurationError), match=message):
        layout_from_json({**good, **changes})


def test_missing_keys_of_a_layout_are_named():
    with pytest.raises(ValueError, match="lacks networks, parcels"):
        layout_from_json({"network_names": ["A"]})


def test_token_rows_follow_the_spatial_variant():
    layout = NetworkLayout(network_names=("A", "B"), networks=(1, 0, 1))
    assert token_rows(EncoderConfig(spatial="network"), layout) == ((1,), (0, 2))
    assert token_rows(EncoderConfig(spatial="whole"), layout) == ((0, 1, 2),)
    assert token_rows(EncoderConfig(spatial="parcel"), layout) == ((0,), (1,), (2,))


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
    assert "no parcel names" in match.warnings[0]


def test_the_warning_names_networks_when_only_some_have_foreign_names():
    names = [*NAMES]
    names[1], names[3] = "x", "y"
    match = match_parcels(names, LABELS, LAYOUT)
    assert match.order.tolist() == [0, 1, 2, 3, 4]
    assert "parcels of Limbic" in match.warnings[0]


def test_an_encoder_without_names_takes_the_order_of_the_table():
    nameless = NetworkLayout(network_names=LAYOUT.network_names, networks=LAYOUT.networks)
    match = match_parcels(NAMES, LABELS, nameless)
    assert match.order.tolist() == [0, 1, 2, 3, 4]
    assert "no parcel names" in match.warnings[0]


def test_part_in_common_is_an_error_that_names_some():
    names = [*NAMES]
    names[2] = "LH_Vis_7"
    with pytest.raises(ModelError, match="LH_Vis_2 and has LH_Vis_7"):
        match_parcels(names, LABELS, LAYOUT)


def test_an_absent_network_is_masked_and_said():
    match = match_parcels(NAMES[::2], LABELS[::2], LAYOUT)
    assert match.order.tolist() == [0, -1, 1, -1, 2]
    assert "The atlas has no parcels of" in str(match.warnings)


def test_parcels_without_a_network_are_not_encoded():
    match = match_parcels(["Brainstem", *NAMES], ["", *LABELS], LAYOUT)
    assert match.order.tolist() == [1, 2, 3, 4, 5]
    assert match.n_atlas_parcels == 6


def test_other_counts_are_an_error_with_both_numbers():
    with pytest.raises(ModelError, match="Vis has 2 parcels instead of 3"):
        match_parcels(NAMES[:4], LABELS[:4], LAYOUT)


def test_unknown_networks_name_both_sides():
    with pytest.raises(ModelError, match="the encoder"):
        match_parcels([*NAMES, "Pons"], [*LABELS, "Brainstem"], LAYOUT)


def test_an_atlas_without_networks_is_refused():
    with pytest.raises(ModelError, match="has a network; the encoder expects Vis, Limbic"):
        match_parcels(NAMES, [""] * 5, LAYOUT)


def test_names_of_the_17_network_order_are_refused():
    with pytest.raises(ModelError, match="17-network order: 17Networks_LH_VisCent_ExStr_1"):
        match_parcels(["17Networks_LH_VisCent_ExStr_1", *NAMES[1:]], LABELS, LAYOUT)


def test_names_that_differ_only_in_the_prefix_are_refused():
    with pytest.raises(ModelError, match="LH_Vis_1"):
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


@pytest.mark.parametrize("missing", [("Subcortex", "Cerebellum"), ("Cerebellum",)])
def test_random_weights_mask_whole_networks_that_an_atlas_lacks(missing):
    layout = default_layout()
    names = [layout.network_names[network] for network in layout.networks]
    rows = [(one, name) for one, name in zip(layout.parcels, names, strict=True) if name not in missing]
    parcels, networks = zip(*rows, strict=True)
    assert choose_layout(parcels, networks) is layout
    assert choose_layout(parcels[1:], networks[1:]).n_parcels == len(parcels) - 1
    renamed = ("other", *parcels[1:])
    assert choose_layout(renamed, networks).parcels[0] == "other"
