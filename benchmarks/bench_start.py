"""Processor time of whole processes: one run's signals against NiftiLabelsMasker alone, and how fast a call starts.

Usage: python benchmarks/bench_start.py [--volumes 240] [--pairs 5]

A run of 97 x 115 x 97 voxels with an atlas of 450 blocks (as `bench_extract.py`) is a small fMRIPrep dataset; imports
count on both sides. The ratio is the median over pairs. Exits with 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from bench_extract import SPACE, report, write_data, write_derivative

ROOT = Path(__file__).resolve().parents[1]
N_PLANNED = 30
PEER = """
import sys
from nilearn.maskers import NiftiLabelsMasker
atlas, mask, bold = sys.argv[1:]
NiftiLabelsMasker(atlas, mask_img=mask, standardize=None).fit_transform(bold)
"""


def measure(command: list[str], code: int = 0) -> tuple[float, float]:
    """Run a command: processor time and wall time (s). Raises SystemExit where it ends with another code."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    before, start = os.times(), time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    seconds, after = time.perf_counter() - start, os.times()
    if done.returncode != code:
        sys.exit(f"{command} ended with {done.returncode}: {done.stderr[-2000:]}")
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return used, seconds


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--volumes", type=int, default=240)
    parser.add_argument("--pairs", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-start-") as name:
        folder = Path(name)
        write_data(folder, args.volumes)
        atlas = folder / f"atlas-Blocks_space-{SPACE}_dseg.nii.gz"
        write_derivative(folder / "one", folder, ["sub-00_task-rest"])
        write_derivative(folder / "many", folder, [f"sub-{number:02d}_task-rest" for number in range(N_PLANNED)])
        app, out = [sys.executable, "-m", "bids_semantoks"], folder / "out"
        options = ["participant", "--atlas", str(atlas), "--signals-only"]
        ours = [*app, str(folder / "one"), str(out), *options, "--n-procs", "1"]
        bold = folder / "short_bold.nii.gz"
        peer = [sys.executable, "-c", PEER, str(atlas), str(folder / "mask.nii.gz"), str(bold)]
        pairs = []
        for _ in range(args.pairs):
            shutil.rmtree(out, ignore_errors=True)
            # In turns, so that other work on the machine disturbs both alike.
            pairs.append((measure(peer)[0], measure(ours)[0]))
            print(f"NiftiLabelsMasker {pairs[-1][0]:6.2f} s   ours {pairs[-1][1]:6.2f} s", flush=True)
        refused = [measure([*app, str(folder / "none"), str(out), "participant"], code=3) for _ in range(args.pairs)]
        dry = [*app, str(folder / "many"), str(folder / "dry"), *options, "--dry-run"]
        planned = [measure(dry) for _ in range(args.pairs)]
        checked = [measure([*dry, "--check"]) for _ in range(args.pairs)]
    checks = [
        ("times the processor time: NiftiLabelsMasker", statistics.median(a / b for a, b in pairs), 10.0, ">="),
        ("s of processor time to refuse a wrong folder", statistics.median(a for a, _ in refused), 0.5, "<="),
        (f"s to plan {N_PLANNED} runs (--dry-run)", statistics.median(a for a, _ in planned), 2.0, "<="),
    ]
    missed = report(checks)
    print(f"     {statistics.median(a for a, _ in checked):8.2f} s to check {N_PLANNED} runs (--dry-run --check)")
    return missed


if __name__ == "__main__":
    sys.exit(main())
