"""Stored runs that lack an embedding: found, and embedded in as many processes as fit."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

from bids_semantoks.batch import run_batch
from bids_semantoks.config import AppConfig
from bids_semantoks.embedding import RunEncoder, build_run_encoder, encode_run, find_embedding_state
from bids_semantoks.errors import ConfigurationError
from bids_semantoks.outcomes import Outcome, Tally, isolate
from bids_semantoks.outputs.provenance import compute_settings_hash
from bids_semantoks.outputs.store import OutputPaths
from bids_semantoks.outputs.stored_runs import StoredRun, read_signals
from bids_semantoks.pool import limit_threads
from bids_semantoks.resources import choose_n_procs, choose_n_threads


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StoredJob:
    """A stored run that lacks an embedding.

    Parameters
    ----------
    stored : StoredRun
        Its signals.
    settings_hash : str
        Hash of the settings that decide the embedding.
    """

    stored: StoredRun
    settings_hash: str

    @property
    def paths(self) -> OutputPaths:
        """Where the run's outputs and status go."""
        return self.stored.paths


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EncoderRecipe:
    """What a process needs to load the encoder.

    Parameters
    ----------
    config : AppConfig
        What was asked.
    parcels, networks : tuple of str, length P
        The atlas that the signals were made with.
    """

    config: AppConfig
    parcels: tuple[str, ...]
    networks: tuple[str, ...]

    def build(self) -> RunEncoder:
        """Load the encoder.

        Returns
        -------
        RunEncoder
            Fitted to the atlas.
        """
        seed = self.config.running.random_seed
        return build_run_encoder(self.config.embedding, self.parcels, self.networks, seed=seed)


class StoredWorker:
    """Embeds one stored run at a time.

    Parameters
    ----------
    recipe : EncoderRecipe
        Loads the encoder.
    encoder : RunEncoder or None
        Taken as it is; loaded when None.
    """

    def __init__(self, recipe: EncoderRecipe, encoder: RunEncoder | None = None) -> None:
        self.encoder = encoder or recipe.build()

    def __call__(self, job: StoredJob) -> Outcome:
        """Embed one run and write its status.

        Parameters
        ----------
        job : StoredJob
            The run.

        Returns
        -------
        Outcome
            What became of it.
        """
        return isolate(functools.partial(self._embed, job), job, device=str(self.encoder.frozen.device))

    def _embed(self, job: StoredJob) -> tuple[str, ...]:
        return encode_run(self.encoder, job.paths, read_signals(job.paths)[1], job.stored.sidecar).warnings


def find_missing(stored: Sequence[StoredRun], encoder: RunEncoder, config: AppConfig) -> list[StoredJob]:
    """Find the runs that lack the embedding.

    Parameters
    ----------
    stored : sequence of StoredRun
        Runs with signals, their paths naming the encoder.
    encoder : RunEncoder
        With the settings that are asked for now.
    config : AppConfig
        Whether embeddings made with other settings are made again, and whether one without tokens is incomplete.

    Returns
    -------
    list of StoredJob
        What is left to embed.

    Raises
    ------
    ConfigurationError
        When an embedding was made with other settings.
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
    """Embed stored runs, in processes of their own where several fit.

    Parameters
    ----------
    recipe : EncoderRecipe
        For processes that load the encoder themselves.
    encoder : RunEncoder
        Used where one process suffices.
    missing : list of StoredJob
        What to embed.
    tally : Tally
        Counts the outcomes.
    """
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
