"""Time to find runs in a derivative dataset of 1,000 participants, compared with indexing by pybids.

Writes a tree of 62 empty files a participant, named as fMRIPrep names them, to a temporary folder; then, each in a
process of its own, finds the runs of one participant and of all, and does the same for one and for some with
BIDSLayout (metadata off, everything but the wanted functional folders ignored: its fastest way). Seconds leave out
interpreter start-up and imports, which are printed beside them. The tree was just written, so the system's cache is
warm for all alike.

Run: python benchmarks/bench_index.py [--participants N] [--layout-participants N]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SPACES = ("MNI152NLin2009cAsym", "MNI152NLin6Asym_res-2")
TARGETS = {"one": 0.5, "all": 20.0}


def write_tree(root: Path, n_participants: int) -> int:
    """Write the dataset and return the number of files of one participant."""
    root.mkdir()
    description = {"Name": "fMRIPrep", "BIDSVersion": "1.4.0", "DatasetType": "derivative"}
    description |= {"GeneratedBy": [{"Name": "fMRIPrep", "Version": "24.1.1"}]}
    (root / "dataset_description.json").write_text(json.dumps(description))
    for number in range(1, n_participants + 1):
        sub = f"sub-{number:04d}"
        names = [f"anat/{sub}_{name}" for name in _anatomical_names()]
        names += [f"figures/{sub}_task-rest_run-{run}_desc-{k}_bold.svg" for run in (1, 2) for k in range(4)]
        for run in (1, 2):
            names += [f"func/{sub}_task-rest_run-{run}_{name}" for name in _functional_names()]
        for folder in ("anat", "figures", "func"):
            (root / sub / folder).mkdir(parents=True)
        for name in names:
            path = root / sub / name
            path.write_text('{"RepetitionTime": 2.0}' if name.endswith("_bold.json") else "")
        (root / f"{sub}.html").touch()
    return len(names)


def _anatomical_names() -> list[str]:
    stems = ["", *(f"space-{space}_" for space in SPACES)]
    names = [f"{stem}desc-preproc_T1w.{end}" for stem in stems for end in ("nii.gz", "json")]
    names += [f"{stem}label-{tissue}_probseg.nii.gz" for stem in stems for tissue in ("CSF", "GM", "WM")]
    names += [f"{stem}desc-brain_mask.nii.gz" for stem in stems] + [f"{stem}dseg.nii.gz" for stem in stems]
    return [*names, "from-T1w_to-MNI152NLin6Asym_mode-image_xfm.h5", "from-MNI152NLin6Asym_to-T1w_mode-image_xfm.h5"]


def _functional_names() -> list[str]:
    names = ["desc-confounds_timeseries.tsv", "desc-confounds_timeseries.json", "desc-coreg_boldref.nii.gz"]
    names += ["from-orig_to-boldref_mode-image_desc-hmc_xfm.txt", "from-boldref_to-T1w_mode-image_desc-coreg_xfm.txt"]
    for space in SPACES:
        names += [f"space-{space}_{name}" for name in ("boldref.nii.gz", "desc-brain_mask.nii.gz")]
        names += [
            f"space-{space}_desc-{name}" for name in ("brain_mask.json", "preproc_bold.nii.gz", "preproc_bold.json")
        ]
    return names


def find_with_us(root: Path, labels: list[str]) -> dict[str, float]:
    """Find runs with this package; no labels mean all participants."""
    began = time.perf_counter()
    sys.path.insert(0, str(ROOT))
    from bids_semantoks.config import SelectionConfig
    from bids_semantoks.inputs.datasets import find_dataset
    from bids_semantoks.inputs.runs import find_participants, find_runs

    imported = time.perf_counter()
    selection = SelectionConfig(participant_label=tuple(labels))
    dataset = find_dataset(root, root.parent / "out", selection)
    runs = find_runs(dataset, selection, find_participants(dataset, selection))
    assert all(run.mask and run.confounds and run.repetition_time for run in runs)
    return {"import": imported - began, "seconds": time.perf_counter() - imported, "runs": len(runs)}


def find_with_layout(root: Path, labels: list[str]) -> dict[str, float]:
    """Find BOLD images with BIDSLayout in blocks of 100 participants, without pairing anything."""
    began = time.perf_counter()
    import re

    from bids import BIDSLayout, BIDSLayoutIndexer

    imported = time.perf_counter()
    n_runs = 0
    for start in range(0, len(labels), 100):
        wanted = "|".join(labels[start : start + 100])
        ignore = [re.compile(rf"^/sub-(?!({wanted})(/|$))"), re.compile(r"/(anat|figures)(/|$)")]
        indexer = BIDSLayoutIndexer(validate=False, index_metadata=False, ignore=ignore)
        layout = BIDSLayout(root, validate=False, config=["bids", "derivatives"], indexer=indexer)
        query = {"suffix": "bold", "desc": "preproc", "space": "MNI152NLin6Asym", "extension": ".nii.gz"}
        n_runs += len(layout.get(return_type="filename", **query))
    return {"import": imported - began, "seconds": time.perf_counter() - imported, "runs": n_runs}


def call_again(script: str, *arguments: object) -> dict[str, float]:
    """Call a script again for one part, so that imports and memory are its own; it prints JSON."""
    done = subprocess.run([sys.executable, script, *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stderr[-2000:])
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Print seconds, ratios and peak memory."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--participants", type=int, default=1000)
    parser.add_argument("--layout-participants", type=int, default=200, help="how many BIDSLayout is given")
    parser.add_argument("--way", choices=("us", "layout"), help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("labels", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        result = (find_with_us if options.way == "us" else find_with_layout)(options.root, options.labels)
        from bids_semantoks.runtime.resources import read_peak_memory

        result["peak_mb"] = read_peak_memory() / 2**20
        print(json.dumps(result))
        return
    count, some = options.participants, min(options.layout_participants, options.participants)
    labels = [f"{number:04d}" for number in range(1, count + 1)]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "fmriprep"
        print(f"{count} participants of {write_tree(root, count)} files each")
        us, layout = ((__file__, "--root", root, "--way", way) for way in ("us", "layout"))
        one = call_again(*us, labels[count // 2])
        everyone = call_again(*us)
        few = call_again(*us, *labels[:some])
        layout_one = call_again(*layout, labels[count // 2])
        layout_few = call_again(*layout, *labels[:some])
    for name, ours, theirs in (("one", one, layout_one), (str(some), few, layout_few), ("all", everyone, None)):
        line = f"{name:>5}: {ours['seconds']:.3f} s for {ours['runs']} runs (imports {ours['import']:.2f} s, "
        line += f"peak {ours['peak_mb']:.0f} MB)"
        if name in TARGETS:
            line += f", target {TARGETS[name]:g} s: {'met' if ours['seconds'] < TARGETS[name] else 'MISSED'}"
        if theirs is not None:
            assert theirs["runs"] == ours["runs"]
            line += f"; BIDSLayout {theirs['seconds']:.3f} s (imports {theirs['import']:.2f} s, "
            line += f"peak {theirs['peak_mb']:.0f} MB): ratio {theirs['seconds'] / ours['seconds']:.0f}"
        print(line)


if __name__ == "__main__":
    main()
