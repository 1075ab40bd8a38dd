"""A small atlas of 13 parcels in three networks, and an encoder to go with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from bids_semantoks.config import EncoderConfig
from bids_semantoks.models.checkpoints import LoadedEncoder, load_encoder
from bids_semantoks.models.parcels import NetworkLayout
from bids_semantoks.records import Windows

PARITY = Path(__file__).resolve().parents[1] / "data" / "parity"


@pytest.fixture(scope="session")
def parity_checkpoint() -> Path:
    return PARITY / "checkpoint.pth"


@pytest.fixture(scope="session")
def parity_keys() -> Path:
    return PARITY / "state_dict_keys.tsv"


@pytest.fixture(scope="session")
def golden() -> dict[str, NDArray[np.float32]]:
    with np.load(PARITY / "golden.npz") as arrays:
        return {key: arrays[key] for key in arrays.files}


@pytest.fixture(scope="session")
def parity_encoder(parity_checkpoint: Path) -> LoadedEncoder:
    return load_encoder(parity_checkpoint)


@pytest.fixture
def small_config() -> EncoderConfig:
    return EncoderConfig(window=40, patch=20, width=64, head_width=32, depth=2, head_hidden=48, head_out=24)


@pytest.fixture
def small_layout() -> NetworkLayout:
    return NetworkLayout(
        network_names=("Vis", "Limbic", "Other"),
        networks=(0, 0, 1, 0, 1, 2, 2, 0, 1, 2, 2, 2, 2),
        parcels=tuple(f"7Networks_parcel_{i}" for i in range(13)),
    )


@pytest.fixture
def make_windows():
    def make(values: NDArray[np.float32], **changes: object) -> Windows:
        n_windows, n_volumes, n_parcels = values.shape
        fields = {
            "values": values,
            "n_real": np.full(n_windows, n_volumes),
            "present": np.ones(n_parcels, dtype=bool),
            "onset": np.zeros(n_windows),
            "duration": 2.0 * n_volumes,
            "kept": np.ones(n_windows),
        }
        return Windows(**{**fields, **changes})

    return make
