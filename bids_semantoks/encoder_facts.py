"""Facts recorded about an encoder that was pretrained here."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from bids_semantoks.config import EncoderConfig
from bids_semantoks.models.encoder import Encoder
from bids_semantoks.models.tokenizer import StructuredBranch, join_scales
from bids_semantoks.outputs.sidecars import find_versions
from bids_semantoks.training.packed import SignalView
from bids_semantoks.training_data import TrainingData


def build_details(
    data: TrainingData, view: SignalView, settings: Mapping[str, Any], encoder: EncoderConfig
) -> dict[str, Any]:
    """Build ``details`` of config.json: settings, data, recipe, limits, participants (salted SHA-256) and software
    versions."""
    labels = sorted(set(view.participants))
    # A salt that is known but differs between encoders: labels can be looked up, lists cannot be joined.
    salt = settings["data"]["sha256"][:32]
    seconds = view.lengths * encoder.repetition_time
    return {
        "settings": dict(settings),
        "data": {
            **data.facts,
            "participants": len(labels),
            "runs": len(view),
            "hours": round(float(seconds.sum()) / 3600, 2),
            "sha256": settings["data"]["sha256"],
        },
        "recipe": {**settings["recipe"], "seed": settings["seed"], "precision": settings["precision"]},
        "limits": {
            "repetition_time_of_the_sources_in_s": [min(view.repetition_times), max(view.repetition_times)],
            "length_of_the_runs_in_s": [float(seconds.min()), float(seconds.max())],
            "band": data.facts.get("band", "not known"),
            "smallest_share_of_parcels_with_signal": round(float(view.present.mean(axis=1).min()), 4),
            "window_in_s": encoder.window * encoder.repetition_time,
        },
        "participants": {
            "salt": salt,
            "sha256": [hashlib.sha256(f"{salt}{label}".encode()).hexdigest() for label in labels],
        },
        "software": find_versions(),
    }


def find_kernels(encoder: Encoder) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """Extract the long kernels of an encoder on the CPU: taps (n_kernels, L) by network; empty if it has none."""
    branches = [module for module in encoder.modules() if isinstance(module, StructuredBranch)]
    names = encoder.layout.network_names if len(branches) == len(encoder.layout.network_names) else ("all parcels",)
    kernels = {}
    for name, branch in zip(names, branches, strict=False):
        taps = join_scales(branch.kernels.detach(), branch.decay) / branch.kernel_norm
        kernels[name] = taps.flatten(0, -2).numpy()
    return kernels
