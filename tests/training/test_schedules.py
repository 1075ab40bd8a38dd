"""Schedules against the numbers of the specification."""

import numpy as np
import pytest

from bids_semantoks.config import TrainingConfig
from bids_semantoks.training.schedules import (
    build_schedules,
    compute_half_cosine,
    compute_learning_rates,
    compute_ttr_weights,
)

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
