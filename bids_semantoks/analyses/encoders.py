"""Encoders that probes compare with or average over: random weights with the same architecture, and other seeds."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from bids_semantoks.config import AppConfig, RunningConfig
from bids_semantoks.embedding import AtlasNames, RunEncoder, build_run_encoder, embed_run, find_missing, name_readout
from bids_semantoks.errors import ConfigurationError, ResourceError
from bids_semantoks.files import hash_text
from bids_semantoks.outputs.dataset import write_descriptions
from bids_semantoks.outputs.store import StoredRun
from bids_semantoks.runtime.logs import Progress
from bids_semantoks.runtime.processes import WorkerDied, run_jobs
from bids_semantoks.runtime.resources import choose_n_procs, choose_n_threads, limit_threads

LOGGER = logging.getLogger("bids_semantoks")
_TWIN_SEED: Final = 1_000_003  # far from typical seeds of users, so that a random encoder is never compared with itself


def embed_stored(
    stored: Sequence[StoredRun], encoder: RunEncoder, *, why: str, running: RunningConfig, overwrite: bool = True
) -> None:
    """Embed the runs that lack an embedding of an encoder to compare with, without statuses; `why` is for the log.
    Raises ConfigurationError as `find_missing`, ResourceError if a process was killed."""
    hint = "Rename the encoder, use the original settings or --overwrite."
    missing = find_missing(encoder.name_outputs(stored), encoder, overwrite=overwrite, hint=hint)
    if missing:
        LOGGER.info("Embedding %d runs %s.", len(missing), why)
        write_descriptions(stored[0].paths.out_dir, encoder.description)
    device = str(encoder.frozen.device)
    n_procs = choose_n_procs(running, n_jobs=len(missing), model_bytes=encoder.n_bytes, device=device)
    if n_procs > 1:
        limit_threads(choose_n_threads(running, n_procs=n_procs))
    results = run_jobs(_build_embedder, (encoder,), missing, n_procs=n_procs)
    for i, result in Progress(f"Embedding {why}").each("run", results, total=len(missing)):
        if isinstance(result, WorkerDied):
            raise ResourceError(f"Failed to embed {missing[i].paths.stem} {why}: {result}.", hint="Reduce --n-procs.")


def _build_embedder(encoder: RunEncoder) -> Callable[[StoredRun], tuple[str, ...]]:
    return partial(embed_run, encoder=encoder)


def embed_others(stored: Sequence[StoredRun], others: Sequence[RunEncoder], running: RunningConfig) -> None:
    """Embed the runs, if there are any, by the encoders that are compared with the first."""
    for one in others if stored else ():
        embed_stored(stored, one, why=f"by {one.loaded.name}", running=running, overwrite=running.overwrite)


def name_twin(model: str, number: int = 0) -> str:
    """Name the encoder of the same architecture with random weights, draw `number` (from 0)."""
    return f"{model}Untrained{number + 1 if number else ''}"


def build_untrained(encoder: RunEncoder, seed: int, name: str) -> RunEncoder:
    """Build an encoder like another one, but with the random weights that training with `seed` starts from."""
    from bids_semantoks.models.encoder import build_encoder  # noqa: PLC0415 - loads torch

    loaded, like = encoder.loaded, encoder.frozen
    untrained = dataclasses.replace(
        loaded,
        encoder=build_encoder(loaded.config, loaded.layout, seed).eval(),
        name=name,
        sha256=hash_text(f"untrained {seed} {loaded.sha256}"),
        description=f"Random weights (seed {seed}) with the architecture of {loaded.name}, untrained: a baseline.",
        is_random=True,
        head=None,
        details={},
    )
    frozen = type(like)(
        untrained,
        dataclasses.replace(like.match, warnings=()),
        device=like.device,
        precision=like.precision,
        batch_size=like.batch_size,
        pooling=like.pooling,
    )
    config = dataclasses.replace(encoder.config, save_tokens=False)
    return RunEncoder(loaded=untrained, frozen=frozen, config=config, seed=seed)


def build_twin(encoder: RunEncoder, number: int = 0) -> RunEncoder:
    """Build the encoder with random weights that probes compare with, draw `number` (from 0)."""
    return build_untrained(encoder, encoder.seed + _TWIN_SEED + number, name_twin(encoder.loaded.name, number))


def load_replicates(config: AppConfig, encoder: RunEncoder, atlas: AtlasNames) -> list[RunEncoder]:
    """Load the encoders whose scores are averaged with those of the first, none if not requested. Raises
    ConfigurationError as `load_others`, and for another architecture."""
    return _load_more(config, encoder, atlas, config.probing.replicates, option="--replicates")


def load_others(config: AppConfig, encoder: RunEncoder, atlas: AtlasNames) -> list[RunEncoder]:
    """Load the encoders of --model after the first, which are compared with it; one whose label is taken gets that of
    its folder as well. Raises ConfigurationError for the same weights twice."""
    return _load_more(config, encoder, atlas, config.embedding.more_models, option="--model")


def _load_more(
    config: AppConfig, encoder: RunEncoder, atlas: AtlasNames, models: Sequence[str], *, option: str
) -> list[RunEncoder]:
    """Load the `models` of an option in addition to an encoder."""
    found = {encoder.loaded.name: encoder}
    for model in models:
        asked = dataclasses.replace(config.embedding, model=model, more_models=(), save_tokens=False)
        load = partial(build_run_encoder, asked, *atlas, seed=config.running.random_seed)
        one = load()
        twice = next((other for other in found.values() if other.loaded.sha256 == one.loaded.sha256), None)
        if twice is not None:
            raise ConfigurationError(
                f"{option} {model} has the same weights as {twice.loaded.name} (SHA-256 {one.loaded.sha256[:12]}).",
                hint="List each encoder once.",
            )
        if one.loaded.name in found:
            name = _tell_apart(model, one, list(found))
            LOGGER.warning("The label %s is already used: %s %s is labelled %s.", one.loaded.name, option, model, name)
            one = load(name=name)
        if option == "--replicates" and one.loaded.config != encoder.loaded.config:
            raise ConfigurationError(
                f"{option} {model} has a different architecture than {encoder.loaded.name}.",
                hint="Scores can only be averaged over encoders that differ in their seed alone.",
            )
        found[one.loaded.name] = one
    return list(found.values())[1:]


def _tell_apart(model: str, encoder: RunEncoder, names: Sequence[str]) -> str:
    """Find another label for an encoder, by the requested revision or its folders, else by its checksum."""
    from bids_semantoks.models.hub import label_folder, parse_repository  # noqa: PLC0415 - loads torch

    asked = None if Path(model).exists() else parse_repository(model)
    pooling, label = encoder.frozen.pooling, encoder.loaded.name
    plain = label.removesuffix(name_readout("", pooling))
    folders = [label_folder(part) for part in Path(model).expanduser().absolute().parts[1:-1]]
    tried = [plain + label_folder(asked.revision)] if asked and asked.revision else []
    tried += [plain + "".join(folders[-number:]) for number in range(1, len(folders) + 1)]
    tried.append(f"{plain}{encoder.loaded.sha256[:8]}")
    return next(one for one in tried if name_readout(one, pooling) not in names)
