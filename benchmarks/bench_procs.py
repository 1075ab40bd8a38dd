"""Rate of two processes against one, on eight 2 mm runs, start-up excluded, in one run.

Usage: python benchmarks/bench_procs.py [--volumes 240] [--model random:paper]

Every process first does one run more, which pays for starting it, and is not counted; from then on the times at which
runs are complete give the rate. One thread a process. Needs two idle cores: the load at the beginning is printed.
Exits with 1 when the target of 1.6 is missed.
"""

from __future__ import annotations

import argparse
import os
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
    """Measure runs a second from the times at which their statuses were written."""
    out = folder / f"out{n_procs}"
    n_runs = N_RUNS + n_procs
    command = [sys.executable, "-m", "bids_semantoks", str(folder / "fmriprep"), str(out), "participant", "-q"]
    command += ["--atlas", str(folder / f"atlas-Blocks_space-{SPACE}_dseg.nii.gz"), "--model", model]
    command += ["--n-procs", str(n_procs), "--omp-nthreads", "1", "--run-id", *map(str, range(1, n_runs + 1))]
    subprocess.run(command, check=True)
    ends = sorted(path.stat().st_mtime for path in (out / "logs" / "runs").glob("*_status.json"))
    if len(ends) != n_runs:
        sys.exit(f"{len(ends)} of {n_runs} runs have a status")
    # Between a process' first and last run it does nothing but runs.
    return N_RUNS / (ends[-1] - sum(ends[:n_procs]) / n_procs)


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
    arguments = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores before the measurement")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_study(folder, arguments.volumes)
        add_runs(folder / "fmriprep", N_RUNS + 2)
        one = measure(folder, arguments.model, 1)
        two = measure(folder, arguments.model, 2)
        same = check_equal(folder)
    print(
        f"one process {60 * one:.1f} runs/min   two {60 * two:.1f} runs/min   ratio {two / one:.2f} (target {TARGET})"
    )
    print(f"{same} tables are the same in every byte")
    sys.exit(two / one < TARGET)


if __name__ == "__main__":
    main()
