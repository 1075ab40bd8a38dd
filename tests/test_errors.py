"""Errors cross process borders."""

import pickle

import pytest

from bids_semantoks.errors import AtlasError, RunFailed, RunSkipped


@pytest.mark.parametrize(
    "error",
    [
        RunFailed("no_mask", "There is no mask.", hint="Make one."),
        RunSkipped("too_short", "It lasts 3 s."),
        AtlasError("It is far away.", hint="Move it."),
    ],
)
def test_errors_survive_pickling(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert vars(copy) == vars(error)
    assert (str(copy), copy.args) == (str(error), error.args)
