"""Encoders in the Brainmarks benchmark: the same windows, masks and numbers as here; and its own checks, where it is
installed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from bids_semantoks.config import EmbeddingConfig
from bids_semantoks.embedding import build_run_encoder
from bids_semantoks.errors import InputError
from bids_semantoks.exchange.brainmarks import SPACES, build_model, find_parcels, register
from bids_semantoks.models.frozen import POOLINGS
from bids_semantoks.signals.windows import build_windows
from bids_semantoks.statistics.series import weigh_windows

ROOT = Path(__file__).parents[2]


def make_sample(n_volumes: int, n_parcels: int, *, seed: int = 0, repetition_time: float = 2.0) -> dict[str, Any]:
    bold = torch.from_numpy(np.random.default_rng(seed).normal(size=(n_volumes, n_parcels)).astype(np.float32))
    parts = {"mean": torch.ones(1, n_parcels), "std": torch.ones(1, n_parcels)}
    return {"bold": bold, **parts, "tr": repetition_time, "target": seed}


@pytest.mark.parametrize("pooling", POOLINGS)
def test_readouts_are_those_of_the_command_line(pooling: str) -> None:
    transform, model = build_model(model="random:tiny", pooling=pooling)
    # The second run is shorter than a window, so that it has one, padded; the third has few different ones.
    samples = [make_sample(n, 457, seed=n) for n in (160, 30, 102)]
    samples[1]["bold"][:, :61] = 0.0
    batch = default_collate([transform(sample) for sample in samples])
    assert batch["target"].tolist() == [160, 30, 102]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pooled, registers, tokens = model(batch)
    assert registers is None
    config = EmbeddingConfig(model="random:tiny", pooling=(pooling,), device="cpu")
    encoder = build_run_encoder(config, *find_parcels(SPACES[0]), seed=0)
    recipe = encoder.loaded.config
    shared = {"target_repetition_time": recipe.repetition_time, "window": recipe.window, "n_windows": 8}
    for number, sample in enumerate(samples):
        windows = build_windows(sample["bold"].numpy(), repetition_time=2.0, n_dummy=0, **shared)
        own = encoder.frozen.encode(windows, with_tokens=True)
        weights = weigh_windows(windows.kept, 0.5)
        np.testing.assert_allclose(pooled[number, 0], weights @ own.vectors, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(tokens[number], np.tensordot(weights, own.tokens[:, 1:], 1), rtol=1e-5, atol=1e-6)


def test_cortex_alone_masks_the_other_networks_and_takes_parcels_in_the_order_of_17_networks() -> None:
    parcels, networks = find_parcels("schaefer400")
    assert (len(parcels), len(set(parcels)), len(set(networks))) == (400, 400, 7)
    assert parcels[0] != find_parcels(SPACES[0])[0][0]
    transform, model = build_model(model="random:tiny", space="schaefer400")
    pooled, _, _ = model(default_collate([transform(make_sample(60, 400))]))
    assert model.__space__ == "schaefer400"
    assert bool(torch.isfinite(pooled).all())
    with pytest.raises(InputError, match="schaefer400_tians3"):
        build_model(model="random:tiny", space="schaefer400_tians3")


def test_each_readout_is_registered() -> None:
    found: dict[str, Callable[..., Any]] = {}
    names = register(lambda name: lambda function: found.setdefault(name, function))
    assert list(found) == list(names) == [f"bids_semantoks_{pooling}" for pooling in POOLINGS]
    _, model = found["bids_semantoks_cls"](model="random:tiny")
    assert model.encoder.frozen.pooling == "cls"


def test_its_own_test_of_models_passes(tmp_path: Path) -> None:
    """Needs brainmarks, whose other dependencies this package does without."""
    for name in ("brainmarks", "cortex"):
        pytest.importorskip(name)
    folder = ROOT / "plugins" / "brainmarks"
    code = f"import brainmarks.models as m; m.__path__.append({str(folder / 'brainmarks' / 'models')!r}); "
    code += "import sys, pytest; sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', '--pyargs', "
    code += "'brainmarks.models.test_models', '-k', 'bids_semantoks']))"
    environment = {"BIDS_SEMANTOKS_MODEL": "random:tiny", "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{2 * len(POOLINGS)} passed" in done.stdout
