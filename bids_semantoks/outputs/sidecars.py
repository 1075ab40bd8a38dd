"""Build the sidecars of signals and embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np

from bids_semantoks.outputs.atlases import describe_warp
from bids_semantoks.outputs.provenance import build_uri, compute_settings_hash, find_versions
from bids_semantoks.records import Atlas, Embedding, ParcelSignals, Run, Windows


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
    """Build the sidecar of a run's cleaned signals.

    `settings` and `inputs` decide whether the output is up to date; ``denoising`` is None in `settings` if the series
    were
    used as another pipeline left them. `dataset` is the source's name in BIDS URIs, `min_time` the required seconds of
    kept data.
    """
    sources = [
        run.bold,
        run.partner,
        run.mask,
        run.confounds,
        *(path for path in run.tables if path.is_relative_to(run.dataset)),
    ]
    repetition_time = signals.repetition_time
    scrubbed = ~signals.kept
    scrubbed[: signals.n_dummy] = False
    motion = signals.framewise_displacement[~np.isnan(signals.framewise_displacement)]
    return {
        "Description": f"Mean signal of each parcel {_describe_state(run, settings)}, in input units; n/a for dropped "
        "volumes and absent parcels.",
        "Sources": [build_uri(path, run.dataset, dataset) for path in sources if path is not None],
        "Pipeline": run.pipeline,
        "RecognizedAs": run.recognised or "no pipeline that is known; read as fMRIPrep's outputs are",
        "RepetitionTime": repetition_time,
        "SamplingFrequency": 1.0 / repetition_time,
        "Atlas": {
            "Name": atlas.name,
            "Space": atlas.space,
            "SHA256": atlas.sha256,
            "Parcels": len(atlas.parcels),
            **_describe_warps(atlas),
        },
        "AveragedOver": run.averaged_over or None,
        "AbsentParcels": [name for name, there in zip(atlas.parcels, signals.present, strict=True) if not there],
        "Denoising": _describe_denoising(run, signals, settings),
        "VolumesTotal": int(signals.kept.size),
        "VolumesKept": int(signals.kept.sum()),
        "VolumesDropped": {
            "Dummy": {"Count": signals.n_dummy, "Rule": settings["dummy_scans"]},
            "Scrubbed": {
                "Count": int(scrubbed.sum()),
                "FramewiseDisplacementAboveMillimetres": settings["fd_threshold"],
                "Volumes": np.flatnonzero(scrubbed).tolist(),
            },
        },
        "MinimumTime": min_time,
        "MeanFramewiseDisplacement": round(float(motion.mean()), 6) if motion.size else None,
        "MaximumFramewiseDisplacement": round(float(motion.max()), 6) if motion.size else None,
        "Warnings": list(signals.warnings),
        "SoftwareVersions": find_versions(),
        "Settings": settings,
        "SettingsHash": compute_settings_hash(settings),
        "Inputs": inputs,
    }


def _describe_warps(atlas: Atlas) -> dict[str, Any]:
    warped = [volume for volume in atlas.volumes if volume.transform is not None]
    return {"Warped": [{"Image": one.path.name, **describe_warp(one)} for one in warped]} if warped else {}


def _describe_state(run: Run, settings: dict[str, Any]) -> str:
    return "after denoising" if settings["denoising"] else f"as {run.pipeline} left it, without further denoising"


def _describe_denoising(run: Run, signals: ParcelSignals, settings: dict[str, Any]) -> dict[str, Any]:
    if not settings["denoising"]:
        return {"Preset": "none: as found", "Description": f"Not done here: the series come from {run.pipeline}."}
    return {
        "Preset": settings["denoising"]["name"],
        **({"DenoisedBy": run.pipeline} if run.is_denoised else {}),
        "Regressors": list(signals.regressors),
        "BandPass": settings["band_pass"],
        "Filter": "Butterworth of order 5, forwards and backwards, with linear detrending"
        if settings["band_pass"]
        else "none; linear detrending only",
    }


def build_embedding_sidecar(
    windows: Windows, embedding: Embedding, *, settings: dict[str, Any], facts: dict[str, Any]
) -> dict[str, Any]:
    """Build the sidecar of a run's embedding from `settings`, which decide whether it is up to date, and further
    `facts`."""
    return {
        "Description": "One row a window: the embedding of parcel signals by a frozen Brain-Semantoks encoder.",
        **facts,
        "WindowOnsets": windows.onset.tolist(),
        "WindowDuration": windows.duration,
        "MaskedNetworks": list(embedding.masked_networks),
        "MaskedPatches": embedding.n_masked_patches.tolist(),
        "SoftwareVersions": find_versions(),
        "Settings": settings,
        "SettingsHash": compute_settings_hash(settings),
        "window": {"Description": "Number of the window, from 1."},
        "onset": {"Description": "Start of the window from the run's first volume.", "Units": "s"},
        "duration": {"Description": "Length of the window, padding included.", "Units": "s"},
        "kept": {"Description": "Share of the window's time that is real and neither dummy nor scrubbed."},
        "dim0001": {"Description": "First dimension of the embedding; the others follow."},
    }
