"""Write small files whose bytes depend on their content alone."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file, creating its folder."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_text(path: Path, content: str) -> None:
    """Write a text file, creating its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8", newline="\n")


def write_tsv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a small table; None becomes n/a."""
    lines = ["\t".join(header)]
    lines += ["\t".join("n/a" if value is None else str(value) for value in row) for row in rows]
    write_text(path, "\n".join(lines) + "\n")


def write_series(path: Path, header: Sequence[str], values: NDArray[np.floating[Any]], number: str = "%.10g") -> None:
    """Write a table of numbers (T, C); NaN becomes n/a."""
    # One % over the whole table: 27 million numbers take seconds this way and minutes through a table library.
    row = "\t".join([number] * values.shape[1]) + "\n"
    text = (row * len(values)) % tuple(values.ravel().tolist())
    write_text(path, "\t".join(header) + "\n" + text.replace("nan", "n/a"))


def write_nifti(
    path: Path,
    values: NDArray[np.int16] | NDArray[np.uint8],
    affine: NDArray[np.float64],
    *,
    slope: float = 1.0,
    repetition_time: float | None = None,
    compression: int = 1,
) -> None:
    """Write a gzipped NIfTI-1 image of stored integers (X, Y, Z[, T]); `slope` is the intensity of one stored unit."""
    from nibabel.nifti1 import Nifti1Header  # noqa: PLC0415 - series without voxels need none

    header = Nifti1Header()
    header.set_data_dtype(values.dtype)
    header.set_data_shape(values.shape)
    header.set_qform(affine, code=4)
    header.set_sform(affine, code=4)
    header.set_xyzt_units("mm", "sec" if repetition_time else "unknown")
    header["scl_slope"], header["scl_inter"], header["vox_offset"] = slope, 0.0, 352
    if repetition_time:
        header["pixdim"][4] = repetition_time
    path.parent.mkdir(parents=True, exist_ok=True)
    # No time stamp and no name inside the gzip, or two equal studies would differ.
    with (
        path.open("wb") as file,
        gzip.GzipFile(filename="", mode="wb", compresslevel=compression, fileobj=file, mtime=0) as zipped,
    ):
        zipped.write(header.binaryblock + b"\0\0\0\0")
        zipped.write(values.tobytes(order="F"))
