"""What an exported table of a cohort costs to write and to load, beside reading the embeddings of all runs.

A table of windows (5,000 participants x 8 windows x 1,536 numbers by default) is made in memory and written in each
format. Tables of embeddings, as the participant level writes them, are made for a sample of its participants; the time
to read these is scaled to all. What is loaded must equal them in float32. Seconds are those of the processor, in one
process; those of Parquet include loading pyarrow.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pandas as pd

from bids_semantoks.exchange.cohort_tables import write_cohort_table
from bids_semantoks.files import read_table, write_table

TARGET_SECONDS = 2.0


def time_call(call: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds of a call, and what it returns."""
    start = time.process_time()
    found = call()
    return time.process_time() - start, found


def load_parquet(path: Path) -> np.ndarray[Any, Any]:
    """Load a table with one column a dimension as pandas does, and return its vectors."""
    frame = pd.read_parquet(path)
    return frame.loc[:, "dim0001":].to_numpy()


def load_list(path: Path) -> np.ndarray[Any, Any]:
    """Load a list column without making an object of each row."""
    from pyarrow import parquet

    column = parquet.read_table(path).column("embedding").combine_chunks()
    return column.flatten().to_numpy().reshape(len(column), -1)


def load_npz(path: Path) -> np.ndarray[Any, Any]:
    """Load the array of vectors, and the labels beside it."""
    with np.load(path, allow_pickle=False) as arrays:
        found = {name: arrays[name] for name in arrays.files}
    return found["embedding"]


def build_frame(n_people: int, n_windows: int, n_dims: int) -> pd.DataFrame:
    """Build a table of windows with random vectors."""
    values = np.random.default_rng(0).standard_normal((n_people * n_windows, n_dims), dtype=np.float32)
    labels = pd.DataFrame(
        {
            "participant_id": np.repeat([f"sub-{number:05d}" for number in range(n_people)], n_windows),
            "window": np.tile(np.arange(1, n_windows + 1), n_people),
            "kept": 1.0,
        }
    )
    return pd.concat([labels, pd.DataFrame(values, columns=[f"dim{i:04d}" for i in range(1, n_dims + 1)])], axis=1)


def read_sample(folder: Path, vectors: np.ndarray[Any, Any], n_windows: int) -> tuple[float, np.ndarray[Any, Any]]:
    """Write one table of embeddings a participant, and read all; processor seconds and vectors in float32."""
    columns = ["window", *(f"dim{i:04d}" for i in range(1, vectors.shape[1] + 1))]
    paths = []
    for number, own in enumerate(vectors.reshape(-1, n_windows, vectors.shape[1])):
        paths.append(folder / f"sub-{number:05d}_embedding.tsv")
        write_table(paths[-1], columns, np.hstack([np.arange(n_windows)[:, None], own.astype(np.float64)]))
    seconds, tables = time_call(lambda: [read_table(path)[1][:, 1:].astype(np.float32) for path in paths])
    return seconds, np.concatenate(tables)


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--participants", type=int, default=5000)
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--dimensions", type=int, default=1536)
    parser.add_argument("--sample", type=int, default=200, help="participants whose tables are read")
    args = parser.parse_args()
    n_sample = min(args.sample, args.participants)
    frame, good = build_frame(args.participants, args.windows, args.dimensions), True
    n_rows = n_sample * args.windows
    with tempfile.TemporaryDirectory(prefix="bench-export-") as name:
        folder = Path(name)
        vectors = frame.iloc[:n_rows].loc[:, "dim0001":].to_numpy(np.float32)
        seconds, sample = read_sample(folder, vectors, args.windows)
        whole = seconds * args.participants / n_sample
        print(f"     {whole:8.2f} s to read the tables of all runs ({n_sample} took {seconds:.2f} s, scaled)")
        formats: list[tuple[str, str, bool, Callable[[Path], np.ndarray[Any, Any]]]] = [
            ("Parquet", "a.parquet", False, load_parquet),
            ("Parquet, one list column", "b.parquet", True, load_list),
            ("NPZ", "c.npz", False, load_npz),
        ]
        for title, file, as_list, load in formats:
            path = folder / file
            written, _ = time_call(lambda: write_cohort_table(frame, path, as_list=as_list))  # noqa: B023
            read, found = time_call(lambda: load(path))  # noqa: B023
            is_equal = found.dtype == np.float32 and np.array_equal(found[:n_rows], sample)
            is_good = is_equal and read < TARGET_SECONDS and len(found) == len(frame)
            good &= is_good
            print(
                f"{'ok  ' if is_good else 'MISS'} {read:8.2f} s to load {title} (target {TARGET_SECONDS:g}), "
                f"{whole / read:.0f} times faster; {written:.2f} s to write, {path.stat().st_size / 1e6:.0f} MB; "
                f"{'equal' if is_equal else 'NOT EQUAL'} in float32"
            )
            path.unlink()
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
