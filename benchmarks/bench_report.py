"""Processor time and size of the report of a 2 mm run, in addition to extracting and encoding it.

A run of 300 volumes and 457 parcels is drawn from memory, as the participant level does, and its page is written from
disk, in one process with one thread.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402 - threads are counted when it is loaded

import bids_semantoks as bs  # noqa: E402
from bids_semantoks.demo.study import write_parcellated, write_study  # noqa: E402
from bids_semantoks.outputs.dataset import read_atlas_table  # noqa: E402
from bids_semantoks.outputs.store import find_stored_runs  # noqa: E402
from bids_semantoks.reports.report import write_report  # noqa: E402
from bids_semantoks.reports.run_data import read_stored_signals, write_run_data  # noqa: E402

TARGET_SECONDS, TARGET_BYTES = 0.15, 500_000


def measure(root: Path, n_volumes: int, *, with_images: bool) -> tuple[list[float], int, int]:
    """Processor seconds of drawing a run and writing its page, several times; bytes of its data and of the page."""
    out = root / "out"
    (write_study if with_images else write_parcellated)(root / "raw", n_participants=1)
    options = ["--atlas", "Demo457", "--model", "random:tiny", "--n-procs", "1", "-q"]
    with contextlib.redirect_stderr(io.StringIO()):
        assert bs.run([str(root / "raw"), str(out), "participant", *options]) == 0
    run = next(find_stored_runs(out, atlas="Demo457", model=""))
    atlas = read_atlas_table(out, name="Demo457", space=run.entities.get("space", ""))
    stored, rng = read_stored_signals(run.paths, run.sidecar), np.random.default_rng(0)
    values = np.resize(stored.values, (n_volumes, stored.values.shape[1]))
    noise = rng.normal(0, 30, values.shape).astype(np.float32)
    signals = dataclasses.replace(
        stored,
        values=values,
        raw=3 * np.nan_to_num(values) + noise if with_images else values,
        kept=np.resize(stored.kept, n_volumes),
        framewise_displacement=np.abs(rng.normal(0, 0.2, n_volumes)),
    )
    seconds = []
    for _ in range(6):
        start = time.process_time()
        write_run_data(run.paths, signals, atlas, lambda: None)
        assert write_report(out, run.entities["sub"])
        seconds.append(time.process_time() - start)
    return seconds, run.paths.page_data.stat().st_size, (out / f"sub-{run.entities['sub']}.html").stat().st_size


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--volumes", type=int, default=300)
    args = parser.parse_args()
    good = True
    for with_images in (True, False):
        with tempfile.TemporaryDirectory(prefix="bench-report-") as name:
            seconds, n_data, n_page = measure(Path(name), args.volumes, with_images=with_images)
        later = statistics.median(seconds[1:])
        is_good = later <= TARGET_SECONDS and n_page <= TARGET_BYTES
        good &= is_good
        print(f"{'ok  ' if is_good else 'MISS'} {'volumes' if with_images else 'parcellated series'}:")
        print(f"     {later:10.3f} CPU seconds for the page of a later run (target {TARGET_SECONDS})")
        print(f"     {seconds[0]:10.3f} CPU seconds for that of the first run of a process, template included")
        print(f"     {n_page / 1e6:10.3f} MB of page (target {TARGET_BYTES / 1e6}), {n_data / 1e6:.3f} MB of its data")
    print(f"     {'matplotlib was loaded' if 'matplotlib' in sys.modules else 'matplotlib was not loaded'}")
    return 0 if good and "matplotlib" not in sys.modules else 1


if __name__ == "__main__":
    sys.exit(main())
