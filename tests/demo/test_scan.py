"""The confounds table against the formulas of fMRIPrep and against nilearn."""

import json
import re

import numpy as np
import pytest
from nilearn.glm.first_level.design_matrix import create_cosine_drift

from bids_semantoks.demo.neural import (
    compute_framewise_displacement,
    compute_rmsd,
    draw_participant,
    expand,
    plan_runs,
    simulate_motion,
)
from bids_semantoks.demo.scan import (
    compute_components,
    compute_confounds,
    compute_cosines,
    compute_dvars,
    find_voxels,
    simulate_scan,
)


@pytest.fixture(scope="module")
def run():
    """A run with dummy scans: plan, scan, columns, sidecar."""
    participant = draw_participant(4, 0)
    plan = plan_runs(participant)[0]
    scan = simulate_scan(participant, plan)
    return plan, scan, *compute_confounds(scan, plan)


def test_framewise_displacement_is_powers():
    parameters = np.array([[0, 0, 0, 0, 0, 0], [1, -2, 0, 0.01, 0, 0], [1, -2, 0.5, 0, 0, -0.02]], float)
    np.testing.assert_allclose(compute_framewise_displacement(parameters), [np.nan, 3.5, 0.5 + 0.5 + 1.0])


def test_rmsd_of_a_shift_is_the_shift_and_of_a_turn_follows_the_sphere():
    parameters = np.array([[0, 0, 0, 0, 0, 0], [3, 4, 0, 0, 0, 0], [3, 4, 0, 0.01, 0, 0]], float)
    angle, radius = 0.01, 80.0
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]]) - np.eye(3)
    expected = np.sqrt(radius**2 / 5 * np.trace(turn.T @ turn))
    np.testing.assert_allclose(compute_rmsd(parameters), [np.nan, 5.0, expected], rtol=1e-4)


def test_expansions_begin_with_nan_where_they_are_differences():
    expanded = expand(np.array([1.0, 3.0, 2.0]))
    np.testing.assert_array_equal(expanded[""], [1, 3, 2])
    np.testing.assert_array_equal(expanded["_derivative1"], [np.nan, 2, -1])
    np.testing.assert_array_equal(expanded["_power2"], [1, 9, 4])
    np.testing.assert_array_equal(expanded["_derivative1_power2"], [np.nan, 4, 1])


@pytest.mark.parametrize(
    ("n_volumes", "repetition_time", "count"), [(120, 3.0, 4), (180, 2.0, 4), (68, 2.0, 1), (30, 2.0, 0)]
)
def test_number_of_cosines_is_fmripreps(n_volumes, repetition_time, count):
    assert compute_cosines(n_volumes, repetition_time, 0).shape == (n_volumes, count)


def test_cosines_are_the_discrete_cosines_that_nilearn_makes():
    times = np.arange(41) * 7.0
    theirs = create_cosine_drift(1 / 128, times)[:, :-1]
    ours = compute_cosines(41, 7.0, 0)
    np.testing.assert_allclose(ours, theirs[:, : ours.shape[1]], atol=1e-9)


def test_cosines_wait_for_the_steady_state():
    cosines = compute_cosines(103, 4.0, 3)
    assert (cosines[:3] == 0).all()
    np.testing.assert_array_equal(cosines[3:], compute_cosines(100, 4.0, 0))


def test_dvars_of_white_noise_is_its_expectation():
    noise = np.random.default_rng(0).normal(500, 7, (2000, 211)).astype(np.float32)
    dvars, std_dvars = compute_dvars(noise)
    assert np.isnan(dvars[0])
    assert np.isnan(std_dvars[0])
    np.testing.assert_allclose(dvars[1:], np.sqrt((np.diff(noise.astype(float), axis=1) ** 2).mean(axis=0)), rtol=1e-6)
    assert np.mean(std_dvars[1:]) == pytest.approx(1.0, abs=0.02)


def test_components_are_those_of_a_singular_value_decomposition():
    rng = np.random.default_rng(2)
    voxels = (rng.standard_normal((300, 4)) @ rng.standard_normal((4, 90)) + rng.standard_normal((300, 90))).astype(
        "f4"
    )
    cosines = compute_cosines(90, 5.0, 0)
    components = compute_components(voxels, cosines, 0)
    cleaned = voxels - voxels.mean(axis=1, keepdims=True)
    cleaned -= cleaned @ cosines @ cosines.T
    cleaned /= cleaned.std(axis=1, keepdims=True)
    left, singular, _ = np.linalg.svd(cleaned.T, full_matrices=False)
    n = components.series.shape[1]
    share = np.cumsum(singular**2 / (singular**2).sum())
    assert share[n - 2] < 0.5 <= share[n - 1]
    np.testing.assert_allclose(components.singular_values, singular[:n], rtol=1e-3)
    np.testing.assert_allclose(np.abs((components.series * left[:, :n]).sum(axis=0)), 1.0, atol=1e-3)


def test_tissue_signals_are_means_of_the_voxels(run):
    _, scan, columns, _ = run
    voxels = find_voxels()
    np.testing.assert_allclose(columns["global_signal"], scan.voxels[voxels.brain].mean(axis=0), rtol=1e-5)
    white = scan.voxels[voxels.brain & (voxels.tissue == 1)].mean(axis=0)
    np.testing.assert_allclose(columns["white_matter"], white, rtol=1e-5)
    np.testing.assert_allclose(columns["csf_power2"], columns["csf"] ** 2)
    assert np.isnan(columns["csf_derivative1"][0])


def test_volumes_are_flagged_one_a_column(run):
    plan, _, columns, _ = run
    dummies = np.stack([columns[f"non_steady_state_outlier{i:02d}"] for i in range(plan.n_dummy)])
    np.testing.assert_array_equal(dummies, np.eye(plan.n_volumes)[: plan.n_dummy])
    outliers = [series for name, series in columns.items() if name.startswith("motion_outlier")]
    bad = (np.nan_to_num(columns["framewise_displacement"]) > 0.5) | (np.nan_to_num(columns["std_dvars"]) > 1.5)
    bad[: plan.n_dummy] = False
    assert len(outliers) == bad.sum() >= 1
    np.testing.assert_array_equal(np.sum(outliers, axis=0), bad)


def test_heavy_motion_shows(run):
    participant = draw_participant(5, 0)
    restless = simulate_motion(plan_runs(participant)[0], participant.rng(3, 0))
    quiet = run[2]["framewise_displacement"]
    assert np.nanmax(compute_framewise_displacement(restless)) > 2.0
    assert np.nanmean(quiet) < 0.2


def test_columns_are_those_of_a_real_table(run, shared):
    folder = shared / "data" / "fmriprep_confounds" / "24.1.1"
    real = {
        re.sub(r"\d+$", "", name) if not name.endswith(("power2", "derivative1")) else name
        for table in folder.glob("*_timeseries.tsv")
        for name in table.open().readline().rstrip("\n").split("\t")
    }
    ours = {re.sub(r"\d+$", "", name) if not name.endswith(("power2", "derivative1")) else name for name in run[2]}
    assert ours - {"non_steady_state_outlier"} == real
    described = json.loads(next(folder.glob("sub-001*confounds_timeseries.json")).read_text())
    for name in (
        "a_comp_cor_00",
        "c_comp_cor_00",
        "w_comp_cor_00",
        "t_comp_cor_00",
        "edge_comp_00",
        "trans_x",
        "rot_z",
    ):
        assert run[3][name].keys() == described[name].keys(), name
        same = {key for key, value in described[name].items() if isinstance(value, str | bool)}
        assert {key: run[3][name][key] for key in same} == {key: described[name][key] for key in same}
