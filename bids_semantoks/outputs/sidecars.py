"""Build the sidecars of signals and embeddings, compare them with those of earlier calls, and detect damage."""

from __future__ import annotations

import contextlib
import json
import math
import platform
import types
from collections.abc import Iterable, Mapping
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from bids_semantoks.errors import RunFailed
from bids_semantoks.files import hash_file, hash_values, read_json, read_object, write_json
from bids_semantoks.outputs.dataset import describe_warp
from bids_semantoks.records import Atlas, Embedding, Floats, ParcelSignals, Run, Windows
from bids_semantoks.version import __version__, parse_version

#: Start of the pointer that git-annex leaves in place of an unlocked file, and more bytes than a pointer has.
_POINTER, _POINTER_BYTES = b"/annex/objects/", 4096

#: Keys that are read from the sidecar of a run's signals, and the types of values in all sidecars.
_NEEDED = {
    *("Atlas", "Denoising", "Inputs", "MeanFramewiseDisplacement", "Pipeline", "RepetitionTime", "TableSHA256"),
    *("VolumesDropped", "VolumesKept", "VolumesTotal"),
}
_KINDS: dict[str, type | types.UnionType] = {
    **dict.fromkeys(("Atlas", "Files", "FilesSHA256", "Inputs", "Model", "VolumesDropped"), dict),
    **dict.fromkeys(("Pipeline", "SignalsSHA256", "TableSHA256"), str),
    **dict.fromkeys(("AbsentParcels", "Damaged", "PageFiles", "Warnings", "WindowOnsets"), list),
    "Denoising": dict | None,
    "MeanFramewiseDisplacement": int | float | None,
}
_COUNTS = ("VolumesKept", "VolumesTotal", "WindowDuration")


def build_signals_sidecar(
    run: Run,
    atlas: Atlas,
    signals: ParcelSignals,
    *,
    settings: dict[str, Any],
    inputs: dict[str, Any],
    dataset: str,
    min_time: float,
) -> dict[str, Any]:
    """Build the sidecar of a run's cleaned signals. `settings` and `inputs` decide whether the output is up to date;
    ``denoising`` is None in `settings` if the series were used as another pipeline left them. `dataset` is the source's
    name in BIDS URIs, `min_time` the required seconds of kept data."""
    sources = [run.bold, run.partner, run.mask, run.warp, run.confounds]
    sources += [path for path in run.tables if path.is_relative_to(run.dataset)]
    repetition_time = signals.repetition_time
    scrubbed = ~signals.kept
    scrubbed[: signals.n_dummy] = False
    scrubbed[scrubbed.size - signals.n_padding :] = False
    state = "after denoising" if settings["denoising"] else f"from {run.pipeline}, without further denoising"
    denoising: dict[str, Any] = {
        "Preset": "none: as found",
        "Description": f"None: the series come from {run.pipeline}.",
    }
    if settings["denoising"]:
        denoising = {
            "Preset": settings["denoising"]["name"],
            **({"DenoisedBy": run.pipeline} if run.is_denoised else {}),
            "Regressors": list(signals.regressors),
            "BandPass": settings["band_pass"],
            "Filter": "Butterworth of order 5, forwards and backwards, with linear detrending"
            if settings["band_pass"]
            else "none; linear detrending only",
        }
    warped = [{"Image": one.path.name, **describe_warp(one)} for one in atlas.volumes if one.transform is not None]
    threshold, measure = settings["fd_threshold"], {}
    if signals.filtered_motion is not None and threshold is not None:
        measure = {"FramewiseDisplacement": "filtered" if "motion_filter" in settings else "measured"}
    return {
        "Description": f"Mean signal of each parcel {state}, in input units; n/a for dropped "
        "volumes and absent parcels.",
        "Sources": [build_uri(path, run.dataset, dataset) for path in sources if path is not None],
        "Pipeline": run.pipeline,
        "RecognizedAs": run.recognised or "unknown pipeline; read as if it were fMRIPrep",
        "RepetitionTime": repetition_time,
        "SamplingFrequency": 1.0 / repetition_time,
        "Atlas": {
            "Name": atlas.name,
            "Space": atlas.space,
            "SHA256": atlas.sha256,
            "Parcels": len(atlas.parcels),
            **({"Warped": warped} if warped else {}),
        },
        "AveragedOver": run.averaged_over or None,
        **({"Resampling": signals.resampling} if signals.resampling else {}),
        "AbsentParcels": [name for name, there in zip(atlas.parcels, signals.present, strict=True) if not there],
        "Denoising": denoising,
        "VolumesTotal": int(signals.kept.size),
        "VolumesKept": int(signals.kept.sum()),
        "VolumesDropped": {
            "Dummy": {"Count": signals.n_dummy, "Rule": settings["dummy_scans"]},
            "Scrubbed": {
                "Count": int(scrubbed.sum()),
                "FramewiseDisplacementAboveMillimetres": threshold,
                **measure,
                "Volumes": np.flatnonzero(scrubbed).tolist(),
            },
            **({"Padding": {"Count": signals.n_padding}} if signals.n_padding else {}),
        },
        "MinimumTime": min_time,
        **_describe_quality(signals),
        "Warnings": list(signals.warnings),
        "SoftwareVersions": find_versions(),
        "Settings": settings,
        "SettingsHash": hash_values(settings),
        "Inputs": inputs,
    }


def _describe_quality(signals: ParcelSignals) -> dict[str, Any]:
    """Describe framewise displacement, as measured and as filtered, and temporal SNR, as far as they are known."""

    def summarise(word: str, values: Floats) -> dict[str, Any]:
        known = values[~np.isnan(values)]
        return {
            f"{kind}{word}FramewiseDisplacement": round(float(measure(known)), 6) if known.size else None
            for kind, measure in (("Mean", np.mean), ("Maximum", np.max))
        }

    found, filtered = summarise("", signals.framewise_displacement), signals.filtered_motion
    if filtered is not None:
        found |= summarise("Filtered", filtered.values) | {"FilteredFramewiseDisplacementFrom": filtered.source}
    if signals.temporal_snr is not None and (known := signals.temporal_snr[~np.isnan(signals.temporal_snr)]).size:
        found["TemporalSNR"] = {"Median": round(float(np.median(known)), 3), "Lowest": round(float(known.min()), 3)}
    return found


def build_embedding_sidecar(
    windows: Windows, embedding: Embedding, *, settings: dict[str, Any], facts: dict[str, Any], as_array: bool = False
) -> dict[str, Any]:
    """Build the sidecar of a run's embedding from `settings`, which determine whether it is up to date, and further
    `facts`."""
    first = {"Description": "First dimension of the embedding; the others are numbered consecutively."}
    return {
        "Description": "Embedding of parcel signals by a frozen Brain-Semantoks encoder, one row per window.",
        **facts,
        "WindowOnsets": windows.onset.tolist(),
        "WindowDuration": windows.duration,
        "MaskedNetworks": list(embedding.masked_networks),
        "MaskedPatches": embedding.n_masked_patches.tolist(),
        "SoftwareVersions": find_versions(),
        "Settings": settings,
        "SettingsHash": hash_values(settings),
        "window": {"Description": "Number of the window, from 1."},
        "onset": {"Description": "Start of the window, relative to the first volume of the run.", "Units": "s"},
        "duration": {"Description": "Length of the window, padding included.", "Units": "s"},
        "kept": {"Description": "Share of the window's time that is real and neither dummy nor scrubbed."},
        **(
            {"Vectors": "In the file of the same name that ends in .npy: float32, one row per window."}
            if as_array
            else {"dim0001": first}
        ),
    }


def describe_differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Describe each setting that differs between the outputs on disk and this call in one phrase."""

    def shorten(value: object) -> str:
        """Show the first 60 characters of a value."""
        text = json.dumps(value)
        return text if len(text) <= 60 else f"{text[:57]}..."

    pairs = [(key, stored.get(key), wanted.get(key)) for key in sorted(set(stored) | set(wanted))]
    return [f"{key} (on disk {shorten(old)}, now {shorten(new)})" for key, old, new in pairs if old != new]


def describe_inputs(run: Run, *, with_metadata: bool = False) -> dict[str, dict[str, int | float | None] | None]:
    """Describe the files of a run so that changes are detected without reading them.

    Returns size (bytes) and modification time (ns) of each existing file; for the sidecars, which may be several, the
    repetition time they give; None for content that was never fetched or was dropped. `with_metadata` adds the JSON
    sidecar of the confounds, from which CompCor components are chosen.
    """
    named = {"bold": run.bold, "partner": run.partner, "mask": run.mask, "confounds": run.confounds, "warp": run.warp}
    named |= {f"table{number}": path for number, path in enumerate(run.tables, start=1)}
    if with_metadata and run.confounds is not None:
        named["confounds_metadata"] = run.confounds.with_suffix(".json")
    described: dict[str, dict[str, int | float | None] | None] = {"sidecar": {"RepetitionTime": run.repetition_time}}
    if run.repetition_time is None and _lacks_content(run.bold.with_name(f"{run.bold.name.partition('.')[0]}.json")):
        described["sidecar"] = None
    for name, path in named.items():
        if path is not None and _lacks_content(path):
            described[name] = None
        elif path is not None and path.exists():
            status = path.stat()
            described[name] = {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
    return described


def _lacks_content(path: Path) -> bool:
    """Detect the broken link or pointer file that datalad leaves for a file without content."""
    if path.is_symlink() and not path.exists():
        return True
    # Unreadable files are reported with their run.
    with contextlib.suppress(OSError):
        return path.is_file() and path.stat().st_size < _POINTER_BYTES and path.read_bytes().startswith(_POINTER)
    return False


def build_uri(path: Path, root: Path, dataset: str = "") -> str:
    """Build the BIDS URI ``bids:<dataset>:<path relative to root>``; `dataset` is empty for the output dataset."""
    return f"bids:{dataset}:{path.relative_to(root).as_posix()}"


def find_versions() -> dict[str, str]:
    """Return the versions of software that determines results, by package name, without importing any."""
    versions = {"bids_semantoks": __version__, "python": platform.python_version()}
    for name in ("nibabel", "nilearn", "numpy", "pybids", "scipy", "torch"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def is_made_alike(sidecar: Mapping[str, Any] | None, settings: Mapping[str, Any], inputs: Mapping[str, Any]) -> bool:
    """Return whether outputs were made with the same settings from the same files; False without a sidecar. `inputs`
    come from `describe_inputs`; those whose content was dropped since (None) do not count."""
    stored = sidecar.get("Inputs") if sidecar is not None else None
    if sidecar is None or not isinstance(stored, dict) or not stored.keys() <= inputs.keys():
        return False
    if any(value is not None and stored.get(name) != value for name, value in inputs.items()):
        return False
    return not describe_differences(sidecar["Settings"], settings)


def find_maker(sidecar: Mapping[str, Any]) -> str:
    """Find the version of this program that wrote a sidecar; ``unknown`` if not recorded."""
    versions = sidecar.get("SoftwareVersions")
    return str(versions.get("bids_semantoks", "unknown")) if isinstance(versions, dict) else "unknown"


def is_older(sidecar: Mapping[str, Any] | None, limit: str | None) -> bool:
    """Return whether outputs were made by a version before that of --redo-older-than; False without one of both."""
    if sidecar is None or limit is None:
        return False
    return parse_version(find_maker(sidecar)) < parse_version(limit)


def is_sidecar(values: Mapping[str, Any], *, of_signals: bool) -> bool:
    """Return whether a sidecar is ours and has the keys that are read, in the form that we write."""
    if not isinstance(values.get("Settings"), dict) or (of_signals and not values.keys() >= _NEEDED):
        return False
    dropped, atlas = values.get("VolumesDropped", {}), values.get("Atlas", {})
    if not all(isinstance(values[key], kind) for key, kind in _KINDS.items() if key in values):
        return False
    numbers = [values[key] for key in _COUNTS if key in values] + [values.get("RepetitionTime", 1)]
    numbers += [one.get("Count") if isinstance(one, dict) else None for one in dropped.values()]
    numbers += list(values.get("Files", {}).values())
    is_plain = all(isinstance(one, int | float) and 0 <= one < math.inf for one in numbers)
    is_known = not of_signals or (isinstance(atlas.get("SHA256"), str) and {"Dummy", "Scrubbed"} <= dropped.keys())
    return is_plain and is_known and values.get("RepetitionTime", 1) > 0


def read_status(path: Path) -> dict[str, Any]:
    """Read the status of a run; a damaged file gives a status that reports it."""
    found = read_object(path)
    is_whole = "status" in found and all(isinstance(found.get(key, ""), str) for key in ("status", "reason", "message"))
    message = f"The status file {path} is damaged."
    lost = {"status": "failed", "reason": "internal", "message": message, "seconds": 0.0, "device": ""}
    if found.get("reason") == "already_done":
        # Versions before 0.2 recorded the action on a complete run, not its status, nor how long it took.
        found |= {"status": "ok", "reason": "", "message": "", "seconds": None, "peak_rss_mb": None}
    return found if is_whole else lost


def read_column_descriptions(table: str) -> dict[str, Any]:
    """Read the column descriptions for a table's sidecar, in order; `table` is a name in ``data/columns``."""
    columns: dict[str, Any] = read_json(Path(str(files("bids_semantoks"))) / "data" / "columns" / f"{table}.json")
    return columns


def describe_files(paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Describe complete outputs for `has_files` and `check_table`: their sizes in bytes and SHA-256, by name."""
    paths = list(paths)
    return {
        "Files": {path.name: path.stat().st_size for path in paths},
        "FilesSHA256": {path.name: hash_file(path) for path in paths},
    }


def has_files(directory: Path, sidecar: Mapping[str, Any], *, out_dir: Path | None = None) -> bool:
    """Return whether each output has the size recorded in its sidecar, each table its own sidecar, and none was
    found damaged since; with `out_dir`, also whether the data of the report exist. Correlations, which earlier
    versions recorded as well, are ignored (see `has_connectivity`)."""
    if sidecar.get("Damaged"):
        return False
    described = {name: size for name, size in sidecar.get("Files", {}).items() if "_relmat." not in name}
    needed = [(directory / name).with_suffix(".json") for name in described if name.endswith(".tsv")]
    needed += [] if out_dir is None else [out_dir / str(name) for name in sidecar.get("PageFiles", [])]
    try:
        is_whole = all((directory / name).stat().st_size == size for name, size in described.items())
    except OSError:
        return False
    return is_whole and all(path.is_file() for path in needed)


def check_table(path: Path, sidecar: Mapping[str, Any]) -> None:
    """Compare an output with the SHA-256 in its sidecar: RunFailed damaged_table. Outputs of versions that
    recorded none are not checked."""
    # Earlier versions recorded that of the signals only.
    is_signals = path.name.endswith("_stat-mean_timeseries.tsv")
    recorded = sidecar.get("FilesSHA256", {}).get(path.name) or (sidecar.get("TableSHA256") if is_signals else "")
    if isinstance(recorded, str) and recorded and (found := hash_file(path)) != recorded:
        raise RunFailed(
            "damaged_table",
            f"{path} is damaged or was modified: its SHA-256 is {found[:12]}, expected {recorded[:12]} (from its "
            "sidecar).",
            hint="Rerun the participant level to recreate it.",
        )


def note_damage(path: Path) -> None:
    """Mark a table as damaged in its sidecar, so that the participant level, which compares only sizes,
    recreates it. If the sidecar cannot be written, the next reader detects the damage again."""
    there = path.with_suffix(".json")
    # Another process may have just replaced both.
    with contextlib.suppress(OSError):
        try:
            check_table(path, sidecar := read_object(there))
        except RunFailed:
            write_json(there, {**sidecar, "Damaged": [path.name]})
