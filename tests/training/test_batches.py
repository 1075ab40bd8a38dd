"""Batches: how large, who is in each, and how they reach the device."""

import numpy as np
import pytest
import torch
from helpers.training_driver import write_store

from bids_semantoks.errors import ConfigurationError, InputError
from bids_semantoks.training.batches import BatchFeed, BatchOrder, choose_batch_size


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
    resident._resident = resident._load()
    for ours, theirs, _ in zip(resident.stream(0, 2), read.stream(0, 2), range(5), strict=False):
        for kept, fresh in zip(ours, theirs, strict=True):
            longest = int(kept.lengths.max())
            assert torch.equal(kept.signals, fresh.signals[:, :, :longest])
            assert not fresh.signals[:, :, longest:].any()
            assert torch.equal(kept.lengths, fresh.lengths)
            assert torch.equal(kept.present, fresh.present)
