"""The quality of a run: its measures, in one small record per run, limits on them, and what to do with the run."""

from __future__ import annotations

import base64
import logging
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.bids_names import parse_entities
from bids_semantoks.config import AppConfig
from bids_semantoks.config.call import parse_motion_filter
from bids_semantoks.errors import ConfigurationError, RunFailed, RunSkipped
from bids_semantoks.files import read_json, read_object, read_records, write_json
from bids_semantoks.inputs.selection import describe_labels
from bids_semantoks.outputs.connectivity import read_coverage
from bids_semantoks.outputs.features import read_embedding
from bids_semantoks.outputs.sidecars import check_table, describe_differences, find_maker
from bids_semantoks.outputs.store import OutputPaths, StoredRun, read_sidecar, read_statuses
from bids_semantoks.quality.fit import AMBER, GREEN, RED, FitItem, find_worst, judge_fit

LOGGER = logging.getLogger("bids_semantoks")
#: Key of the run's mean embedding (dims,), as base64 of half floats: only the cohort can say how unusual it is.
MEAN_EMBEDDING: Final = "mean_embedding"
_TEXT: Final = ("input_fit", "version", MEAN_EMBEDDING)
_LISTS: Final = ("warnings", "masked_networks", "input_fit_reasons")


class Limit(NamedTuple):
    """Limits beyond which a run should be inspected (amber) or excluded (red)."""

    amber: float
    red: float
    is_upper: bool  # values above are worse


#: Limits on measures of a run, by their column in group_qc.tsv.
LIMITS: Final = {
    "mean_fd": Limit(0.2, 0.5, True),  # mm
    "kept_seconds": Limit(300.0, 100.0, False),
    "scrubbed_share": Limit(0.2, 0.5, True),
    "coverage": Limit(0.9, 0.8, False),
}
#: Name of a measure, how its values are written, and where its limits come from.
_WORDS: Final = {
    "mean_fd": ("mean FD", "{:.2f} mm", "convention; single volumes are scrubbed above 0.2 or 0.5 mm (Power et al.)"),
    "kept_seconds": ("kept data", "{:.0f} s", "connectivity stabilises after about 5 min (Van Dijk et al. 2010)"),
    "scrubbed_share": ("scrubbed volumes", "{:.0%}", "convention of bids_semantoks"),
    "coverage": ("coverage", "{:.2f}", "convention of bids_semantoks"),
}
#: Remedies for the reasons of RunFailed and RunSkipped, and for those that only a cohort has.
REMEDIES: Final[dict[str, str]] = read_json(Path(__file__).parent.parent / "data" / "remedies.json")
#: Repetition times (s) for which encoders have been evaluated.
REPETITION_TIMES: Final = (0.7, 3.0)


def judge_measures(values: Mapping[str, Any]) -> dict[str, str]:
    """Judge the measures of a run (`build_run_qc`) by fixed limits: amber or red by column, nothing for the others. A
    masked network is red, since its tokens are only predicted by the encoder."""
    levels = {}
    for column, limit in LIMITS.items():
        value = values.get(column)
        if value is None:
            continue
        sign = 1 if limit.is_upper else -1
        # Shares and products of binary fractions may miss a limit written in decimals by their last bit.
        beyond = [level for level, edge in ((RED, limit.red), (AMBER, limit.amber)) if sign * (value - edge) > 1e-9]
        if beyond:
            levels[column] = beyond[0]
    if values.get("masked_networks"):
        levels["masked_networks"] = RED
    low, high = REPETITION_TIMES
    step = values.get("repetition_time")
    if step is not None and not low - 1e-9 <= step <= high + 1e-9:
        levels["repetition_time"] = AMBER
    return levels


def check_kept_time(sidecar: Mapping[str, Any], min_time: float) -> None:
    """Refuse stored signals with less kept data than --min-time (s): RunSkipped too_few_kept."""
    kept = sidecar["VolumesKept"] * sidecar["RepetitionTime"]
    # A product of binary fractions may fall short of the same time written in decimals.
    if kept < min_time * (1 - 1e-9):
        raise RunSkipped("too_few_kept", f"{kept:.0f} s of kept data, less than --min-time {min_time:g} s.")


def leave_out(config: AppConfig, stored: Sequence[StoredRun]) -> tuple[list[StoredRun], dict[str, tuple[str, str]]]:
    """Divide stored runs by the --min-time and --min-coverage of this call: the runs that meet them, and the reason and
    message of each other run by stem. An option that is not given leaves the limits of the participant level."""
    kept: list[StoredRun] = []
    left: dict[str, tuple[str, str]] = {}
    for run in stored:
        if problem := _find_problem(config, run):
            left[run.paths.stem] = problem
        else:
            kept.append(run)
    if left:
        counts = Counter(reason for reason, _ in left.values())
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(counts.items()))
        first, (_, why) = next(iter(left.items()))
        facts = len(left), len(stored), reasons, first, why
        LOGGER.warning("Skipping %d of %d stored runs (%s), the first is %s: %s", *facts)
    return kept, left


def _find_problem(config: AppConfig, run: StoredRun) -> tuple[str, str] | None:
    signals = config.signals
    if config.is_given(signals, "min_time"):
        try:
            check_kept_time(run.sidecar, signals.min_time)
        except RunSkipped as error:
            return error.reason, str(error)
    # The table is only read if its limit was laxer.
    former = run.sidecar["Settings"].get("min_coverage")
    if config.is_given(signals, "min_coverage") and (former is None or former < signals.min_coverage):
        try:
            check_table(run.paths.coverage, run.sidecar)
            below = _find_below(run.paths, signals.min_coverage)
        except (RunFailed, OSError, ValueError) as error:
            return "low_coverage", f"{run.paths.coverage} cannot be read ({error}); it is required for --min-coverage."
        if below:
            return "low_coverage", (
                f"{len(below)} of {run.sidecar['Atlas']['Parcels']} parcels with signals are below --min-coverage "
                f"{signals.min_coverage:g} (minimum {min(below):.2f})."
            )
    return None


def _find_below(paths: OutputPaths, limit: float) -> list[float]:
    """Read the coverage of the parcels that have signals though it is below a limit."""
    header, rows = read_records(paths.coverage)
    coverage, present = header.index("coverage"), header.index("present")
    found = [float(row[coverage]) for row in rows if row[present] == "true"]
    # The table has 9 digits.
    return [value for value in found if value < limit * (1 - 1e-8)]


def check_settings(config: AppConfig, stored: Sequence[StoredRun], denoising: Mapping[str, Any]) -> None:
    """Refuse options of a call that stored signals were made without, since only the participant level can make them
    again: ConfigurationError. `denoising` is that of --denoise, in JSON; options that are not given do not count."""
    signals = config.signals
    wanted: dict[str, Any] = {
        "denoising": dict(denoising),
        "band_pass": list(signals.band_pass) if signals.band_pass else None,
        "fd_threshold": signals.fd_threshold,
        "dummy_scans": signals.dummy_scans,
        # A stricter limit excludes runs; a laxer one would need parcels that are not stored.
        "min_coverage": signals.min_coverage,
    }
    if signals.motion_filter is not None:
        kind, edges = parse_motion_filter(signals.motion_filter)
        wanted["motion_filter"] = [kind, *edges]
    names = {"denoising": "denoise"}
    wanted = {key: value for key, value in wanted.items() if config.is_given(signals, names.get(key, key))}
    for run in stored:
        found = run.sidecar["Settings"]
        # Series are used as they are, whatever these options say; so are images that came denoised.
        if found.get("denoising") is None:
            continue
        own = {key: found.get(key) for key in wanted}
        if "DenoisedBy" in run.sidecar["Denoising"]:
            own |= {key: wanted[key] for key in ("denoising", "band_pass") if key in wanted}
        if "min_coverage" in own and (own["min_coverage"] or 0.0) < signals.min_coverage:
            own["min_coverage"] = signals.min_coverage
        if differences := describe_differences(own, wanted):
            raise ConfigurationError(
                f"The signals of {run.paths.stem} in {run.paths.out_dir} were extracted with different settings: "
                f"{'; '.join(differences)}.",
                hint="Use the original settings, or rerun the participant level with --overwrite.",
            )


def warn_of_lost(out_dir: Path, known: Collection[str], *, atlas: str, space: str) -> None:
    """Count the participants that the participant level found but who have no signals, by the reason of their runs."""
    lost: dict[str, set[str]] = {}
    for stem, status in read_statuses(out_dir):
        found = parse_entities(stem)
        is_ours = found.get("atlas") == atlas and found.get("space", "") == space
        if is_ours and found["sub"] not in known and status.get("reason"):
            lost.setdefault(status["reason"], set()).add(found["sub"])
    for reason, labels in sorted(lost.items()):
        LOGGER.warning("Participants without signals (%s): %s", reason, describe_labels(labels))


class Verdict(NamedTuple):
    """What to do with a run."""

    level: str  # green, amber or red
    action: str  # Use, Look or Leave out
    reason: str  # a sentence


def measure_run(signals: Mapping[str, Any], coverage: NDArray[np.float64]) -> dict[str, Any]:
    """Collect the measures of a run that `judge_measures` knows, from the sidecar of its signals; None if unknown.
    `coverage` (P,) is the share of each parcel that has data, NaN if unknown."""
    n_total, dropped = signals["VolumesTotal"], signals["VolumesDropped"]
    n_real = n_total - dropped["Dummy"]["Count"] - dropped.get("Padding", {}).get("Count", 0)
    return {
        "mean_fd": signals["MeanFramewiseDisplacement"],
        "kept_seconds": signals["VolumesKept"] * signals["RepetitionTime"],
        "scrubbed_share": dropped["Scrubbed"]["Count"] / n_real if n_real > 0 else None,
        "coverage": None if np.isnan(coverage).all() else float(np.nanmean(coverage)),
        "repetition_time": signals["RepetitionTime"],
    }


def judge_run(measures: Mapping[str, Any]) -> list[FitItem]:
    """Judge motion, kept data, scrubbing, coverage and repetition time of a run by limits that hold for any encoder."""
    levels = judge_measures(measures)
    items = []
    for column, (name, style, source) in _WORDS.items():
        limit, value = LIMITS[column], measures.get(column)
        side = "above" if limit.is_upper else "below"
        words = f"look {side} {style.format(limit.amber)}, leave out {side} {style.format(limit.red)}"
        if value is None:
            items.append(FitItem(name, "not known", "unknown", words, source))
        else:
            items.append(FitItem(name, style.format(value), levels.get(column, GREEN), words, source))
    low, high = REPETITION_TIMES
    shown, words = f"{measures['repetition_time']:g} s", f"look outside {low:g} to {high:g} s"
    level = levels.get("repetition_time", GREEN)
    return [*items, FitItem("repetition time", shown, level, words, "range in which encoders were evaluated")]


def judge(items: Sequence[FitItem], problem: str = "") -> Verdict:
    """Sum up judged properties, at least one; `problem`, the reason why there is nothing to judge, takes precedence."""
    if problem:
        return Verdict(RED, "Leave out", problem)
    known = [item for item in items if item.level in (GREEN, AMBER, RED)]
    worst = find_worst(known)
    if worst == GREEN:
        return Verdict(GREEN, "Use", "All measures are within their limits.")
    bad = sorted((item for item in known if item.level != GREEN), key=lambda item: item.level != RED)
    reason = "; ".join(dict.fromkeys(f"{item.name} {item.value} ({item.words})" for item in bad))
    return Verdict(worst, "Leave out" if worst == RED else "Look", f"{reason[:1].upper()}{reason[1:]}.")


def write_run_qc(paths: OutputPaths, *, seconds: float | None) -> None:
    """Write the measures of a run whose signals are stored; `seconds` is the time of the whole job, None if unknown. A
    failure is only logged, as the results are on disk already."""
    try:
        values = build_run_qc(paths)
        if values is not None:
            write_json(paths.qc, values | {"seconds": None if seconds is None else round(seconds, 3)})
    except OSError as error:
        LOGGER.error("Cannot write %s: %s.", paths.qc, error.strerror or error)


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
