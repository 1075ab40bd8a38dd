"""Write the embedding of a run, and read it back: a table of windows, or for wide embeddings a table and an array."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.files import read_table, write_array, write_json, write_table
from bids_semantoks.images.sizes import read_array
from bids_semantoks.outputs.damage import check_table, describe_files
from bids_semantoks.outputs.sidecars import describe_differences
from bids_semantoks.outputs.store import OutputPaths, read_sidecar
from bids_semantoks.records import Embedding, Windows
from bids_semantoks.statistics.weights import weigh_windows


def write_embedding(
    paths: OutputPaths, windows: Windows, embedding: Embedding, sidecar: dict[str, Any], *, as_array: bool = False
) -> None:
    """Write the embedding of a run, the sidecar last; `sidecar` must have ``Settings`` and ``SignalsSHA256``. With
    `as_array` the vectors go into a float32 array next to the table of windows."""
    remove_embedding(paths, settings=sidecar["Settings"], signals_sha256=sidecar["SignalsSHA256"])
    n_windows, n_dims = embedding.vectors.shape
    duration = np.full(n_windows, windows.duration)
    meta = np.stack([np.arange(1.0, n_windows + 1), windows.onset, duration, windows.kept], axis=1)
    columns = ["window", "onset", "duration", "kept"]
    files = [paths.embedding]
    if as_array:
        write_array(paths.vectors, embedding.vectors.astype(np.float32))
        files.append(paths.vectors)
    else:
        columns += [f"dim{d:04d}" for d in range(1, n_dims + 1)]
        meta = np.concatenate([meta, embedding.vectors.astype(np.float64)], axis=1)
        paths.vectors.unlink(missing_ok=True)
    write_table(paths.embedding, columns, meta)
    if embedding.tokens is not None:
        write_array(paths.tokens, embedding.tokens)
        files.append(paths.tokens)
    else:
        # Old files may belong to other windows.
        paths.tokens.unlink(missing_ok=True)
    write_json(paths.embedding_sidecar, {**sidecar, **describe_files(files)})


def remove_embedding(paths: OutputPaths, *, settings: Mapping[str, Any], signals_sha256: str) -> None:
    """Remove an embedding of other signals or settings, sidecar first: it must not be mistaken for a current one.
    One with the same settings is kept, since another process may have written it for the same run."""
    there = read_sidecar(paths.embedding_sidecar)
    if there and (there.get("SignalsSHA256") != signals_sha256 or describe_differences(there["Settings"], settings)):
        for path in (paths.embedding_sidecar, paths.embedding, paths.vectors, paths.tokens):
            path.unlink(missing_ok=True)


def read_embedding(paths: OutputPaths) -> NDArray[np.float32]:
    """Read the window embeddings of a run, (B, dims); RunFailed damaged_table."""
    return read_window_table(paths)[1]


def read_mean_embedding(paths: OutputPaths, min_kept: float | None) -> tuple[int, NDArray[np.float64]]:
    """Read the mean embedding (dims,) of a run over the windows that are used (`weigh_windows`), and their number;
    RunFailed damaged_table."""
    columns, vectors = read_window_table(paths)
    weights = weigh_windows(columns["kept"], min_kept)
    return int((weights > 0).sum()), weights @ vectors


def read_window_table(paths: OutputPaths) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.float32]]:
    """Read what is known of the windows of a run, (B,) by column, and their embeddings (B, dims); RunFailed
    damaged_table."""
    sidecar = read_sidecar(paths.embedding_sidecar) or {}
    check_table(paths.embedding, sidecar)
    names, values = read_table(paths.embedding)
    n_meta = names.index("dim0001") if "dim0001" in names else len(names)
    columns = {name: values[:, place] for place, name in enumerate(names[:n_meta])}
    if n_meta < len(names):
        return columns, values[:, n_meta:].astype(np.float32)
    check_table(paths.vectors, sidecar)
    return columns, read_array(paths.vectors).astype(np.float32)
