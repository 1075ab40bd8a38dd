"""The report data of a run, in one small file per run: `logs/sub-<label>/<stem>_page.json.gz`, and its images.

Signals before denoising and the motion of each volume are only available during extraction; from this file the report
can be regenerated at any time, and publication figures drawn.

Shape letters: T volumes, P parcels, N networks.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import math
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.files import hash_file, open_atomic, parse_json, read_object, read_table
from bids_semantoks.outputs.connectivity import read_coverage
from bids_semantoks.outputs.sidecars import check_table
from bids_semantoks.outputs.store import OutputPaths, read_signals
from bids_semantoks.records import CANONICAL_NETWORKS, Floats, Indices, ParcelSignals, Reals
from bids_semantoks.reports.pages import attempt
from bids_semantoks.statistics.series import (
    compute_connectivity,
    compute_dvars,
    compute_global,
    thin_columns,
    zscore_rows,
)

Image = NDArray[np.uint8]  # (rows, columns): 0 where missing, which is transparent, else 1 to the number of colours


@dataclass(frozen=True, kw_only=True, slots=True)
class Palette:
    """Colours of evenly spaced values."""

    colours: tuple[str, ...]  # rrggbb, from `low` to `high`
    low: float
    high: float

    def quantise(self, values: Reals) -> Image:
        """Find the colour of each value, clipped to the range; NaN is missing."""
        n = len(self.colours)
        scaled = (np.nan_to_num(values, nan=self.low) - self.low) / (self.high - self.low)
        indices = np.clip((scaled * n).astype(np.int64), 0, n - 1) + 1
        return np.where(np.isnan(values), 0, indices).astype(np.uint8)

    def draw(self, values: Reals) -> str:
        """Draw values as an image, in base64."""
        return to_base64(self.quantise(values), self.colours)

    def restore(self, image: Image) -> Floats:
        """Return the middle of each colour's range; NaN where missing."""
        middle = self.low + (image.astype(np.float64) - 0.5) * (self.high - self.low) / len(self.colours)
        return np.where(image == 0, np.nan, middle)


def _blend(anchors: str, n: int) -> tuple[str, ...]:
    """Interpolate `n` colours between evenly spaced anchors."""
    fixed = np.array([list(bytes.fromhex(one)) for one in anchors.split()], dtype=np.float64)
    at = np.linspace(0, len(fixed) - 1, n)
    blended = [np.interp(at, range(len(fixed)), fixed[:, channel]) for channel in range(3)]
    return tuple(bytes(colour).hex() for colour in np.rint(blended).astype(np.uint8).T)


#: Z-scores of carpets: 15 greys and missing fit into four bits per pixel.
GREYS: Final = Palette(colours=_blend("000000 ffffff", 15), low=-2.0, high=2.0)

#: Correlations: ColorBrewer's RdBu, reversed.
RED_BLUE: Final = Palette(
    colours=_blend("053061 2065ab 4393c3 90c4dd d1e5f0 f7f6f6 fddbc7 f3a481 d6604d b1182b 67001f", 31),
    low=-1.0,
    high=1.0,
)

#: Shares and similarities: cividis, designed for colour vision deficiency (doi:10.1371/journal.pone.0199239).
CIVIDIS_COLOURS: Final = _blend("00224e 083370 35456c 4f576c 666970 7d7c78 948e77 aea371 c8b866 e5cf52 fee838", 31)

#: Coverage; one more colour marks parcels that are absent (`ABSENT`).
COVERAGE: Final = Palette(colours=CIVIDIS_COLOURS, low=0.0, high=1.0)
ABSENT: Final = len(CIVIDIS_COLOURS) + 1
ABSENT_COLOUR: Final = "d55e00"


def to_base64(image: Image, colours: tuple[str, ...]) -> str:
    """Write an image whose values are positions in `colours`, from 1, at most 255, and 0 where it is transparent, as
    the rest of a ``data:image/png;base64,`` address."""
    depth = 4 if len(colours) < 16 else 8
    rows: Image = np.ascontiguousarray(image)
    if depth == 4:
        even = np.pad(rows, ((0, 0), (0, rows.shape[1] % 2)))
        rows = ((even[:, ::2] << 4) | even[:, 1::2]).astype(np.uint8)
    filtered = np.pad(rows, ((0, 0), (1, 0)))  # filter 0, none, before each row
    # Run lengths and Huffman codes only: in noise there are no other matches, and it is a sixth shorter.
    packer = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, 8, zlib.Z_RLE)
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", image.shape[1], image.shape[0], depth, 3, 0, 0, 0),
        b"PLTE": bytes.fromhex("000000" + "".join(colours)),
        b"tRNS": b"\x00",
        b"IDAT": packer.compress(filtered.tobytes()) + packer.flush(),
        b"IEND": b"",
    }
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks.items()
    )
    return base64.b64encode(content).decode()


def from_base64(text: str) -> Image:
    """Read back an image of `to_base64`."""
    content = base64.b64decode(text)
    width, height, depth = struct.unpack(">IIB", content[16:25])
    start = content.index(b"IDAT")
    n_bytes = struct.unpack(">I", content[start - 4 : start])[0]
    rows = np.frombuffer(zlib.decompress(content[start + 4 : start + 4 + n_bytes]), dtype=np.uint8)
    rows = rows.reshape(height, -1)[:, 1:]
    if depth == 4:
        rows = np.stack([rows >> 4, rows & 15], axis=2).reshape(height, -1)
    return rows[:, :width]


VERSION: Final = 1  # of the file; one of another version is built again from the tables

#: Maximum resolution; more than a screen shows would only cost bytes.
_MAX_COLUMNS: Final = 480
_MAX_ROWS: Final = 600
N_BINS: Final = 50  # bins of the histogram of correlations, from -1 to 1
_N_SLICES: Final = 8
_NO_NETWORK: Final = "no network"


class NetworkOrder(NamedTuple):
    """Parcels sorted by network."""

    order: Indices  # (P,) parcel positions, sorted by network
    names: list[str]  # (N,) in display order
    edges: Indices  # (N + 1,) first sorted position of each network, then P


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
        """Replace the data of an earlier call."""
        for path in (paths.page_data, paths.page_data.with_suffix("")):
            path.unlink(missing_ok=True)
        data = build_run_data(signals, *atlas, build_grid())
        found = data["connectivity"]
        image = from_base64(found.pop("image"))
        # One half of it is enough, as it is symmetric.
        found["half"] = to_base64(image[np.triu_indices_from(image)][None], RED_BLUE.colours)
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
    data: Any = None
    with contextlib.suppress(OSError, EOFError, ValueError, zlib.error):
        data = parse_json(gzip.decompress(paths.page_data.read_bytes()).decode())
    if not isinstance(data, dict) or not data:
        # Earlier versions did not compress it.
        data = read_object(paths.page_data.with_suffix(""))
    if data.get("Version") == VERSION and data.get("SignalsSHA256") == sidecar["TableSHA256"]:
        return {**data, "connectivity": _mirror(data["connectivity"])}
    return build_run_data(read_stored_signals(paths, sidecar), *atlas, None)


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
    """Build the report data of a run as plain values; images are base64 of PNG, parcels ordered by network. `parcels`
    and `networks` are names, (P,) each; `grid` (X, Y, Z) holds the position + 1 of the parcel in each voxel."""
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


def _measure_common(scores: Floats) -> float | None:
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


def average_blocks(matrix: Floats, order: NetworkOrder) -> list[list[float | None]]:
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
