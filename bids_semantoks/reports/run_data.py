"""The report data of a run, in one small file per run: `logs/sub-<label>/<stem>_page.json.gz`.

Signals before denoising and the motion of each volume are only available during extraction; from this file the report
can be regenerated at any time, and publication figures drawn.

Shape letters: T volumes, P parcels, N networks.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import math
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.files import hash_file, open_atomic, parse_json, read_object, read_table
from bids_semantoks.outputs.connectivity import read_coverage
from bids_semantoks.outputs.sidecars import check_table
from bids_semantoks.outputs.store import OutputPaths, read_signals
from bids_semantoks.records import CANONICAL_NETWORKS, ParcelSignals
from bids_semantoks.reports.pages import attempt
from bids_semantoks.reports.palette_images import (
    ABSENT,
    ABSENT_COLOUR,
    COVERAGE,
    GREYS,
    RED_BLUE,
    from_base64,
    to_base64,
)
from bids_semantoks.statistics.baselines import compute_connectivity
from bids_semantoks.statistics.series import compute_dvars, compute_global, thin_columns, zscore_rows

#: Of the file; one of another version is built again from the tables.
VERSION: Final = 1

#: Maximum resolution; more than a screen shows would only cost bytes.
_MAX_COLUMNS: Final = 480
_MAX_ROWS: Final = 600

#: Bins of the histogram of correlations, from -1 to 1.
N_BINS: Final = 50

_N_SLICES: Final = 8
_NO_NETWORK: Final = "no network"


class NetworkOrder(NamedTuple):
    """Parcels sorted by network."""

    order: NDArray[np.int64]  # (P,) parcel positions, sorted by network
    names: list[str]  # (N,) in display order
    edges: NDArray[np.int64]  # (N + 1,) first sorted position of each network, then P


def sort_by_network(networks: Sequence[str]) -> NetworkOrder:
    """Sort parcels by network label (empty for none): canonical networks, then others by name, then those without."""
    labels = [label or _NO_NETWORK for label in networks]
    others = sorted(set(labels) - {*CANONICAL_NETWORKS, _NO_NETWORK})
    names = [name for name in (*CANONICAL_NETWORKS, *others, _NO_NETWORK) if name in labels]
    rank = np.array([names.index(label) for label in labels], dtype=np.int64)
    edges = np.concatenate([[0], np.cumsum(np.bincount(rank, minlength=len(names)))]).astype(np.int64)
    return NetworkOrder(np.argsort(rank, kind="stable"), names, edges)


def write_run_data(
    paths: OutputPaths,
    signals: ParcelSignals,
    atlas: tuple[Sequence[str], Sequence[str]],
    build_grid: Callable[[], NDArray[np.int32] | None],
) -> list[Path]:
    """Write the report data of a run once its signals are written, and return their path, or none if it failed; `atlas`
    (parcels, networks), `build_grid` as `build_picture_grid`."""

    def write() -> None:
        for path in (paths.page_data, paths.page_data.with_suffix("")):
            path.unlink(missing_ok=True)
        data = build_run_data(signals, *atlas, build_grid())
        data["connectivity"] = _halve(data["connectivity"])
        text = json.dumps({"SignalsSHA256": hash_file(paths.signals), **data}, separators=(",", ":"), allow_nan=False)
        with open_atomic(paths.page_data) as file:
            # Without the time, so that the same data are the same bytes.
            file.write(gzip.compress(f"{text}\n".encode(), mtime=0))

    return [paths.page_data] if attempt(write, paths.page_data, "write") else []


def read_run_data(
    paths: OutputPaths, sidecar: dict[str, Any], atlas: tuple[Sequence[str], Sequence[str]]
) -> dict[str, Any]:
    """Read the report data of a run; if the file is missing, damaged or from other signals, rebuild what the tables
    allow."""
    data = _read_file(paths.page_data) or read_object(paths.page_data.with_suffix(""))
    if data.get("Version") == VERSION and data.get("SignalsSHA256") == sidecar["TableSHA256"]:
        return {**data, "connectivity": _mirror(data["connectivity"])}
    return build_run_data(read_stored_signals(paths, sidecar), *atlas, None)


def _read_file(path: Path) -> dict[str, Any]:
    """Read the file of a page; empty if it is absent or damaged."""
    with contextlib.suppress(OSError, EOFError, ValueError, zlib.error):
        values = parse_json(gzip.decompress(path.read_bytes()).decode())
        return values if isinstance(values, dict) else {}
    return {}


def _halve(found: dict[str, Any]) -> dict[str, Any]:
    """Keep one half of the image of correlations, which is symmetric."""
    image = from_base64(found["image"])
    half = to_base64(image[np.triu_indices_from(image)][None], RED_BLUE.colours)
    return {**{key: value for key, value in found.items() if key != "image"}, "half": half}


def _mirror(found: dict[str, Any]) -> dict[str, Any]:
    """Complete the image of correlations from its half; earlier versions kept it whole."""
    if "half" not in found:
        return found
    half = from_base64(found["half"])[0]
    size = math.isqrt(2 * half.size)
    image = np.zeros((size, size), dtype=np.uint8)
    image[np.triu_indices(size)] = half
    return {**found, "image": to_base64(np.maximum(image, image.T), RED_BLUE.colours)}


def read_stored_signals(paths: OutputPaths, sidecar: dict[str, Any]) -> ParcelSignals:
    """Read the signals of a run as far as they are stored: without motion, and before denoising only with
    --save-raw-signals (else as after). Raises RunFailed damaged_table."""
    values = raw = read_signals(paths, sidecar)[1]
    if paths.raw.is_file():
        check_table(paths.raw, sidecar)
        raw = read_table(paths.raw)[1].astype(np.float32)
    dropped = sidecar["VolumesDropped"]
    kept = np.ones(len(values), dtype=np.bool_)
    kept[: dropped["Dummy"]["Count"]] = False
    kept[dropped["Scrubbed"]["Volumes"]] = False
    n_padding = dropped.get("Padding", {}).get("Count", 0)
    kept[kept.size - n_padding :] = False
    return ParcelSignals(
        values=values,
        raw=raw,
        kept=kept,
        n_dummy=dropped["Dummy"]["Count"],
        coverage=read_coverage(paths.coverage)[0],
        n_voxels=np.full(values.shape[1], -1),
        repetition_time=sidecar["RepetitionTime"],
        regressors=(),
        framewise_displacement=np.full(len(values), np.nan),
        n_padding=n_padding,
    )


def build_run_data(
    signals: ParcelSignals, parcels: Sequence[str], networks: Sequence[str], grid: NDArray[np.int32] | None
) -> dict[str, Any]:
    """Build the report data of a run as plain values; images are base64 of PNG, parcels ordered by network.

    `parcels` and `networks` are names, (P,) each; `grid` (X, Y, Z) holds the position + 1 of the parcel in each voxel.
    """
    order = sort_by_network(networks)
    # If the kept volumes are the same before and after, one figure shows both.
    is_changed = not np.array_equal(signals.raw[signals.kept], signals.values[signals.kept], equal_nan=True)
    return {
        "Version": VERSION,
        "parcels": [parcels[p] for p in order.order],
        "networks": [list(pair) for pair in zip(order.names, order.edges.tolist(), strict=False)],
        "traces": _build_traces(signals, is_changed=is_changed),
        "carpets": _build_carpets(signals, order, is_changed=is_changed),
        "connectivity": _build_connectivity(signals.values, order),
        "slices": None if grid is None else _build_slices(signals, grid),
    }


def _build_traces(signals: ParcelSignals, *, is_changed: bool) -> dict[str, list[float | None]]:
    """Build the available traces (T,): motion, DVARS and global signal before (if it differs) and after."""
    filtered = signals.filtered_motion
    traces = {"fd": signals.framewise_displacement, "fd_filtered": None if filtered is None else filtered.values}
    for when, values in (("before", signals.raw if is_changed else None), ("after", signals.values)):
        if values is not None:
            traces[f"dvars_{when}"] = compute_dvars(values)
            traces[f"global_{when}"] = compute_global(values, signals.n_voxels)
    return {
        name: [None if math.isnan(value) else float(f"{value:.4g}") for value in trace.tolist()]
        for name, trace in traces.items()
        if trace is not None and not np.isnan(trace).all()
    }


def _build_carpets(signals: ParcelSignals, order: NetworkOrder, *, is_changed: bool) -> dict[str, Any]:
    n_volumes, n_parcels = signals.values.shape
    step, rows = -(-n_volumes // _MAX_COLUMNS), -(-n_parcels // _MAX_ROWS)
    steady = signals.raw.copy()
    # Dummy volumes are so bright that they would dominate the scale.
    steady[: signals.n_dummy] = np.nan
    images, common = {}, {}
    for when, values in (("before", steady), ("after", signals.values)):
        if when == "after" or is_changed:
            scores = zscore_rows(values)[order.order]
            common[when] = _measure_common(scores)
            thinned = thin_columns(thin_columns(scores, step).T, rows).T
            images[when] = GREYS.draw(thinned)
    return {"step": step, "rows": rows, "common": common, **images}


def _measure_common(scores: NDArray[np.float64]) -> float | None:
    """Compute the share of variance explained by the mean over parcels, seen as bands in a carpet: (P, T) -> share."""
    known = scores[:, ~np.isnan(scores).all(axis=0)]
    known = known[~np.isnan(known).any(axis=1)]
    if not known.size:
        return None
    total = float((known**2).mean())
    return round(float((known.mean(axis=0) ** 2).mean()) / total, 3) if total > 0 else None


def _build_connectivity(values: NDArray[np.float32], order: NetworkOrder) -> dict[str, Any]:
    matrix = compute_connectivity(values)[np.ix_(order.order, order.order)]
    pairs = matrix[np.triu_indices_from(matrix, k=1)]
    pairs = pairs[~np.isnan(pairs)]
    rows = -(-len(matrix) // _MAX_ROWS)
    thinned = thin_columns(thin_columns(matrix, rows).T, rows).T
    return {
        "rows": rows,
        "image": RED_BLUE.draw(thinned),
        "counts": np.histogram(pairs, bins=N_BINS, range=(-1, 1))[0].tolist(),
        "median": round(float(np.median(pairs)), 3) if pairs.size else None,
        "means": average_blocks(matrix, order),
    }


def average_blocks(matrix: NDArray[np.float64], order: NetworkOrder) -> list[list[float | None]]:
    """Average the correlations within and between networks, without the diagonal: (P, P) -> (N, N); None if there
    are no pairs."""
    off = matrix.copy()
    np.fill_diagonal(off, np.nan)
    starts = order.edges[:-1]
    totals, counts = (
        np.add.reduceat(np.add.reduceat(one, starts, axis=0), starts, axis=1)
        for one in (np.nan_to_num(off), (~np.isnan(off)).astype(np.float64))
    )
    return [
        [round(float(total / count), 3) if count else None for total, count in zip(*pair, strict=True)]
        for pair in zip(totals, counts, strict=True)
    ]


def _build_slices(signals: ParcelSignals, grid: NDArray[np.int32]) -> dict[str, Any]:
    """Cut sagittal, coronal and axial slices of the figure grid; show the coverage of each parcel."""
    shown = COVERAGE.quantise(np.nan_to_num(signals.coverage, nan=0.0))
    shown[~signals.present] = ABSENT
    colours = np.concatenate([np.zeros(1, dtype=np.uint8), shown])
    filled = np.flatnonzero(grid.any(axis=(0, 1)))
    levels = np.unique(np.linspace(filled[0], filled[-1], _N_SLICES + 2).astype(int)[1:-1])
    side, front = np.flatnonzero(grid.any(axis=(1, 2))), np.flatnonzero(grid.any(axis=(0, 2)))
    # Off the midline, where many atlases have a gap.
    cuts = [grid[min(int(side.mean()) + 4, side[-1])], grid[:, int(front.mean())], *(grid[:, :, z] for z in levels)]
    height = max(cut.shape[1] for cut in cuts)
    padded = []
    for cut in cuts:
        below = (height - cut.shape[1]) // 2
        padded.append(np.pad(cut, ((2, 2), (below, height - cut.shape[1] - below))))
    image = colours[np.concatenate(padded)].T[::-1]
    return {"size": [image.shape[1], image.shape[0]], "image": to_base64(image, (*COVERAGE.colours, ABSENT_COLOUR))}
