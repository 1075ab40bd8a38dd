"""A run of a task in the study without voxels: blocks, what they add, and their table."""

import csv
import dataclasses

import numpy as np
import pytest
from scipy import stats

from bids_semantoks.demo.__main__ import main
from bids_semantoks.demo.atlas import build_table
from bids_semantoks.demo.neural import BLOCK_SECONDS, compute_activity, draw_blocks
from bids_semantoks.demo.people import draw_participant, plan_runs
from bids_semantoks.demo.study import simulate_series

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
