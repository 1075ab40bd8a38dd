"""The figures of one run: drawn while its signals are in memory, or again from its files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.outputs.figure_files import build_figure_path, write_figure
from bids_semantoks.outputs.figures_connectivity import draw_connectivity
from bids_semantoks.outputs.figures_coverage import draw_coverage
from bids_semantoks.outputs.figures_embedding import draw_tokens, draw_windows
from bids_semantoks.outputs.figures_networks import sort_by_network
from bids_semantoks.outputs.figures_signals import Volumes, draw_carpet, draw_motion
from bids_semantoks.outputs.files import read_table
from bids_semantoks.outputs.store import OutputPaths, compute_connectivity
from bids_semantoks.outputs.stored_runs import read_signals
from bids_semantoks.records import Atlas, Embedding, ParcelSignals, Windows


def draw_signals(
    paths: OutputPaths,
    atlas: Atlas,
    signals: ParcelSignals,
    *,
    threshold: float | None,
    grid: NDArray[np.int32] | None,
) -> None:
    """Draw the figures of signals that are in memory.

    Parameters
    ----------
    paths : OutputPaths
        Names the figures.
    atlas : Atlas
        Networks of the parcels.
    signals : ParcelSignals
        Before and after denoising, with motion.
    threshold : float or None
        Millimetres above which volumes were scrubbed.
    grid : NDArray, int32, shape (X, Y, Z), or None
        Where the parcels lie: position plus 1.
    """
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
    """Draw the figures of an embedding that is in memory.

    Parameters
    ----------
    paths : OutputPaths
        Names the figures.
    windows : Windows
        What was encoded.
    embedding : Embedding
        What came out, with tokens.
    names : sequence of str, length N
        What each row of tokens stands for.
    signals : dict
        Sidecar of the run's signals.
    """
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
    """Read from a sidecar which volumes of a run count.

    Parameters
    ----------
    sidecar : dict
        Sidecar of the run's signals.

    Returns
    -------
    Volumes
        Motion is not known from it.
    """
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
    """Draw what the files of a run's signals allow; figures that need its images stay as they are.

    Parameters
    ----------
    paths : OutputPaths
        Its files.
    sidecar : dict
        Sidecar of its signals.
    networks : sequence of str, length P
        Network label of each parcel; empty for none.
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
    """Draw what the files of a run's embedding allow; that of tokens needs ``--save-tokens``.

    Parameters
    ----------
    paths : OutputPaths
        Its files.
    signals, embedding : dict
        Sidecars of its signals and its embedding.
    """
    columns, rows = read_table(paths.embedding)
    onset, kept = rows[:, columns.index("onset")], rows[:, columns.index("kept")]
    duration, volumes = embedding["WindowDuration"], read_volumes(signals)
    write_figure(_path(paths, f"{paths.model}Windows"), lambda: draw_windows(onset, duration, kept, volumes))
    if paths.tokens.is_file() and "TokenRows" in embedding:
        tokens, names = np.load(paths.tokens), embedding["TokenRows"]
        masked = embedding["MaskedNetworks"]
        write_figure(_path(paths, f"{paths.model}Tokens"), lambda: draw_tokens(tokens, names, masked))


def read_coverage(paths: OutputPaths) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Read the coverage of a run.

    Parameters
    ----------
    paths : OutputPaths
        Its files.

    Returns
    -------
    coverage : NDArray, float64, shape (P,)
        Not-a-number where unknown.
    present : NDArray, bool, shape (P,)
        Parcels that have a signal.
    """
    lines = paths.file("stat-coverage_bold.tsv").read_text(encoding="utf-8").splitlines()
    columns = lines[0].split("\t")
    rows = [line.split("\t") for line in lines[1:]]
    share, there = columns.index("coverage"), columns.index("present")
    coverage = [float("nan") if row[share] == "n/a" else float(row[share]) for row in rows]
    return np.array(coverage), np.array([row[there] == "true" for row in rows], dtype=np.bool_)


def _path(paths: OutputPaths, word: str) -> Path:
    return build_figure_path(paths.out_dir, paths.stem, word)
