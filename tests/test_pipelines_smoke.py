"""The whole way from outputs of other pipelines, made of the synthetic study's images."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from helpers.fsl_files import build_affine, write_native_run

from bids_semantoks.files import read_table
from bids_semantoks.outputs.store import read_statuses

App = Callable[..., tuple[int, str]]
SPACE = "MNI152NLin2009cAsym"


def describe(root: Path, name: str, version: str) -> Path:
    content: dict[str, Any] = {"Name": name, "BIDSVersion": "1.9.0", "DatasetType": "derivative"}
    content["GeneratedBy"] = [{"Name": name, "Version": version}, {"Name": "fMRIPrep", "Version": "24.1.1"}]
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset_description.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module")
def files(study: Path) -> dict[str, Path]:
    """One preprocessed run: image, mask and confounds."""
    bold = sorted((study / "derivatives" / "fmriprep").rglob("*_desc-preproc_bold.nii.gz"))[0]
    mask = bold.with_name(bold.name.replace("desc-preproc_bold", "desc-brain_mask"))
    stem = bold.name.split("_space-")[0]
    return {"bold": bold, "mask": mask, "confounds": bold.with_name(f"{stem}_desc-confounds_timeseries.tsv")}


@pytest.fixture(scope="module")
def xcpd(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of XCP-D: zero outside the brain, three volumes censored and left out."""
    root = describe(tmp_path_factory.mktemp("xcpd") / "xcp_d", "xcp_d", "0.10.6")
    folder = root / "sub-01" / "func"
    folder.mkdir(parents=True)
    image: Any = nib.load(files["bold"])
    values = image.get_fdata(dtype=np.float32) * (nib.load(files["mask"]).get_fdata()[..., None] > 0)
    n_volumes = values.shape[-1]
    censored = np.isin(np.arange(n_volumes), (7, 8, 40))
    stem = folder / f"sub-01_task-rest_space-{SPACE}"
    nib.Nifti1Image(values[..., ~censored], image.affine, image.header).to_filename(f"{stem}_desc-denoised_bold.nii.gz")
    sidecar = json.loads(files["bold"].with_name(files["bold"].name.replace(".nii.gz", ".json")).read_text())
    Path(f"{stem}_desc-denoised_bold.json").write_text(json.dumps({"RepetitionTime": sidecar["RepetitionTime"]}))
    marks = "\n".join(str(int(mark)) for mark in censored)
    (folder / "sub-01_task-rest_outliers.tsv").write_text(f"framewise_displacement\n{marks}\n")
    return root


def test_denoised_images_are_only_averaged(xcpd: Path, tmp_path: Path, app: App) -> None:
    out = tmp_path / "out"
    code, text = app(xcpd, out)
    assert code == 0, text
    lines = text.splitlines()
    assert f" xcp_d 0.10.6 (preprocessed BOLD) in {xcpd}" in lines[0]
    assert lines[1].startswith("Recognised xcp_d 0.10.6 as XCP-D")
    assert f"--denoise none instead of simple: the images in {xcpd} " in text
    assert "Skipping the band-pass filter: already applied by xcp_d 0.10.6." in text
    (path,) = out.rglob("*_stat-mean_timeseries.json")
    sidecar = json.loads(path.read_text())
    assert sidecar["RecognizedAs"] == "XCP-D"
    assert sidecar["Denoising"]["DenoisedBy"] == "xcp_d 0.10.6"
    assert (sidecar["Denoising"]["Preset"], sidecar["Denoising"]["BandPass"]) == ("none", None)
    assert sidecar["VolumesDropped"]["Scrubbed"]["Volumes"] == [7, 8, 40]
    _, values = read_table(path.with_suffix(".tsv"))
    assert np.isnan(values[[7, 8, 40]]).all()
    assert sidecar["Denoising"]["Filter"] == "none; linear detrending only"
    text = (out / "logs" / "CITATION.md").read_text()
    assert "already been denoised by xcp_d 0.10.6, so no regressors were removed" in text
    assert "Volumes censored by xcp_d 0.10.6 were dropped." in text
    assert "No volumes were scrubbed" not in text
    code, text = app(xcpd, out)
    assert (code, "Keeping 1 run " in text) == (0, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--denoise", "36p"), "--denoise 36p would denoise twice: the images in"),
        (("--band-pass", "0.02", "0.08"), "--band-pass 0.02 0.08 would filter twice: the images in"),
    ],
)
def test_nothing_is_done_twice(xcpd: Path, tmp_path: Path, app: App, options: tuple[str, ...], message: str) -> None:
    code, text = app(xcpd, tmp_path / "out", *options)
    assert code == 4
    assert message in text
    assert not (tmp_path / "out").exists()


def test_hcp_with_24_parameters_and_without_more(files: dict[str, Path], tmp_path: Path, app: App) -> None:
    folder = tmp_path / "hcp" / "100307" / "MNINonLinear" / "Results" / "rfMRI_REST1_LR"
    folder.mkdir(parents=True)
    shutil.copy(files["bold"], folder / "rfMRI_REST1_LR.nii.gz")
    shutil.copy(files["mask"], folder / "brainmask_fs.2.nii.gz")
    names, values = read_table(files["confounds"])
    moved = [names.index(f"{kind}_{axis}") for kind in ("trans", "rot") for axis in "xyz"]
    table = values[:, moved] * np.repeat([1, 180 / np.pi], 3)
    np.savetxt(folder / "Movement_Regressors.txt", np.hstack([table, np.zeros_like(table)]), fmt="%.9f")
    layout = json.loads((Path(__file__).parents[1] / "bids_semantoks" / "data" / "layouts" / "hcp.json").read_text())
    own = {**layout, "space": SPACE, "runs": [{**layout["runs"][0], "repetition_time": 2.0}]}
    (tmp_path / "own.json").write_text(json.dumps(own))
    call = ("--layout", str(tmp_path / "own.json"), "--signals-only")
    out = tmp_path / "out"
    code, text = app(tmp_path / "hcp", out, *call)
    assert code == 7
    assert all(part in text for part in ("white_matter,", "--denoise"))
    assert "use --denoise none or 24p" in text
    code, text = app(tmp_path / "hcp", out, *call, "--denoise", "24p", "--fd-threshold", "2")
    assert code == 0, text
    assert text.splitlines()[0] == f"Found data (layout HCP minimal preprocessing) in {tmp_path / 'hcp'}"
    (path,) = out.rglob("*_stat-mean_timeseries.json")
    assert path.name.startswith(f"sub-100307_task-rest_dir-LR_run-1_space-{SPACE}_atlas-Demo457_stat-mean")
    sidecar = json.loads(path.read_text())
    assert len([name for name in sidecar["Denoising"]["Regressors"] if "cosine" not in name]) == 24
    assert sidecar["RecognizedAs"] == "the layout HCP minimal preprocessing"
    assert [status["status"] for _, status in read_statuses(out)] == ["ok"]


def test_uk_biobank_as_downloaded_equals_the_same_run_warped_before(
    files: dict[str, Path], tmp_path: Path, app: App
) -> None:
    layout = json.loads((Path(__file__).parents[1] / "bids_semantoks" / "data" / "layouts" / "ukb.json").read_text())
    runs = [{**run, "repetition_time": 2.0} for run in layout["runs"]]
    (tmp_path / "own.json").write_text(json.dumps({**layout, "space": SPACE, "runs": runs}))
    call = ("--layout", str(tmp_path / "own.json"), "--signals-only")
    image: Any = nib.load(files["bold"])
    inside = np.asarray(nib.load(files["mask"]).dataobj) > 0
    values = image.get_fdata(dtype=np.float32) * inside[..., None]
    # Native space: the same voxels stored from right to left, 3 voxels further, with another affine.
    native = np.pad(values, ((3, 0), (0, 0), (0, 0), (0, 0)))[::-1]
    zooms = image.header.get_zooms()[:3]
    affine = build_affine(zooms, is_positive=np.linalg.det(image.affine) < 0, origin=(77, -5, 3))
    ica = tmp_path / "ukb/1000011_20227_2_0/fMRI/rfMRI.ica"
    write_native_run(ica, native, affine=affine, inside=native.any(axis=-1), zooms=zooms)
    code, text = app(tmp_path / "ukb", tmp_path / "refused", *call)
    assert code == 7
    assert "is in native space and its warp to standard space" in text
    assert f"cd {ica} && applywarp --in=filtered_func_data_clean --ref=$FSLDIR/data/standard/MNI152_T1_2mm" in text
    field = np.zeros((*values.shape[:3], 3), dtype=np.float32)
    # FSL counts the x of one of both images from the other end, and so in the same direction.
    field[..., 0] = 3 * zooms[0] * (np.linalg.det(affine) > 0)
    (ica / "reg").mkdir()
    (ica / "mc").mkdir()
    np.savetxt(ica / "mc/prefiltered_func_data_mcf.par", np.zeros((values.shape[-1], 6)))
    warp = nib.Nifti1Image(field, image.affine)
    warp.set_sform(image.affine, 4)
    warp.to_filename(ica / "reg/example_func2standard_warp.nii.gz")
    code, text = app(tmp_path / "ukb", tmp_path / "native", *call)
    assert code == 0, text
    nib.Nifti1Image(values, image.affine).to_filename(ica / "filtered_func_data_clean_standard.nii.gz")
    code, text = app(tmp_path / "ukb", tmp_path / "warped", *call)
    assert code == 0, text
    assert "1 images are ignored because the layout prefers another" in text
    tables = [next((tmp_path / out).rglob("*_stat-mean_timeseries.tsv")) for out in ("native", "warped")]
    assert tables[0].name.startswith(f"sub-1000011_ses-2_task-rest_space-{SPACE}_atlas-Demo457_stat-mean")
    (names, ours), (_, theirs) = map(read_table, tables)
    assert len(names) == 457
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-3)
    sidecar, other = (json.loads(path.with_suffix(".json").read_text()) for path in tables)
    assert "the field holds relative displacements" in sidecar["Resampling"]
    assert "Resampling" not in other
    assert sidecar["AveragedOver"] == "voxels inside the native brain mask"
    assert any(uri.endswith("rfMRI.ica/reg/example_func2standard_warp.nii.gz") for uri in sidecar["Sources"])
    assert set(sidecar["Inputs"]) == {*other["Inputs"], "mask", "warp"}
    coverage = json.loads(next((tmp_path / "native").rglob("*_stat-coverage_bold.json")).read_text())
    assert coverage["n_voxels"]["Description"] == "Voxels of the parcel on the grid of the warp."
    said = "Runs in native space were not resampled as images"
    assert said in (tmp_path / "native/logs/CITATION.md").read_text()
    assert said not in (tmp_path / "warped/logs/CITATION.md").read_text()


def test_a_dataset_without_content_says_so_for_each_run(study: Path, tmp_path: Path, app: App) -> None:
    root = tmp_path / "fmriprep"
    shutil.copytree(study / "derivatives" / "fmriprep", root)
    images = sorted(root.rglob("*_desc-preproc_bold.nii.gz"))
    for path in images[1:]:
        path.unlink()
        path.symlink_to("../../.git/annex/objects/Xx/Yy/MD5E-s9--0.nii.gz")
    code, text = app(root, tmp_path / "out", "--dry-run")
    assert code == 0
    n_missing = sum("no_content" in line and "datalad get" in line for line in text.splitlines())
    assert n_missing == len(
        {path.name.split("_space-")[0] for path in images[1:]} - {images[0].name.split("_space-")[0]}
    )
