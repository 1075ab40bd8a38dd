"""Files that the scenario reads and the base's demo does not write, and every kind of damage done to copies."""

from __future__ import annotations

import gzip
import json
import pickle
import shutil
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
from nibabel import cifti2

SPACE = "MNI152NLin2009cAsym"
PARITY = Path(__file__).parents[1] / "data" / "parity" / "checkpoint.pth"
Rows = list[list[str]]


def write_tsv(path: Path, *rows: Any) -> None:
    """Write a header and rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join("\t".join(map(str, row)) for row in rows) + "\n")


def describe(root: Path, name: str, version: str) -> None:
    """Start a derivative dataset of another pipeline."""
    root.mkdir(parents=True, exist_ok=True)
    made = [{"Name": name, "Version": version}]
    content = {"Name": name, "BIDSVersion": "1.9.0", "DatasetType": "derivative", "GeneratedBy": made}
    (root / "dataset_description.json").write_text(json.dumps(content))


def make_files(root: Path, _: Path) -> None:
    """Write what needs no program of ours: small files, series to be probed, surfaces and HDF5."""
    for name, content in {
        "denoise.json": {"description": "Six.", "strategy": ["motion", "high_pass"], "motion": "basic"},
        "filter.json": {"bold": {"acquisition": "AP"}},
        "multiband.json": {"bold": {"acquisition": "multiband"}},
        "recipe.json": {"mask": "block", "ttr_weight": 0.0, "epochs": 7},
    }.items():
        (root / name).write_text(json.dumps(content))
    (root / "text.json").write_text("[")
    shutil.copy(PARITY, root / "checkpoint.pth")
    (root / "truncated.pth").write_bytes(PARITY.read_bytes()[:100_000])
    (root / "pickle.pth").write_bytes(pickle.dumps({"model_state_dict": complex(1, 2)}, protocol=2))
    rng = np.random.default_rng(0)
    make_series(root, rng)
    make_surfaces(root, rng)
    with h5py.File(root / "signals.h5", "w") as file:
        for name, n_parcels in (("schaefer400", 400), ("tian3", 50), ("buckner7", 7)):
            values = rng.standard_normal((6, n_parcels, 110)).astype(np.float32)
            values[1, :, 105:] = np.nan
            values[2] = np.nan
            values[3, 2, 50] = np.nan if name == "tian3" else 0.5
            file[f"timeseries/{name}"] = values
        file["long_subject_id"] = [b"a", b"b", b"c", b"d", b"a", b"e"]


def make_series(root: Path, rng: np.random.Generator, n: int = 20, n_parcels: int = 11, n_volumes: int = 115) -> None:
    """Write parcel series in which age and sex are planted, with sessions and blocks of a task for some."""
    series = root / "series"
    describe(series, "x", "1")
    parcels = [f"LH_{('Vis', 'SomMot', 'Default')[i % 3]}_{i}" for i in range(n_parcels)]
    people, moods, onsets = [], [], np.arange(10, 210, 25)
    for number in range(n):
        label, age, sex = f"sub-{number + 1:02d}", 20 + 2 * number, "FM"[(number // 2) % 2]
        people.append((label, "n/a" if number == 4 else age, sex, "AB"[number % 2], f"f{number // 2}"))
        runs = [("_ses-1", "rest"), ("_ses-2", "rest")] if number < 12 else [("", "rest")]
        for part, task in [*runs, *([("", "blocks")] if number > 12 else [])]:
            values = rng.standard_normal((n_volumes, n_parcels))
            values[:, :5] += rng.standard_normal((n_volumes, 1)) * age / 30
            folder = series / label / part.removeprefix("_") / "func"
            stem = folder / f"{label}{part}_task-{task}_space-MNI152NLin6Asym_atlas-Own_stat-mean_timeseries"
            if part:
                moods.append((label, part.removeprefix("_"), round(rng.normal(), 3)))
            if task == "blocks":
                rows = [(onset, 15, ("look", "move")[i % 2]) for i, onset in enumerate(onsets)]
                write_tsv(folder / f"{label}_task-blocks_events.tsv", ("onset", "duration", "trial_type"), *rows)
                for onset, _, kind in rows:
                    values[onset // 2 + 3 : onset // 2 + 9, (kind == "move") :: 3] += 2
            write_tsv(stem.with_suffix(".tsv"), parcels, *np.round(values, 4).tolist())
            stem.with_suffix(".json").write_text('{"RepetitionTime": 2.0}')
    write_tsv(series / "participants.tsv", ("participant_id", "age", "sex", "site", "family"), *people)
    write_tsv(series / "phenotype" / "mood.tsv", ("participant_id", "session_id", "mood"), *moods)
    scores = [(row[0], round(rng.normal(), 3)) for row in people]
    write_tsv(root / "scores.tsv", ("participant_id", "score"), *scores)


def make_surfaces(root: Path, rng: np.random.Generator, n_volumes: int = 60) -> None:
    """Write a participant with CIFTI and GIFTI files and no volumes, and an atlas of each."""
    describe(root / "surfaces", "fMRIPrep", "24.1.1")
    func, stem = root / "surfaces" / "sub-01" / "func", "sub-01_task-rest"
    motion = np.round(np.abs(rng.normal(0, 0.1, (n_volumes, 2))), 4).tolist()
    write_tsv(func / f"{stem}_desc-confounds_timeseries.tsv", ("framewise_displacement", "trans_x"), *motion)
    (func / f"{stem}_desc-confounds_timeseries.json").write_text("{}")
    cortex = np.setdiff1d(np.arange(32492), np.arange(0, 32492, 12))  # a tenth is medial wall, as in fsLR 32k
    voxels = np.argwhere(np.ones((6, 7, 8)))
    axis = cifti2.BrainModelAxis.from_surface(cortex, 32492, "CortexLeft")
    axis += cifti2.BrainModelAxis.from_surface(cortex, 32492, "CortexRight")
    for name in ("CIFTI_STRUCTURE_THALAMUS_LEFT", "CIFTI_STRUCTURE_CEREBELLUM_LEFT"):
        axis += cifti2.BrainModelAxis([name] * len(voxels), voxel=voxels, affine=np.eye(4), volume_shape=(6, 7, 8))
    time = cifti2.SeriesAxis(start=0.0, step=2.0, size=n_volumes)
    values = 100 + 9 * rng.standard_normal((n_volumes, len(axis)), dtype=np.float32)
    nib.save(nib.Cifti2Image(values, (time, axis)), func / f"{stem}_space-fsLR_den-91k_bold.dtseries.nii")
    (func / f"{stem}_space-fsLR_den-91k_bold.json").write_text('{"RepetitionTime": 2.0}')
    names = ("LH_Vis_1", "LH_Cont_1", "RH_Vis_1", "RH_Default_1")
    keys = np.arange(len(axis)) * 4 // len(axis) + 1
    table = {0: ("???", (1.0, 1.0, 1.0, 0.0))} | {i + 1: (f"7Networks_{x}", (0.5,) * 4) for i, x in enumerate(names)}
    labels = (cifti2.LabelAxis(["parcels"], [table]), axis)
    nib.save(nib.Cifti2Image(keys[None].astype(np.float32), labels), root / "Small.dlabel.nii")
    for side, pair in (("L", names[:2]), ("R", names[2:])):
        arrays = [
            nib.gifti.GiftiDataArray(
                100 + rng.standard_normal(10242, dtype=np.float32), intent="NIFTI_INTENT_TIME_SERIES"
            )
            for _ in range(n_volumes)
        ]
        nib.save(nib.GiftiImage(darrays=arrays), func / f"{stem}_hemi-{side}_space-fsaverage5_bold.func.gii")
        (func / f"{stem}_hemi-{side}_space-fsaverage5_bold.json").write_text('{"RepetitionTime": 2.0}')
        legend = nib.gifti.GiftiLabelTable()
        for i, name in enumerate(("???", *(f"7Networks_{x}" for x in pair))):
            label = nib.gifti.GiftiLabel(key=i, red=0.5, green=0.5, blue=0.5, alpha=1.0)
            label.label = name
            legend.labels.append(label)
        keys = nib.gifti.GiftiDataArray((np.arange(10242) % 3).astype(np.int32), intent="NIFTI_INTENT_LABEL")
        image = nib.GiftiImage(darrays=[keys], labeltable=legend)
        nib.save(image, root / f"atlas-Small_hemi-{side}_dseg.label.gii")


def make_pipelines(root: Path, _: Path) -> None:
    """Write the first run of the demo as XCP-D would, with three volumes censored, and as HCP would."""
    func = root / "study" / "derivatives" / "fmriprep" / "sub-001" / "func"
    bold, mask = (next(func.glob(f"*_{end}.nii.gz")) for end in ("desc-preproc_bold", "desc-brain_mask"))
    image: Any = nib.load(bold)
    values = image.get_fdata(dtype=np.float32) * (nib.load(mask).get_fdata()[..., None] > 0)
    censored = np.isin(np.arange(values.shape[-1]), (7, 8, 40))
    describe(root / "xcp_d", "xcp_d", "0.10.6")
    folder = root / "xcp_d" / "sub-01" / "func"
    write_tsv(folder / "sub-01_task-rest_outliers.tsv", ["framewise_displacement"], *([int(x)] for x in censored))
    stem = folder / f"sub-01_task-rest_space-{SPACE}_desc-denoised_bold"
    nib.Nifti1Image(values[..., ~censored], image.affine, image.header).to_filename(f"{stem}.nii.gz")
    Path(f"{stem}.json").write_text('{"RepetitionTime": 2.0}')
    folder = root / "hcp" / "100307" / "MNINonLinear" / "Results" / "rfMRI_REST1_LR"
    folder.mkdir(parents=True)
    shutil.copy(bold, folder / "rfMRI_REST1_LR.nii.gz")
    shutil.copy(mask, folder / "brainmask_fs.2.nii.gz")
    moved = np.cumsum(np.random.default_rng(3).normal(0, 0.01, (len(censored), 12)), axis=0)
    np.savetxt(folder / "Movement_Regressors.txt", moved, fmt="%.9f")
    layout = json.loads(files("bids_semantoks").joinpath("data/layouts/hcp.json").read_text(encoding="utf-8"))
    layout |= {"space": SPACE, "runs": [{**layout["runs"][0], "repetition_time": 2.0}]}
    (root / "hcp.json").write_text(json.dumps(layout))


def copy(root: Path, work: Path, name: str, to: str) -> None:
    """Give a group its own copy of an input."""
    shutil.copytree(root / name, work / to)


def keep_config(root: Path, work: Path) -> None:
    """Take the configuration that the outputs were made with."""
    shutil.copy(next((root / "outputs").glob("logs/**/config.json")), work / "config.json")


def make_roots(_: Path, work: Path) -> None:
    """Write every kind of BIDS_DIR that is none."""
    (work / "file").write_text("x")
    for kind in ("empty", "not-bids", "broken-json"):
        (work / kind).mkdir()
    (work / "not-bids" / "holiday.jpg").write_text("x")
    (work / "broken-json" / "dataset_description.json").write_text("{")


def _link(path: Path) -> None:
    path.unlink()
    path.symlink_to("../../.git/annex/objects/xx/absent")


def _rewrite(change: Callable[[Any], Any], *, moved: float = 0) -> Callable[[Path], None]:
    """Change the values of an image, and where it lies."""

    def edit(path: Path) -> None:
        image: Any = nib.load(path)
        data, affine = np.asarray(image.dataobj).astype(np.float32), image.affine.copy()
        affine[:3, 3] += moved
        path.unlink()
        nib.save(nib.Nifti1Image(change(data), affine), path)

    return edit


def _spoil_voxels(data: Any) -> Any:
    inside = np.argwhere(data.std(axis=3) > 0)
    data[tuple(inside[100])] = np.nan
    data[(*inside[200], 5)] = np.inf
    return data


def _edit_rows(edit: Callable[[Rows], Rows]) -> Callable[[Path], None]:
    """Change the cells of a table."""
    return lambda path: write_tsv(path, *edit([line.split("\t") for line in path.read_text().splitlines()]))


def _drop(name: str) -> Callable[[Path], None]:
    return _edit_rows(lambda rows: [[x for x, head in zip(row, rows[0], strict=True) if head != name] for row in rows])


def _put_text(rows: Rows) -> Rows:
    rows[7][rows[0].index("trans_y")] = "oops"
    return rows


_BOLD, _SIDECAR, _MASK = "preproc_bold.nii.gz", "preproc_bold.json", "brain_mask.nii.gz"
#: What is done to the first participant's run: end of the file's name, and the damage.
RUNS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "no-mask": (_MASK, Path.unlink),
    "no-confounds": ("timeseries.tsv", Path.unlink),
    "no-sidecar": (_SIDECAR, Path.unlink),
    "no-repetition-time": (_SIDECAR, lambda path: path.write_text('{"TaskName": "rest"}')),
    "no-content": (_BOLD, _link),
    "no-content-sidecar": (_SIDECAR, _link),
    "confounds-short": ("timeseries.tsv", _edit_rows(lambda rows: rows[:-3])),
    "confounds-csf": ("timeseries.tsv", _drop("csf")),
    "confounds-cosine": ("timeseries.tsv", _drop("cosine00")),
    "confounds-text": ("timeseries.tsv", _edit_rows(_put_text)),
    "confounds-empty": ("timeseries.tsv", lambda path: path.write_text("\n")),
    "truncated": (_BOLD, lambda path: path.write_bytes(path.read_bytes()[:-20_000])),
    "no-image": (_BOLD, lambda path: path.write_bytes(gzip.compress(b"this is no image" * 100, mtime=0))),
    "three-dimensions": (_BOLD, _rewrite(lambda data: data[..., 0])),
    "zeros": (_BOLD, _rewrite(np.zeros_like)),
    "not-a-number": (_BOLD, _rewrite(_spoil_voxels)),
    "mask-grid": (_MASK, _rewrite(lambda data: data[1:])),
    "mask-half": (_MASK, _rewrite(lambda data: data * (np.arange(len(data)) < len(data) // 2)[:, None, None])),
}


def spoil(root: Path, work: Path, name: str) -> None:
    """Copy two participants of the study and damage a file of the first."""
    shutil.rmtree(work / "study", ignore_errors=True)
    left_out = shutil.ignore_patterns("sub-002", "sub-003", "sub-004", "sub-006", "code")
    shutil.copytree(root / "study", work / "study", ignore=left_out)
    ending, change = RUNS[name]
    (path,) = (work / "study" / "derivatives" / "fmriprep" / "sub-001").rglob(f"*{ending}")
    change(path)


def make_atlases(root: Path, work: Path) -> None:
    """Copy the demo's atlas to several names and damage all but the first."""
    source = next((root / "outputs" / "sourcedata" / "atlases").rglob("*_dseg.nii.gz"))
    for space, label, image, table in (
        (SPACE, "Demo457", None, None),
        ("MNIPediatricAsym", "Demo457", None, None),
        (SPACE, "Cut", None, lambda rows: rows[:-2]),
        (SPACE, "Far", _rewrite(lambda data: data.astype(np.int16), moved=5000), None),
        (
            SPACE,
            "Net",
            None,
            lambda rows: [["Limbic" if (row[0], x) == ("1", "Vis") else x for x in row] for row in rows],
        ),
    ):
        stem = f"tpl-{space}_atlas-{label}_dseg"
        shutil.copy2(source, work / f"{stem}.nii.gz")
        shutil.copy2(source.with_name(source.name.replace(".nii.gz", ".tsv")), work / f"{stem}.tsv")
        if image:
            image(work / f"{stem}.nii.gz")
        if table:
            _edit_rows(table)(work / f"{stem}.tsv")
