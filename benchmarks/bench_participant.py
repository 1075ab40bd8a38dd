"""Time of a whole participant, cold start included, against a plain script of well-known tools, in one run.

Usage: python benchmarks/bench_participant.py [--volumes 240] [--repeats 2]

Two runs of 97 x 115 x 97 voxels, 450 parcels, `random:paper` on the CPU. The peer is what a user would write:
nilearn's NiftiLabelsMasker and signal.clean, then the same encoder. Each measurement is a process of its own. Exits
with 1 when the target of 3 is missed.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from bench_extract import N_PARCELS, SPACE, write_data, write_derivative

TARGET = 3.0
NETWORKS = ("Vis", "SomMot", "DorsAttn", "SalVentAttn", "Limbic", "Cont", "Default", "Subcortex", "Cerebellum")


def write_study(folder: Path, n_volumes: int) -> None:
    """Write a derivative dataset of one participant with two runs."""
    write_data(folder, n_volumes)
    networks = [NETWORKS[n * 9 // N_PARCELS] for n in range(N_PARCELS)]
    rows = [f"{n}\tLH_{network}_{n}\t{network}" for n, network in enumerate(networks, start=1)]
    table = folder / f"atlas-Blocks_space-{SPACE}_dseg.tsv"
    table.write_text("\n".join(["index\tlabel\tnetwork_label", *rows]) + "\n")
    write_derivative(folder / "fmriprep", folder, [f"sub-01_task-rest_run-{run}" for run in (1, 2)])


def run_peer(folder: Path) -> None:
    """Do the same work as a plain script does."""
    import pandas as pd
    from nilearn.maskers import NiftiLabelsMasker
    from nilearn.signal import clean

    import bids_semantoks as bs

    atlas = folder / f"atlas-Blocks_space-{SPACE}_dseg.nii.gz"
    table = pd.read_csv(folder / f"atlas-Blocks_space-{SPACE}_dseg.tsv", sep="\t")
    encoder = bs.load_encoder("random:paper")
    for bold in sorted((folder / "fmriprep").rglob("*_bold.nii.gz")):
        mask = str(bold).replace("desc-preproc_bold", "desc-brain_mask")
        signals = NiftiLabelsMasker(str(atlas), mask_img=mask, standardize=None).fit_transform(str(bold))
        name = bold.name.split("_space-")[0]
        confounds = pd.read_csv(bold.with_name(f"{name}_desc-confounds_timeseries.tsv"), sep="\t")
        regressors = confounds.drop(columns="framewise_displacement").to_numpy()
        cleaned = clean(signals, confounds=regressors, low_pass=0.1, high_pass=0.01, t_r=2.0, standardize=None)
        embedding = encoder.encode(cleaned.astype(np.float32), repetition_time=2.0, parcels=list(table["label"]))
        np.save(folder / f"{name}.npy", embedding.vectors)


def measure(command: list[str], repeats: int, prepare: Path | None = None) -> float:
    """Time a command as a whole process; the best of several."""
    seconds = []
    for _ in range(repeats):
        if prepare is not None:
            shutil.rmtree(prepare, ignore_errors=True)
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def main() -> None:
    """Measure both and compare their embeddings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--volumes", type=int, default=240)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--peer", type=Path)
    arguments = parser.parse_args()
    if arguments.peer:
        run_peer(arguments.peer)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_study(folder, arguments.volumes)
        out = folder / "out"
        atlas = folder / f"atlas-Blocks_space-{SPACE}_dseg.nii.gz"
        ours = [sys.executable, "-m", "bids_semantoks", str(folder / "fmriprep"), str(out), "participant"]
        ours += ["--atlas", str(atlas), "--model", "random:paper"]
        one = measure(ours, arguments.repeats, out)
        peer = measure([sys.executable, __file__, "--peer", str(folder)], arguments.repeats)
        worst = 0.0
        for run in ("1", "2"):
            (path,) = out.rglob(f"*run-{run}*_embedding.tsv")
            mine = np.loadtxt(path, skiprows=1)[:, 4:]
            worst = max(worst, float(np.abs(mine - np.load(folder / f"sub-01_task-rest_run-{run}.npy")).max()))
    print(f"ours {one:.1f} s   peer {peer:.1f} s   ratio {peer / one:.1f} (target {TARGET:g})")
    print(f"largest difference of an embedding: {worst:.1e}")
    sys.exit(peer / one < TARGET)


if __name__ == "__main__":
    main()
