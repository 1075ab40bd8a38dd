"""From surface files to embeddings on the command line's path: CIFTI and a GIFTI pair, then again."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers import surface_files as made
from helpers.documented import find_undocumented

from bids_semantoks.cli import call

T = 90
DESCRIPTION = {
    "Name": "fMRIPrep",
    "BIDSVersion": "1.4.0",
    "DatasetType": "derivative",
    "GeneratedBy": [{"Name": "fMRIPrep", "Version": "24.1.1"}],
}
STEM = "sub-01_task-rest"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """One participant with CIFTI and GIFTI files and no volumes."""
    root = tmp_path_factory.mktemp("surfaces") / "fmriprep"
    func = root / "sub-01" / "func"
    func.mkdir(parents=True)
    (root / "dataset_description.json").write_text(json.dumps(DESCRIPTION))
    rng = np.random.default_rng(0)
    lines = ["framewise_displacement\ttrans_x", *(f"{abs(a):.4f}\t{b:.4f}" for a, b in rng.normal(0, 0.1, (T, 2)))]
    (func / f"{STEM}_desc-confounds_timeseries.tsv").write_text("\n".join(lines) + "\n")
    (func / f"{STEM}_desc-confounds_timeseries.json").write_text("{}")
    axis = made.build_axis()
    values = made.build_series(len(axis), n_volumes=T)
    made.write_dtseries(func / f"{STEM}_space-fsLR_den-91k_bold.dtseries.nii", values, axis)
    (func / f"{STEM}_space-fsLR_den-91k_bold.json").write_text('{"RepetitionTime": 2.0}')
    for side, n in (("L", 10242), ("R", 10242)):
        stem = f"{STEM}_hemi-{side}_space-fsaverage5_bold"
        made.write_func(func / f"{stem}.func.gii", made.build_series(n, n_volumes=T))
        (func / f"{stem}.json").write_text('{"RepetitionTime": 2.0}')
    made.write_dlabel(root.parent / "Small.dlabel.nii")
    for side, names in (("L", ("LH_Vis_1", "LH_Cont_1")), ("R", ("RH_Vis_1", "RH_Default_1"))):
        path = root.parent / f"atlas-Small_hemi-{side}_dseg.label.gii"
        made.write_label(path, np.arange(10242) % 3, {i + 1: f"7Networks_{name}" for i, name in enumerate(names)})
    return root


def run(study, out, *more):
    options = ["--model", "random:tiny", "--device", "cpu", "--denoise", "none"]
    return call([str(study), str(out), "participant", *options, *more])


@pytest.mark.parametrize(
    ("space", "atlas", "stem"),
    [
        ("fsLR", "Small.dlabel.nii", f"{STEM}_space-fsLR_atlas-Small_den-91k"),
        ("fsaverage5", "atlas-Small_hemi-L_dseg.label.gii", f"{STEM}_space-fsaverage5_atlas-Small"),
    ],
)
def test_surfaces_are_embedded_and_not_twice(study, tmp_path, space, atlas, stem, capsys):
    out = tmp_path / "out"
    arguments = ("--space", space, "--atlas", str(study.parent / atlas))
    assert run(study, out, *arguments) == 0
    func = out / "sub-01" / "func"
    assert (func / f"{stem}_desc-RandomTiny_embedding.tsv").is_file()
    sidecar = json.loads((func / f"{stem}_stat-mean_timeseries.json").read_text())
    sources = [one.rpartition("/")[2] for one in sidecar["Sources"]]
    assert len(sources) == (2 if space == "fsLR" else 3)
    assert set(sidecar["Inputs"]) == {"sidecar", "bold", "confounds"} | (
        {"partner"} if space == "fsaverage5" else set()
    )
    unit = "grayordinates" if space == "fsLR" else "vertices"
    coverage = json.loads((func / f"{stem}_stat-coverage_bold.json").read_text())
    assert coverage["AveragedOver"] == f"{unit} with data"
    assert coverage["coverage"]["Description"].startswith(f"Share of the parcel's {unit} that are in the file")
    text = (out / "logs" / "CITATION.md").read_text()
    assert f"over {unit} with data; a parcel with less than 50 % of its {unit} with data" in text
    assert "brain mask" not in text
    assert "voxel" not in json.dumps(coverage).lower().replace("n_voxels", "")
    assert "brain mask" not in (out / "sub-01.html").read_text()
    assert find_undocumented(out) == set()
    capsys.readouterr()
    assert run(study, out, *arguments) == 0
    assert "Keeping 1 run " in capsys.readouterr().err
    if space == "fsaverage5":
        # A change of the other hemisphere counts too.
        right = study / "sub-01" / "func" / f"{STEM}_hemi-R_space-fsaverage5_bold.func.gii"
        made.write_func(right, made.build_series(10242, 5, T))
        assert run(study, out, *arguments) == 0
        assert "1 ok, 0 skipped, 0 failed" in capsys.readouterr().err
