"""Datasets under the file names of real pipelines: small images, confounds and tables in the place of the real ones."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from helpers import bold_files, surface_files

T = 64  # volumes of a run, 128 s
N_VERTICES = 10242  # fsaverage5, on which surfaces of any name lie here
NAMES = ("Mock_Vis_1", "Mock_Cont_1", "Mock_Default_1", "Mock_SomMot_1")
PIPELINES = {"fmriprep": "fMRIPrep", "xcp_d": "XCP-D", "nibabies": "NiBabies", "fmripost-aroma": "fMRIPost-AROMA"}
_CONFOUNDS = [
    f"{name}{end}"
    for name in ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z", "csf", "white_matter", "global_signal")
    for end in ("", "_derivative1", "_power2", "_derivative1_power2")
]
_TABLES = {
    "desc-confounds_timeseries.tsv": [*_CONFOUNDS, "framewise_displacement", "cosine00"],
    "desc-confounds_regressors.tsv": [*_CONFOUNDS, "framewise_displacement", "cosine00"],
    "_motion.tsv": ["framewise_displacement"],
    "_timeseries.tsv": NAMES,
}
_SIDECAR = re.compile(r"(sub-[^/]*/(ses-[^/]*/)?)?[^/]*_bold(\.dtseries)?\.json")
_VOLUME = re.compile(r"_bold\.nii(\.gz)?$")


def write_mock(root: Path, names: Iterable[str], pipeline: str, version: str) -> Path:
    """Write a dataset with the files of a list; the paths in it may begin with the name of the dataset."""
    files = sorted({name.removeprefix("./").removeprefix("fmriprep/").removeprefix("xcp_d/") for name in names})
    root.mkdir(parents=True)
    labels = {match[1] for name in files if (match := re.search(r"_(?:atlas|seg)-([A-Za-z0-9]+)_.*_?timeseries", name))}
    for name in files:
        if ("/func/" in name and re.search(r"\.[a-z]", name)) or _SIDECAR.fullmatch(name):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            _write_file(root / name, find_parts(name, files))
    for label in labels:
        folder = root / "sourcedata" / "atlases"
        folder.mkdir(parents=True, exist_ok=True)
        rows = [f"{i}\t{parcel}\t{parcel.split('_')[1]}" for i, parcel in enumerate(NAMES, start=1)]
        (folder / f"atlas-{label}_dseg.tsv").write_text("\n".join(["index\tlabel\tnetwork_label", *rows]) + "\n")
    description = {
        "Name": PIPELINES[pipeline],
        "BIDSVersion": "1.4.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": PIPELINES[pipeline], "Version": version}],
    }
    (root / "dataset_description.json").write_text(json.dumps(description))
    # The series of one hemisphere had no sidecar up to 20.0; the raw dataset's, inherited, stands for it.
    if any(name.endswith(".func.gii") for name in files):
        (root / "bold.json").write_text('{"RepetitionTime": 2.0}')
    return root


def find_parts(name: str, files: Iterable[str]) -> list[str]:
    """List the runs that a file without ``run-`` joins, by the names of the others; itself if it is a run."""
    others = [other for other in files if other != name and re.sub(r"_run-[^_]+", "", other) == name]
    return others or [name]


def _write_file(path: Path, parts: list[str]) -> None:
    # What joins a single run repeats its values.
    name, rng = path.name, np.random.default_rng(list(parts[0].encode()))
    n_volumes = T * len(parts)
    columns = next((columns for end, columns in _TABLES.items() if name.endswith(end)), None)
    if columns is not None:
        _write_table(path, columns, n_volumes, rng)
    elif name.endswith("_outliers.tsv"):
        path.write_text("\n".join(["framewise_displacement", *["0"] * n_volumes]) + "\n")
    elif name.endswith(("_bold.json", "_bold.dtseries.json", "_timeseries.json")):
        path.write_text('{"RepetitionTime": 2.0}')
    else:
        _write_image(path, n_volumes, rng)


def _write_image(path: Path, n_volumes: int, rng: np.random.Generator) -> None:
    name = path.name
    if _VOLUME.search(name):
        values = 100 + 9 * rng.standard_normal((*bold_files.SHAPE, n_volumes))
        bold_files.write_bold(path, values.astype(np.float32))
    elif name.endswith("_mask.nii.gz"):
        bold_files.write_mask(path)
    elif name.endswith(".dtseries.nii"):
        surface_files.write_dtseries(path, surface_files.build_series(len(surface_files.build_axis()), 0, n_volumes))
    elif name.endswith(".ptseries.nii"):
        surface_files.write_ptseries(path, rng.standard_normal((n_volumes, len(NAMES))), NAMES)
    elif name.endswith(".func.gii"):
        surface_files.write_func(path, surface_files.build_series(N_VERTICES, 0, n_volumes))
    else:
        path.write_bytes(gzip.compress(b"") if name.endswith(".gz") else b"")


def _write_table(path: Path, columns: Iterable[str], n_rows: int, rng: np.random.Generator) -> None:
    header = list(columns)
    rows = rng.normal(0, 0.1, (n_rows, len(header)))
    lines = ["\t".join(f"{abs(cell):.5f}" for cell in row) for row in rows]
    path.write_text("\n".join(["\t".join(header), *lines]) + "\n")


def write_mock_atlas(folder: Path, space: str) -> Path:
    """Write an atlas that fits the mock images of a space; returns what --atlas takes."""
    if space == "fsLR":
        return surface_files.write_dlabel(folder / "Mock.dlabel.nii")
    if space.startswith("fsaverage"):
        for side in "LR":
            names = {i + 1: f"7Networks_{side}H_{name}_1" for i, name in enumerate(("Vis", "Cont"))}
            path = folder / f"atlas-Mock_hemi-{side}_dseg.label.gii"
            surface_files.write_label(path, np.arange(N_VERTICES) % 3, names)
        return folder / "atlas-Mock_hemi-L_dseg.label.gii"
    return bold_files.write_atlas(folder, name="Mock", space=space)
