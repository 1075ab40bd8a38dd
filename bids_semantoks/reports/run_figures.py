"""Figures of one run, drawn from signals in memory or redrawn from its files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.files import read_rows, read_table
from bids_semantoks.outputs.store import OutputPaths, compute_connectivity, read_signals
from bids_semantoks.records import Atlas, Embedding, ParcelSignals, Windows
from bids_semantoks.reports.figures import build_figure_path, write_figure
from bids_semantoks.reports.figures_embedding import draw_tokens, draw_windows
from bids_semantoks.reports.figures_networks import draw_connectivity, draw_coverage, sort_by_network
from bids_semantoks.reports.figures_signals import Volumes, draw_carpet, draw_motion


def draw_signals(
    paths: OutputPaths,
    atlas: Atlas,
    signals: ParcelSignals,
    *,
    threshold: float | None,
    grid: NDArray[np.int32] | None,
) -> None:
    """Draw the signal figures from memory; `threshold` for scrubbing in mm, `grid` from `build_picture_grid`."""
    networks = sort_by_network(atlas.networks)
    volumes = Volumes(
        kept=signals.kept,
        n_dummy=signals.n_dummy,
        motion=signals.framewise_displacement,
        threshold=threshold,
        repetition_time=signals.repetition_time,
    )
    n_voxels = signals.n_voxels
    write_figure(_path(paths, "carpet"), lambda: draw_carpet(signals.raw, signals.values, volumes, networks, n_voxels))
    write_figure(_path(paths, "motion"), lambda: draw_motion(volumes))
    write_figure(_path(paths, "coverage"), lambda: draw_coverage(signals.coverage, signals.present, networks, grid))
    write_figure(
        _path(paths, "connectivity"), lambda: draw_connectivity(compute_connectivity(signals.values), networks)
    )


def draw_embedding(
    paths: OutputPaths, windows: Windows, embedding: Embedding, names: Sequence[str], signals: dict[str, Any]
) -> None:
    """Draw the embedding figures from memory; `names` (N,) label the token rows, `signals` is the signals sidecar."""
    volumes = read_volumes(signals)
    write_figure(
        _path(paths, f"{paths.model}Windows"),
        lambda: draw_windows(windows.onset, windows.duration, windows.kept, volumes),
    )
    tokens = embedding.tokens
    if tokens is not None:
        masked = embedding.masked_networks
        write_figure(_path(paths, f"{paths.model}Tokens"), lambda: draw_tokens(tokens, names, masked))


def read_volumes(sidecar: dict[str, Any]) -> Volumes:
    """Read from a signals sidecar which volumes are kept; motion, absent from sidecars, is NaN."""
    dropped = sidecar["VolumesDropped"]
    kept = np.ones(sidecar["VolumesTotal"], dtype=np.bool_)
    kept[: dropped["Dummy"]["Count"]] = False
    kept[dropped["Scrubbed"]["Volumes"]] = False
    return Volumes(
        kept=kept,
        n_dummy=dropped["Dummy"]["Count"],
        motion=np.full(kept.size, np.nan),
        threshold=dropped["Scrubbed"]["FramewiseDisplacementAboveMillimetres"],
        repetition_time=sidecar["RepetitionTime"],
    )


def redraw_signals(paths: OutputPaths, sidecar: dict[str, Any], networks: Sequence[str]) -> None:
    """Redraw the signal figures that the run's files allow; `networks` (P,) labels, empty for none.

    Connectivity is always redrawn, carpet and coverage only if missing: those drawn from images show more.
    """
    order = sort_by_network(networks)
    values = read_signals(paths)[1]
    write_figure(_path(paths, "connectivity"), lambda: draw_connectivity(compute_connectivity(values), order))
    raw = paths.file("stat-mean_desc-raw_timeseries.tsv")
    if raw.is_file() and not _path(paths, "carpet").is_file():
        before = read_table(raw)[1].astype(np.float32)
        volumes, n_voxels = read_volumes(sidecar), np.ones(values.shape[1], dtype=np.int64)
        write_figure(_path(paths, "carpet"), lambda: draw_carpet(before, values, volumes, order, n_voxels))
    if not _path(paths, "coverage").is_file():
        coverage, present = read_coverage(paths)
        write_figure(_path(paths, "coverage"), lambda: draw_coverage(coverage, present, order, None))


def redraw_embedding(paths: OutputPaths, signals: dict[str, Any], embedding: dict[str, Any]) -> None:
    """Redraw the embedding figures that the run's files allow, from both sidecars; the token figure needs
    ``--save-tokens``."""
    columns, rows = read_table(paths.embedding)
    onset, kept = rows[:, columns.index("onset")], rows[:, columns.index("kept")]
    duration, volumes = embedding["WindowDuration"], read_volumes(signals)
    write_figure(_path(paths, f"{paths.model}Windows"), lambda: draw_windows(onset, duration, kept, volumes))
    if paths.tokens.is_file() and "TokenRows" in embedding:
        tokens, names = np.load(paths.tokens), embedding["TokenRows"]
        masked = embedding["MaskedNetworks"]
        write_figure(_path(paths, f"{paths.model}Tokens"), lambda: draw_tokens(tokens, names, masked))


def read_coverage(paths: OutputPaths) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Read coverage (P,), NaN where unknown, and which parcels have a signal (P,)."""
    rows = read_rows(paths.file("stat-coverage_bold.tsv"))
    coverage = [float("nan") if row["coverage"] == "n/a" else float(row["coverage"]) for row in rows]
    return np.array(coverage), np.array([row["present"] == "true" for row in rows], dtype=np.bool_)


def _path(paths: OutputPaths, word: str) -> Path:
    return build_figure_path(paths.out_dir, paths.stem, word)
