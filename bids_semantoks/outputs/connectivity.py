"""Table or array of the correlations between the parcels of a run, with its own sidecar; it can be recomputed from the
stored signals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.files import read_object, write_array, write_json, write_table
from bids_semantoks.outputs.damage import describe_files
from bids_semantoks.statistics.connectivity import compute_connectivity

#: Correlations over a few hundred volumes are uncertain from the second digit on.
_DIGITS: Final = 6

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
