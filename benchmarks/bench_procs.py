"""Rate of two processes against one, on eight 2 mm runs, start-up excluded, in one run.

Usage: python benchmarks/bench_procs.py [--volumes 240] [--model random:paper] [--repeats 2]

Every process first does one run more, which pays for what is loaded late. The rate is that of the time in which all
processes are busy with later runs; a run that lies partly in that time counts by its share. One thread a process. One
and two processes take turns, and the best rate of each is compared, since others can only slow them down. Needs two
idle cores: the load at the beginning is printed. Exits with 1 when the target of 1.6 is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bench_extract import SPACE
from bench_participant import write_study

TARGET = 1.6
N_RUNS = 8


def add_runs(root: Path, number: int) -> None:
    """Add runs with the same files under other names, each read and inflated by itself."""
    func = root / "sub-01" / "func"
    for path in sorted(func.glob("*_run-1_*")):
        for run in range(3, number + 1):
            os.link(path, func / path.name.replace("_run-1_", f"_run-{run}_"))


def measure(folder: Path, model: str, n_procs: int) -> float:
    """Measure runs a second from the times that their statuses tell."""
    out = folder / f"out{n_procs}"
    shutil.rmtree(out, ignore_errors=True)
    n_runs = N_RUNS + n_procs
    command = [sys.executable, "-m", "bids_semantoks", str(folder / "fmriprep"), str(out), "participant", "-q"]
    command += ["--atlas", str(folder / f"atlas-Blocks_space-{SPACE}_dseg.nii.gz"), "--model", model]
    command += ["--n-procs", str(n_procs), "--omp-nthreads", "1", "--run-id", *map(str, range(1, n_runs + 1))]
    subprocess.run(command, check=True)
    spans = sorted(read_spans(out), key=lambda span: span[1])
    if len(spans) != n_runs:
        sys.exit(f"{len(spans)} of {n_runs} runs have a status")
    # Every process has done a run before the window begins, and none is idle before it ends.
    begin = max(spans[n_procs - 1][1], sorted(start for start, _ in spans)[2 * n_procs - 1])
    end = spans[-n_procs][1]
    done = sum(max(0.0, min(stop, end) - max(start, begin)) / (stop - start) for start, stop in spans)
    return done / (end - begin)


def read_spans(out: Path) -> list[tuple[float, float]]:
    """Read when each run began and ended, in seconds."""
    spans = []
    for path in out.glob("logs/sub-*/*_status.json"):
        end = path.stat().st_mtime
        spans.append((end - json.loads(path.read_text())["seconds"], end))
    return spans


def check_equal(folder: Path) -> int:
    """Check that tables of the runs that both did are the same."""
    tables = [path for path in sorted((folder / "out1").rglob("sub-*.tsv")) if "_embedding" not in path.name]
    for path in tables:
        if path.read_bytes() != (folder / "out2" / path.relative_to(folder / "out1")).read_bytes():
            sys.exit(f"{path.name} differs between one and two processes")
    return len(tables)


def main() -> None:
    """Measure one process, then two."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--volumes", type=int, default=240)
    parser.add_argument("--model", default="random:paper")
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores before the measurement")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_study(folder, arguments.volumes)
        add_runs(folder / "fmriprep", N_RUNS + 2)
        rates = [[measure(folder, arguments.model, n) for n in (1, 2)] for _ in range(arguments.repeats)]
        one, two = map(max, zip(*rates, strict=True))
        same = check_equal(folder)
    print(
        f"one process {60 * one:.1f} runs/min   two {60 * two:.1f} runs/min   ratio {two / one:.2f} (target {TARGET})"
    )
    print(f"{same} tables are the same in every byte")
    sys.exit(two / one < TARGET)


if __name__ == "__main__":
    main()
