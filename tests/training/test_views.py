"""Windows of runs: where they start, how they are padded, and what augmentation does to them."""

import numpy as np
import pytest
import torch

from bids_semantoks.training.views import LEVELS, augment, cut_views, draw_starts, draw_views, find_present

N_PARCELS, WINDOW, N_VOLUMES = 13, 40, 47


OFF = (0, 0, 0, 0)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make_signals(n_runs):
    """Every value tells its run, parcel and volume."""
    run, parcel, volume = np.indices((n_runs, N_PARCELS, N_VOLUMES))
    return torch.from_numpy((1 + run % 100 * 10_000 + parcel * 100 + volume).astype(np.float32))


def draw_many(levels, n=4000, seed=1):
    ones = torch.ones(n, N_PARCELS, WINDOW)
    real = torch.full((n,), WINDOW)
    return augment(ones, real, torch.ones(n, N_PARCELS, dtype=torch.bool), levels=levels, generator=seeded(seed))


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
        draw_views(signals, lengths, window=WINDOW, levels=OFF, generator=generator)[0][:, 0, 0] % 100 for _ in range(2)
    )
    pairs = np.unique(np.stack([first.numpy(), second.numpy()]), axis=1)
    assert pairs.shape[1] == 64
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.08


def test_short_runs_are_padded_with_zeros_at_the_end():
    signals = make_signals(2)
    signals[0, :, 23:] = torch.nan  # behind the end of the run anything may lie
    views, n_real = draw_views(signals, torch.tensor([23, 45]), window=WINDOW, levels=OFF, generator=seeded())
    assert n_real.tolist() == [23, 40]
    assert torch.equal(views[0, :, :23], signals[0, :, :23])
    assert torch.equal(views[0, :, 23:], torch.zeros(N_PARCELS, WINDOW - 23))


def test_runs_all_shorter_than_a_window():
    signals = make_signals(2)[..., :17]
    views, n_real = draw_views(signals, torch.tensor([17, 11]), window=WINDOW, levels=OFF, generator=seeded())
    assert views.shape == (2, N_PARCELS, WINDOW)
    assert n_real.tolist() == [17, 11]
    assert views[1, 4, :12].tolist() == [10401 + i for i in range(11)] + [0]


def test_half_precision_becomes_float32():
    signals = torch.randn(2, N_PARCELS, N_VOLUMES).half()
    views, _ = draw_views(signals, torch.tensor([47, 47]), window=WINDOW, levels=OFF, generator=seeded())
    assert views.dtype == torch.float32
    start = int((signals[0, 0].float()[:8, None] == views[0, 0, 0]).any(1).nonzero()[0, 0])
    assert torch.equal(views[0], signals[0, :, start : start + WINDOW].float())


@pytest.mark.parametrize("parcel", [0, 5, 12])
def test_a_missing_parcel_anywhere_is_zero_and_spoils_no_other(parcel):
    signals = make_signals(3)
    signals[1, parcel] = torch.nan
    lengths = torch.full((3,), N_VOLUMES)
    views, _ = draw_views(signals, lengths, window=WINDOW, levels=(1, 1, 1, 1), generator=seeded())
    assert views.isfinite().all()
    assert torch.equal(views[1, parcel], torch.zeros(WINDOW))
    assert (views[0, parcel] != 0).any()
    assert find_present(signals, lengths).sum(1).tolist() == [13, 12, 13]


def test_present_looks_only_at_the_run():
    signals = make_signals(2)
    signals[0, 3, 30] = torch.inf
    assert find_present(signals, torch.tensor([30, 40]))[0, 3]
    assert not find_present(signals, torch.tensor([31, 40]))[0, 3]


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
    signals, lengths = make_signals(6), torch.full((6,), N_VOLUMES)
    drawn = []
    for seed, disturbance in ((3, 0), (3, 99), (4, 0)):
        torch.manual_seed(disturbance)
        drawn.append(draw_views(signals, lengths, window=WINDOW, levels=(1, 1, 1, 1), generator=seeded(seed))[0])
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_levels_are_the_specified_table():
    assert [(level.parcels, level.time, level.noise, level.scale) for level in LEVELS[1:]] == [
        ((0.0, 0.1), (0.0, 0.3), 0.1, (0.8, 1.2)),
        ((0.1, 0.3), (0.2, 0.4), 0.2, (0.6, 1.4)),
        ((0.25, 0.5), (0.3, 0.6), 0.4, (0.4, 1.6)),
    ]
