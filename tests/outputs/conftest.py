"""A run of five windows, and where it is stored."""

import numpy as np
import pytest

from bids_semantoks.outputs import store
from bids_semantoks.records import Embedding, Windows

P, B, DIMS = 13, 5, 7


@pytest.fixture
def paths(tmp_path):
    directory = tmp_path / "sub-01" / "func"
    return store.OutputPaths(
        out_dir=tmp_path, directory=directory, stem="sub-01_task-rest_space-S_atlas-A", model="Tiny"
    )


@pytest.fixture
def windows():
    return Windows(
        values=np.zeros((B, 40, P), np.float32),
        n_real=np.full(B, 40),
        present=np.ones(P, bool),
        onset=np.arange(B) * 3.0,
        duration=80.0,
        kept=np.linspace(0.5, 1, B),
    )


@pytest.fixture
def embedding():
    vectors = np.random.default_rng(2).standard_normal((B, DIMS)).astype(np.float32)
    tokens = np.zeros((B, 3, 4), np.float32)
    return Embedding(vectors=vectors, tokens=tokens, masked_networks=(), n_masked_patches=np.zeros(B, int))
