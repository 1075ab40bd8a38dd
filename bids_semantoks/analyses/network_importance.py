"""Embeddings of the same signals with networks masked.
Shape letters: V sets of masked networks, N rows of tokens, n rows, D dimensions of an embedding."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.analyses.rows import Rows
from bids_semantoks.embedding import RunEncoder, embed
from bids_semantoks.errors import ConfigurationError
from bids_semantoks.files import hash_values, write_array
from bids_semantoks.outputs.store import StoredRun
from bids_semantoks.reports.group_phenotype import name_masked
from bids_semantoks.statistics.spans import Features, TableFeatures

LOGGER = logging.getLogger("bids_semantoks")


class NetworkMasker:
    """Embedder of runs with each network masked, and with all others masked; each run once. Embeddings are kept in
    `work_dir` for later calls, without one in memory only."""

    def __init__(self, encoders: Sequence[RunEncoder], work_dir: Path | None) -> None:
        self.encoders, self.work_dir = encoders, work_dir
        self._known: dict[tuple[str, str], NDArray[np.float32]] = {}

    @property
    def networks(self) -> tuple[str, ...]:
        """Networks of the encoder that the atlas has."""
        return tuple(self.encoders[0].frozen.networks)

    def build_features(self, rows: Rows, model: str) -> dict[str, tuple[Features, ...]]:
        """Build features by variant, one per encoder: each network alone, then all without each.
        Raises ConfigurationError where the encoder cannot tell networks apart."""
        names = [name_masked(model, network, is_alone=alone) for alone in (True, False) for network in self.networks]
        tables = [self._embed_rows(rows, encoder) for encoder in self.encoders]  # (n, V, D) each
        return {
            name: tuple(TableFeatures(name=name, values=table[:, number]) for table in tables)
            for number, name in enumerate(names)
        }

    def _embed_rows(self, rows: Rows, encoder: RunEncoder) -> NDArray[np.float64]:
        networks = encoder.frozen.networks
        own = np.stack(list(networks.values()))  # (networks, N)
        if len(own) < 2 or own.all(axis=1).any():
            raise ConfigurationError(
                f"--network-importance needs an encoder with two networks or more, {encoder.loaded.name} has "
                f"{', '.join(networks)} in one row of tokens.",
                hint="Leave it away.",
            )
        hidden = np.concatenate([~own, own])  # (V, N)
        start, n_runs, known = time.monotonic(), sum(map(len, rows.runs)), len(self._known)
        LOGGER.info("Masking networks: %d variants of %d runs by %s.", len(hidden), n_runs, encoder.loaded.name)
        table = np.stack(
            [np.mean([self._embed_run(run, encoder, hidden) for run in runs], axis=0) for runs in rows.runs]
        )
        seconds = time.monotonic() - start
        LOGGER.info("Masking networks took %.1f s for %d runs.", seconds, len(self._known) - known)
        return np.asarray(table, dtype=np.float64)

    def _embed_run(self, run: StoredRun, encoder: RunEncoder, hidden: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Embed all variants of a run, mean over windows (V, D), or load them from the cache."""
        key = run.paths.stem, encoder.loaded.name
        if key not in self._known:
            path = self._name_cache(run, encoder, hidden)
            if path is not None and path.is_file():
                self._known[key] = np.load(path, allow_pickle=False)
            else:
                self._known[key] = np.asarray(embed(run, encoder, hidden).mean(axis=1))
                if path is not None:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    write_array(path, self._known[key])
        return self._known[key]

    def _name_cache(self, run: StoredRun, encoder: RunEncoder, hidden: NDArray[np.bool_]) -> Path | None:
        if self.work_dir is None:
            return None
        digest = hash_values([encoder.settings, run.sidecar["TableSHA256"], run.paths.stem, hidden.tolist()])
        return self.work_dir / "masked" / f"{digest}.npy"
