"""Batches: how large, who is in each, and how they reach the device."""

import numpy as np
import pytest
import torch
from helpers.training_driver import write_store

from bids_semantoks.config import TrainingConfig
from bids_semantoks.errors import ConfigurationError, InputError
from bids_semantoks.training.batches import (
    BatchFeed,
    BatchOrder,
    build_schedules,
    choose_batch_size,
    compute_half_cosine,
    compute_learning_rates,
    compute_ttr_weights,
)


@pytest.mark.parametrize(
    ("n", "wanted", "n_parts", "expected"),
    [
        (39_139, None, 1, 512),
        (4096, None, 1, 512),
        (4095, None, 1, 256),
        (400, None, 1, 32),
        (24, None, 1, 2),
        (5, None, 1, 2),
        (400, None, 3, 30),
        (24, 24, 1, 24),
        (24, 12, 4, 12),
    ],
)
def test_the_batch_leaves_eight_steps(n, wanted, n_parts, expected):
    assert choose_batch_size(n, wanted, n_parts=n_parts) == expected


def test_a_batch_that_cannot_be_is_refused():
    with pytest.raises(ConfigurationError, match="A batch of 25 is larger than the data: 24 participants"):
        choose_batch_size(24, 25, n_parts=1)
    with pytest.raises(ConfigurationError, match=r"10 cannot.*4 equal"):
        choose_batch_size(24, 10, n_parts=4)


def test_each_epoch_visits_participants_once_and_draws_among_their_runs():
    participants = tuple(f"{i % 7}" for i in range(17))
    order = BatchOrder(participants, 3, seed=5)
    assert order.steps_per_epoch == 2
    drawn = [np.concatenate([order.draw(2 * epoch), order.draw(2 * epoch + 1)]) for epoch in range(60)]
    for runs in drawn:
        assert len({participants[run] for run in runs}) == 6
    assert set(np.concatenate(drawn).tolist()) == set(range(17))
    np.testing.assert_array_equal(BatchOrder(participants, 3, seed=5).draw(77), order.draw(77))
    assert any((BatchOrder(participants, 3, seed=6).draw(i) != order.draw(i)).any() for i in range(4))


def test_one_participant_is_not_enough():
    with pytest.raises(InputError, match="found 1: 01"):
        BatchOrder(("01", "01"), 2, seed=0)


def test_the_feed_cuts_batches_between_processes_and_slices(tmp_path):
    view = write_store(tmp_path)
    order = BatchOrder(view.participants, 8, seed=0)
    device = torch.device("cpu")
    whole = next(BatchFeed(view, order, device, part=0, n_parts=1).stream(3, 1))[0]
    parts = [next(BatchFeed(view, order, device, part=part, n_parts=2).stream(3, 2)) for part in range(2)]
    pieces = [piece for part in parts for piece in part]
    assert [len(piece.lengths) for piece in pieces] == [2, 2, 2, 2]
    assert torch.equal(torch.cat([piece.lengths for piece in pieces]), whole.lengths)
    assert torch.equal(torch.cat([piece.present for piece in pieces]), whole.present)
    runs = order.draw(3)
    for row, run in enumerate(runs):
        values = torch.from_numpy(np.array(view.read(run))).T
        assert torch.equal(whole.signals[row, :, : values.shape[1]], values)


def test_signals_in_the_memory_of_the_device_give_the_same_batches(tmp_path):
    view = write_store(tmp_path)
    order = BatchOrder(view.participants, 8, seed=0)
    read, resident = (BatchFeed(view, order, torch.device("cpu"), part=0, n_parts=1) for _ in range(2))
    # Only a GPU keeps them by itself.
    resident.resident = resident._load()
    for ours, theirs, _ in zip(resident.stream(0, 2), read.stream(0, 2), range(5), strict=False):
        for kept, fresh in zip(ours, theirs, strict=True):
            longest = int(kept.lengths.max())
            assert torch.equal(kept.signals, fresh.signals[:, :, :longest])
            assert not fresh.signals[:, :, longest:].any()
            assert torch.equal(kept.lengths, fresh.lengths)
            assert torch.equal(kept.present, fresh.present)


STEPS_PER_EPOCH = 39_139 // 512


@pytest.fixture(scope="module")
def published():
    return build_schedules(TrainingConfig(), steps_per_epoch=STEPS_PER_EPOCH, batch_size=512, seed=0)


def test_there_are_76_steps_in_each_of_100_epochs(published):
    assert STEPS_PER_EPOCH == 76
    assert published.n_steps == 7600
    for name in ("learning_rate", "weight_decay", "momentum", "ttr_weight", "is_masked"):
        assert getattr(published, name).shape == (7600,)


@pytest.mark.parametrize(
    ("step", "rate"), [(0, 0.0), (1, 6.14e-6), (114, 7.0e-4), (228, 1.4e-3), (1000, 1.3625e-3), (3800, 7.3399e-4)]
)
def test_learning_rate(published, step, rate):
    assert published.learning_rate[step] == pytest.approx(rate, rel=1e-4)


def test_the_learning_rate_rises_then_falls_to_the_end(published):
    rates = published.learning_rate
    assert rates.argmax() == 228
    assert (np.diff(rates[:229]) > 0).all()
    assert (np.diff(rates[228:]) < 0).all()
    assert 0 < rates[-1] < 1e-9


def test_weight_decay(published):
    decays = published.weight_decay
    assert decays[0] == pytest.approx(0.05)
    assert decays[3800] == pytest.approx(0.175)
    assert decays[1900] == pytest.approx(0.3 + 0.5 * (0.05 - 0.3) * (1 + np.cos(np.pi / 4)))
    assert decays[-1] == pytest.approx(0.3, abs=1e-7)


def test_momentum(published):
    momenta = published.momentum
    assert momenta[0] == pytest.approx(0.99)
    assert momenta[3800] == pytest.approx(0.995)
    assert 1 - 1e-8 < momenta[-1] < 1
    assert compute_half_cosine(100, 0.99, 1.0)[37] == pytest.approx(0.9930142605, abs=1e-9)


def test_ttr_weight(published):
    weights = published.ttr_weight
    assert weights[0] == pytest.approx(0.5)
    assert weights[190] == pytest.approx(0.25)
    assert weights[379] > 0
    assert not weights[380:].any()  # 5 epochs


def test_half_of_the_batches_are_masked(published):
    assert published.is_masked.mean() == pytest.approx(0.5, abs=4 * np.sqrt(0.25 / 7600))


@pytest.mark.parametrize(("share", "masked"), [(0.0, False), (1.0, True)])
def test_none_or_all_batches_are_masked(share, masked):
    recipe = TrainingConfig(epochs=2, masked_batches=share)
    assert (build_schedules(recipe, steps_per_epoch=50, batch_size=8, seed=0).is_masked == masked).all()


def test_coins_depend_on_the_seed_alone():
    coins = []
    for seed, disturbance in ((5, 0), (5, 1), (6, 0)):
        np.random.seed(disturbance)
        schedules = build_schedules(TrainingConfig(epochs=3), steps_per_epoch=20, batch_size=8, seed=seed)
        coins.append(schedules.is_masked)
    assert (coins[0] == coins[1]).all()
    assert (coins[0] != coins[2]).any()


@pytest.mark.parametrize(("share", "n_active"), [(0.0, 0), (0.05, 5), (1.0, 100)])
def test_share_of_the_ttr_loss(share, n_active):
    recipe = TrainingConfig(epochs=10, ttr_share=share)
    weights = build_schedules(recipe, steps_per_epoch=10, batch_size=8, seed=0).ttr_weight
    assert (weights > 0).sum() == n_active
    assert not weights[n_active:].any()


def test_the_learning_rate_scales_with_the_batch():
    small, large = (
        build_schedules(TrainingConfig(), steps_per_epoch=9, batch_size=size, seed=0).learning_rate.max()
        for size in (64, 512)
    )
    assert large == pytest.approx(8 * small)
    assert small == pytest.approx(7e-4 / 4)


@pytest.mark.parametrize("epochs", [1, 2, 4])
def test_warm_up_takes_at_most_half_of_a_short_training(epochs):
    rates = build_schedules(TrainingConfig(epochs=epochs), steps_per_epoch=10, batch_size=256, seed=0).learning_rate
    assert rates.argmax() == 5 * epochs
    assert rates.max() == pytest.approx(7e-4)
    assert rates[-1] < rates.max()


def test_one_step():
    schedules = build_schedules(TrainingConfig(epochs=1), steps_per_epoch=1, batch_size=256, seed=0)
    assert schedules.learning_rate.tolist() == [7e-4]
    settings = schedules.at(0)
    assert (settings.weight_decay, settings.momentum) == (pytest.approx(0.05), pytest.approx(0.99))


def test_numbers_of_one_step_are_plain(published):
    settings = published.at(3800)
    assert [type(value) for value in settings] == [float, float, float, float, bool]
    assert settings.learning_rate == published.learning_rate[3800]
    assert settings.is_masked == published.is_masked[3800]


def test_without_warm_up_the_peak_comes_first():
    assert compute_learning_rates(8, n_warmup=0, peak=2.0)[0] == 2.0


def test_flat_schedules():
    assert np.ptp(compute_half_cosine(7, 0.1, 0.1)) == pytest.approx(0, abs=1e-15)
    assert not compute_ttr_weights(7, n_active=0, first=0.5).any()


def test_no_steps():
    with pytest.raises(ValueError, match="found 0 steps per epoch and a batch of 8"):
        build_schedules(TrainingConfig(), steps_per_epoch=0, batch_size=8, seed=0)
