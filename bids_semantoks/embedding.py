"""From the stored signals of a run to its stored embedding, for both levels."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.config import EmbeddingConfig
from bids_semantoks.models.checkpoints import LoadedEncoder, load_encoder
from bids_semantoks.models.frozen import FrozenEncoder, resolve_device
from bids_semantoks.models.parcels import match_parcels
from bids_semantoks.outputs.sidecars import (
    build_embedding_sidecar,
    build_uri,
    describe_differences,
    has_files,
    read_sidecar,
)
from bids_semantoks.outputs.store import OutputPaths, write_embedding
from bids_semantoks.records import Embedding, Windows
from bids_semantoks.signals.windows import build_windows

#: What the sidecar of an embedding repeats of the sidecar of its signals.
_INHERITED = (
    "Atlas",
    "AbsentParcels",
    "RepetitionTime",
    "Denoising",
    "VolumesTotal",
    "VolumesKept",
    "VolumesDropped",
    "MeanFramewiseDisplacement",
)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RunEncoder:
    """A frozen encoder matched to an atlas, with the settings that determine its embeddings."""

    loaded: LoadedEncoder
    frozen: FrozenEncoder  # the same encoder on its device
    config: EmbeddingConfig
    seed: int  # of random weights whose name gives none
    warnings: tuple[str, ...]  # about the match of atlas and encoder

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that decide, together with the signals, whether an embedding is up to date."""
        return {
            "model": self.loaded.name,
            "model_sha256": self.loaded.sha256,
            "n_windows": self.config.n_windows,
            "pooling": self.config.pooling,
            "precision": self.precision,
        }

    @property
    def precision(self) -> str:
        """Arithmetic actually used: ``auto`` means fp32."""
        return "fp32" if self.config.precision == "auto" else self.config.precision

    @property
    def token_rows(self) -> tuple[str, ...]:
        """Labels of the N rows of tokens: networks, parcels or the whole brain."""
        layout, spatial = self.loaded.layout, self.loaded.config.spatial
        if spatial == "whole":
            return ("whole brain",)
        if spatial == "parcel":
            return layout.parcels or tuple(str(i + 1) for i in range(layout.n_parcels))
        return layout.network_names

    @property
    def n_bytes(self) -> int:
        """Size of the weights in bytes."""
        return sum(weight.numel() * weight.element_size() for weight in self.loaded.encoder.parameters())


def build_run_encoder(
    config: EmbeddingConfig, parcels: tuple[str, ...], networks: tuple[str, ...], *, seed: int
) -> RunEncoder:
    """Load an encoder and match it to the P parcels and networks of an atlas; `seed` is for random weights whose name
    gives
    none.

    Raises ModelError if the encoder is missing, damaged or does not fit the atlas, ResourceError if the device is
    absent.
    """
    device = resolve_device(config.device)
    loaded = load_encoder(config.model, atlas=(parcels, networks), seed=seed)
    match = match_parcels(parcels, networks, loaded.layout)
    frozen = FrozenEncoder(
        loaded,
        match,
        device=device,
        precision=config.precision,
        batch_size=config.batch_size,
        pooling=config.pooling,
    )
    return RunEncoder(loaded=loaded, frozen=frozen, config=config, seed=seed, warnings=match.warnings)


def find_embedding_state(
    paths: OutputPaths, *, settings: dict[str, Any], signals_sha256: str, needs_tokens: bool
) -> tuple[bool, list[str]]:
    """Tell whether the embedding on disk is complete and current, and list the settings in which it differs from
    `settings`.

    `signals_sha256` is the checksum of the signals on disk; empty if they will change.
    """
    sidecar = read_sidecar(paths.embedding_sidecar)
    if sidecar is None:
        return False, []
    differences = describe_differences(sidecar["Settings"], settings)
    is_whole = has_files(paths.directory, sidecar.get("Files", {}))
    is_current = sidecar.get("SignalsSHA256") == signals_sha256 and is_whole
    return not differences and is_current and (paths.tokens.is_file() or not needs_tokens), differences


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EncodedRun:
    """Windows and embedding of one run, kept for its figures."""

    windows: Windows
    embedding: Embedding  # with all tokens
    warnings: tuple[str, ...]


def encode_run(
    encoder: RunEncoder, paths: OutputPaths, values: NDArray[np.float32], signals_sidecar: dict[str, Any]
) -> EncodedRun:
    """Encode the signals of a run as stored in their table, and write the embedding.

    `values` (T, P) are NaN in dropped rows and absent parcels. All tokens are returned, but written only with
    --save-tokens.
    """
    model = encoder.loaded.config
    windows = build_windows(
        values,
        repetition_time=signals_sidecar["RepetitionTime"],
        n_dummy=signals_sidecar["VolumesDropped"]["Dummy"]["Count"],
        target_repetition_time=model.repetition_time,
        window=model.window,
        n_windows=encoder.config.n_windows,
    )
    embedding = encoder.frozen.encode(windows, with_tokens=True)
    facts = {
        "Sources": [build_uri(paths.signals, paths.out_dir)],
        "SignalsSHA256": signals_sidecar["TableSHA256"],
        **{key: signals_sidecar[key] for key in _INHERITED if key in signals_sidecar},
        "ResampledRepetitionTime": model.repetition_time,
        "Model": {
            "Name": encoder.loaded.name,
            "SHA256": encoder.loaded.sha256,
            "Description": encoder.loaded.description,
            "HasRandomWeights": encoder.loaded.is_random,
            "Limits": encoder.loaded.details.get("limits"),
        },
        "RandomSeed": encoder.seed,
        "TokenRows": list(encoder.token_rows),
        "Pooling": encoder.config.pooling,
        "Device": str(encoder.frozen.device),
        "Precision": encoder.precision,
        "Warnings": list(encoder.warnings),
    }
    sidecar = build_embedding_sidecar(windows, embedding, settings=encoder.settings, facts=facts)
    written = embedding if encoder.config.save_tokens else dataclasses.replace(embedding, tokens=None)
    write_embedding(paths, windows, written, sidecar)
    absent = embedding.masked_networks
    warnings = (f"no signal in network {', '.join(absent)}, its tokens were masked",) if absent else ()
    return EncodedRun(windows=windows, embedding=embedding, warnings=warnings)
