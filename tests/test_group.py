"""Features are means over windows, then over runs."""

from __future__ import annotations

import os

import numpy as np
import pytest

from bids_semantoks import embedding
from bids_semantoks.config import RunningConfig
from bids_semantoks.errors import ResourceError
from bids_semantoks.files import write_table
from bids_semantoks.outputs.features import average_runs
from bids_semantoks.outputs.store import OutputPaths, StoredRun

N_DIMS = 5


def write_run(folder, participant, session, n_windows, seed):
    stem = f"sub-{participant}_ses-{session}_task-rest_atlas-A"
    paths = OutputPaths(out_dir=folder, directory=folder, stem=stem, model="Tiny")
    vectors = np.random.default_rng(seed).standard_normal((n_windows, N_DIMS)).astype(np.float32)
    starts = np.arange(float(n_windows))[:, None]
    kept = np.linspace(1.0, 0.2, n_windows)[:, None]
    columns = ["window", "kept", *(f"dim{d:04d}" for d in range(1, N_DIMS + 1))]
    write_table(paths.embedding, columns, np.hstack([starts, kept, vectors]))
    sidecar = {"VolumesKept": 50 * n_windows, "RepetitionTime": 2.0}
    return StoredRun(entities={"sub": participant, "ses": session}, paths=paths, sidecar=sidecar), vectors


@pytest.mark.parametrize("n_procs", [1, 2])
def test_windows_are_averaged_then_runs(tmp_path, monkeypatch, n_procs):
    monkeypatch.setattr(embedding, "_RUNS_PER_READER", 1)
    (first, a), (second, b) = write_run(tmp_path, "02", "1", 3, 0), write_run(tmp_path, "02", "2", 7, 1)
    other, c = write_run(tmp_path, "01", "1", 2, 2)
    runs = [first, second, other]
    means = embedding.read_means([run.paths for run in runs], RunningConfig(n_procs=n_procs), min_kept=None)
    rows = average_runs(runs, means, min_kept=None)
    assert [row[:3] for row in rows] == [("01", 1, 2), ("02", 2, 10)]
    np.testing.assert_allclose(rows[0][3], c.astype(np.float64).mean(axis=0), rtol=1e-12)
    expected = (a.astype(np.float64).mean(axis=0) + b.astype(np.float64).mean(axis=0)) / 2
    np.testing.assert_allclose(rows[1][3], expected, rtol=1e-12)


def test_windows_and_runs_weigh_by_what_they_hold(tmp_path):
    (first, a), (second, b) = write_run(tmp_path, "02", "1", 3, 0), write_run(tmp_path, "02", "2", 7, 1)
    means = embedding.read_means([first.paths, second.paths], RunningConfig(n_procs=1), min_kept=0.5)
    rows = average_runs([first, second], means, min_kept=0.5)
    # Of three windows with 1, 0.6 and 0.2 of their data two count, of seven the first four.
    assert [row[:3] for row in rows] == [("02", 2, 6)]
    means = [
        np.average(vectors[:n].astype(np.float64), axis=0, weights=np.linspace(1.0, 0.2, len(vectors))[:n])
        for vectors, n in ((a, 2), (b, 4))
    ]
    np.testing.assert_allclose(rows[0][3], (3 * means[0] + 7 * means[1]) / 10, rtol=1e-8)


def die(*_):
    os._exit(9)


def build_dying(_):
    return die


def test_a_killed_reader_ends_the_call(tmp_path, monkeypatch):
    monkeypatch.setattr(embedding, "_RUNS_PER_READER", 1)
    monkeypatch.setattr(embedding, "build_mean_reader", build_dying)
    runs = [write_run(tmp_path, f"{n:02d}", "1", 2, n)[0] for n in range(3)]
    with pytest.raises(ResourceError, match=r"sub-0\d.*embedding.tsv: a worker process ended with exit code 9"):
        embedding.read_means([run.paths for run in runs], RunningConfig(n_procs=2), min_kept=None)
