"""From the stored signals of a run to its stored embedding, for both levels."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.config import AppConfig, EmbeddingConfig
from bids_semantoks.errors import ConfigurationError
from bids_semantoks.files import hash_text, hash_values
from bids_semantoks.models.checkpoints import LoadedEncoder, load_encoder
from bids_semantoks.models.frozen import FrozenEncoder, resolve_device
from bids_semantoks.models.initialise import build_encoder
from bids_semantoks.models.parcels import match_parcels
from bids_semantoks.outcomes import Outcome, Tally, isolate, run_batch
from bids_semantoks.outputs.dataset import write_descriptions
from bids_semantoks.outputs.sidecars import (
    build_embedding_sidecar,
    build_uri,
    describe_differences,
    has_files,
    read_sidecar,
)
from bids_semantoks.outputs.store import OutputPaths, StoredRun, read_signals, write_embedding
from bids_semantoks.records import Embedding, Windows
from bids_semantoks.runtime.resources import choose_n_procs, choose_n_threads, limit_threads
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


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StoredJob:
    """A stored run that needs an embedding."""

    stored: StoredRun
    settings_hash: str  # over the settings of the embedding

    @property
    def paths(self) -> OutputPaths:
        """Output paths of the run."""
        return self.stored.paths


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EncoderRecipe:
    """What a process needs to load the encoder."""

    config: AppConfig
    parcels: tuple[str, ...]  # (P,) of the atlas of the signals
    networks: tuple[str, ...]

    def build(self) -> RunEncoder:
        """Load the encoder and match it to the atlas."""
        seed = self.config.running.random_seed
        return build_run_encoder(self.config.embedding, self.parcels, self.networks, seed=seed)


class StoredWorker:
    """Embeds one stored run at a time; loads the encoder by `recipe` unless given one."""

    def __init__(self, recipe: EncoderRecipe, encoder: RunEncoder | None = None) -> None:
        self.encoder = encoder or recipe.build()

    def __call__(self, job: StoredJob) -> Outcome:
        """Embed one run and write its status."""
        return isolate(functools.partial(self._embed, job), job, device=str(self.encoder.frozen.device))

    def _embed(self, job: StoredJob) -> tuple[str, ...]:
        return encode_run(self.encoder, job.paths, read_signals(job.paths)[1], job.stored.sidecar).warnings


def find_missing(stored: Sequence[StoredRun], encoder: RunEncoder, config: AppConfig) -> list[StoredJob]:
    """Find the runs whose embedding is missing or out of date; the paths of `stored` must name the encoder.

    Raises ConfigurationError if an embedding was made with other settings, unless --overwrite is set.
    """
    settings_hash = hash_values(encoder.settings)
    missing = []
    for run in stored:
        is_complete, differences = find_embedding_state(
            run.paths,
            settings=encoder.settings,
            signals_sha256=run.sidecar["TableSHA256"],
            needs_tokens=config.embedding.save_tokens,
        )
        if differences and not config.running.overwrite:
            hint = "Use the former settings or --overwrite."
            if config.pretraining.pretrain:
                # The same call with --overwrite would train anew, which may have taken days.
                hint = (
                    f"The encoder is complete. Embed by --model {config.embedding.model} --overwrite, not --pretrain."
                )
            raise ConfigurationError(
                f"{run.paths.embedding} was made with other settings: {'; '.join(differences)}.", hint=hint
            )
        if not is_complete:
            missing.append(StoredJob(stored=run, settings_hash=settings_hash))
    return missing


def embed_missing(recipe: EncoderRecipe, encoder: RunEncoder, missing: list[StoredJob], tally: Tally) -> None:
    """Embed stored runs in several processes that load `recipe`, or in this one with `encoder` if only one fits."""
    running = recipe.config.running
    device = str(encoder.frozen.device)
    n_procs = choose_n_procs(running, n_jobs=len(missing), model_bytes=encoder.n_bytes, device=device)
    stop = running.stop_on_first_crash
    if n_procs > 1:
        limit_threads(choose_n_threads(running, n_procs=n_procs))
        run_batch(StoredWorker, (recipe,), missing, n_procs=n_procs, stop_on_failure=stop, tally=tally)
    elif missing:
        worker = StoredWorker(recipe, encoder)
        run_batch(lambda: worker, (), missing, n_procs=1, stop_on_failure=stop, tally=tally)


LOGGER = logging.getLogger("bids_semantoks")


#: Far from the seeds that people choose, so that random weights are compared with others than themselves.
_TWIN_SEED: Final = 1_000_003


def name_twin(model: str, number: int = 0) -> str:
    """Name the encoder of the same architecture with random weights, draw `number` (from 0)."""
    return f"{model}Untrained{number + 1 if number else ''}"


def build_untrained(encoder: RunEncoder, seed: int, name: str) -> RunEncoder:
    """Build an encoder like another one, but with the random weights that training with `seed` starts from."""
    loaded, config = encoder.loaded, dataclasses.replace(encoder.config, save_tokens=False)
    untrained = dataclasses.replace(
        loaded,
        encoder=build_encoder(loaded.config, loaded.layout, seed).eval(),
        name=name,
        sha256=hash_text(f"untrained {seed} {loaded.sha256}"),
        description=f"Random weights (seed {seed}) in the architecture of {loaded.name}, never trained: a baseline.",
        is_random=True,
        head=None,
        details={},
    )
    frozen = FrozenEncoder(
        untrained,
        encoder.frozen.match,
        device=encoder.frozen.device,
        precision=config.precision,
        batch_size=config.batch_size,
        pooling=config.pooling,
    )
    return RunEncoder(loaded=untrained, frozen=frozen, config=config, seed=seed, warnings=())


def build_twin(encoder: RunEncoder, number: int = 0) -> RunEncoder:
    """Build the encoder with random weights that probes compare with, draw `number` (from 0)."""
    return build_untrained(encoder, encoder.seed + _TWIN_SEED + number, name_twin(encoder.loaded.name, number))


def embed_by_twin(encoder: RunEncoder, stored: Sequence[StoredRun], number: int = 0) -> None:
    """Embed runs by random weights, draw `number` (from 0), where that was not done before."""
    embed_stored(build_twin(encoder, number), stored, why="by random weights, to compare with")


def embed_stored(encoder: RunEncoder, stored: Sequence[StoredRun], *, why: str, overwrite: bool = True) -> None:
    """Embed the runs that lack an embedding of an encoder; `why` is for the log.
    Raises ConfigurationError where some were made with other settings and `overwrite` is off."""
    name, missing = encoder.loaded.name, []
    for run in stored:
        paths = dataclasses.replace(run.paths, model=name)
        known: dict[str, Any] = {"settings": encoder.settings, "signals_sha256": run.sidecar["TableSHA256"]}
        is_complete, differences = find_embedding_state(paths, needs_tokens=False, **known)
        if differences and not overwrite:
            raise ConfigurationError(
                f"{paths.embedding} was made with other settings: {'; '.join(differences)}.",
                hint="Give the encoder another name, use the former settings or --overwrite.",
            )
        if not is_complete:
            missing.append((paths, run.sidecar))
    if missing:
        LOGGER.info("Embedding %d runs %s.", len(missing), why)
        label = {name: f"Embedding by the encoder {name}: {encoder.loaded.description}"}
        write_descriptions(stored[0].paths.out_dir, label)
    for paths, sidecar in missing:
        encode_run(encoder, paths, read_signals(paths)[1], sidecar)


def load_replicates(
    config: AppConfig, encoder: RunEncoder, atlas: tuple[tuple[str, ...], tuple[str, ...]]
) -> list[RunEncoder]:
    """Load the encoders whose scores are averaged with those of the first, none where not asked for. Raises
    ConfigurationError for two encoders with one label, or for another architecture."""
    found = [encoder]
    for model in config.probing.replicates:
        asked = dataclasses.replace(config.embedding, model=model, save_tokens=False)
        one = build_run_encoder(asked, *atlas, seed=config.running.random_seed)
        if one.loaded.name in [other.loaded.name for other in found]:
            raise ConfigurationError(
                f"Two encoders have the label {one.loaded.name}, the second is --replicates {model}.",
                hint="Give their folders different names.",
            )
        if one.loaded.config != encoder.loaded.config:
            raise ConfigurationError(
                f"--replicates {model} has another architecture than {encoder.loaded.name}.",
                hint="Scores of seeds are averaged only over encoders that are otherwise alike.",
            )
        found.append(one)
    return found[1:]
