"""The study without voxels: XCP-D's layout, and effects that connectivity finds."""

import csv
import gzip
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nilearn.interfaces.fmriprep import load_confounds
from nilearn.signal import clean

from bids_semantoks.atlases.load import load_atlas
from bids_semantoks.bids_names import parse_entities
from bids_semantoks.config import SignalsConfig
from bids_semantoks.demo.atlas import build_anatomy
from bids_semantoks.demo.neural import draw_participant, plan_runs
from bids_semantoks.demo.study import simulate_series, write_parcellated, write_study
from bids_semantoks.errors import ConfigurationError
from bids_semantoks.records import Run
from bids_semantoks.signals.cleaning import clean_signals
from bids_semantoks.signals.denoising import load_denoising
from bids_semantoks.signals.extract import check_run, extract_signals


def test_layout_is_xcp_ds(tmp_path):
    write_parcellated(tmp_path / "p", n_participants=2, short=True)
    root = tmp_path / "p"
    stem = root / "sub-002" / "func" / "sub-002_task-rest_space-MNI152NLin2009cAsym_atlas-Demo457_stat-mean_timeseries"
    assert json.loads(stem.with_suffix(".json").read_text()) == {"RepetitionTime": 0.8, "SamplingFrequency": 1.25}
    lines = stem.with_suffix(".tsv").read_text().splitlines()
    assert lines[0].split("\t")[::456] == ["Demo_LH_Vis_1", "Demo_Cerebellum_7"]
    written = np.array([line.split("\t") for line in lines[1:]], float)
    participant = draw_participant(2, 0)
    series = simulate_series(participant, plan_runs(participant, short=True)[0])
    assert written.shape == (170, 457)
    np.testing.assert_allclose(written, series, atol=6e-5)
    assert json.loads((root / "dataset_description.json").read_text())["DatasetType"] == "derivative"
    assert (
        root / "sourcedata/atlases/tpl-MNI152NLin2009cAsym/tpl-MNI152NLin2009cAsym_atlas-Demo457_dseg.tsv"
    ).is_file()
    assert len((root / "code" / "truth" / "participants.tsv").read_text().splitlines()) == 3
    assert not list(root.rglob("*.nii.gz"))


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        write_parcellated(tmp_path / name, n_participants=2, seed=3, short=True)
    one, two = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (tmp_path / "one", tmp_path / "two")
    )
    assert one == two


def _predict(kernel: np.ndarray, target: np.ndarray, penalty: float) -> np.ndarray:
    """Out-of-fold predictions of kernel ridge, 5 folds."""
    fold = np.arange(len(target)) % 5
    predicted = np.empty(len(target))
    for k in range(5):
        train, test = fold != k, fold == k
        mean = target[train].mean()
        inner = kernel[np.ix_(train, train)]
        weights = np.linalg.solve(
            inner + penalty * np.trace(inner) / len(inner) * np.eye(len(inner)), target[train] - mean
        )
        predicted[test] = kernel[np.ix_(test, train)] @ weights + mean
    return predicted


def test_connectivity_tells_age_and_sex():
    people = [draw_participant(number, 0) for number in range(1, 161)]
    upper = np.triu_indices(457, 1)
    edges = np.empty((len(people), len(upper[0])), np.float32)
    for row, person in zip(edges, people, strict=True):
        row[:] = np.arctanh(np.corrcoef(simulate_series(person, plan_runs(person)[0]).astype(np.float32).T)[upper])
    edges -= edges.mean(axis=0)
    kernel = (edges @ edges.T).astype(float)
    age = np.array([float(person.age) for person in people])
    sex = np.array([person.sex == "M" for person in people])
    assert np.corrcoef(_predict(kernel, age, 0.5), age)[0, 1] > 0.3
    score = _predict(kernel, sex.astype(float), 0.5)
    above = score[sex][:, None] > score[~sex]
    assert above.mean() == pytest.approx(0.75, abs=0.13), "area under the ROC curve"


SPACE = "MNI152NLin2009cAsym"


MOTION = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")


SUFFIXES = ("", "_derivative1", "_power2", "_derivative1_power2")


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """Three participants with runs of full length: dummy scans, two sessions at 0.8 s, acq-AP and acq-PA."""
    root = tmp_path_factory.mktemp("full") / "study"
    write_study(root, n_participants=3)
    return root


def _find_stem(root: Path, entities: str) -> str:
    (bold,) = (root / "derivatives" / "fmriprep").rglob(f"{entities}_space-{SPACE}_desc-preproc_bold.nii.gz")
    return str(bold).removesuffix(f"_space-{SPACE}_desc-preproc_bold.nii.gz")


def _hash_all(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _correlate(one: np.ndarray, other: np.ndarray) -> float:
    """Median over parcels of the correlation of two (T, P) arrays."""
    one, other = one - one.mean(axis=0), other - other.mean(axis=0)
    return float(np.median((one * other).sum(axis=0) / np.sqrt((one**2).sum(axis=0) * (other**2).sum(axis=0))))


def _average(stem: str) -> np.ndarray:
    """Parcel means (T, P) of a run."""
    data = nib.load(f"{stem}_space-{SPACE}_desc-preproc_bold.nii.gz").get_fdata()
    labels = build_anatomy().labels
    return np.stack([data[labels == parcel].mean(axis=0) for parcel in range(1, 458)], axis=1)


def _read_table(stem: str) -> dict[str, np.ndarray]:
    path = Path(f"{stem}_desc-confounds_timeseries.tsv")
    names = path.read_text().partition("\n")[0].split("\t")
    values = np.genfromtxt(path, delimiter="\t", skip_header=1, missing_values="n/a")
    return dict(zip(names, values.T, strict=True))


def _read_run(stem: str) -> Run:
    spatial = f"{stem}_space-{SPACE}"
    return Run(
        entities=(*parse_entities(Path(spatial).name).items(), ("desc", "preproc")),
        bold=Path(f"{spatial}_desc-preproc_bold.nii.gz"),
        mask=Path(f"{spatial}_desc-brain_mask.nii.gz"),
        confounds=Path(f"{stem}_desc-confounds_timeseries.tsv"),
        repetition_time=json.loads(Path(f"{spatial}_desc-preproc_bold.json").read_text())["RepetitionTime"],
        pipeline="fMRIPrep",
        dataset=Path(stem).parents[2],
    )


RUNS = ["sub-001_task-rest", "sub-002_ses-1_task-rest", "sub-002_ses-2_task-rest", "sub-003_task-rest_acq-AP"]


@pytest.mark.parametrize("entities", RUNS)
def test_36_regressors_bring_the_truth_back(full, entities):
    stem = _find_stem(full, entities)
    with np.load(full / "code" / "truth" / f"{entities}_truth.npz") as truth:
        signals, n_dummy = truth["signals"][int(truth["n_dummy"]) :], int(truth["n_dummy"])
    raw, table = _average(stem)[n_dummy:], _read_table(stem)
    names = [name + suffix for name in (*MOTION, "csf", "white_matter", "global_signal") for suffix in SUFFIXES]
    names += [name for name in table if name.startswith("cosine")]
    regressors = np.nan_to_num(np.stack([table[name] for name in names], axis=1))[n_dummy:]
    cleaned = clean(raw, confounds=regressors, detrend=False, standardize=None)
    assert _correlate(raw, signals) < 0.7
    assert _correlate(cleaned, signals) > 0.95


@pytest.mark.parametrize("entities", RUNS)
def test_the_app_brings_the_truth_back(full, entities):
    run = _read_run(_find_stem(full, entities))
    atlas = load_atlas("Demo457", space=SPACE, directory=None)
    result = extract_signals(run, atlas, SignalsConfig(denoise="36p", band_pass=None), load_denoising("36p"))
    with np.load(full / "code" / "truth" / f"{entities}_truth.npz") as truth:
        signals = truth["signals"][result.kept]
        assert int(truth["n_dummy"]) == result.n_dummy
    assert result.coverage.min() == 1.0
    assert _correlate(result.raw[result.kept], signals) < 0.7
    assert _correlate(result.values[result.kept], signals) > 0.95


def test_with_a_pass_band_the_truth_cleaned_alike_comes_back(full):
    # 40 regressors and the pass band together leave 6 minutes few degrees of freedom: the plain truth is out of reach.
    run = _read_run(_find_stem(full, "sub-001_task-rest"))
    atlas = load_atlas("Demo457", space=SPACE, directory=None)
    config, denoising = SignalsConfig(denoise="36p"), load_denoising("36p")
    result, regressors = extract_signals(run, atlas, config, denoising), check_run(run, config, denoising)
    with np.load(full / "code" / "truth" / "sub-001_task-rest_truth.npz") as truth:
        signals = truth["signals"].astype(float)
    alike = clean_signals(signals, regressors.values, regressors.kept, repetition_time=2.0, band_pass=config.band_pass)
    assert _correlate(result.values[result.kept], alike[result.kept]) > 0.99


def test_voxels_are_the_truth_mixed_with_the_stored_weights(full):
    stem = _find_stem(full, "sub-003_task-rest_acq-PA")
    means = _average(stem)
    with np.load(full / "code" / "truth" / "sub-003_task-rest_acq-PA_truth.npz") as truth:
        assert truth["weights"].shape == (len(truth["confound_names"]), 457)
        mixed = truth["confounds"] @ truth["weights"]
        percent = 100 * (means / means.mean(axis=0) - 1)
        design = np.stack([truth["signals"], mixed], axis=2)
    slopes = np.stack(
        [np.linalg.lstsq(design[:, p] - design[:, p].mean(axis=0), percent[:, p], rcond=None)[0] for p in range(457)]
    )
    # Gains of single voxels differ by a fifth; over the voxels of a parcel and over parcels they are 1.
    np.testing.assert_allclose(slopes.mean(axis=0), [1.0, 1.0], atol=0.02)


def test_images_are_fmripreps(full):
    stem = _find_stem(full, "sub-002_ses-1_task-rest")
    bold = nib.load(f"{stem}_space-{SPACE}_desc-preproc_bold.nii.gz")
    assert bold.header.get_data_dtype() == np.int16
    assert bold.shape == (33, 39, 33, 450)
    assert bold.header["pixdim"][4] == np.float32(0.8)
    assert bold.header.get_xyzt_units() == ("mm", "sec")
    assert (int(bold.header["qform_code"]), int(bold.header["sform_code"])) == (4, 4)
    assert 0 < bold.dataobj.slope != 1.0
    np.testing.assert_array_equal(bold.affine, [[6, 0, 0, -96], [0, 6, 0, -132], [0, 0, 6, -78], [0, 0, 0, 1]])
    np.testing.assert_array_equal(bold.get_qform(), bold.affine)
    mask = nib.load(f"{stem}_space-{SPACE}_desc-brain_mask.nii.gz")
    np.testing.assert_array_equal(np.asarray(mask.dataobj) > 0, build_anatomy().brain)
    outside = np.asarray(bold.dataobj)[build_anatomy().edge]
    assert outside.std(axis=1).min() > 0, "voxels around the brain vary too, as in a scan that was not skull-stripped"
    reference = nib.load(f"{stem}_space-{SPACE}_boldref.nii.gz")
    assert reference.shape == (33, 39, 33)


@pytest.mark.parametrize(
    "options",
    [
        {"strategy": ("motion", "high_pass", "wm_csf"), "motion": "full", "wm_csf": "basic"},
        {"strategy": ("motion", "high_pass", "wm_csf", "global_signal"), "wm_csf": "full", "global_signal": "full"},
        {"strategy": ("high_pass", "motion", "compcor"), "compcor": "anat_combined", "n_compcor": "all"},
        {"strategy": ("high_pass", "compcor"), "compcor": "temporal", "n_compcor": 5},
        {"strategy": ("high_pass", "motion", "scrub"), "motion": "basic"},
    ],
)
def test_nilearn_loads_the_confounds(full, options):
    stem = _find_stem(full, "sub-001_task-rest")
    confounds, mask = load_confounds(f"{stem}_space-{SPACE}_desc-preproc_bold.nii.gz", **options)
    assert len(confounds) == 180
    assert np.isfinite(confounds.to_numpy()).all()
    assert mask is not None, "the dummy scans are left out"
    assert 0 not in mask


def test_dummy_scans_are_brighter_and_marked(full):
    columns = _read_table(_find_stem(full, "sub-001_task-rest"))
    level = columns["global_signal"]
    assert level[0] > 1.1 * level[10:].mean()
    assert [name for name in columns if name.startswith("non_steady")] == [
        f"non_steady_state_outlier{i:02d}" for i in range(3)
    ]


def test_two_studies_are_equal_to_the_byte(tmp_path):
    write_study(tmp_path / "one", n_participants=2, seed=4, short=True)
    write_study(tmp_path / "two", n_participants=2, seed=4, short=True)
    first = _hash_all(tmp_path / "one")
    assert first == _hash_all(tmp_path / "two")
    write_study(tmp_path / "two", n_participants=1, seed=4, short=True)
    smaller = _hash_all(tmp_path / "two")
    shared_files = {name for name in smaller if "participants.tsv" not in name}
    assert {name: first[name] for name in shared_files} == {name: smaller[name] for name in shared_files}
    write_study(tmp_path / "two", n_participants=1, seed=5, short=True)
    other = _hash_all(tmp_path / "two")
    assert other.keys() == smaller.keys()
    assert sum(other[name] == smaller[name] for name in other if name.endswith("bold.nii.gz") and "desc" in name) == 0


def test_participants_table_and_truth_agree(study):
    rows, known = (
        list(csv.DictReader(path.open(), delimiter="\t"))
        for path in (study / "participants.tsv", study / "code" / "truth" / "participants.tsv")
    )
    assert [row["participant_id"] for row in rows] == ["sub-001", "sub-002", "sub-003", "sub-004"]
    for row, truth in zip(rows, known, strict=True):
        assert all(row[name] in (truth[name], "n/a") for name in ("age", "sex", "site", "group"))
        assert float(truth["age_z"]) == pytest.approx((int(truth["age"]) - 49) / 18, abs=1e-5)
    described = json.loads((study / "participants.json").read_text())
    assert described.keys() == rows[0].keys() - {"participant_id"}


def test_an_earlier_demo_is_replaced_and_nothing_else(tmp_path):
    write_study(tmp_path / "demo", n_participants=2, short=True)
    write_study(tmp_path / "demo", n_participants=1, short=True)
    assert not (tmp_path / "demo" / "sub-002").exists()
    thesis = tmp_path / "thesis.txt"
    thesis.write_text("years of work")
    with pytest.raises(ConfigurationError, match=f"OUT_DIR is not empty and is no earlier demo: {tmp_path}"):
        write_study(tmp_path, n_participants=1)
    with pytest.raises(ConfigurationError, match=f"OUT_DIR must be a folder, found a file: {thesis}"):
        write_study(thesis, n_participants=1)
    assert thesis.read_text() == "years of work"
    with pytest.raises(ConfigurationError, match="--participants must be 1 or more, found 0"):
        write_study(tmp_path / "none", n_participants=0)


def test_gzip_streams_carry_no_time_and_no_name(study):
    for path in study.rglob("*.nii.gz"):
        head = path.read_bytes()[:10]
        assert head[3] == 0, "no name"
        assert head[4:8] == b"\0\0\0\0", "no time"
    assert len(gzip.decompress(path.read_bytes())) > 352


def test_validator_finds_no_error(study):
    validator = shutil.which("bids-validator-deno", path=str(Path(sys.executable).parent))
    if validator is None:
        pytest.skip("bids-validator-deno is not installed")
    for root in (study, study / "derivatives" / "fmriprep"):
        told = subprocess.run([validator, "--json", str(root)], capture_output=True, text=True, check=False)
        issues = json.loads(told.stdout)["issues"]["issues"]
        assert [issue for issue in issues if issue["severity"] == "error"] == []
