"""Write a cohort table for other programs: Parquet, NumPy or CSV. N rows, D dimensions of the embedding."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import numpy as np

from bids_semantoks.errors import ConfigurationError, ResourceError
from bids_semantoks.files import format_cell, open_atomic, write_json
from bids_semantoks.quality.cohort import format_value

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

FORMATS: Final = (".parquet", ".npz", ".csv")

#: Column of all dimensions in one, in Parquet and NumPy files.
_EMBEDDING: Final = "embedding"

#: Text that spreadsheets would interpret as a formula.
_FORMULA: Final = re.compile(r"[=+\-@\t\r]")


def check_format(path: Path, *, as_list: bool) -> None:
    """Check in advance that a table can be written to `path`. Raises ConfigurationError for other endings, or for
    `as_list` with CSV; ResourceError if pyarrow is required but not installed."""
    if path.suffix not in FORMATS:
        raise ConfigurationError(f"{path} has the extension {path.suffix or '(none)'}; expected {', '.join(FORMATS)}.")
    if as_list and path.suffix != ".parquet":
        raise ConfigurationError(f"{path}: only Parquet files support the embedding as one list column.")
    if path.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401 - an extra
        except ImportError as error:
            raise ResourceError(
                "Parquet files require pyarrow, which is not installed.",
                hint="Install bids_semantoks[parquet], or export to .npz or .csv.",
            ) from error


def write_cohort_table(frame: pd.DataFrame, path: Path, *, as_list: bool = False, is_raw: bool = False) -> None:
    """Write a table of `load_outputs` atomically in the format of its ending, dimensions as float32.

    Its ``attrs`` (encoder, settings, versions) are written to the metadata of a Parquet file, from which pandas
    restores them, to the array ``provenance`` (JSON) of an NPZ file, or to a JSON file next to a CSV file. `as_list`
    joins the dimensions in one column. CSV text that a spreadsheet would interpret as a formula gets a leading
    apostrophe, unless `is_raw`.
    """
    place = list(frame.columns).index("dim0001")
    labels, vectors = frame.iloc[:, :place], frame.iloc[:, place:].to_numpy(dtype=np.float32)
    provenance = {str(key): value for key, value in frame.attrs.items()}
    if path.suffix == ".csv":
        write_json(path.with_suffix(".json"), provenance)
    with open_atomic(path, is_durable=True) as file:
        if path.suffix == ".parquet":
            _write_parquet(file, labels, vectors, list(frame.columns[place:]), provenance, as_list=as_list)
        elif path.suffix == ".npz":
            text = _change_text(labels, _format_text)
            arrays: dict[str, Any] = {str(name): np.array(column.tolist()) for name, column in text.items()}
            np.savez(file, **arrays, embedding=vectors, provenance=np.array(json.dumps(provenance)))
        else:
            table = _change_text(labels, _format_text)
            if not is_raw:
                table = _change_text(table, _defuse).rename(columns=_defuse)
            table = table.join(frame.iloc[:, place:].astype(np.float32))
            table.to_csv(file, index=False, float_format="%.9g", na_rep="n/a", lineterminator="\n")


def _write_parquet(
    file: BinaryIO,
    labels: pd.DataFrame,
    vectors: NDArray[np.float32],
    names: list[str],
    provenance: dict[str, Any],
    *,
    as_list: bool,
) -> None:
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.Table.from_pandas(labels, preserve_index=False)
    if as_list:
        whole = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(vectors.ravel()), vectors.shape[1])
        table = table.append_column(_EMBEDDING, whole)
    else:
        for name, values in zip(names, vectors.T, strict=True):
            table = table.append_column(name, pyarrow.array(np.ascontiguousarray(values)))
    # The key from which pandas restores the attributes that `probe` needs.
    metadata = {b"PANDAS_ATTRS": json.dumps(provenance).encode()}
    # Dictionaries and statistics of distinct floats only cost time and space.
    parquet.write_table(
        table.replace_schema_metadata({**(table.schema.metadata or {}), **metadata}),
        file,
        use_dictionary=list(labels.columns),
        write_statistics=list(labels.columns),
        compression="zstd",
    )


def _change_text(labels: pd.DataFrame, change: Callable[[Any], str]) -> pd.DataFrame:
    """Change the cells of all columns that are not numeric."""
    text = {str(name): column for name, column in labels.items() if column.dtype.kind not in "biuf"}
    return labels.assign(**{name: [change(cell) for cell in column] for name, column in text.items()})


def _format_text(value: Any) -> str:
    """Format a value as in the tables of the group level: n/a if missing, lists in JSON."""
    return format_cell(format_value(value))


def _defuse(cell: str) -> str:
    """Prefix text that a spreadsheet would interpret as a formula with an apostrophe; numbers are kept."""
    if not _FORMULA.match(cell):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell
