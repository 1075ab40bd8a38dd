"""Packed signals are those that windows are cut from."""

import numpy as np

from bids_semantoks.pretraining.packing import standardise
from bids_semantoks.signals.windows import build_windows


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
