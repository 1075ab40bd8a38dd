"""The study without voxels: XCP-D's layout, and effects that connectivity finds."""

import json

import numpy as np
import pytest

from bids_semantoks.demo.people import draw_participant, plan_runs
from bids_semantoks.demo.study import simulate_series, write_parcellated


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
