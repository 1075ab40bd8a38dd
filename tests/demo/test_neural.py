"""The hidden signal holds what was planted, by the amount that was planted."""

import csv
import dataclasses

import numpy as np
import pytest
from scipy import stats

from bids_semantoks.demo.__main__ import main
from bids_semantoks.demo.atlas import build_table
from bids_semantoks.demo.neural import (
    AGE_COUPLING,
    AGE_LAG,
    BLOCK_SECONDS,
    SITE_PATIENTS,
    colour,
    compute_activity,
    compute_coupling,
    compute_dynamics,
    describe_phenotypes,
    draw_blocks,
    draw_participant,
    plan_runs,
    simulate_signals,
)
from bids_semantoks.demo.study import simulate_series
from bids_semantoks.records import CANONICAL_NETWORKS

NETWORK = np.array([CANONICAL_NETWORKS.index(name) for name in build_table()[1]])


@pytest.fixture(scope="module")
def long_run():
    """Six hours of one participant: long enough for expected values."""
    participant = draw_participant(1, 0)
    return participant, simulate_signals(participant, 10_800, 2.0, np.random.default_rng(3))


def _means(signals):
    return np.stack([signals[:, n == NETWORK].mean(axis=1) for n in range(9)], axis=1)


def test_signals_have_variance_one_and_no_power_below_the_high_pass(long_run):
    signals = long_run[1].signals
    assert signals.shape == (10_800, 457)
    np.testing.assert_allclose(signals.var(axis=0), 1.0, atol=0.12)
    frequency = np.fft.rfftfreq(len(signals), 2.0)
    power = (np.abs(np.fft.rfft(signals, axis=0)) ** 2).mean(axis=1)
    assert power[frequency < 1 / 128].sum() / power.sum() < 0.01
    assert power[frequency > 0.15].sum() / power.sum() < 0.03


def test_networks_correlate_as_planted(long_run):
    participant, neural = long_run
    np.testing.assert_array_equal(neural.coupling, compute_coupling(participant))
    observed = np.corrcoef(_means(neural.signals).T)
    upper = np.triu_indices(9, 1)
    # Sides and parcels dilute the coupling of network means, tempo a little more: a slope under 1, but one line.
    slope, intercept = np.polyfit(neural.coupling[upper], observed[upper], 1)
    assert 0.7 < slope < 1.0
    assert abs(intercept) < 0.03
    assert np.corrcoef(neural.coupling[upper], observed[upper])[0, 1] > 0.99


def test_coupling_is_a_correlation_matrix_that_cancels_over_the_brain():
    coupling = compute_coupling(draw_participant(7, 2))
    np.testing.assert_allclose(np.diag(coupling), 1.0)
    np.testing.assert_allclose(coupling, coupling.T, atol=1e-12)
    assert np.linalg.eigvalsh(coupling).min() > -1e-9
    size = np.bincount(NETWORK) / 457
    assert size @ coupling @ size < 0.02, "the global signal would carry the networks"


def test_age_moves_its_pairs_and_hardly_any_other():
    someone = draw_participant(5, 0)
    young, old = (compute_coupling(dataclasses.replace(someone, age=age)) for age in (31, 67))
    slope = (old - young) / 2  # 36 years are two standard deviations
    planted = np.zeros((9, 9))
    for (one, other), change in AGE_COUPLING.items():
        planted[CANONICAL_NETWORKS.index(one), CANONICAL_NETWORKS.index(other)] = change
    planted += planted.T
    assert (np.sign(slope) == np.sign(planted))[planted != 0].all()
    np.testing.assert_allclose(slope[planted != 0], planted[planted != 0], atol=0.035)
    assert np.abs(slope[planted == 0]).mean() < 0.025


def test_sex_changes_coupling_and_tempo_but_not_lag():
    someone = draw_participant(5, 0)
    woman, man = (dataclasses.replace(someone, sex=sex) for sex in "FM")
    assert np.abs(compute_coupling(man) - compute_coupling(woman)).max() > 0.05
    (slow, lag), (fast, same) = compute_dynamics(woman), compute_dynamics(man)
    np.testing.assert_allclose(fast / slow, np.exp([0.5, -0.5, 0, 0, 0, 0.5, -0.5, 0, 0]))
    np.testing.assert_array_equal(lag, same)


def test_tempo_and_lag_can_be_seen_in_the_series():
    someone = draw_participant(5, 0)
    old = dataclasses.replace(someone, age=80)
    neural = simulate_signals(old, 20_000, 0.8, np.random.default_rng(0))
    means = _means(neural.signals)
    frequency = np.fft.rfftfreq(len(means), 0.8)
    power = np.abs(np.fft.rfft(means, axis=0)) ** 2
    centre = (frequency[:, None] * power).sum(axis=0) / power.sum(axis=0)
    vis, default = CANONICAL_NETWORKS.index("Vis"), CANONICAL_NETWORKS.index("Default")
    assert centre[vis] > 1.05 * centre[default], "age speeds up Vis and slows down Default"
    late = CANONICAL_NETWORKS.index("SalVentAttn")
    other = CANONICAL_NETWORKS.index("DorsAttn")
    cross = np.fft.rfft(means[:, late]) * np.conj(np.fft.rfft(means[:, other]))
    band = (frequency > 0.02) & (frequency < 0.08)
    # A delay turns the phase in proportion to frequency.
    omega, weight = 2 * np.pi * frequency[band], np.abs(cross[band])
    smooth = np.convolve(cross, np.ones(201) / 201, mode="same")[band]
    delay = -(weight * omega * np.angle(smooth)).sum() / (weight * omega**2).sum()
    assert delay == pytest.approx(old.age_z * AGE_LAG["SalVentAttn"], abs=0.3)


def test_colour_keeps_expected_variance_for_even_and_odd_lengths():
    rng = np.random.default_rng(1)
    for length in (4000, 4001):
        series = colour(rng.standard_normal((length, 5)), 0.8, np.full(5, 0.05), np.zeros(5))
        assert series.shape == (length, 5)
        assert series.var() == pytest.approx(1.0, abs=0.1)


def test_participants_do_not_depend_on_how_many_there_are():
    assert draw_participant(3, 11) == draw_participant(3, 11)
    assert draw_participant(3, 11) != draw_participant(3, 12)
    first, again = (draw_participant(2, 5).rng(3, 1).random(4) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, draw_participant(2, 5).rng(3, 0).random(4))


def test_labels_grow_beyond_three_digits():
    assert [draw_participant(n, 0).label for n in (7, 999, 1000)] == ["007", "999", "1000"]


def test_phenotypes_are_missing_here_and_there():
    rows = [describe_phenotypes(draw_participant(n, 0)) for n in range(1, 25)]
    assert [sum(value is None for value in column) for column in zip(*rows, strict=True)] == [0, 1, 1, 0, 2]
    assert {row[3] for row in rows} == {"EU", "AS", "NA"}


def test_patients_are_mostly_of_one_site():
    people = [draw_participant(number, 0) for number in range(1, 121)]
    shares = {site: np.mean([one.group == "patient" for one in people if one.site == site]) for site in SITE_PATIENTS}
    assert shares == pytest.approx(SITE_PATIENTS)


def test_runs_have_the_promised_peculiarities():
    plans = {n: plan_runs(draw_participant(n, 0)) for n in range(1, 25)}
    assert [p.entities for p in plans[2]] == [(("ses", "1"), ("task", "rest")), (("ses", "2"), ("task", "rest"))]
    assert [dict(p.entities)["acq"] for p in plans[3]] == ["AP", "PA"]
    assert [p.n_volumes for p in plans[4]] == [180, 30]
    assert plans[5][0].motion > 2.5 * max(p.motion for n in plans if n != 5 for p in plans[n])
    assert plans[1][0].n_dummy == 3
    assert {p.repetition_time for n in plans for p in plans[n]} == {2.0, 0.8}


NETWORKS = np.array(build_table()[1])


def plan(number, *, short=False):
    participant = draw_participant(number, 0)
    return participant, dataclasses.replace(plan_runs(participant, short=short)[0], number=7)


def test_blocks_come_in_pairs_inside_the_run():
    participant, run = plan(3)
    blocks = draw_blocks(participant, run)
    assert blocks == draw_blocks(participant, run)
    assert len(blocks) == 10  # 6 minutes, 30 s a block
    for first, second in zip(blocks[::2], blocks[1::2], strict=True):
        assert {first[2], second[2]} == {"looking", "moving"}
    onsets = np.array([onset for onset, _, _ in blocks])
    assert np.diff(onsets).min() >= BLOCK_SECONDS
    assert onsets[-1] + BLOCK_SECONDS <= run.n_volumes * run.repetition_time
    orders = {tuple(name for _, _, name in draw_blocks(*plan(number))) for number in range(1, 8)}
    assert len(orders) > 1
    assert draw_blocks(participant, dataclasses.replace(run, n_volumes=8)) == []


def test_each_type_drives_its_own_network_alone():
    _, run = plan(3)
    activity = compute_activity([(40.0, 20.0, "looking"), (90.0, 20.0, "moving")], run)
    assert activity.shape == (run.n_volumes, 457)
    times = np.arange(run.n_volumes) * run.repetition_time
    fine = np.arange(0, 60, 0.01)
    kernel = (stats.gamma.pdf(fine, 6) - stats.gamma.pdf(fine, 16) / 6) / (1 - 1 / 6)
    response = np.convolve(fine < 20, kernel)[: len(fine)] * 0.01
    for onset, network in ((40.0, "Vis"), (90.0, "SomMot")):
        wanted = 0.6 * np.interp(times - onset, fine, response, left=0)
        own = activity[:, network == NETWORKS]
        near = times < onset + 55
        np.testing.assert_allclose(own[near], np.repeat(wanted[near, None], own.shape[1], axis=1), atol=0.01)
    assert not activity[:, ~np.isin(NETWORKS, ["Vis", "SomMot"])].any()


def test_task_is_written_beside_the_rest(tmp_path, capsys):
    root = tmp_path / "study"
    assert main([str(root), "--participants", "2", "--parcellated", "--short", "--task"]) == 0
    participant, run = plan(2, short=True)
    folder = root / "sub-002" / "func"
    with (folder / "sub-002_task-blocks_events.tsv").open(newline="") as file:
        events = [
            (float(r["onset"]), float(r["duration"]), r["trial_type"]) for r in csv.DictReader(file, delimiter="\t")
        ]
    assert events == draw_blocks(participant, run)
    stem = "space-MNI152NLin2009cAsym_atlas-Demo457_stat-mean_timeseries.tsv"
    written = np.loadtxt(folder / f"sub-002_task-blocks_{stem}", skiprows=1)
    wanted = simulate_series(participant, run) + compute_activity(events, run)
    np.testing.assert_allclose(written, wanted, atol=6e-5)
    rest = np.loadtxt(folder / f"sub-002_task-rest_{stem}", skiprows=1)
    assert rest.shape == written.shape
    assert np.abs(np.corrcoef(rest[:, 5], written[:, 5])[0, 1]) < 0.5  # another run, not the same one with blocks


def test_task_needs_series(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path / "study"), "--task"])
    assert "--task needs --parcellated" in capsys.readouterr().err
    assert not (tmp_path / "study").exists()
