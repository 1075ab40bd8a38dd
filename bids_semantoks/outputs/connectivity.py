"""Table or array of the correlations between the parcels of a run, with its own sidecar; it can be recomputed from the
stored signals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.files import read_object, read_rows, write_array, write_json, write_records, write_table
from bids_semantoks.outputs.sidecars import describe_files
from bids_semantoks.records import Atlas, Bools, Floats, ParcelSignals
from bids_semantoks.statistics.series import compute_connectivity

_DIGITS: Final = 6  # correlations over a few hundred volumes are uncertain from the second digit on

#: Sidecar entries about the signal files themselves.
_OF_SIGNALS: Final = ("Damaged", "Files", "FilesSHA256", "PageFiles", "TableSHA256")


def write_connectivity(
    path: Path, parcels: Sequence[str], values: NDArray[np.float32], sidecar: Mapping[str, Any], *, source: str
) -> None:
    """Write the correlations of cleaned signals (T, P) as ``.tsv`` or ``.npy``, whichever `path` ends in, with a
    sidecar like that of the signals; `source` is their BIDS URI."""
    matrix = compute_connectivity(values)
    if path.suffix == ".npy":
        write_array(path, matrix.astype(np.float32))
    else:
        write_table(path, parcels, matrix, index="Node", digits=_DIGITS)
    # The other format, if it was computed from the same signals, is kept.
    former, there = read_object(path.with_suffix(".json")), describe_files([path])
    if former.get("Sources") == [source] and former.get("Inputs") == sidecar.get("Inputs"):
        kept = {other.name for other in find_forms(path) if other.is_file()}
        there = {
            key: {name: value for name, value in (former.get(key, {}) | files).items() if name in kept}
            for key, files in there.items()
        }
    write_json(
        path.with_suffix(".json"),
        {
            **{key: value for key, value in sidecar.items() if key not in _OF_SIGNALS},
            "Description": "Pearson correlation of cleaned parcel signals over kept volumes; rows and columns are the "
            "parcels in the order of the columns of the signals. Absent parcels have none (n/a, NaN in arrays).",
            "Sources": [source],
            "RelationshipMeasure": "Pearson correlation",
            "Node": {"Description": "Parcel of the row; the columns are the parcels in the same order."},
            "MissingParcels": sidecar["AbsentParcels"],
            **there,
        },
    )


def has_connectivity(path: Path, signals: Mapping[str, Any]) -> bool:
    """Return whether the correlations at `path` and their sidecar are there, with the size recorded; earlier versions
    recorded it in the sidecar of the `signals`."""
    own = read_object(path.with_suffix(".json"))
    found = (one.get("Files") for one in (signals, own))  # of any type in damaged sidecars
    recorded = {name: size for files in found if isinstance(files, dict) for name, size in files.items()}
    return bool(own) and path.is_file() and path.stat().st_size == recorded.get(path.name)


def find_forms(path: Path) -> tuple[Path, Path, Path]:
    """Return the paths of all files of a run's correlations, sidecar first, from that of any."""
    return path.with_suffix(".json"), path.with_suffix(".tsv"), path.with_suffix(".npy")


def write_coverage(path: Path, atlas: Atlas, signals: ParcelSignals, sidecar: dict[str, Any]) -> None:
    """Write the coverage of each parcel as a table with its sidecar; `sidecar` is that of the signals."""
    present = signals.present
    temporal_snr = np.full(present.size, np.nan) if signals.temporal_snr is None else signals.temporal_snr
    rows = [
        (
            name,
            signals.coverage[p],
            None if np.isnan(temporal_snr[p]) else round(float(temporal_snr[p]), 3),
            int(signals.n_voxels[p]) if signals.n_voxels[p] >= 0 else None,
            "true" if present[p] else "false",
        )
        for p, name in enumerate(atlas.parcels)
    ]
    coverage, n_voxels = _describe_coverage(sidecar.get("AveragedOver") or "")
    described = {
        "label": "Parcel name.",
        "coverage": coverage,
        "tsnr": "Temporal signal-to-noise ratio of the parcel's mean signal before denoising: mean over standard "
        "deviation around a linear trend, over kept volumes; higher for parcel means than for their parts. n/a if the "
        "mean was already removed.",
        "n_voxels": n_voxels,
        "present": "Whether the parcel has a signal, i.e. sufficient coverage.",
    }
    write_records(path, tuple(described), rows)
    shared = ("Sources", "Atlas", "AveragedOver", "SoftwareVersions", "Settings")
    columns = {name: {"Description": text} for name, text in described.items()}
    write_json(path.with_suffix(".json"), {**{key: sidecar[key] for key in shared if key in sidecar}, **columns})


def read_coverage(path: Path, parcels: Sequence[str] = ()) -> tuple[Floats, Bools, Floats]:
    """Read coverage, presence and temporal SNR, (P,) each in the order of `parcels`, or of the table; NaN where
    unknown."""
    rows = read_rows(path)
    if parcels:
        by_name = {row["label"]: row for row in rows}
        rows = [by_name[name] for name in parcels]
    cells = [[row.get(name, "n/a").replace("n/a", "nan") for row in rows] for name in ("coverage", "tsnr")]
    coverage, temporal_snr = np.array(cells, dtype=np.float64)
    return coverage, np.array([row["present"] == "true" for row in rows], dtype=np.bool_), temporal_snr


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
