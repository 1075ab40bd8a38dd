"""Processes and threads fit the machine, the runs and the memory."""

import logging

from bids_semantoks.config import RunningConfig
from bids_semantoks.runtime import processes, resources


def test_processes_fit_cpus_runs_and_memory(monkeypatch, caplog):
    monkeypatch.setattr(resources, "count_cpus", lambda: 8)
    assert resources.choose_n_procs(RunningConfig(), n_jobs=100, model_bytes=0) == 8
    assert resources.choose_n_procs(RunningConfig(), n_jobs=5, model_bytes=0) == 2
    monkeypatch.setattr(resources, "count_cpus", lambda: 64)
    assert resources.choose_n_procs(RunningConfig(), n_jobs=100, model_bytes=0) == 50
    assert resources.choose_n_procs(RunningConfig(), n_jobs=100, model_bytes=0, device="cuda:1") == 8
    assert resources.choose_n_procs(RunningConfig(n_procs=12), n_jobs=100, model_bytes=0, device="cuda") == 12
    monkeypatch.setattr(resources, "count_cpus", lambda: 8)
    assert resources.choose_n_procs(RunningConfig(), n_jobs=1, model_bytes=0) == 1
    assert resources.choose_n_procs(RunningConfig(n_procs=3), n_jobs=100, model_bytes=0) == 3
    assert resources.choose_n_procs(RunningConfig(n_procs=3), n_jobs=2, model_bytes=0) == 2
    with caplog.at_level(logging.WARNING, logger="bids_semantoks"):
        assert resources.choose_n_procs(RunningConfig(n_procs=8, mem="4G"), n_jobs=100, model_bytes=500 << 20) == 2
    assert "2 instead of 8 processes" in caplog.text
    assert resources.choose_n_procs(RunningConfig(n_procs=8, mem="100M"), n_jobs=100, model_bytes=0) == 1
    monkeypatch.setattr(processes, "count_cpus", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert resources.choose_n_threads(RunningConfig(), n_procs=2) == 4
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert resources.choose_n_threads(RunningConfig(), n_procs=2) == 2
    assert resources.choose_n_threads(RunningConfig(omp_nthreads=3), n_procs=2) == 3
