"""Embeddings are read back as they were written, as columns or as an array, and never those of another call."""

import dataclasses

import numpy as np
import pytest

from bids_semantoks.errors import RunFailed
from bids_semantoks.files import read_table
from bids_semantoks.outputs import embeddings

P, B, DIMS = 13, 5, 7


EMBEDDING_SIDECAR = {"Settings": {"a": 1}, "SignalsSHA256": "0f"}


def test_embedding_round_trip(paths, windows, embedding):
    embeddings.write_embedding(paths, windows, embedding, EMBEDDING_SIDECAR)
    np.testing.assert_array_equal(embeddings.read_embedding(paths), embedding.vectors)
    columns, rows = read_table(paths.embedding)
    assert columns[:5] == ("window", "onset", "duration", "kept", "dim0001")
    np.testing.assert_array_equal(rows[:, 1], windows.onset)
    assert np.load(paths.tokens).shape == embedding.tokens.shape


@pytest.mark.parametrize(
    ("changed", "stays"), [({}, True), ({"Settings": {"a": 2}}, False), ({"SignalsSHA256": "1e"}, False)]
)
def test_sidecar_of_another_embedding_goes_first(paths, windows, embedding, monkeypatch, changed, stays):
    embeddings.write_embedding(paths, windows, embedding, EMBEDDING_SIDECAR)
    monkeypatch.setattr(embeddings, "write_table", lambda *_: (_ for _ in ()).throw(OSError("killed here")))
    with pytest.raises(OSError, match="killed here"):
        embeddings.write_embedding(paths, windows, embedding, EMBEDDING_SIDECAR | changed)
    for path in (paths.embedding_sidecar, paths.embedding, paths.tokens):
        assert path.is_file() == stays


def test_tokens_of_another_call_do_not_stay(paths, windows, embedding):
    embeddings.write_embedding(paths, windows, embedding, EMBEDDING_SIDECAR)
    without = dataclasses.replace(embedding, tokens=None)
    embeddings.write_embedding(paths, windows, without, EMBEDDING_SIDECAR | {"SignalsSHA256": "1e"})
    assert not paths.tokens.exists()


def test_wide_embeddings_are_an_array_beside_the_table(paths, windows, embedding):
    embeddings.write_embedding(paths, windows, embedding, EMBEDDING_SIDECAR, as_array=True)
    assert read_table(paths.embedding)[0] == ("window", "onset", "duration", "kept")
    assert np.load(paths.vectors).dtype == np.float32
    np.testing.assert_array_equal(embeddings.read_embedding(paths), embedding.vectors)
    n_windows, mean = embeddings.read_mean_embedding(paths, 0.6)
    array = embeddings.read_mean_embedding(paths, None)[1]
    np.testing.assert_allclose(array, embedding.vectors.mean(axis=0, dtype=np.float64))
    embeddings.write_embedding(paths, windows, embedding, EMBEDDING_SIDECAR)
    assert not paths.vectors.exists()
    again = embeddings.read_mean_embedding(paths, 0.6)
    assert n_windows == again[0] == 4
    np.testing.assert_array_equal(mean, again[1])


def test_a_damaged_array_is_not_read(paths, windows, embedding):
    embeddings.write_embedding(paths, windows, embedding, EMBEDDING_SIDECAR, as_array=True)
    np.save(paths.vectors, np.load(paths.vectors) + 1)
    with pytest.raises(RunFailed, match=r"_embedding\.npy"):
        embeddings.read_embedding(paths)
