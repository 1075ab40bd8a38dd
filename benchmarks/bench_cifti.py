"""Time and peak memory of averaging a 91k CIFTI run over 457 parcels, compared with nibabel and NumPy in the same run.

Run: python benchmarks/bench_cifti.py [--atlas-dir DIR] [--volumes N]

DIR (or BIDS_SEMANTOKS_ATLAS_DIR) holds the label file of the default atlas on surfaces, from
`bids_semantoks-fetch`; without it nothing is measured. Each method runs in its own process, three times (best of).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np

DLABEL = "Schaefer2018_400Parcels_7Networks_order_Tian_Subcortex_S3.dlabel.nii"

_TIMED = """
import json, sys, time
from pathlib import Path
import nibabel as nib, numpy as np
from bids_semantoks.records import Run
from bids_semantoks.atlases.load import load_surface_atlas
from bids_semantoks.signals.surface_means import extract_surface_means, load_surface_series
path, folder = Path(sys.argv[1]), Path(sys.argv[2])
files = {{"bold": path, "mask": None, "confounds": None, "dataset": path}}
run = Run(entities=(("sub", "01"),), repetition_time=2.0, pipeline="", **files)
{before}
seconds = []
for _ in range(3):
    start = time.perf_counter()
    {work}
    seconds.append(time.perf_counter() - start)
# Not getrusage, whose maximum a process inherits from the one that started it.
peak = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
print(json.dumps({{"seconds": min(seconds), "peak_mb": peak / 1024, "check": float(means[:, 0].sum())}}))
"""
_ATLAS = 'atlas = load_surface_atlas("Schaefer400Tian3Buckner7", space="fsLR", directory=folder)'
_KEYS = "keys = np.asarray(nib.load(sys.argv[3]).dataobj)[0].astype(int)"
_OURS = "means = extract_surface_means(load_surface_series(run), atlas).values"
_NAIVE = (
    "data = nib.load(path).get_fdata(dtype=np.float32); "
    "means = np.stack([data[:, keys == key].mean(axis=1, dtype=np.float64) "
    "for key in (*range(51, 451), *range(1, 51))], 1)"
)


def main() -> None:
    """Print both and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--atlas-dir", type=Path, default=os.environ.get("BIDS_SEMANTOKS_ATLAS_DIR", "."))
    parser.add_argument("--volumes", type=int, default=240)
    options = parser.parse_args()
    folder, n_volumes = Path(options.atlas_dir), options.volumes
    if not (folder / DLABEL).is_file():
        print(f"Not measured: {folder} has no {DLABEL}; give --atlas-dir.")
        return
    axis = nib.load(folder / DLABEL).header.get_axis(1)
    found = {}
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "sub-01_bold.dtseries.nii"
        values = np.random.default_rng(0).standard_normal((n_volumes, len(axis)), dtype=np.float32)
        nib.save(nib.Cifti2Image(values, (nib.cifti2.SeriesAxis(0.0, 2.0, n_volumes), axis)), path)
        del values
        for name, before, work in (("ours", _ATLAS, _OURS), ("nibabel and NumPy", _KEYS, _NAIVE)):
            code = _TIMED.format(before=before, work=work)
            command = [sys.executable, "-c", code, str(path), str(folder), str(folder / DLABEL)]
            answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            found[name] = json.loads(answer.splitlines()[-1])
            print(f"{name}: {found[name]['seconds']:.2f} s, {found[name]['peak_mb']:.0f} MB at most")
    ours, peer = found["ours"], found["nibabel and NumPy"]
    assert abs(ours["check"] - peer["check"]) < 1e-6
    print(f"{n_volumes} volumes: {peer['seconds'] / ours['seconds']:.1f} times as fast as nibabel and NumPy")


if __name__ == "__main__":
    main()
