"""Masks: their exact distributions for nine networks and five patches, and which tokens hold no data."""

import itertools

import numpy as np
import pytest
import torch

from bids_semantoks.config import EncoderConfig
from bids_semantoks.models.parcels import NetworkLayout, default_layout
from bids_semantoks.records import CANONICAL_NETWORKS
from bids_semantoks.training.masking import MaskGroups, compute_membership, draw_masks, find_absent, find_mask_groups

N_VIEWS, N, K = 20_000, 9, 5


RATIO = (0.65, 0.85)


SEVENTEEN = tuple(
    f"{name}{letter}"
    for name, letters in zip(CANONICAL_NETWORKS[:7], ("AB", "AB", "AB", "AB", "AB", "ABC", "ABC"), strict=True)
    for letter in letters
)


def draw(kind, n_views=N_VIEWS, n_networks=N, n_patches=K, ratio=RATIO, seed=0, **rest):
    generator = torch.Generator().manual_seed(seed)
    masks = draw_masks(
        n_views, n_networks=n_networks, n_patches=n_patches, kind=kind, ratio=ratio, generator=generator, **rest
    )
    assert masks.dtype == torch.bool
    assert masks.shape == (n_views, n_networks, n_patches)
    return masks


def shares(numbers, n):
    """Relative frequency of each whole number, and how far it may lie off."""
    counts = np.bincount(np.asarray(numbers), minlength=n) / len(numbers)
    return counts, 4 * np.sqrt(0.25 / len(numbers))


def split(masks):
    """Views whose mask is whole rows, and views whose mask is whole columns."""
    rows = (masks == masks[:, :, :1]).all(dim=(1, 2))
    columns = (masks == masks[:, :1]).all(dim=(1, 2))
    assert (rows ^ columns).all()
    return rows, columns


def test_network_masks_five_or_six_of_nine_rows():
    masks = draw("network")
    assert (masks == masks[:, :, :1]).all()
    found, off = shares(masks[:, :, 0].sum(1), N + 1)
    np.testing.assert_allclose(found, [0, 0, 0, 0, 0, 0.5, 0.5, 0, 0, 0], atol=off)
    np.testing.assert_allclose(masks[:, :, 0].double().mean(0), 5.5 / 9, atol=off)


def test_network_subsets_are_all_equally_likely():
    rows = draw("network", n_views=40_000)[:, :, 0]
    five = rows[rows.sum(1) == 5]
    codes = (five.long() << torch.arange(N)).sum(1)
    kinds, counts = codes.unique(return_counts=True)
    assert len(kinds) == len(list(itertools.combinations(range(N), 5)))
    chi2 = float((((counts - len(five) / 126) ** 2) / (len(five) / 126)).sum())
    assert chi2 < 190  # 125 degrees of freedom: mean 125, sd 16


def test_temporal_masks_three_or_four_neighbouring_columns():
    masks = draw("temporal")
    columns = masks[:, 0]
    assert torch.equal(masks, columns[:, None].expand_as(masks))
    lengths = columns.sum(1)
    found, off = shares(lengths, K + 1)
    np.testing.assert_allclose(found, [0, 0, 0, 0.75, 0.25, 0], atol=off)
    assert (torch.nn.functional.pad(columns.int(), (1, 1)).diff(dim=1) == 1).sum(1).eq(1).all()
    for length, n_starts in ((3, 3), (4, 2)):
        starts = columns[lengths == length].int().argmax(1)
        found, off = shares(starts, n_starts)
        assert len(found) == n_starts
        np.testing.assert_allclose(found, 1 / n_starts, atol=off)


def test_slice_masks_toss_a_fair_coin_for_each_view():
    masks = draw("slice")
    rows, columns = split(masks)
    off = 4 * np.sqrt(0.25 / N_VIEWS)
    assert float(rows.double().mean()) == pytest.approx(0.5, abs=off)
    found, off = shares(masks[rows][:, :, 0].sum(1), N + 1)
    np.testing.assert_allclose(found[[5, 6]], 0.5, atol=off)
    found, off = shares(masks[columns][:, 0].sum(1), K + 1)
    np.testing.assert_allclose(found[[3, 4]], [0.75, 0.25], atol=off)
    assert float(masks.double().mean()) == pytest.approx(0.63, abs=0.005)  # 1/2 (5.5/9 + 3.25/5)


def test_views_of_a_sample_are_masked_independently():
    rows, _ = split(draw("slice"))
    first, second = rows.view(2, -1).double()
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.04


def test_random_masks_choose_tokens_without_replacement():
    masks = draw("random")
    counts = masks.sum(dim=(1, 2))
    found, off = shares(counts, N * K + 1)
    nominal = np.linspace(0.65, 0.85, 100_001)[:-1] * N * K
    wanted, _ = shares(np.round(nominal).astype(int), N * K + 1)
    np.testing.assert_allclose(found, wanted, atol=off)
    np.testing.assert_allclose(masks.double().mean(0), 0.75, atol=4 * np.sqrt(0.1875 / N_VIEWS))


def test_block_masks_are_one_rectangle_of_about_the_share():
    masks = draw("block")
    rows, columns = masks.any(2), masks.any(1)
    assert torch.equal(masks, rows[:, :, None] & columns[:, None])
    for places in (rows, columns):
        assert (torch.nn.functional.pad(places.int(), (1, 1)).diff(dim=1) == 1).sum(1).eq(1).all()
    share = masks.double().mean(dim=(1, 2))
    assert float(share.mean()) == pytest.approx(0.75, abs=0.01)
    assert 0.55 < float(share.min()) <= float(share.max()) < 0.95
    assert set(rows.sum(1).tolist()) == {6, 7, 8, 9}
    assert set(columns.sum(1).tolist()) == {3, 4, 5}
    assert rows[:, 0].any()
    assert rows[:, -1].any()


@pytest.mark.parametrize("kind", ["network", "slice"])
def test_fewer_than_three_networks_are_masked_in_time(kind):
    masks = draw(kind, n_views=500, n_networks=2)
    assert torch.equal(masks, masks[:, :1].expand_as(masks))
    assert set(masks[:, 0].sum(1).tolist()) == {3, 4}


def test_three_networks_are_enough_for_network_masks():
    masks = draw("network", n_views=500, n_networks=3)
    assert masks[:, :, 0].sum(1).eq(1).all()  # [max(1, int(1.95)), int(2.55)) holds 1 alone


def test_an_empty_range_takes_its_lower_end():
    masks = draw("network", n_views=500, ratio=(0.45, 0.55))  # [4, 4)
    assert masks[:, :, 0].sum(1).eq(4).all()


def test_wide_ratios():
    found = set(draw("network", ratio=(0.1, 0.9))[:, :, 0].sum(1).tolist())
    assert found == set(range(1, 8))
    found = set(draw("temporal", ratio=(0.1, 0.9))[:, 0].sum(1).tolist())
    assert found == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("kind", ["slice", "network", "temporal", "random", "block"])
def test_rows_of_a_group_share_a_mask(kind):
    groups = torch.tensor([0, 0, 1, 2, 2, 2, 3, 1, 3, 0, 3])
    masks = draw(kind, n_views=300, n_networks=11, groups=MaskGroups(groups, 4))
    for group in range(4):
        rows = masks[:, groups == group]
        assert torch.equal(rows, rows[:, :1].expand_as(rows))
    if kind == "network":
        by_group = masks[:, [0, 2, 3, 6], 0].sum(1)
        assert by_group.eq(2).all()  # [int(2.6), int(3.4)) of four groups


def test_nine_networks_stand_for_themselves():
    assert find_mask_groups(EncoderConfig(), default_layout()) is None


def test_parcels_are_masked_with_their_network():
    groups = find_mask_groups(EncoderConfig(spatial="parcel"), default_layout())
    assert groups.n_groups == 9
    assert groups.of_row.tolist() == list(default_layout().networks)


def test_one_row_stands_for_itself():
    assert find_mask_groups(EncoderConfig(spatial="whole"), default_layout()) is None


def test_subnetworks_are_masked_with_their_canonical_network():
    layout = NetworkLayout(network_names=SEVENTEEN, networks=tuple(range(16)))
    groups = find_mask_groups(EncoderConfig(), layout)
    assert [CANONICAL_NETWORKS[group] for group in groups.of_row] == [name[:-1] for name in SEVENTEEN]


def test_other_networks_are_dealt_out_evenly_over_nine():
    layout = NetworkLayout(network_names=tuple(f"module{i:02}" for i in range(20)), networks=tuple(range(20)))
    groups = find_mask_groups(EncoderConfig(), layout)
    assert groups.of_row.tolist() == sorted(groups.of_row.tolist())
    assert set(np.bincount(groups.of_row)) == {2, 3}
    assert len(np.bincount(groups.of_row)) == groups.n_groups == 9


def test_masks_depend_on_the_generator_alone():
    drawn = []
    for seed, disturbance in ((3, 0), (3, 99), (4, 0)):
        torch.manual_seed(disturbance)
        drawn.append(draw("slice", n_views=40, seed=seed))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_unknown_kind():
    with pytest.raises(ValueError, match="found 'stripes'"):
        draw("stripes", n_views=2)


def test_groups_of_another_size():
    with pytest.raises(ValueError, match=r"\(4,\) do not fit 9 rows"):
        draw("network", n_views=2, groups=MaskGroups(torch.arange(4), 4))


def test_absent_networks_and_empty_patches():
    layout = NetworkLayout(network_names=("a", "b", "c"), networks=(0, 0, 1, 0, 1, 2, 2))
    rows = compute_membership(EncoderConfig(), layout)
    assert rows.shape == (3, 7)
    present = torch.ones(4, 7, dtype=torch.bool)
    present[1, [2, 4]] = False  # all of network b
    present[2, 2] = False  # some of it
    n_real = torch.tensor([100, 100, 41, 40])
    absent = find_absent(n_real, present, rows=rows, patch=20, n_patches=5)
    wanted = torch.zeros(4, 3, 5, dtype=torch.bool)
    wanted[1, 1] = True
    wanted[2, :, 3:] = True  # volume 40, the only one of its patch, is real
    wanted[3, :, 2:] = True
    assert torch.equal(absent, wanted)


def test_membership_of_parcels():
    rows = compute_membership(EncoderConfig(spatial="parcel"), default_layout())
    assert torch.equal(rows, torch.eye(457))
