"""Packed signals are those that windows are cut from."""

import logging

import numpy as np
import pytest

from bids_semantoks.errors import InputError, RunSkipped
from bids_semantoks.pretraining.packing import select_packed, standardise
from bids_semantoks.pretraining.plan import SignalSource
from bids_semantoks.signals.windows import build_windows
from bids_semantoks.training.packed import PackedRun, SignalStore


def test_packed_signals_are_those_that_windows_are_cut_from():
    rng = np.random.default_rng(1)
    table = rng.standard_normal((41, 13))
    table[:3] = np.nan
    table[11] = np.nan
    table[:, 4] = np.nan
    values, present = standardise(table, repetition_time=1.5, n_dummy=3, target=2.0)
    windows = build_windows(
        table, repetition_time=1.5, n_dummy=3, target_repetition_time=2.0, window=len(values), n_windows=1
    )
    np.testing.assert_array_equal(values, windows.values[0])
    np.testing.assert_array_equal(present, windows.present)
    assert len(values) == 28


@pytest.mark.parametrize("fill", [0.0, 3.5, None], ids=["zeros", "another number", "the last volume"])
def test_padding_and_constant_parcels_are_no_signal(fill):
    table = np.random.default_rng(1).standard_normal((41, 13))
    table[:, 4] = 2.5
    expected, present = standardise(table[:30], repetition_time=2.0, n_dummy=0, target=2.0)
    assert np.flatnonzero(~present).tolist() == [4]
    table[30:] = table[29] if fill is None else fill
    values, present = standardise(table, repetition_time=2.0, n_dummy=0, target=2.0)
    np.testing.assert_array_equal(values, expected)
    assert np.flatnonzero(~present).tolist() == [4]
    windows = build_windows(table, repetition_time=2.0, n_dummy=0, target_repetition_time=2.0, window=40, n_windows=2)
    assert (windows.n_real.tolist(), windows.kept.tolist()) == ([30], [0.75])
    np.testing.assert_array_equal(windows.values[0, :30], expected)
    assert not windows.present[4]
    with pytest.raises(RunSkipped, match="No parcel varies over the 41 volumes"):
        standardise(np.full((41, 13), 7.5), repetition_time=2.0, n_dummy=0, target=2.0)


def test_runs_under_the_limit_are_left_out_of_the_training(tmp_path, caplog):
    rng = np.random.default_rng(2)
    store = SignalStore(tmp_path, 3)
    sources = [SignalSource(key=f"k{i}", participant=f"p{i}", where=i) for i in range(3)]
    store.add(
        PackedRun(
            key=source.key,
            participant=source.participant,
            repetition_time=2.0,
            values=rng.standard_normal((length, 3)).astype(np.float32),
            present=np.ones(3, dtype=bool),
        )
        for source, length in zip(sources, (50, 49, 51), strict=True)
    )
    assert len(select_packed(store, sources)) == 3
    with caplog.at_level(logging.WARNING):
        view = select_packed(store, sources, min_time=100.0, target=2.0)
    assert view.participants == ("p0", "p2")
    assert "1 of 3 runs with less than --min-time 100 s, of participants p1" in caplog.text
    with pytest.raises(InputError, match="3 runs"):
        select_packed(store, sources, min_time=103.0, target=2.0)
