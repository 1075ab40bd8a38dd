"""The table of the coverage of each parcel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bids_semantoks.files import write_json, write_records
from bids_semantoks.records import Atlas, ParcelSignals

_SHARED_KEYS = ("Sources", "Atlas", "AveragedOver", "SoftwareVersions", "Settings")


def write_coverage(path: Path, atlas: Atlas, signals: ParcelSignals, sidecar: dict[str, Any]) -> None:
    """Write the coverage of each parcel as a table with its sidecar; `sidecar` is that of the signals."""
    present = signals.present
    temporal_snr = np.full(present.size, np.nan) if signals.temporal_snr is None else signals.temporal_snr
    rows = [
        (
            atlas.parcels[p],
            signals.coverage[p],
            None if np.isnan(temporal_snr[p]) else round(float(temporal_snr[p]), 3),
            int(signals.n_voxels[p]) if signals.n_voxels[p] >= 0 else None,
            "true" if present[p] else "false",
        )
        for p in range(len(atlas.parcels))
    ]
    write_records(path, ("label", "coverage", "tsnr", "n_voxels", "present"), rows)
    described = _describe_coverage(sidecar.get("AveragedOver") or "")
    write_json(
        path.with_suffix(".json"),
        {
            **{key: sidecar[key] for key in _SHARED_KEYS if key in sidecar},
            "label": {"Description": "Parcel name."},
            "coverage": {"Description": described[0]},
            "tsnr": {
                "Description": "Temporal signal-to-noise ratio of the parcel's mean signal before denoising: mean over "
                "standard deviation around a linear trend, over kept volumes; higher for parcel means "
                "than for their parts. n/a if the mean was already removed."
            },
            "n_voxels": {"Description": described[1]},
            "present": {"Description": "Whether the parcel has a signal, i.e. sufficient coverage."},
        },
    )


def _describe_coverage(averaged_over: str) -> tuple[str, str]:
    """Describe the columns of coverage and size, depending on what was averaged."""
    unit, _, where = averaged_over.partition(" ")
    if not unit:
        return (
            "Share of the parcel that has data, from the dataset's own table; otherwise 1 with a series, 0 without.",
            "Number of voxels in the parcel, from the dataset's own table; n/a if unknown.",
        )
    if unit == "voxels":
        inside = "are in the brain mask and " if "mask" in where else ""
        return (
            f"Share of the parcel's voxels that {inside}vary in time.",
            f"Voxels of the parcel on the grid of the {'warp' if 'native' in where else 'BOLD image'}.",
        )
    return (
        f"Share of the parcel's {unit} that are in the file and vary in time.",
        f"{unit.capitalize()} of the parcel in the atlas, including those missing from the file.",
    )
