"""Time and memory of parcel means against nilearn and against inflating the file alone, measured in one run.

Usage: python benchmarks/bench_extract.py [--volumes 240] [--repeats 3]
       python benchmarks/bench_extract.py --native [--volumes 490]

Makes a run of 97 x 115 x 97 voxels in int16, compressed as nibabel does, with an atlas of 450 blocks; every
measurement runs in a process of its own. With --native the run has the size and type of UK Biobank's (88 x 88 x 64
float32) and a warp to the grid of the atlas. Exits with 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

SHAPE = (97, 115, 97)
N_PARCELS = 450
AFFINE = np.array([[2.0, 0, 0, -96.5], [0, 2.0, 0, -132.5], [0, 0, 2.0, -78.5], [0, 0, 0, 1.0]])
SPACE = "MNI152NLin2009cAsym"
NATIVE_SHAPE, NATIVE_SIZE = (88, 88, 64), 2.4


def build_brain() -> tuple[np.ndarray, np.ndarray]:
    """Make the distance (X, Y, Z) from the centre, 1 at the border, and 450 blocks, in float32 as published atlases."""
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    distance = np.sqrt(sum(axis**2 for axis in axes))
    i, j, k = (index // 9 for index in np.indices(SHAPE))
    blocks = (i * 13 + j) * 11 + k
    names, counts = np.unique(blocks[distance < 0.8], return_counts=True)
    chosen = np.sort(names[np.argsort(counts, kind="stable")[-N_PARCELS:]])
    labels = np.where(np.isin(blocks, chosen), np.searchsorted(chosen, blocks) + 1, 0)
    return distance, np.where(distance < 0.8, labels, 0).astype(np.float32)


def write_data(folder: Path, n_volumes: int) -> None:
    """Write the run, one four times as long, mask, atlas and confounds."""
    import nibabel as nib

    distance, labels = build_brain()
    inside = distance < 0.85
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((7, *SHAPE), dtype=np.float32)
    # Tissue contrast with noise of 1 %, weak noise outside, zeros in the corners: half the size after compression.
    mean = 9000 + 2000 * np.cos(9 * distance)
    stored = gzip.GzipFile(folder / "volumes.gz", "wb", compresslevel=1)
    with stored:
        for volume in range(n_volumes):
            signal = mean + (70 + 20 * volume / n_volumes) * noise[volume % 7] + 40 * noise[(3 * volume + 1) % 7]
            values = np.where(inside, signal, np.abs(15 * noise[(volume + 2) % 7]))
            values[distance > 1.15] = 0
            stored.write(values.astype(np.int16).tobytes(order="F"))
    volumes = (folder / "volumes.gz").read_bytes()
    for name, repeats in (("short", 1), ("long", 4)):
        header = nib.Nifti1Header()
        header.set_data_shape((*SHAPE, repeats * n_volumes))
        header.set_data_dtype(np.int16)
        header.set_zooms((2, 2, 2, 2))
        header.set_xyzt_units("mm", "sec")
        header.set_sform(AFFINE, 4)
        header["magic"], header["vox_offset"] = b"n+1", 352
        with (folder / f"{name}_bold.nii.gz").open("wb") as file:
            file.write(gzip.compress(header.binaryblock + bytes(4)))
            for _ in range(repeats):
                file.write(volumes)
        write_confounds(folder / f"{name}_confounds.tsv", repeats * n_volumes)
    nib.Nifti1Image(inside.astype(np.uint8), AFFINE).to_filename(folder / "mask.nii.gz")
    write_atlas(folder, labels)


def write_derivative(root: Path, folder: Path, stems: list[str]) -> None:
    """Write a dataset as fMRIPrep does, whose runs are all the short run, by links."""
    root.mkdir()
    description = {"Name": "fMRIPrep", "BIDSVersion": "1.4.0", "DatasetType": "derivative"}
    generator = {"GeneratedBy": [{"Name": "fMRIPrep", "Version": "24.1.1"}]}
    (root / "dataset_description.json").write_text(json.dumps(description | generator))
    for stem in stems:
        func = root / stem.partition("_")[0] / "func"
        func.mkdir(parents=True, exist_ok=True)
        os.link(folder / "short_bold.nii.gz", func / f"{stem}_space-{SPACE}_desc-preproc_bold.nii.gz")
        os.link(folder / "mask.nii.gz", func / f"{stem}_space-{SPACE}_desc-brain_mask.nii.gz")
        os.link(folder / "short_confounds.tsv", func / f"{stem}_desc-confounds_timeseries.tsv")
        (func / f"{stem}_space-{SPACE}_desc-preproc_bold.json").write_text('{"RepetitionTime": 2.0}')


def write_atlas(folder: Path, labels: np.ndarray) -> None:
    """Write the label image and its table."""
    import nibabel as nib

    stem = f"atlas-Blocks_space-{SPACE}_dseg"
    nib.Nifti1Image(labels, AFFINE).to_filename(folder / f"{stem}.nii.gz")
    rows = [f"{n}\tblock{n}\tn/a" for n in range(1, N_PARCELS + 1)]
    (folder / f"{stem}.tsv").write_text("\n".join(["index\tlabel\tnetwork_label", *rows]) + "\n")


def write_native(folder: Path, n_volumes: int) -> None:
    """Write a run in native space as ICA-FIX leaves it, its mask, a smooth warp, and the atlas in standard space."""
    import nibabel as nib

    write_atlas(folder, build_brain()[1])
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in NATIVE_SHAPE], indexing="ij")
    inside = np.sqrt(sum(axis**2 for axis in axes)) < 0.9
    noise = 80 * np.random.default_rng(0).standard_normal((8, *NATIVE_SHAPE), dtype=np.float32)
    affine = np.diag([-NATIVE_SIZE, NATIVE_SIZE, NATIVE_SIZE, 1.0])
    header = nib.Nifti1Header()
    header.set_data_shape((*NATIVE_SHAPE, n_volumes))
    header.set_data_dtype(np.float32)
    header.set_zooms((NATIVE_SIZE,) * 3 + (0.735,))
    header.set_sform(affine, 1)
    header["magic"], header["vox_offset"] = b"n+1", 352
    with gzip.GzipFile(folder / "short_bold.nii.gz", "wb", compresslevel=1) as file:
        file.write(header.binaryblock + bytes(4))
        for volume in range(n_volumes):
            values = 9000 + noise[volume % 8] + volume / n_volumes * noise[(3 * volume + 1) % 7]
            file.write(np.where(inside, values, 0).astype(np.float32).tobytes(order="F"))
    nib.Nifti1Image(inside.astype(np.uint8), affine).to_filename(folder / "mask.nii.gz")
    # Centre to centre, in FSL's mm: x of the standard image counts from the other end.
    places = np.stack(np.indices(SHAPE), axis=-1).astype(np.float32) * 2
    centre = (np.asarray(NATIVE_SHAPE) - 1) / 2 * NATIVE_SIZE - (np.asarray(SHAPE) - 1)
    field = centre + 4 * np.sin(places[..., ::-1] / 25)
    nib.Nifti1Image(field.astype(np.float32), AFFINE).to_filename(folder / "warp.nii.gz")


def write_confounds(path: Path, n_volumes: int) -> None:
    """Write the columns that the default denoising takes, as noise."""
    motion = [f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"]
    names = [name + end for name in motion for end in ("", "_derivative1", "_power2", "_derivative1_power2")]
    n_cosines = 2 * n_volumes * 2 // 128 - 1
    names += ["csf", "white_matter", "framewise_displacement", *[f"cosine{n:02d}" for n in range(n_cosines)]]
    values = np.random.default_rng(1).standard_normal((n_volumes, len(names)))
    np.savetxt(path, values, delimiter="\t", header="\t".join(names), comments="")


def measure(what: str, folder: Path) -> dict[str, Any]:
    """Do one thing once in this process; seconds leave out imports."""
    bold, mask = folder / "short_bold.nii.gz", folder / "mask.nii.gz"
    atlas_path = folder / f"atlas-Blocks_space-{SPACE}_dseg.nii.gz"
    if what == "inflate":
        from isal import igzip

        start = time.perf_counter()
        buffer = bytearray(1 << 20)
        with igzip.open(bold, "rb") as file:
            while file.readinto(buffer):
                pass
        values = np.zeros(0)
    elif what == "nilearn":
        from nilearn.maskers import NiftiLabelsMasker

        start = time.perf_counter()
        values = NiftiLabelsMasker(str(atlas_path), mask_img=str(mask), standardize=None).fit_transform(str(bold))
    else:
        values, start = measure_ours(what, folder, atlas_path, mask)
    seconds = time.perf_counter() - start
    np.save(folder / f"{what}.npy", values)
    # Not ru_maxrss: it starts from the size of the process that launched this one.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {"seconds": seconds, "cpu": time.process_time(), "peak_mb": int(status["VmHWM"].split()[0]) / 1024}


def measure_ours(what: str, folder: Path, atlas_path: Path, mask: Path) -> tuple[np.ndarray, float]:
    """Extract means, or (short, long) whole cleaned signals; also when it started."""
    from bids_semantoks import extract, participant  # noqa: F401 - loaded before the clock starts
    from bids_semantoks.atlases.load import load_atlas
    from bids_semantoks.images.volumes import load_volumes
    from bids_semantoks.signals.volume_means import extract_means

    start = time.perf_counter()
    if what in ("short", "long"):
        image, confounds = folder / f"{what}_bold.nii.gz", folder / f"{what}_confounds.tsv"
        found = extract(image, mask=mask, confounds=confounds, atlas=str(atlas_path), repetition_time=2.0, space=SPACE)
        return found.series, start
    atlas = load_atlas(atlas_path, space=SPACE, directory=None)
    if what == "native":
        from bids_semantoks.signals.volume_means import extract_native_means

        volumes = load_volumes(folder / "short_bold.nii.gz")
        return extract_native_means(volumes, mask, folder / "warp.nii.gz", atlas).values, start
    return extract_means(load_volumes(folder / "short_bold.nii.gz"), mask, atlas).values, start


def launch(names: tuple[str, ...], folder: Path, repeats: int) -> dict[str, dict[str, float]]:
    """Measure in fresh processes, taking turns; of each the best time and the worst memory."""
    results: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(repeats):
        for name in names:
            command = [sys.executable, __file__, "--measure", name, "--folder", str(folder)]
            results[name].append(json.loads(subprocess.check_output(command, text=True)))
    best = {name: min(found, key=lambda r: r["seconds"]) for name, found in results.items()}
    for name, found in best.items():
        found["peak_mb"] = max(r["peak_mb"] for r in results[name])
        print(
            f"{name:8s} {found['seconds']:7.2f} s  (processor time with imports {found['cpu']:6.2f} s)  "
            f"peak {found['peak_mb']:6.0f} MB  best of {repeats}",
            flush=True,
        )
    return best


def compare_native(folder: Path, n_volumes: int, repeats: int) -> int:
    """Measure a run in native space against inflating its file."""
    write_native(folder, n_volumes)
    size = (folder / "short_bold.nii.gz").stat().st_size
    print(f"{NATIVE_SHAPE} x {n_volumes} float32, {size / 1e6:.0f} MB compressed, {N_PARCELS} parcels on {SHAPE}")
    best = launch(("inflate", "native"), folder, repeats)
    inflate, native = best["inflate"], best["native"]
    return report(
        [
            ("times the inflating alone", native["seconds"] / inflate["seconds"], 2.0, "<="),
            ("MB peak of a process that averages one run", native["peak_mb"], 350.0, "<="),
        ]
    )


def report(checks: list[tuple[str, float, float, str]]) -> int:
    """Print each value beside its target; 1 if one is missed."""
    passed = [value >= target if sign == ">=" else value <= target for _, value, target, sign in checks]
    for (text, value, target, sign), good in zip(checks, passed, strict=True):
        print(f"{'ok  ' if good else 'MISS'} {value:10.4g} {text} (target {sign} {target:g})")
    return 0 if all(passed) else 1


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--volumes", type=int, help="240, with --native 490")
    parser.add_argument("--native", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    if args.measure:
        print(json.dumps(measure(args.measure, args.folder)))
        return 0
    with tempfile.TemporaryDirectory(prefix="bench-extract-") as name:
        folder = Path(name)
        if args.native:
            return compare_native(folder, args.volumes or 490, args.repeats)
        args.volumes = args.volumes or 240
        write_data(folder, args.volumes)
        size = (folder / "short_bold.nii.gz").stat().st_size
        share = size / (2 * np.prod(SHAPE) * args.volumes)
        print(
            f"{SHAPE} x {args.volumes} int16, {size / 1e6:.0f} MB compressed ({share:.2f} of raw), {N_PARCELS} parcels"
        )
        # In turns, so that other work on the machine disturbs all of them alike.
        best = launch(("inflate", "means", "nilearn"), folder, args.repeats) | launch(("short", "long"), folder, 1)
        inflate, means, nilearn, short, long = (best[n] for n in ("inflate", "means", "nilearn", "short", "long"))
        ours, theirs = np.load(folder / "means.npy"), np.load(folder / "nilearn.npy")
    error = float(np.abs(ours / theirs - 1).max())
    checks = [
        ("times faster than NiftiLabelsMasker", nilearn["seconds"] / means["seconds"], 15.0, ">="),
        ("times the inflating alone", means["seconds"] / inflate["seconds"], 2.0, "<="),
        ("largest relative difference to nilearn", error, 1e-4, "<="),
        ("MB peak of a process that cleans one run", short["peak_mb"], 350.0, "<="),
        (f"times that for {4 * args.volumes} volumes", long["peak_mb"] / short["peak_mb"], 1.1, "<="),
    ]
    return report(checks)


if __name__ == "__main__":
    sys.exit(main())
