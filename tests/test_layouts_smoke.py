"""The whole way from data outside BIDS: the examples of the documentation, with what these programs write."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import surface_files as made

from bids_semantoks.atlases.registry import find_registry
from bids_semantoks.cli import call
from bids_semantoks.files import read_rows, read_table
from bids_semantoks.outputs.store import read_statuses

App = Callable[..., tuple[int, str]]
T, P = 70, 457
TABLE = find_registry() / "tpl-MNI152NLin2009cAsym_atlas-Demo457_dseg.tsv"
SERIES = np.random.default_rng(8).normal(size=(T, P)).round(7)
REST = {"task": "rest"}


def write_layout(folder: Path, **content: Any) -> str:
    path = folder / "layout.json"
    path.write_text(json.dumps({"name": "Example", **content}))
    return str(path)


def find_values(out: Path) -> dict[str, np.ndarray[Any, Any]]:
    suffix = "_stat-mean_timeseries.tsv"
    return {path.name.removesuffix(suffix): read_table(path)[1] for path in sorted(out.rglob(f"*{suffix}"))}


CPAC = "output/pipeline_{}/sub-{}_ses-{}/func/sub-{}_ses-{}_task-{}_run-{}_{}_desc-Mean_timeseries.1D"
CPAC_NAME = CPAC.format("*", "{participant}", "{session}", "{participant}", "{session}", "{task}", "{run}", "*")
HALFPIPE = "sub-{}/func/task-{}/sub-{}_task-{}_feature-corr_atlas-{}_timeseries"
HALFPIPE_NAME = HALFPIPE.format("{participant}", "{task}", "{participant}", "{task}", "{atlas}")
PROGRAMS: dict[str, tuple[str, dict[str, Any]]] = {
    "C-PAC": (
        CPAC.format("x", "01", "1", "01", "1", "rest", "2", "atlas-Demo_space-template_reg-default"),
        {"series": CPAC_NAME, "repetition_time": 2},
    ),
    "HALFpipe": (f"{HALFPIPE.format('01', 'rest', '01', 'rest', 'Demo457')}.tsv", {"series": f"{HALFPIPE_NAME}.tsv"}),
    "HALFpipe, older": (
        f"{HALFPIPE.format('1', 'rest', '1', 'rest', 'Demo457')}.txt",
        {"series": f"{HALFPIPE_NAME}.txt"},
    ),
    "CONN": (
        "conn/ROI_Subject001_Session002.csv",
        {"series": "conn/ROI_Subject{participant}_Session{session}.csv", "entities": REST, "repetition_time": 2},
    ),
    "NumPy": (
        "series/01.npy",
        {"series": "series/{participant}.npy", "entities": REST, "volumes": "columns", "repetition_time": 2},
    ),
}


def write_series(program: str, path: Path) -> None:
    path.parent.mkdir(parents=True)
    if program == "NumPy":
        np.save(path, SERIES.T)
        return
    if program == "CONN":
        header = ",".join(f'"{row["label"]}"' for row in read_rows(TABLE))
        np.savetxt(path, SERIES, delimiter=",", header=header, comments="")
        return
    if program == "C-PAC":
        header = "\t#".join(f"Mean_{number}" for number in range(1, P + 1))
        np.savetxt(path, SERIES, delimiter="\t", header=header, comments="#")
        return
    np.savetxt(path, SERIES, delimiter="\t" if path.suffix == ".tsv" else " ")
    path.with_suffix(".json").write_text(json.dumps({"RepetitionTime": 2.0}))


@pytest.mark.parametrize("program", PROGRAMS)
def test_series_of_other_programs(program: str, tmp_path: Path, app: App) -> None:
    name, run = PROGRAMS[program]
    root = tmp_path / "data"
    write_series(program, root / name)
    more = () if program == "CONN" else ("--signals-only",)
    code, text = app(root, tmp_path / "out", "--layout", write_layout(tmp_path, runs=[run]), *more)
    assert code == 0, text
    ((stem, values),) = find_values(tmp_path / "out").items()
    assert stem.endswith("_atlas-Demo457")
    np.testing.assert_allclose(values, SERIES, rtol=1e-6)
    (sidecar,) = (tmp_path / "out").rglob("*_stat-mean_timeseries.json")
    assert json.loads(sidecar.read_text())["RepetitionTime"] == 2
    assert bool(list((tmp_path / "out").rglob("*_embedding.tsv"))) is (not more)


def test_series_that_would_be_misread_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    run = {"series": "{participant}.txt", "entities": REST, "repetition_time": 2}
    layout = write_layout(tmp_path, atlas=str(TABLE), runs=[run])
    arguments = ["participant", "--layout", layout, "--signals-only", "--n-procs", "1"]
    np.savetxt(root / "b.txt", SERIES.T)
    assert call([str(root), str(tmp_path / "out"), *arguments]) == 6
    np.savetxt(root / "a.txt", SERIES)
    assert call([str(root), str(tmp_path / "out"), *arguments]) == 7
    (message,) = (status["message"] for _, status in read_statuses(tmp_path / "out") if status["status"] == "failed")
    assert "b.txt has 70 columns " in message
    assert list(find_values(tmp_path / "out")) == ["sub-a_task-rest_atlas-Demo457"]


def test_images_of_tedana(study: Path, tmp_path: Path, app: App) -> None:
    bold = sorted((study / "derivatives" / "fmriprep").rglob("*_desc-preproc_bold.nii.gz"))[0]
    folder = tmp_path / "tedana" / "sub-01"
    folder.mkdir(parents=True)
    shutil.copy(bold, folder / "sub-01_task-rest_desc-denoised_bold.nii.gz")
    shutil.copy(bold, folder / "sub-01_task-rest_desc-optcom_bold.nii.gz")
    name = "sub-{participant}/sub-{participant}_task-{task}_desc-denoised_bold.nii.gz"
    runs = [{"bold": name, "denoised": True, "repetition_time": 2}]
    layout = write_layout(tmp_path, space="MNI152NLin2009cAsym", runs=runs)
    code, text = app(tmp_path / "tedana", tmp_path / "out", "--layout", layout, "--signals-only")
    assert code == 0, text
    assert list(find_values(tmp_path / "out")) == ["sub-01_task-rest_space-MNI152NLin2009cAsym_atlas-Demo457"]
    assert "its images are already denoised" in text


LIFESPAN = "HCA6002236_V1_MR/MNINonLinear/Results/rfMRI_REST1_AP/rfMRI_REST1_AP_Atlas_MSMAll_hp0_clean.dtseries.nii"
ABCC = "sub-X/ses-1/func/sub-X_ses-1_task-rest"


@pytest.mark.parametrize(
    ("layout", "name", "stem", "is_filtered"),
    [
        ("hcp-lifespan", LIFESPAN, "sub-HCA6002236_ses-V1_task-rest_dir-AP_run-1", False),
        ("abcc", f"{ABCC}_bold_desc-filtered_timeseries.dtseries.nii", "sub-X_ses-1_task-rest", True),
    ],
)
def test_grayordinates(tmp_path: Path, layout: str, name: str, stem: str, is_filtered: bool) -> None:
    axis = made.build_axis()
    made.write_dtseries(tmp_path / "data" / name, made.build_series(len(axis), n_volumes=T), axis, step=0.8)
    atlas = made.write_dlabel(tmp_path / "Small.dlabel.nii")
    arguments = ["--layout", layout, "--atlas", str(atlas), "--signals-only", "--min-time", "20"]
    assert call([str(tmp_path / "data"), str(tmp_path / "out"), "participant", *arguments, "--n-procs", "1"]) == 0
    assert list(find_values(tmp_path / "out")) == [f"{stem}_space-fsLR_atlas-Small"]
    (path,) = (tmp_path / "out").rglob("*_stat-mean_timeseries.json")
    sidecar = json.loads(path.read_text())
    assert (sidecar["RepetitionTime"], sidecar["Denoising"]["BandPass"] is None) == (0.8, is_filtered)


def test_parcels_of_abcc(tmp_path: Path) -> None:
    names = ("L_Default_1", "R_Visual_2", "L_None_3")
    values = SERIES[:, :3].astype(np.float32)
    name = f"{ABCC}_bold_atlas-Gordon2014FreeSurferSubcortical_desc-filtered_timeseries.ptseries.nii"
    made.write_ptseries(tmp_path / "data" / name, values, names, step=0.8)
    table = tmp_path / "atlas-Gordon2014FreeSurferSubcortical_dseg.tsv"
    lines = ["index\tlabel\tnetwork_label", "1\tL_Default_1\tDefault", "2\tR_Visual_2\tVisual", "3\tL_None_3\tNone"]
    table.write_text("\n".join(lines) + "\n")
    arguments = ["--layout", "abcc", "--atlas", str(table), "--signals-only", "--min-time", "20", "--n-procs", "1"]
    assert call([str(tmp_path / "data"), str(tmp_path / "out"), "participant", *arguments]) == 0
    ((stem, found),) = find_values(tmp_path / "out").items()
    assert stem == "sub-X_ses-1_task-rest_space-fsLR_atlas-Gordon2014FreeSurferSubcortical"
    np.testing.assert_allclose(found, values, rtol=1e-6)
