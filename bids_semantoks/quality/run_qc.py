"""Quality measures of a run from its files, in one small record per run."""

from __future__ import annotations

import base64
import logging
import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.errors import RunFailed
from bids_semantoks.files import read_object, write_json
from bids_semantoks.outputs.connectivity import read_coverage
from bids_semantoks.outputs.features import read_embedding
from bids_semantoks.outputs.sidecars import find_maker
from bids_semantoks.outputs.store import OutputPaths, read_sidecar
from bids_semantoks.quality.fit import GREEN, find_worst, judge_fit
from bids_semantoks.quality.limits import measure_run

LOGGER = logging.getLogger("bids_semantoks")
#: Key of the run's mean embedding (dims,), as base64 of half floats: only the cohort can say how unusual it is.
MEAN_EMBEDDING: Final = "mean_embedding"
_TEXT: Final = ("input_fit", "version", MEAN_EMBEDDING)
_LISTS: Final = ("warnings", "masked_networks", "input_fit_reasons")


def write_run_qc(paths: OutputPaths, *, seconds: float | None) -> None:
    """Write the measures of a run whose signals are stored; `seconds` is the time of the whole job, None if unknown. A
    failure is only logged, as the results are on disk already."""
    try:
        values = build_run_qc(paths)
        if values is not None:
            write_json(paths.qc, values | {"seconds": None if seconds is None else round(seconds, 3)})
    except OSError as error:
        LOGGER.error("Cannot write %s: %s.", paths.qc, error.strerror or error)


def remove_run_qc(paths: OutputPaths) -> None:
    """Remove the record of a run that is recomputed, so that it cannot outlive its source."""
    paths.qc.unlink(missing_ok=True)


def read_run_qc(paths: OutputPaths) -> dict[str, Any]:
    """Read the measures of a run, or build them from its files where an earlier version wrote none; empty if the run
    has no signals."""
    found = {key: value for key, value in read_object(paths.qc).items() if _is_plain(key, value)}
    return found if "kept_seconds" in found else build_run_qc(paths) or {}


def _is_plain(key: str, value: object) -> bool:
    """Return whether a value has the expected form, even if the file was edited or damaged."""
    if value is None or isinstance(value, bool):
        return value is None
    if key in _TEXT:
        return isinstance(value, str)
    if key in _LISTS:
        return isinstance(value, list)
    return isinstance(value, int | float) and math.isfinite(value)


def build_run_qc(paths: OutputPaths) -> dict[str, Any] | None:
    """Build the measures of a run from its files, None for what is unknown; None without signals that can be read.
    Those of the embedding are there if `paths` name an encoder that has embedded the run."""
    signals = read_sidecar(paths.signals_sidecar)
    if signals is None:
        return None
    try:
        return _measure(paths, signals)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        # Its sidecars have values of another type than ours; the run is judged by its status alone.
        LOGGER.warning("%s has values of the wrong type: %s", paths.signals_sidecar, str(error)[:200])
        return None


def _measure(paths: OutputPaths, signals: Mapping[str, Any]) -> dict[str, Any]:
    coverage, temporal_snr = _read_parcels(paths)
    n_volumes, n_kept, dropped = signals["VolumesTotal"], signals["VolumesKept"], signals["VolumesDropped"]
    known = measure_run(signals, coverage)
    return {
        "mean_fd": known["mean_fd"],
        "max_fd": signals.get("MaximumFramewiseDisplacement"),
        "mean_fd_filtered": signals.get("MeanFilteredFramewiseDisplacement"),
        "max_fd_filtered": signals.get("MaximumFilteredFramewiseDisplacement"),
        "kept_seconds": _round(known["kept_seconds"], 3),
        "kept_share": _round(n_kept / n_volumes) if n_volumes else None,
        "num_volumes": n_volumes,
        "num_dummy_volumes": dropped["Dummy"]["Count"],
        "num_censored_volumes": dropped["Scrubbed"]["Count"],
        "num_retained_volumes": n_kept,
        "scrubbed_share": _round(known["scrubbed_share"]),
        "coverage": _round(known["coverage"]),
        "tsnr": _round(np.nanmedian(temporal_snr), 3) if np.isfinite(temporal_snr).any() else None,
        "n_parcels": signals["Atlas"].get("Parcels"),
        "n_absent_parcels": len(signals.get("AbsentParcels", [])),
        "repetition_time": known["repetition_time"],
        **_measure_embedding(paths, signals, coverage),
        "warnings": [str(one) for one in signals.get("Warnings", [])],
        "version": find_maker(signals),
    }


def _round(value: float | np.floating[Any] | None, digits: int = 6) -> float | None:
    return round(float(value), digits) if value is not None and math.isfinite(value) else None


def _read_parcels(paths: OutputPaths) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Read coverage and temporal SNR of each parcel, (P,) each; NaN where unknown, without parcels if damaged."""
    try:
        coverage, _, temporal_snr = read_coverage(paths.coverage)
    except (OSError, ValueError, KeyError):
        return np.empty(0), np.empty(0)
    return coverage, temporal_snr


def _measure_embedding(paths: OutputPaths, signals: Mapping[str, Any], coverage: NDArray[np.float64]) -> dict[str, Any]:
    """Measure what only an encoder shows: networks without signal, fit to its training, likeness of the windows."""
    embedding = read_sidecar(paths.embedding_sidecar) if paths.model else None
    values: dict[str, Any] = dict.fromkeys(
        ("masked_networks", "input_fit", "input_fit_reasons", "n_windows", "window_similarity", MEAN_EMBEDDING)
    )
    if embedding is None:
        return values
    items = judge_fit(signals, embedding, coverage)
    values |= {
        "masked_networks": [str(name) for name in embedding.get("MaskedNetworks", [])],
        "input_fit": find_worst(items),
        "input_fit_reasons": [f"{item.name} {item.value}: {item.words}" for item in items if item.level != GREEN],
    }
    try:
        vectors = read_embedding(paths).astype(np.float64)
    except (RunFailed, OSError, ValueError):
        return values
    values |= {"n_windows": len(vectors), "window_similarity": _compare_windows(vectors)}
    if len(vectors) and np.isfinite(vectors).all():
        values[MEAN_EMBEDDING] = encode_vector(vectors.mean(axis=0))
    return values


def _compare_windows(vectors: NDArray[np.float64]) -> float | None:
    """Average the cosine similarity over all pairs of windows (B, dims); None for fewer than two."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    n_windows = len(vectors)
    if n_windows < 2 or not (lengths > 0).all():
        return None
    total = np.square((vectors / lengths).sum(axis=0)).sum()
    return _round((total - n_windows) / (n_windows * (n_windows - 1)), 4)


def encode_vector(values: NDArray[np.float64]) -> str:
    """Write a vector as base64 of half floats."""
    largest = float(np.finfo(np.float16).max)
    return base64.b64encode(np.clip(values, -largest, largest).astype("<f2").tobytes()).decode()


def decode_vector(text: str) -> NDArray[np.float64]:
    """Read a vector of `encode_vector`; ValueError for anything else."""
    return np.frombuffer(base64.b64decode(text, validate=True), dtype="<f2").astype(np.float64)
