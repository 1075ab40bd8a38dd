"""Find stored runs that lack an embedding, and embed them in as many processes as fit."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

from bids_semantoks.batch import run_batch
from bids_semantoks.config import AppConfig
from bids_semantoks.embedding import RunEncoder, build_run_encoder, encode_run, find_embedding_state
from bids_semantoks.errors import ConfigurationError
from bids_semantoks.outcomes import Outcome, Tally, isolate
from bids_semantoks.outputs.sidecars import compute_settings_hash
from bids_semantoks.outputs.store import OutputPaths, StoredRun, read_signals
from bids_semantoks.runtime.resources import choose_n_procs, choose_n_threads, limit_threads


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
    settings_hash = compute_settings_hash(encoder.settings)
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
