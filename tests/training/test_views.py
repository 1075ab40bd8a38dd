"""Windows of runs: where they start, how they are padded, and what augmentation does to them."""

import itertools

import numpy as np
import pytest
import torch

from bids_semantoks.config import EncoderConfig
from bids_semantoks.models.parcels import NetworkLayout, default_layout
from bids_semantoks.records import CANONICAL_NETWORKS
from bids_semantoks.training.views import (
    LEVELS,
    MaskGroups,
    augment,
    compute_membership,
    cut_views,
    draw_masks,
    draw_starts,
    draw_views,
    find_absent,
    find_mask_groups,
)

N_PARCELS, WINDOW, N_VOLUMES = 13, 40, 47


OFF = (0, 0, 0, 0)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make_signals(n_runs):
    """Every value tells its run, parcel and volume."""
    run, parcel, volume = np.indices((n_runs, N_PARCELS, N_VOLUMES))
    return torch.from_numpy((1 + run % 100 * 10_000 + parcel * 100 + volume).astype(np.float32))


def everywhere(n_runs):
    return torch.ones(n_runs, N_PARCELS, dtype=torch.bool)


def draw_many(levels, n=4000, seed=1):
    ones = torch.ones(n, N_PARCELS, WINDOW)
    real = torch.full((n,), WINDOW)
    return augment(ones, real, everywhere(n), levels=levels, generator=seeded(seed))


def test_starts_are_uniform_over_all_whole_windows():
    n = 16_000
    starts = draw_starts(torch.full((n,), N_VOLUMES), window=WINDOW, generator=seeded())
    counts = np.bincount(starts.numpy(), minlength=8)
    assert len(counts) == 8  # 0..7, both ends
    np.testing.assert_allclose(counts / n, 1 / 8, atol=4 * np.sqrt(1 / 8 * 7 / 8 / n))


def test_starts_of_runs_without_choice():
    assert draw_starts(torch.tensor([WINDOW, 7, 0]), window=WINDOW, generator=seeded()).tolist() == [0, 0, 0]


def test_views_are_cut_from_one_place_for_all_parcels():
    signals, starts = make_signals(3), torch.tensor([0, 7, 3])
    views = cut_views(
        signals, torch.full((3,), N_VOLUMES), torch.ones(3, N_PARCELS, dtype=torch.bool), starts, window=WINDOW
    )
    for run, start in enumerate(starts.tolist()):
        assert torch.equal(views[run], signals[run, :, start : start + WINDOW])


def test_two_views_start_independently():
    signals, lengths = make_signals(2000), torch.full((2000,), N_VOLUMES)
    generator = seeded()
    first, second = (
        draw_views(signals, lengths, everywhere(2000), window=WINDOW, levels=OFF, generator=generator)[0][:, 0, 0] % 100
        for _ in range(2)
    )
    pairs = np.unique(np.stack([first.numpy(), second.numpy()]), axis=1)
    assert pairs.shape[1] == 64
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.08


def test_short_runs_are_padded_with_zeros_at_the_end():
    signals = make_signals(2)
    signals[0, :, 23:] = torch.nan  # behind the end of the run anything may lie
    views, n_real = draw_views(
        signals, torch.tensor([23, 45]), everywhere(2), window=WINDOW, levels=OFF, generator=seeded()
    )
    assert n_real.tolist() == [23, 40]
    assert torch.equal(views[0, :, :23], signals[0, :, :23])
    assert torch.equal(views[0, :, 23:], torch.zeros(N_PARCELS, WINDOW - 23))


def test_runs_all_shorter_than_a_window():
    signals = make_signals(2)[..., :17]
    views, n_real = draw_views(
        signals, torch.tensor([17, 11]), everywhere(2), window=WINDOW, levels=OFF, generator=seeded()
    )
    assert views.shape == (2, N_PARCELS, WINDOW)
    assert n_real.tolist() == [17, 11]
    assert views[1, 4, :12].tolist() == [10401 + i for i in range(11)] + [0]


def test_half_precision_becomes_float32():
    signals = torch.randn(2, N_PARCELS, N_VOLUMES).half()
    views, _ = draw_views(signals, torch.tensor([47, 47]), everywhere(2), window=WINDOW, levels=OFF, generator=seeded())
    assert views.dtype == torch.float32
    start = int((signals[0, 0].float()[:8, None] == views[0, 0, 0]).any(1).nonzero()[0, 0])
    assert torch.equal(views[0], signals[0, :, start : start + WINDOW].float())


@pytest.mark.parametrize("parcel", [0, 5, 12])
def test_a_missing_parcel_anywhere_is_zero_and_spoils_no_other(parcel):
    signals = make_signals(3)
    signals[1, parcel] = torch.nan
    present = everywhere(3)
    present[1, parcel] = False
    lengths = torch.full((3,), N_VOLUMES)
    views, _ = draw_views(signals, lengths, present, window=WINDOW, levels=(1, 1, 1, 1), generator=seeded())
    assert views.isfinite().all()
    assert torch.equal(views[1, parcel], torch.zeros(WINDOW))
    assert (views[0, parcel] != 0).any()


def test_padding_and_absent_parcels_get_no_noise():
    present = torch.ones(2, N_PARCELS, dtype=torch.bool)
    present[1, 4] = False
    n_real = torch.tensor([23, WINDOW])
    views = augment(torch.zeros(2, N_PARCELS, WINDOW), n_real, present, levels=(3, 3, 3, 3), generator=seeded())
    assert torch.equal(views[0, :, 23:], torch.zeros(N_PARCELS, 17))
    assert torch.equal(views[1, 4], torch.zeros(WINDOW))
    assert (views[0, :, :23] != 0).all()
    assert (views[1, 5] != 0).all()


@pytest.mark.parametrize("level", [1, 2, 3])
def test_parcels_set_to_zero(level):
    zeroed = (draw_many((level, 0, 0, 0)) == 0).all(-1)  # (n, P)
    low, high = LEVELS[level].parcels
    share = np.linspace(low, high, 100_001)[:-1]
    wanted = np.bincount(np.maximum(1, (N_PARCELS * share).astype(int)), minlength=N_PARCELS) / 100_000
    found = np.bincount(zeroed.sum(1).numpy(), minlength=N_PARCELS) / len(zeroed)
    np.testing.assert_allclose(found, wanted, atol=0.035)
    np.testing.assert_allclose(zeroed.double().mean(0), zeroed.double().mean(), atol=0.03)  # no parcel is preferred


@pytest.mark.parametrize("level", [1, 2, 3])
def test_one_block_of_volumes_set_to_zero(level):
    views = draw_many((0, level, 0, 0))
    zeroed = views[:, 0] == 0
    assert torch.equal(views == 0, zeroed[:, None].expand(-1, N_PARCELS, -1))
    lengths = zeroed.sum(1)
    low, high = LEVELS[level].time
    assert int(lengths.min()) == max(1, int(WINDOW * low))
    assert int(lengths.max()) == int(np.ceil(WINDOW * high)) - 1
    edges = torch.nn.functional.pad(zeroed.int(), (1, 1)).diff(dim=1)
    assert ((edges == 1).sum(1) == 1).all()  # one block
    assert zeroed[:, 0].any()
    assert zeroed[:, -1].any()  # both ends can be reached


def test_the_block_of_a_short_run_lies_within_it():
    n_real = torch.full((3000,), 20)
    present = torch.ones(3000, N_PARCELS, dtype=torch.bool)
    views = augment(torch.ones(3000, N_PARCELS, WINDOW), n_real, present, levels=(0, 3, 0, 0), generator=seeded())
    zeroed = views[:, 0] == 0
    assert not zeroed[:, 20:].any()
    assert int(zeroed.sum(1).min()) == 6
    assert int(zeroed.sum(1).max()) == 11  # never the whole run


@pytest.mark.parametrize("level", [1, 2, 3])
def test_scale_is_one_factor_a_view(level):
    views = draw_many((0, 0, 0, level))
    factors = views[:, 0, 0]
    assert torch.equal(views, factors[:, None, None].expand_as(views))
    low, high = LEVELS[level].scale
    assert low <= float(factors.min()) < low + 0.01
    assert high - 0.01 < float(factors.max()) <= high
    assert float(factors.mean()) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(("level", "sigma"), [(1, 0.1), (2, 0.2), (3, 0.4)])
def test_noise_falls_on_everything_after_all_else(level, sigma):
    noise = draw_many((0, 0, level, 0), n=500) - 1
    assert float(noise.std()) == pytest.approx(sigma, rel=0.02)
    assert float(noise.mean()) == pytest.approx(0.0, abs=0.01 * sigma)
    everything = draw_many((3, 3, level, 3), n=500)
    assert (everything != 0).all()
    parcels_zeroed = (draw_many((3, 0, 0, 0), n=500) == 0).all(-1)
    noise_alone = draw_many((3, 0, level, 0), n=500)[parcels_zeroed]
    assert float(noise_alone.std()) == pytest.approx(sigma, rel=0.05)  # zeroed, then noise


def test_scale_does_not_touch_the_noise():
    n = 500
    present = torch.ones(n, N_PARCELS, dtype=torch.bool)
    real = torch.full((n,), WINDOW)
    views = augment(torch.zeros(n, N_PARCELS, WINDOW), real, present, levels=(0, 0, 1, 3), generator=seeded())
    per_view = views.flatten(1).std(dim=1)
    assert float(per_view.std() / per_view.mean()) < 0.06  # a factor of 0.4 to 1.6 would spread by 0.35


def test_level_zero_is_left_out_altogether():
    ones = draw_many(OFF, n=50)
    assert torch.equal(ones, torch.ones_like(ones))
    scaled_only = draw_many((0, 0, 0, 2), n=50)
    assert (scaled_only != 0).all()


def test_augmentation_leaves_its_input_alone():
    ones = torch.ones(5, N_PARCELS, WINDOW)
    present = torch.ones(5, N_PARCELS, dtype=torch.bool)
    augment(ones, torch.full((5,), WINDOW), present, levels=(3, 3, 3, 3), generator=seeded())
    assert torch.equal(ones, torch.ones_like(ones))


def test_views_depend_on_the_generator_alone():
    runs = make_signals(6), torch.full((6,), N_VOLUMES), everywhere(6)
    drawn = []
    for seed, disturbance in ((3, 0), (3, 99), (4, 0)):
        torch.manual_seed(disturbance)
        drawn.append(draw_views(*runs, window=WINDOW, levels=(1, 1, 1, 1), generator=seeded(seed))[0])
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_levels_are_the_specified_table():
    assert [(level.parcels, level.time, level.noise, level.scale) for level in LEVELS[1:]] == [
        ((0.0, 0.1), (0.0, 0.3), 0.1, (0.8, 1.2)),
        ((0.1, 0.3), (0.2, 0.4), 0.2, (0.6, 1.4)),
        ((0.25, 0.5), (0.3, 0.6), 0.4, (0.4, 1.6)),
    ]


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
