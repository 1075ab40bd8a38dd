"""Speed and memory of packing signals: tables of the participant level, and an HDF5 file.

Each measurement is a process of its own, so that its largest memory is its own; each kind is packed once whole and once
a quarter of it, which shows whether memory grows with the number of runs. Runs have 180 volumes of 457 parcels. Tables
and compressed chunks are few and stand in the data many times, so that making them takes little; packing reads, checks,
standardises and writes each. At the end an index of 40,000 runs is opened, in less than a second of the processor if
the target is met: clock seconds say little on a busy machine.

Run: python benchmarks/bench_packing.py [--tables 1000] [--rows 10000] [--n-procs 1] [--open 40000] [--dir DIR]
Exits with 1 if memory grew by a tenth and 30 MB, or if opening the index took longer.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import h5py
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bids_semantoks.files import hash_file, write_table
from bids_semantoks.models.parcels import default_layout
from bids_semantoks.outputs.store import OutputPaths, StoredRun
from bids_semantoks.pretraining.packing import pack_signals, select_packed
from bids_semantoks.pretraining.plan import describe_file, describe_stored
from bids_semantoks.records import CANONICAL_NETWORKS
from bids_semantoks.runtime.resources import read_peak_memory
from bids_semantoks.training.packed import PackedRun, SignalStore

N_VOLUMES, N_PARCELS, N_DISTINCT = 180, 457, 16
ATLASES = (("schaefer400", 400), ("tian3", 50), ("buckner7", 7))


def draw_signals(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((N_VOLUMES, N_PARCELS)).astype(np.float32)


def find_paths(directory: Path, run: int) -> OutputPaths:
    return OutputPaths(out_dir=directory, directory=directory, stem=f"sub-{run:05d}_task-rest_atlas-Bench", model="")


def make_tables(directory: Path, n_runs: int) -> None:
    directory.mkdir()
    parcels = default_layout().parcels
    assert parcels is not None
    for run in range(n_runs):
        path = find_paths(directory, run).signals
        if run < N_DISTINCT:
            write_table(path, parcels, draw_signals(run))
        else:
            os.link(find_paths(directory, run % N_DISTINCT).signals, path)


def make_file(path: Path, n_runs: int) -> None:
    with h5py.File(path, "w") as file:
        first = 0
        for name, n in ATLASES:
            table = file.create_dataset(
                f"timeseries/{name}", (n_runs, n, N_VOLUMES), "f4", chunks=(1, n, N_VOLUMES), compression="gzip"
            )
            drawn = [np.ascontiguousarray(draw_signals(seed)[:, first : first + n].T) for seed in range(N_DISTINCT)]
            chunks = [zlib.compress(values.tobytes(), 4) for values in drawn]
            for run in range(n_runs):
                table.id.write_direct_chunk((run, 0, 0), chunks[run % N_DISTINCT])
            first += n
        file["long_subject_id"] = [f"{run:05d}" for run in range(n_runs)]


def describe_tables(directory: Path, n_runs: int) -> list[StoredRun]:
    runs, hashes = [], [hash_file(find_paths(directory, run).signals) for run in range(min(n_runs, N_DISTINCT))]
    for run in range(n_runs):
        paths = find_paths(directory, run)
        sidecar = {
            # Tables are few, but each run must count as another.
            "TableSHA256": str(run),
            "FilesSHA256": {paths.signals.name: hashes[run % N_DISTINCT]},
            "VolumesKept": N_VOLUMES,
            "RepetitionTime": 2.0,
            "VolumesDropped": {"Dummy": {"Count": 0}, "Scrubbed": {"Count": 0}},
            "Settings": {"band_pass": [0.01, 0.1]},
        }
        entities = {"sub": f"{run:05d}", "task": "rest", "atlas": "Bench"}
        runs.append(StoredRun(entities=entities, paths=paths, sidecar=sidecar))
    return runs


def pack(kind: str, source: Path, target: Path, n_runs: int, n_procs: int) -> None:
    """Pack in this process and print what it took."""
    store = SignalStore(target, N_PARCELS)
    layout = default_layout()
    assert layout.parcels is not None
    networks = tuple(CANONICAL_NETWORKS[network] for network in layout.networks)
    before, began, used = read_peak_memory(), time.perf_counter(), time.process_time()
    if kind == "tables":
        data = describe_stored(describe_tables(source, n_runs), layout.parcels, networks, target=2.0)
    else:
        data = describe_file(source, target=2.0)
    pack_signals(store, data, range(N_PARCELS), target=2.0, n_procs=n_procs)
    seconds, processor = time.perf_counter() - began, time.process_time() - used
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    view = select_packed(store, data.sources)
    print(
        json.dumps(
            {
                "runs": len(view),
                "seconds": seconds,
                "processor": processor + children.ru_utime + children.ru_stime,
                "before": before / 2**20,
                "peak": read_peak_memory() / 2**20,
                "child": children.ru_maxrss / 1024,
                "bytes": view.n_bytes,
            }
        )
    )


def open_store(target: Path, n_runs: int) -> None:
    """Time the opening of an index of many short runs."""
    present, values = np.ones(N_PARCELS, dtype=np.bool_), np.zeros((1, N_PARCELS), dtype=np.float32)
    SignalStore(target, N_PARCELS).add(
        PackedRun(key=f"{run:064d}", participant=str(run), repetition_time=2.0, values=values, present=present)
        for run in range(n_runs)
    )
    keys = [f"{run:064d}" for run in range(n_runs)]
    times = []
    for _ in range(5):
        began, used = time.perf_counter(), time.process_time()
        view = SignalStore(target, N_PARCELS).select(keys)
        times.append((time.perf_counter() - began, time.process_time() - used))
    seconds, processor = map(min, zip(*times, strict=True))
    print(json.dumps({"runs": len(view), "seconds": seconds, "processor": processor}))


def call(*arguments: object) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", *map(str, arguments)]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    return found


def bench(kind: str, directory: Path, n_runs: int, n_procs: int) -> bool:
    peaks = []
    for n in (max(1, n_runs // 4), n_runs):
        source = directory / f"{kind}{n}"
        began = time.perf_counter()
        (make_tables if kind == "tables" else make_file)(source, n)
        made = time.perf_counter() - began
        found = call(kind, source, directory / f"store_{kind}{n}", n, n_procs)
        peaks.append(found["peak"])
        workers = f", of the largest worker {found['child']:.0f} MB" if n_procs > 1 else ""
        print(
            f"{kind}: {found['runs']} runs in {found['seconds']:.1f} s by the clock and {found['processor']:.1f} s of "
            f"processors: {found['runs'] / found['seconds']:.0f} and {found['runs'] / found['processor']:.0f} runs/s; "
            f"largest memory {found['peak']:.0f} MB ({found['before']:.0f} MB before){workers}; "
            f"{found['bytes'] / 2**20:.0f} MB packed (data made in {made:.0f} s)",
            flush=True,
        )
    is_flat = peaks[1] - peaks[0] < max(0.1 * peaks[0], 30.0)
    print(f"  memory for four times as many runs: {peaks[1] - peaks[0]:+.0f} MB: {'flat' if is_flat else 'GROWS'}")
    return is_flat


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=10_000, help="of the HDF5 file; 3 GB for 10,000")
    parser.add_argument("--open", type=int, default=40_000)
    parser.add_argument("--n-procs", type=int, default=1)
    parser.add_argument("--dir", type=Path, help="where the data go for a while  [default: the temporary folder]")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        kind, *rest = args.child
        if kind == "open":
            open_store(Path(rest[0]), int(rest[1]))
        else:
            pack(kind, Path(rest[0]), Path(rest[1]), int(rest[2]), int(rest[3]))
        return
    print(f"load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory(dir=args.dir) as folder:
        are_met = [bench("tables", Path(folder), args.tables, args.n_procs)] if args.tables else []
        are_met += [bench("rows", Path(folder), args.rows, 1)] if args.rows else []
        if args.open:
            found = call("open", Path(folder) / "open", args.open)
            is_quick = found["processor"] < 1.0
            print(
                f"an index of {found['runs']} runs opens in {found['seconds']:.2f} s by the clock, best of five, "
                f"{found['processor']:.2f} s of the processor: target 1 s {'met' if is_quick else 'MISSED'}"
            )
            are_met.append(is_quick)
    sys.exit(not all(are_met))


if __name__ == "__main__":
    main()
