"""Layouts: the published one, and those made for an atlas."""

from pathlib import Path

import pytest

from bids_semantoks.config import EncoderConfig
from bids_semantoks.errors import ModelError
from bids_semantoks.models.parcels import (
    NetworkLayout,
    build_layout,
    default_layout,
    layout_from_json,
    layout_to_json,
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
    with pytest.raises(ModelError, match="none of the atlas' 2 parcels has a network"):
        build_layout(["a", "b"], ["", ""])


def test_layout_survives_json(small_layout):
    assert layout_from_json(layout_to_json(small_layout)) == small_layout


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"networks": [0, 0, 2]}, r"every number in 0\.\.2, found \[0, 2\]"),
        ({"networks": []}, r"every number in 0\.\.2, found \[\]"),
        ({"network_names": ["A", "A", "B"]}, "network names must be unique, found A, A, B"),
        ({"parcels": ["x", "y"]}, "2 parcel names but 3 networks"),
        ({"parcels": ["x", "y", "x"]}, "found twice: x"),
        ({"networks": [0, 1, "2"]}, "list of whole numbers"),
        ({"parcels": "xyz"}, "list of names or null"),
    ],
)
def test_bad_layouts_are_refused(changes, message):
    good = {"network_names": ["A", "B", "C"], "networks": [0, 1, 2], "parcels": None}
    with pytest.raises(ValueError, match=message):
        layout_from_json({**good, **changes})


def test_missing_keys_of_a_layout_are_named():
    with pytest.raises(ValueError, match="lacks networks, parcels"):
        layout_from_json({"network_names": ["A"]})


def test_token_rows_follow_the_spatial_variant():
    layout = NetworkLayout(network_names=("A", "B"), networks=(1, 0, 1))
    assert token_rows(EncoderConfig(spatial="network"), layout) == ((1,), (0, 2))
    assert token_rows(EncoderConfig(spatial="whole"), layout) == ((0, 1, 2),)
    assert token_rows(EncoderConfig(spatial="parcel"), layout) == ((0,), (1,), (2,))
